//! Bases from both kinds of file: alike where they hold the same, refused where they are unsound.

mod support;

use std::fs;
use std::path::Path;

use lowtide_formats::{
    Base, Error, GgufTokenizer, Pairing, Rope, RopeScaling, SpecialTokens, TensorError,
    TokenizerSource, gguf::Value, rows, safe,
};
use support::{GgufBase, copy_with, golden};

fn open_gguf(change: impl FnOnce(&mut GgufBase)) -> Result<Base, Error> {
    let dir = tempfile::tempdir().unwrap();
    let mut llama = GgufBase::llama();
    change(&mut llama);
    // The mapping outlives the folder.
    Base::open(&llama.write(dir.path()))
}

/// The reason, without the path of the temporary file.
fn reason(result: Result<Base, Error>) -> String {
    let error = result.unwrap_err().to_string();
    error.split_once(": ").expect("a path comes first").1.to_owned()
}

#[test]
fn both_kinds_of_file_hold_the_same_base() {
    let hf = Base::open(&golden("llama_tied")).unwrap();
    let gguf = open_gguf(|_| {}).unwrap();
    let mut expected = hf.hyper().clone();
    expected.qk_permuted = true;
    expected.rope = Rope { theta: 1e4, scaling: RopeScaling::Default, pairing: Pairing::Adjacent };
    assert_eq!(*gguf.hyper(), expected);
    assert!(gguf.tensor_names().eq(hf.tensor_names()), "the same HF names");
    for name in hf.tensor_names() {
        let (hf, stored) = (hf.tensor(&name).unwrap(), gguf.tensor(&name).unwrap());
        assert_eq!(hf.shape, stored.shape, "{name}");
        let mut values = stored.to_f32_vec();
        let module = name.strip_suffix(".weight").unwrap();
        if let Some(heads) = gguf.hyper().permuted_heads(module) {
            assert_ne!(values, hf.to_f32_vec(), "{name} is in another order in the file");
            rows::unpermute(&stored.to_f32_vec(), &mut values, heads, 16);
        }
        assert_eq!(values, hf.to_f32_vec(), "{name}");
    }
    assert_eq!(gguf.hyper().permuted_heads("model.layers.0.self_attn.q_proj"), Some(4));
    assert_eq!(gguf.hyper().permuted_heads("model.layers.0.self_attn.k_proj"), Some(2));
    assert_eq!(gguf.hyper().permuted_heads("model.layers.0.self_attn.v_proj"), None);
    assert_eq!(hf.hyper().permuted_heads("model.layers.0.self_attn.q_proj"), None);
}

#[test]
fn an_output_of_its_own_unties_the_head() {
    let base = open_gguf(|llama| {
        llama.tensor("output.weight", &[256, 64], vec![0.5; 256 * 64]);
    })
    .unwrap();
    assert!(!base.hyper().tie_word_embeddings);
    assert_eq!(base.tensor("lm_head.weight").unwrap().shape, [256, 64]);
}

#[test]
fn biases_show_as_tensors() {
    let base = open_gguf(|llama| {
        for block in 0..2 {
            for (name, len) in [("q", 64), ("k", 32), ("v", 32), ("output", 64)] {
                llama.tensor(&format!("blk.{block}.attn_{name}.bias"), &[len], vec![0.1; len]);
            }
        }
    })
    .unwrap();
    assert!(base.hyper().attention_bias && !base.hyper().mlp_bias);
    let bias = base.tensor("model.layers.1.self_attn.k_proj.bias").unwrap();
    assert_eq!(bias.to_f32_vec(), [0.1; 32]);
}

