//! An adapter in either kind of file, on a base in either kind of file, is the same adapter.

use std::path::{Path, PathBuf};

use lowtide_backend::{Backend, Scalar, Span};
use lowtide_convert::{AdapterSettings, convert_adapter};
use lowtide_formats::gguf_adapter::{Settings, write};
use lowtide_formats::peft::{AdapterFiles, CONFIG_FILE, WEIGHTS_FILE};
use lowtide_formats::{Base, GgufSettings, gguf, gguf_tensor_name, rows};
use lowtide_memory::{Budget, Ledger};
use lowtide_quant::formats::F32;
use lowtide_runtime::{LoadedAdapter, OpenBase, RuntimeError, load_adapter, registry};
use lowtide_tape::{Batch, Executor, Limits, Plan, Policy};
use lowtide_tensor::MatMut;
use lowtide_testkit::golden::{Arrays, golden_dir, load_safetensors};
use lowtide_testkit::mlx::mlx_folder;
use lowtide_testkit::tiny::write_safetensors;

fn golden(name: &str) -> PathBuf {
    golden_dir().join(name)
}

/// Adapter values in the base's order, and the logits of a few tokens.
fn run(base: &Path, adapter: &Path) -> (Vec<f32>, Vec<f32>) {
    let base = OpenBase::open(base).unwrap();
    let adapter = LoadedAdapter::open(adapter).unwrap();
    let model = base.build_adapted(&registry(), &adapter).unwrap();
    let mut params = vec![0.0; model.program.params()];
    adapter.fill(base.file().hyper(), &model.sites, &mut params[..]).unwrap();
    let ids: Vec<u32> = (0..12).map(|t| t * 7 % 96).collect();
    let positions: Vec<u32> = (0..12).collect();
    let limits = Limits { tokens: 12, sequences: 1, labelled: 12 };
    let be: &dyn Backend<f32> = &Scalar;
    let plan = Plan::new(&model.program, be, limits, Policy::Block, false);
    let mut ledger = Ledger::new(Budget::UNLIMITED);
    let mut executor = Executor::reserve(&model.program, be, plan, 0, &mut ledger).unwrap();
    let spans = [Span { start: 0, prompt_end: 12, end: 12 }];
    let (labelled, targets, words, counter) = (&[][..], &[][..], None, 0);
    let batch = Batch {
        ids: &ids,
        positions: &positions,
        spans: &spans,
        labelled,
        targets,
        words,
        counter,
    };
    let vocab = model.program.head.weight.rows();
    let mut logits = vec![0.0; 12 * vocab];
    executor.logits(&params, &batch, &positions, MatMut::new(&mut logits, 12, vocab));
    executor.release(&mut ledger);
    (params, logits)
}

/// The base of an HF folder as a GGUF file, rows of q and k of a Llama in the file's order.
fn gguf_of(folder: &Path, path: &Path) {
    let base = Base::open(folder).unwrap();
    let hyper = base.hyper();
    let settings = GgufSettings::of(hyper).unwrap();
    let mut writer = gguf::Writer::new();
    writer.metadata("general.architecture", settings.architecture.into());
    settings.metadata.into_iter().for_each(|(key, value)| writer.metadata(&key, value));
    let name = |hf: &str| gguf_tensor_name(&hyper.architecture, hf).unwrap();
    for hf in base.tensor_names() {
        writer.tensor(&name(&hf), base.tensor(&hf).unwrap().shape, &F32);
    }
    let mut data = writer.start(Vec::new()).unwrap();
    for hf in base.tensor_names() {
        let source = base.tensor(&hf).unwrap().to_f32_vec();
        let mut values = source.clone();
        let heads = match hf.rsplit('.').nth(1) {
            Some("q_proj") => hyper.num_attention_heads,
            Some("k_proj") => hyper.num_key_value_heads,
            _ => 0,
        };
        if heads > 0 && settings.architecture == "llama" {
            rows::permute(&source, &mut values, heads, hyper.head_dim);
        }
        data.write(&values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>()).unwrap();
    }
    std::fs::write(path, data.finish().unwrap()).unwrap();
}

fn assert_close(what: &str, got: &[f32], want: &[f32]) {
    let pairs = got.iter().zip(want);
    let worst = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(got.len() == want.len() && worst < 1e-5, "{what}: {worst}");
}

#[test]
fn both_kinds_of_adapter_on_both_kinds_of_base() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, file) = (golden("formats/base"), dir.path().join("base.gguf"));
    gguf_of(&folder, &file);
    let (peft, gguf) = (golden("formats/l4"), golden("formats/l4.gguf"));
    let (params, logits) = run(&folder, &peft);
    assert!(params.iter().any(|value| *value != 0.0));
    assert_eq!(run(&folder, &gguf), (params.clone(), logits.clone()), "bit for bit");
    let on_file = run(&file, &peft);
    assert_ne!(on_file.0, params, "the file keeps its rows in another order");
    assert_eq!(run(&file, &gguf), on_file, "bit for bit");
    assert_close("on the file", &on_file.1, &logits);
    let params_of_file = |path: &Path| {
        let loaded = LoadedAdapter::open(path).unwrap();
        (loaded.path().to_owned(), loaded.kind, loaded.config.rank, loaded.config.alpha)
    };
    assert_eq!(params_of_file(&gguf), (gguf.clone(), "lora".to_owned(), 4, 8.0));
}

