//! The same weights as a GGUF file and as an HF folder: an adapter trained on either gives the same
//! logits on the other, although the GGUF file keeps the rows of q and k in another order.

use std::io::{BufWriter, Write};
use std::path::Path;

use lowtide_backend::{Backend, Span};
use lowtide_formats::gguf::{Value, Writer};
use lowtide_formats::{Base, Hyperparameters, rows};
use lowtide_memory::{Budget, Ledger};
use lowtide_quant::BlockFormat;
use lowtide_quant::formats::{F32, Q8_0};
use lowtide_simd::Simd;
use lowtide_tape::Batch;
use lowtide_tensor::MatMut;
use lowtide_testkit::compare::assert_close;
use lowtide_testkit::models::smollm2;
use lowtide_testkit::tiny::TinyLlama;
use lowtide_train::{EvalSettings, OpenBase, Settings, evaluate, finetune, load_adapter};

use crate::support::{Home, Setup, dataset, write_data};

/// Writes a base as the usual converter would: linear layers and embedding in 8 bits, norms in f32,
/// rows of q and k interleaved.
pub(crate) fn write_gguf(hf: &Base, path: &Path) {
    let hyper = hf.hyper();
    let mut writer = Writer::new();
    for (key, value) in metadata(hyper) {
        writer.metadata(key, value);
    }
    let names: Vec<String> = hf.tensor_names().collect();
    let format = |name: &str| -> &'static dyn BlockFormat {
        if hf.tensor(name).unwrap().shape.len() == 2 { &Q8_0 } else { &F32 }
    };
    for name in &names {
        writer.tensor(&gguf_name(name), hf.tensor(name).unwrap().shape, format(name));
    }
    let mut data = writer.start(BufWriter::new(std::fs::File::create(path).unwrap())).unwrap();
    for name in &names {
        let tensor = hf.tensor(name).unwrap();
        let mut values = tensor.to_f32_vec();
        if let Some(heads) = heads_to_permute(hyper, name) {
            rows::permute(&values.clone(), &mut values, heads, hyper.head_dim);
        }
        let mut bytes = vec![0; format(name).row_bytes(values.len()).unwrap()];
        format(name).encode(&values, &mut bytes);
        data.write(&bytes).unwrap();
    }
    data.finish().unwrap();
}

fn metadata(hyper: &Hyperparameters) -> Vec<(&'static str, Value)> {
    vec![
        ("general.architecture", "llama".into()),
        ("llama.block_count", (hyper.num_hidden_layers as u32).into()),
        ("llama.context_length", (hyper.max_position_embeddings as u32).into()),
        ("llama.embedding_length", (hyper.hidden_size as u32).into()),
        ("llama.feed_forward_length", (hyper.intermediate_size as u32).into()),
        ("llama.attention.head_count", (hyper.num_attention_heads as u32).into()),
        ("llama.attention.head_count_kv", (hyper.num_key_value_heads as u32).into()),
        ("llama.attention.layer_norm_rms_epsilon", hyper.rms_norm_eps.into()),
        ("llama.rope.freq_base", (hyper.rope.theta as f32).into()),
        ("llama.rope.dimension_count", (hyper.head_dim as u32).into()),
    ]
}