#[test]
fn tensors_that_do_not_fit_the_metadata() {
    let missing = open_gguf(|llama| llama.tensors.retain(|(n, ..)| n != "blk.1.ffn_up.weight"));
    assert_eq!(
        reason(missing),
        "tensor `blk.1.ffn_up.weight` is missing; expected shape [128, 64]"
    );
    let shape = open_gguf(|llama| {
        llama.tensor("blk.0.attn_k.weight", &[64, 64], vec![0.0; 64 * 64]);
    });
    assert_eq!(reason(shape), "tensor `blk.0.attn_k.weight` has shape [64, 64]; expected [32, 64]");
    for name in ["blk.0.attn_q_norm.weight", "blk.2.attn_norm.weight", "blk.0.attn_norm.bias"] {
        let unknown = open_gguf(|llama| {
            llama.tensor(name, &[64], vec![0.0; 64]);
        });
        let words = format!("tensor `{name}` is not part of a `llama` model");
        assert_eq!(reason(unknown), words);
    }
    let some_biases = open_gguf(|llama| {
        llama.tensor("blk.0.attn_q.bias", &[64], vec![0.1; 64]);
    });
    assert_eq!(reason(some_biases), "tensor `blk.0.attn_k.bias` is missing; expected shape [32]");
    let fewer = open_gguf(|llama| {
        llama.set("llama.block_count", 1.into());
    });
    assert_eq!(reason(fewer), "tensor `blk.1.attn_k.weight` is not part of a `llama` model");
}

#[test]
fn values_that_are_not_finite() {
    let base = open_gguf(|llama| {
        let mut values = vec![0.0; 128 * 64];
        values[77] = f32::NEG_INFINITY;
        llama.tensor("blk.1.ffn_gate.weight", &[128, 64], values);
    })
    .unwrap();
    let error = base.check_finite().unwrap_err();
    let Error::Tensor { reason, .. } = error else { panic!("{error}") };
    let expected = TensorError::NotFinite {
        name: "blk.1.ffn_gate.weight".to_owned(),
        index: 77,
        value: "-inf".to_owned(),
    };
    assert_eq!(reason, expected);
}

fn with_tokenizer(llama: &mut GgufBase) {
    let texts = |items: &[&str]| Value::Strings(items.iter().map(|&t| t.into()).collect());
    llama
        .set("tokenizer.ggml.model", "gpt2".into())
        .set("tokenizer.ggml.pre", "smollm".into())
        .set("tokenizer.ggml.tokens", texts(&["<s>", "</s>", "a", "b", "ab"]))
        .set("tokenizer.ggml.token_type", Value::I32s(vec![3, 3, 1, 1, 1]))
        .set("tokenizer.ggml.merges", texts(&["a b"]))
        .set("tokenizer.ggml.bos_token_id", 0.into())
        .set("tokenizer.ggml.eos_token_id", 1.into())
        .set("tokenizer.ggml.eot_token_id", 4.into())
        .set("tokenizer.ggml.add_bos_token", false.into())
        .set("tokenizer.chat_template", "{{ x }}".into());
}

#[test]
fn the_vocabulary_of_a_gguf_file() {
    let base = open_gguf(with_tokenizer).unwrap();
    let owned = |texts: &[&str]| texts.iter().map(|&t| t.to_owned()).collect::<Vec<_>>();
    let expected = GgufTokenizer {
        model: "gpt2".to_owned(),
        pre: Some("smollm".to_owned()),
        tokens: owned(&["<s>", "</s>", "a", "b", "ab"]),
        token_types: vec![3, 3, 1, 1, 1],
        merges: owned(&["a b"]),
        scores: Vec::new(),
        bos: Some(0),
        eos: Some(1),
        eot: Some(4),
        unk: None,
        pad: None,
        add_bos: Some(false),
        add_eos: None,
        add_space_prefix: None,
    };
    assert_eq!(base.tokenizer_source().unwrap(), TokenizerSource::Gguf(expected));
    assert_eq!(base.chat_template(), Some("{{ x }}"));
    assert_eq!(base.eos_token_ids(), [1, 4]);
    let (bos, eos) = (Some("<s>".to_owned()), Some("</s>".to_owned()));
    assert_eq!(*base.special_tokens(), SpecialTokens { bos, eos, unk: None, pad: None });
    let plain = open_gguf(|_| {}).unwrap();
    assert_eq!(plain.tokenizer_source().unwrap(), TokenizerSource::None);
}