#[test]
fn families_that_keep_their_rows() {
    let dir = tempfile::tempdir().unwrap();
    for model in ["qwen2", "qwen3", "gemma3"] {
        let (folder, adapter) = (golden(model), golden(&format!("{model}/lora")));
        let file = dir.path().join(format!("{model}.gguf"));
        let base = Base::open(&folder).unwrap();
        let files = AdapterFiles::open(&adapter).unwrap();
        let (config, pairs) = files.lora().unwrap();
        let alpha = config.lora_alpha as f32;
        let settings = Settings { alpha, alphas: &[], name: None, base_name: None };
        write(&file, base.hyper(), &settings, &pairs).unwrap();
        assert_eq!(run(&folder, &file), run(&folder, &adapter), "{model}");
    }
}

#[test]
fn adapters_of_other_bases_are_refused() {
    let l4 = golden("formats/l4.gguf");
    // The same names of modules, another family.
    let base = OpenBase::open(&golden("qwen2")).unwrap();
    let adapter = LoadedAdapter::open(&l4).unwrap();
    let model = base.build_adapted(&registry::<f32>(), &adapter).unwrap();
    let mut params = vec![0.0; model.program.params()];
    let hyper = base.file().hyper();
    let error = load_adapter(&l4, hyper, &model.sites, &mut params[..]).unwrap_err();
    assert!(matches!(error, RuntimeError::Formats(_)), "{error}");
    assert!(error.to_string().contains("l4.gguf: `general.architecture` is \"llama\""), "{error}");
    // The same family, another shape.
    let base = OpenBase::open(&golden("llama_tied")).unwrap();
    let model = base.build_adapted(&registry::<f32>(), &adapter).unwrap();
    let mut params = vec![0.0; model.program.params()];
    let error = adapter.fill(base.file().hyper(), &model.sites, &mut params[..]).unwrap_err();
    let words = "tensor `blk.0.attn_q.weight.lora_a` has shape [4, 32], this base and rank need";
    assert!(error.to_string().contains(words), "{error}");
}

#[test]
fn ranks_that_differ_are_the_sites_own() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.gguf");
    let mut writer = gguf::Writer::new();
    for (key, value) in
        [("general.architecture", "llama"), ("general.type", "adapter"), ("adapter.type", "lora")]
    {
        writer.metadata(key, value.into());
    }
    for (module, rank) in [("attn_q", 2), ("attn_v", 1), ("attn_output", 2)] {
        let outputs = if module == "attn_v" { 16 } else { 32 };
        writer.tensor(&format!("blk.0.{module}.weight.lora_a"), &[rank, 32], &F32);
        writer.tensor(&format!("blk.0.{module}.weight.lora_b"), &[outputs, rank], &F32);
    }
    let mut data = writer.start(Vec::new()).unwrap();
    for len in [64, 64, 32, 16, 64, 64] {
        data.write(&vec![0; 4 * len]).unwrap();
    }
    std::fs::write(&path, data.finish().unwrap()).unwrap();
    let adapter = LoadedAdapter::open(&path).unwrap();
    let v = "model.layers.0.self_attn.v_proj";
    assert_eq!(adapter.config.rank, 2);
    assert_eq!(adapter.patterns.ranks().collect::<Vec<_>>(), [(v, 1)]);
    // An alpha of 0 means that nothing is scaled.
    let own = adapter.patterns.config_of(v, &adapter.config).unwrap();
    assert_eq!((own.rank, own.alpha, adapter.config.alpha), (1, 1.0, 2.0));
    let base = OpenBase::open(&golden("formats/base")).unwrap();
    let model = base.build_adapted(&registry::<f32>(), &adapter).unwrap();
    let ranks: Vec<_> = model.sites.iter().map(|site| site.params[0].shape[0]).collect();
    assert_eq!(ranks, [2, 1, 2]);
    adapter.fill(base.file().hyper(), &model.sites, &mut [0.0; 304][..]).unwrap();
}

#[test]
fn an_adapter_of_mlx_lm_is_the_one_of_peft() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, gguf) = (dir.path().join("mlx"), dir.path().join("base.gguf"));
    let (base, peft) = (golden("llama_tied"), golden("llama_tied/lora"));
    mlx_folder(&peft, &folder);
    gguf_of(&base, &gguf);
    for base in [base, gguf] {
        assert!(run(&base, &folder) == run(&base, &peft), "{}", base.display());
    }
}

