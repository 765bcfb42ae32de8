//! Bases and adapters that other tools wrote.

use std::path::{Path, PathBuf};

use lowtide_formats::gguf::Gguf;
use lowtide_formats::{
    Activation, Base, Hyperparameters, Pairing, Rope, RopeScaling, TokenizerSource, hf,
};

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden").join(path)
}

/// What the README of the golden data says about `llama_tied`.
fn llama_tied() -> Hyperparameters {
    Hyperparameters {
        architecture: "llama".to_owned(),
        hidden_size: 64,
        intermediate_size: 128,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 16,
        vocab_size: 256,
        max_position_embeddings: 128,
        rms_norm_eps: 1e-5,
        tie_word_embeddings: true,
        hidden_act: Activation::Silu,
        attention_bias: false,
        attention_output_bias: false,
        mlp_bias: false,
        attention_scale: 0.25,
        embedding_scale: 1.0,
        norm_offset: 0.0,
        rope: Rope { theta: 1e4, scaling: RopeScaling::Default, pairing: Pairing::Halves },
        local: None,
        qk_permuted: false,
    }
}

#[test]
fn a_tied_f32_base() {
    let base = Base::open(&golden("llama_tied")).unwrap();
    assert_eq!(*base.hyper(), llama_tied());
    assert_eq!(base.tensor_names().count(), 2 * 9 + 2);
    assert_eq!(base.file_bytes(), 363_792);
    assert!(base.tensor("lm_head.weight").is_none(), "a tied head is no tensor of its own");
    let v = base.tensor("model.layers.1.self_attn.v_proj.weight").unwrap();
    assert_eq!((v.shape, v.format.name()), (&[32, 64][..], "F32"));
    let v = v.qmat().unwrap();
    assert_eq!((v.rows(), v.cols()), (32, 64));
    assert_eq!(base.eos_token_ids(), [2]);
    assert_eq!(base.tokenizer_source().unwrap(), TokenizerSource::None);
    assert_eq!(base.chat_template(), None);
    base.check_finite().unwrap();
}

#[test]
fn an_untied_bf16_base() {
    let base = Base::open(&golden("llama_untied")).unwrap();
    let expected =
        Hyperparameters { rms_norm_eps: 1e-6, tie_word_embeddings: false, ..llama_tied() };
    assert_eq!(*base.hyper(), expected);
    let head = base.tensor("lm_head.weight").unwrap();
    assert_eq!((head.shape, head.format.name()), (&[256, 64][..], "BF16"));
    let norm = base.tensor("model.norm.weight").unwrap().to_f32_vec();
    assert_eq!(norm.len(), 64);
    assert!(norm.iter().all(|w| (0.0..2.0).contains(w)), "norms are 1 + N(0, 0.2): {norm:?}");
}

#[test]
fn both_styles_of_config_say_the_same() {
    for model in ["llama_tied", "llama_untied", "qwen2", "qwen3", "gemma3"] {
        let read = |file: &str| {
            let text = std::fs::read_to_string(golden(model).join(file)).unwrap();
            hf::parse_config(&text).unwrap()
        };
        assert_eq!(read("config.json"), read("config.legacy.json"));
    }
}

#[test]
fn fingerprints_tell_bases_apart() {
    let fingerprint = |path: &str| Base::open(&golden(path)).unwrap().fingerprint();
    let tied = fingerprint("llama_tied");
    assert_eq!(tied, fingerprint("llama_tied"));
    assert_ne!(tied, fingerprint("llama_untied"));
    assert_eq!(tied.to_string().parse(), Ok(tied));
    // Runs recorded by earlier versions must still recognise their base.
    let digits = "c71e983c68b3467689a1b22224cadb4caf78237283f625a160bf37f4a7e6fdea";
    assert_eq!(tied.to_string(), digits);
    assert!("xyz".parse::<lowtide_formats::Fingerprint>().is_err());
}

#[test]
fn a_gguf_adapter_is_a_sound_container_and_no_base() {
    let gguf = Gguf::open(&golden("formats/l4.gguf")).unwrap();
    let metadata = gguf.metadata();
    assert_eq!(metadata.get_str("general.type"), Ok(Some("adapter")));
    assert_eq!(metadata.get_f32("adapter.lora.alpha"), Ok(Some(8.0)));
    let b = gguf.tensor("blk.0.attn_k.weight.lora_b").unwrap();
    assert_eq!((b.shape, b.format.name()), (&[16, 4][..], "F32"));
    let error = Base::open(&golden("formats/l4.gguf")).unwrap_err().to_string();
    assert!(
        error.ends_with(
            "`general.type` is \"adapter\", which is not supported; supported: \"model\""
        ),
        "{error}"
    );
}