#[test]
fn unsound_vocabularies() {
    let id = open_gguf(|llama| {
        with_tokenizer(llama);
        llama.set("tokenizer.ggml.eos_token_id", 5.into());
    });
    let words = "`tokenizer.ggml.eos_token_id` is 5; expected a token id below 5";
    assert_eq!(reason(id), words);
    let source = |change: &dyn Fn(&mut GgufBase)| {
        let base = open_gguf(|llama| {
            with_tokenizer(llama);
            change(llama);
        });
        let error = base.unwrap().tokenizer_source().unwrap_err().to_string();
        error.split_once(": ").expect("a path comes first").1.to_owned()
    };
    let types = source(&|llama| {
        llama.set("tokenizer.ggml.token_type", Value::I32s(vec![1]));
    });
    assert_eq!(
        types,
        "`tokenizer.ggml.token_type` is an array of 1, but `tokenizer.ggml.tokens` is an array of 5"
    );
    let many = source(&|llama| {
        let tokens = (0..300).map(|i| i.to_string()).collect();
        llama.set("tokenizer.ggml.tokens", Value::Strings(tokens));
        llama.unset("tokenizer.ggml.token_type");
    });
    assert_eq!(
        many,
        "`number of tokenizer.ggml.tokens` is 300, but `size of the vocabulary` is 256"
    );
}