/// The name that GGUF gives to a tensor of a Llama.
fn gguf_name(hf: &str) -> String {
    [
        ("model.layers.", "blk."),
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("post_attention_layernorm", "ffn_norm"),
        ("input_layernorm", "attn_norm"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.", "attn_"),
        ("mlp.", "ffn_"),
        ("_proj", ""),
    ]
    .iter()
    .fold(hf.to_owned(), |name, (from, to)| name.replace(from, to))
}

/// Heads of the tensor whose rows the file keeps in another order, told by its name alone.
fn heads_to_permute(hyper: &Hyperparameters, name: &str) -> Option<usize> {
    match () {
        () if name.ends_with("q_proj.weight") => Some(hyper.num_attention_heads),
        () if name.ends_with("k_proj.weight") => Some(hyper.num_key_value_heads),
        () => None,
    }
}

/// Writes a GGUF base as the HF folder of its dequantised weights, one tensor in memory at a time.
pub(crate) fn dequantise(gguf: &Base, dir: &Path) {
    std::fs::create_dir_all(dir).unwrap();
    let hyper = gguf.hyper();
    let config = serde_json::json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hyper.hidden_size,
        "intermediate_size": hyper.intermediate_size,
        "num_hidden_layers": hyper.num_hidden_layers,
        "num_attention_heads": hyper.num_attention_heads,
        "num_key_value_heads": hyper.num_key_value_heads,
        "head_dim": hyper.head_dim,
        "vocab_size": hyper.vocab_size,
        "max_position_embeddings": hyper.max_position_embeddings,
        "hidden_act": "silu",
        "rms_norm_eps": hyper.rms_norm_eps,
        "rope_theta": hyper.rope.theta,
        "tie_word_embeddings": hyper.tie_word_embeddings,
        "attention_bias": false,
        "mlp_bias": false,
        "torch_dtype": "float32",
    });
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for name in gguf.tensor_names() {
        let tensor = gguf.tensor(&name).unwrap();
        let start = end;
        end += tensor.len() * size_of::<f32>();
        let (shape, offsets) = (tensor.shape, [start, end]);
        let entry = serde_json::json!({ "dtype": "F32", "shape": shape, "data_offsets": offsets });
        header.insert(name, entry);
    }
    let mut header = serde_json::to_vec(&header).unwrap();
    header.resize(header.len().next_multiple_of(8), b' ');
    let file = std::fs::File::create(dir.join("model.safetensors")).unwrap();
    let mut out = BufWriter::new(file);
    out.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    out.write_all(&header).unwrap();
    for name in gguf.tensor_names() {
        let mut values = gguf.tensor(&name).unwrap().to_f32_vec();
        if let Some(heads) = heads_to_permute(hyper, &name) {
            rows::unpermute(&values.clone(), &mut values, heads, hyper.head_dim);
        }
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        out.write_all(&bytes).unwrap();
    }
    out.flush().unwrap();
}

/// Logits of some rows of the first example, with the adapter of a folder.
fn logits(base: &Path, adapter: &Path, setup: &Setup<'_>, data: &Path, rows: &[u32]) -> Vec<f32> {
    let base = OpenBase::open(base).unwrap();
    let data = dataset(&base, data);
    let model = setup.model(&base);
    let mut ledger = Ledger::new(Budget::UNLIMITED);
    let mut trainer = setup.reserve(&model, &data, &mut ledger);
    load_adapter(adapter, base.file().hyper(), &model.sites, trainer.params_mut()).unwrap();
    let mut buffer = data.buffer();
    let ids = data.read(0, &mut buffer).unwrap().ids;
    let positions: Vec<u32> = (0..ids.len() as u32).collect();
    let spans = [Span { start: 0, prompt_end: ids.len(), end: ids.len() }];
    let (labelled, targets) = (&[][..], &[][..]);
    let words = None;
    let batch =
        Batch { ids, positions: &positions, spans: &spans, labelled, targets, words, counter: 0 };
    let vocab = base.config().vocab_size;
    let mut out = vec![0.0; rows.len() * vocab];
    let params = trainer.params().to_vec();
    let view = MatMut::new(&mut out, rows.len(), vocab);
    trainer.executor_mut().logits(&params, &batch, rows, view);
    trainer.release(&mut ledger);
    out
}

pub(crate) fn eval_loss(
    base: &Path,
    adapter: Option<&Path>,
    data: &Path,
    be: &dyn Backend<f32>,
) -> f64 {
    let settings = EvalSettings {
        model: base.to_owned(),
        adapter: adapter.map(Path::to_owned),
        data: data.to_owned(),
        max_seq_len: 512,
        batch_size: 1,
        sliding_window: None,
        packing: false,
        mask_prompt: true,
        memory_budget: None,
        stream_weights: lowtide_train::StreamWeights::Auto,
    };
    evaluate(&settings, be).unwrap().loss
}