/// The LoRA of the golden folder with ranks and alphas of their own at some modules.
fn of_many_scales(dir: &Path, stable: bool) {
    let from = golden("formats/l4");
    let text = std::fs::read_to_string(from.join(CONFIG_FILE)).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
    config["rank_pattern"] = serde_json::json!({ "q_proj": 1, "down_proj": 3 });
    config["alpha_pattern"] = serde_json::json!({ "layers.0.*v_proj": 2.7, "down_proj": 0.1 });
    config["use_rslora"] = stable.into();
    std::fs::write(dir.join(CONFIG_FILE), config.to_string()).unwrap();
    let mut tensors = load_safetensors(&from.join(WEIGHTS_FILE));
    for (name, tensor) in &mut tensors {
        let rank = match name {
            name if name.contains("q_proj") => 1,
            name if name.contains("down_proj") => 3,
            _ => continue,
        };
        let [rows, cols] = tensor.shape[..] else { panic!("{name} is no matrix") };
        // A pair is a row of A and a column of B.
        let (rows, kept) = if name.contains("lora_A") { (rank, cols) } else { (rows, rank) };
        let cut = tensor.data.chunks(cols).take(rows).flat_map(|row| row[..kept].to_vec());
        (tensor.data, tensor.shape) = (cut.collect(), vec![rows, kept]);
    }
    write_safetensors(&dir.join(WEIGHTS_FILE), &tensors);
}

#[test]
fn alphas_of_their_own_survive_gguf() {
    let base = golden("formats/base");
    let plain = run(&base, &golden("formats/l4")).1;
    for stable in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        of_many_scales(dir.path(), stable);
        let path = |name: &str| dir.path().join(name);
        let convert = |source: PathBuf, output: PathBuf| {
            let (base, base_name, overwrite) = (base.clone(), "base".to_owned(), false);
            let settings = AdapterSettings { source, base, base_name, output, overwrite };
            convert_adapter(&settings).unwrap()
        };
        let report = convert(dir.path().to_owned(), path("a.gguf"));
        assert!(report.notes[0].contains("of 8 whose alpha differs"), "{:?}", report.notes);
        convert(path("a.gguf"), path("back"));
        let own = run(&base, dir.path()).1;
        assert!(own.iter().zip(&plain).any(|(own, plain)| (own - plain).abs() > 1e-3));
        assert_close("as GGUF", &run(&base, &path("a.gguf")).1, &own);
        assert_close("and back", &run(&base, &path("back")).1, &own);
    }
}

/// A copy of VeRA's golden folder whose config or tensors `change` has changed.
fn vera(change: impl FnOnce(&mut String, &mut Arrays)) -> tempfile::TempDir {
    let (from, dir) = (golden("formats/vera"), tempfile::tempdir().unwrap());
    let mut config = std::fs::read_to_string(from.join(CONFIG_FILE)).unwrap();
    let mut tensors = load_safetensors(&from.join(WEIGHTS_FILE));
    change(&mut config, &mut tensors);
    std::fs::write(dir.path().join(CONFIG_FILE), config).unwrap();
    write_safetensors(&dir.path().join(WEIGHTS_FILE), &tensors);
    dir
}

#[test]
fn matrices_of_vera_that_its_key_does_not_make_are_refused() {
    let base = OpenBase::open(&golden("formats/base")).unwrap();
    let fill = |dir: tempfile::TempDir| {
        let adapter = LoadedAdapter::open(dir.path()).unwrap();
        let model = base.build_adapted::<f32>(&registry(), &adapter).unwrap();
        let mut params = vec![0.0; model.program.params()];
        adapter.fill(base.file().hyper(), &model.sites, &mut params[..]).map_err(|e| e.to_string())
    };
    assert_eq!(fill(vera(|_, _| ())), Ok(()));
    let (a, b) = ("base_model.vera_A", "base_model.vera_B");
    // Each may be left out, since both follow from the key.
    assert_eq!(fill(vera(|_, tensors| drop(tensors.remove(a)))), Ok(()));
    for name in [a, b] {
        let told = fill(vera(|_, tensors| tensors.get_mut(name).unwrap().data[17] += 1e-3));
        let words = format!("tensor `{name}` is not what `projection_prng_key` 11 makes for this");
        assert!(told.as_ref().is_err_and(|told| told.contains(&words)), "{told:?}");
        let turned = fill(vera(|_, tensors| tensors.get_mut(name).unwrap().shape.reverse()));
        assert!(turned.is_err_and(|told| told.contains(&words)));
    }
    let key = |config: &mut String| *config = config.replace(": 11", ": 12");
    assert!(fill(vera(|config, _| key(config))).is_err_and(|told| told.contains("_key` 12 makes")));
}

#[test]
fn what_sites_of_vera_share_is_bounded_before_it_is_made() {
    let dir = vera(|config, _| *config = config.replace("\"r\": 3", "\"r\": 65536"));
    let adapter = LoadedAdapter::open(dir.path()).unwrap();
    let build = |budget| {
        let base = OpenBase::open(&golden("formats/base")).unwrap().with_budget(budget);
        base.build_adapted::<f32>(&registry(), &adapter).map(drop).map_err(|e| e.to_string())
    };
    let told = build(Some(1 << 20)).unwrap_err();
    // A has 64 columns, B 32 rows.
    let words = "vera needs 25165824 bytes for what its sites share, and 1048576 may be held";
    assert!(told.contains(words), "{told}");
    let bound = (64 + 32) * 65_536 * 4;
    assert_eq!(build(Some(bound)), Ok(()));
    assert!(build(Some(bound - 1)).is_err());
}