#[test]
fn tokenizer_and_generation_files_of_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    copy_with(&golden("llama_tied"), dir.path(), "tokenizer.json", "{}");
    put("tokenizer_config.json", r#"{"chat_template": "old", "bos_token": "<s>"}"#);
    put("generation_config.json", r#"{"eos_token_id": [7, 9, 7]}"#);
    let base = Base::open(dir.path()).unwrap();
    assert_eq!(base.eos_token_ids(), [7, 9]);
    assert_eq!(base.chat_template(), Some("old"));
    assert_eq!(base.special_tokens().bos.as_deref(), Some("<s>"));
    let json = dir.path().join("tokenizer.json");
    assert_eq!(base.tokenizer_source().unwrap(), TokenizerSource::Json(json));
    put("chat_template.jinja", "new");
    assert_eq!(Base::open(dir.path()).unwrap().chat_template(), Some("new"));
    put("generation_config.json", r#"{"eos_token_id": 256}"#);
    let words = "`eos_token_id` is 256; expected a token id below 256";
    assert_eq!(reason(Base::open(dir.path())), words);
    put("generation_config.json", "{}");
    fs::write(dir.path().join("chat_template.jinja"), b"ab\xff").unwrap();
    let error = Base::open(dir.path()).unwrap_err().to_string();
    assert!(error.ends_with("chat_template.jinja is not UTF-8 text: byte 2 starts no character"));
}

/// Cuts the golden weights into two files with an index.
fn shard(dir: &Path) {
    copy_with(&golden("llama_tied"), dir, "generation_config.json", "{}");
    let whole = fs::read(dir.join("model.safetensors")).unwrap();
    fs::remove_file(dir.join("model.safetensors")).unwrap();
    let parsed = safetensors::SafeTensors::deserialize(&whole).unwrap();
    let mut map = serde_json::Map::new();
    for (number, file) in ["model-1.safetensors", "model-2.safetensors"].iter().enumerate() {
        let part: Vec<_> =
            parsed.tensors().into_iter().filter(|(name, _)| name.len() % 2 == number).collect();
        map.extend(part.iter().map(|(name, _)| (name.clone(), (*file).into())));
        fs::write(dir.join(file), safetensors::serialize(part, None).unwrap()).unwrap();
    }
    let index = serde_json::json!({"metadata": {}, "weight_map": map});
    fs::write(dir.join("model.safetensors.index.json"), index.to_string()).unwrap();
}

#[test]
fn a_folder_in_several_files() {
    let dir = tempfile::tempdir().unwrap();
    shard(dir.path());
    let sharded = Base::open(dir.path()).unwrap();
    let whole = Base::open(&golden("llama_tied")).unwrap();
    assert_eq!(sharded.fingerprint(), whole.fingerprint());
    let size = |file: &str| fs::metadata(dir.path().join(file)).unwrap().len();
    let both = size("model-1.safetensors") + size("model-2.safetensors");
    assert_eq!(sharded.file_bytes(), both);
}

#[test]
fn unsound_indexes() {
    let dir = tempfile::tempdir().unwrap();
    shard(dir.path());
    let index = |text: &str| {
        fs::write(dir.path().join("model.safetensors.index.json"), text).unwrap();
        reason(Base::open(dir.path()))
    };
    assert_eq!(index("{}"), "`weight_map` is missing; expected an object of tensor and file names");
    for name in ["../model-1.safetensors", "/etc/passwd", "", ".."] {
        let words =
            format!("`weight_map.a` is {name:?}; expected the name of a file in the same folder");
        assert_eq!(index(&format!("{{\"weight_map\": {{\"a\": {name:?}}}}}")), words);
    }
    assert_eq!(
        index(r#"{"weight_map": {"a": "model-1.safetensors"}}"#),
        "`weight_map.a` is \"model-1.safetensors\"; expected a file that holds \"a\""
    );
    assert!(index(r#"{"weight_map": {"a": "none.safetensors"}}"#).starts_with("cannot open: "));
}

#[test]
fn heads_that_are_tied_and_stored() {
    let dir = tempfile::tempdir().unwrap();
    copy_with(&golden("llama_tied"), dir.path(), "generation_config.json", "{}");
    let path = dir.path().join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    let parsed = safetensors::SafeTensors::deserialize(&whole).unwrap();
    let with_head = |from: &str| {
        let mut tensors = parsed.tensors();
        tensors.push(("lm_head.weight".to_owned(), parsed.tensor(from).unwrap()));
        fs::write(&path, safetensors::serialize(tensors, None).unwrap()).unwrap();
        Base::open(dir.path())
    };
    let copy = with_head("model.embed_tokens.weight").unwrap();
    assert!(copy.tensor("lm_head.weight").is_none());
    let other = reason(with_head("model.layers.0.mlp.up_proj.weight"));
    assert!(other.starts_with("`lm_head.weight` differs from the token embedding"), "{other}");
}

#[test]
fn what_is_no_base() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(Base::open(dir.path()).unwrap_err(), Error::NotABase { .. }));
    let config = fs::read_to_string(golden("llama_tied/config.json")).unwrap();
    fs::write(dir.path().join("config.json"), config).unwrap();
    assert!(matches!(Base::open(dir.path()).unwrap_err(), Error::NotABase { .. }), "no weights");
    assert!(matches!(Base::open(&dir.path().join("x")).unwrap_err(), Error::Io { .. }));
}

#[test]
fn headers_longer_than_any_file_needs() {
    let mut bytes = vec![b' '; 10 << 20];
    bytes[..8].copy_from_slice(&(9_u64 << 20).to_le_bytes());
    let error = safe::parse(&bytes).unwrap_err();
    assert_eq!(error.to_string(), "the header has 9437184 bytes; expected at most 8388608");
}

#[test]
fn dtypes_that_are_not_read() {
    let dir = tempfile::tempdir().unwrap();
    copy_with(&golden("llama_tied"), dir.path(), "generation_config.json", "{}");
    let data = [0_u8; 4];
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::U8, vec![4], &data);
    let file = safetensors::serialize([("absmax", view.unwrap())], None).unwrap();
    fs::write(dir.path().join("model.safetensors"), file).unwrap();
    assert_eq!(
        reason(Base::open(dir.path())),
        "tensor `absmax` has dtype U8, which is not supported; supported: F32, F16, BF16"
    );
}

#[test]
fn the_real_model() {
    let Some(path) = lowtide_testkit::models::smollm2() else { return };
    let base = Base::open(&path).unwrap();
    let hyper = base.hyper();
    let sizes = (hyper.num_hidden_layers, hyper.hidden_size, hyper.intermediate_size);
    assert_eq!(sizes, (30, 576, 1536));
    let heads = (hyper.num_attention_heads, hyper.num_key_value_heads, hyper.head_dim);
    assert_eq!(heads, (9, 3, 64));
    assert_eq!((hyper.rms_norm_eps, hyper.rope.theta), (1e-5, 1e5));
    assert!(hyper.tie_word_embeddings && hyper.qk_permuted);
    assert_eq!(base.tensor_names().count(), 30 * 9 + 2);
    let formats = |format: &str| {
        let of = |name: &String| base.tensor(name).unwrap().format.name() == format;
        base.tensor_names().filter(of).count()
    };
    assert_eq!((formats("Q4_1"), formats("Q8_0"), formats("F32")), (210, 1, 61));
    assert_eq!(base.eos_token_ids(), [2]);
    assert_eq!(base.special_tokens().bos.as_deref(), Some("<|im_start|>"));
    let TokenizerSource::Gguf(tokenizer) = base.tokenizer_source().unwrap() else {
        panic!("the vocabulary is in the file")
    };
    assert_eq!((tokenizer.tokens.len(), tokenizer.merges.len()), (49_152, 48_900));
    assert!(base.chat_template().unwrap().contains("<|im_start|>"));
    base.check_finite().unwrap();
}