/// Trains on `from`, then compares the adapter on `from` and on `to`.
fn trained_on_one_is_the_same_on_the_other(
    from: &Path,
    to: &Path,
    settings: &Settings,
    tolerance: f64,
) {
    let be = Simd::new(2);
    let settings = Settings { model: from.to_owned(), ..settings.clone() };
    let summary = finetune(&settings, &be, 2, &mut |_| ()).unwrap();
    assert_eq!(summary.steps, settings.max_steps.unwrap());

    let (data, adapter) = (&settings.data, &settings.output);
    let bare = eval_loss(from, None, data, &be);
    let losses = [from, to].map(|base| eval_loss(base, Some(adapter), data, &be));
    assert!(losses[0] < bare - 1e-2, "training did something: {bare} to {}", losses[0]);
    assert_close("eval loss", &losses[1..], &losses[..1], tolerance, 0.0);

    let setup = Setup { rank: settings.rank, ..Setup::new(&be) };
    let rows = [0, 1, 7, 20];
    let [on_from, on_to] = [from, to].map(|base| logits(base, adapter, &setup, data, &rows));
    assert_close("logits", &on_to, &on_from, tolerance, 0.0);
}

#[test]
fn an_adapter_of_either_base_works_on_the_other() {
    for tied in [true, false] {
        let home = Home::new(&TinyLlama { tied, ..TinyLlama::default() });
        let (gguf, hf) = (home.path("model.gguf"), home.path("dequantised"));
        write_gguf(&Base::open(&home.base()).unwrap(), &gguf);
        dequantise(&Base::open(&gguf).unwrap(), &hf);
        let settings = Settings {
            rank: 4,
            alpha: 8.0,
            max_steps: Some(3),
            lr: 1e-2,
            lr_scheduler: "constant".into(),
            warmup_steps: Some(0),
            ..home.settings(&[40, 25])
        };
        trained_on_one_is_the_same_on_the_other(&gguf, &hf, &settings, 1e-5);
        trained_on_one_is_the_same_on_the_other(&hf, &gguf, &settings, 1e-5);
    }
}

/// Without the permutation the files would differ, so the comparison above can fail.
#[test]
fn rows_of_q_and_k_do_lie_in_another_order() {
    let home = Home::new(&TinyLlama::default());
    let (gguf, hf) = (home.path("model.gguf"), home.path("dequantised"));
    write_gguf(&Base::open(&home.base()).unwrap(), &gguf);
    dequantise(&Base::open(&gguf).unwrap(), &hf);
    let (gguf, hf) = (Base::open(&gguf).unwrap(), Base::open(&hf).unwrap());
    for name in hf.tensor_names() {
        let [a, b] = [&gguf, &hf].map(|base| base.tensor(&name).unwrap().to_f32_vec());
        assert_eq!(a != b, heads_to_permute(hf.hyper(), &name).is_some(), "{name}");
    }
}

#[test]
fn a_started_adapter_goes_on_from_the_other_base() {
    let home = Home::new(&TinyLlama::default());
    let (gguf, hf) = (home.path("model.gguf"), home.path("dequantised"));
    write_gguf(&Base::open(&home.base()).unwrap(), &gguf);
    dequantise(&Base::open(&gguf).unwrap(), &hf);
    let be = Simd::new(1);
    let settings = Settings { model: gguf, alpha: 8.0, rank: 4, ..home.settings(&[40, 25]) };
    finetune(&settings, &be, 1, &mut |_| ()).unwrap();
    let on = |model: &Path, name: &str| {
        let settings = Settings {
            model: model.to_owned(),
            output: home.path(name),
            init_adapter: Some(settings.output.clone()),
            ..settings.clone()
        };
        let summary = finetune(&settings, &be, 1, &mut |_| ()).unwrap();
        [summary.loss_first.unwrap(), summary.loss_last.unwrap()]
    };
    let (on_gguf, on_hf) = (on(&settings.model, "on_gguf"), on(&hf, "on_hf"));
    assert_close("losses going on", &on_hf, &on_gguf, 1e-5, 0.0);
}

#[test]
fn an_adapter_of_the_real_gguf_works_on_its_dequantised_folder() {
    let Some(gguf) = smollm2() else { return };
    let temp = tempfile::tempdir().unwrap();
    let (data, hf) = (temp.path().join("data.jsonl"), temp.path().join("dequantised"));
    write_data(&data, &[48]);
    dequantise(&Base::open(&gguf).unwrap(), &hf);
    let settings = Settings {
        data,
        output: temp.path().join("adapter"),
        rank: 4,
        alpha: 8.0,
        max_steps: Some(2),
        max_seq_len: 48,
        lr: 1e-3,
        lr_scheduler: "constant".into(),
        warmup_steps: Some(0),
        ..Settings::default()
    };
    trained_on_one_is_the_same_on_the_other(&gguf, &hf, &settings, 2e-4);
}
