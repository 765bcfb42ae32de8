//! What configs say: both styles, and every setting that must be refused by name.

mod support;

use lowtide_formats::gguf::{Value, parse};
use lowtide_formats::{Activation, DocumentError, Hyperparameters, RopeScaling, describe_gguf, hf};
use serde_json::json;
use support::{GgufBase, golden};

/// The golden config with some fields replaced; `null` takes a field away.
fn hf_config(changes: &serde_json::Value) -> Result<Hyperparameters, DocumentError> {
    let text = std::fs::read_to_string(golden("llama_tied/config.legacy.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    hf::parse_config(&config.to_string())
}

fn hf_refused(changes: &serde_json::Value, words: &str) {
    assert_eq!(hf_config(changes).unwrap_err().to_string(), words);
}

#[test]
fn defaults_of_transformers() {
    let hyper = hf_config(&json!({
        "head_dim": null, "num_key_value_heads": null, "rms_norm_eps": null, "rope_theta": null,
        "max_position_embeddings": null, "hidden_act": null, "tie_word_embeddings": null,
        "attention_bias": null, "mlp_bias": null, "architectures": null,
    }))
    .unwrap();
    assert_eq!((hyper.head_dim, hyper.num_key_value_heads), (16, 4));
    assert_eq!((hyper.rms_norm_eps, hyper.rope.theta), (1e-6, 1e4));
    assert_eq!((hyper.max_position_embeddings, hyper.hidden_act), (2048, Activation::Silu));
    assert!(!hyper.tie_word_embeddings && !hyper.attention_bias && !hyper.mlp_bias);
}

#[test]
fn flags_and_activations() {
    let hyper = hf_config(&json!({
        "attention_bias": true, "mlp_bias": true, "hidden_act": "gelu_pytorch_tanh", "head_dim": 32,
    }))
    .unwrap();
    assert!(hyper.attention_bias && hyper.mlp_bias);
    assert_eq!((hyper.hidden_act, hyper.head_dim), (Activation::GeluTanh, 32));
    assert_eq!((hyper.query_size(), hyper.key_value_size()), (128, 64));
}

#[test]
fn rope_in_both_styles() {
    let scaling = |changes| hf_config(&changes).unwrap().rope.scaling;
    let old = json!({"rope_scaling": {"type": "linear", "factor": 2.0}});
    assert_eq!(scaling(old), RopeScaling::Linear { factor: 2.0 });
    let llama3 = RopeScaling::Llama3 {
        factor: 32.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };
    let fields = json!({
        "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    });
    assert_eq!(scaling(json!({"rope_scaling": fields})), llama3);
    let mut new = fields.clone();
    new["rope_theta"] = json!(5e5);
    let hyper = hf_config(&json!({"rope_parameters": new, "rope_theta": null})).unwrap();
    assert_eq!((hyper.rope.theta, &hyper.rope.scaling), (5e5, &llama3));
    let both = json!({"rope_parameters": new, "rope_theta": 5e5, "rope_scaling": fields});
    assert_eq!(scaling(both), llama3, "two styles that agree");
    let idle = json!({"rope_scaling": {"rope_type": "default", "partial_rotary_factor": 1.0}});
    assert_eq!(scaling(idle), RopeScaling::Default);
}

#[test]
fn rope_that_is_not_computed_or_contradicts_itself() {
    let supported = "which is not supported; supported: \"default\", \"linear\", \"llama3\"";
    for kind in ["yarn", "dynamic", "longrope", "su", "mrope"] {
        hf_refused(
            &json!({"rope_scaling": {"type": kind, "factor": 4.0}}),
            &format!("`rope_scaling.rope_type` is \"{kind}\", {supported}"),
        );
    }
    hf_refused(
        &json!({"rope_scaling": {"type": "linear", "factor": 2.0, "beta_fast": 32}}),
        "`rope_scaling.beta_fast` is 32, which is not supported; \
         supported: with rope type linear: factor",
    );
    hf_refused(
        &json!({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}),
        "`rope_parameters.partial_rotary_factor` is 0.5, which is not supported; \
         supported: with rope type default: nothing else",
    );
    hf_refused(
        &json!({"rope_parameters": {"rope_theta": 5e5}}),
        "`rope_parameters.rope_theta` is 500000, but `rope_theta` is 10000",
    );
    hf_refused(
        &json!({"rope_scaling": {"type": "linear", "rope_type": "default"}}),
        "`rope_scaling.rope_type` is \"default\", but `rope_scaling.type` is \"linear\"",
    );
    hf_refused(
        &json!({"rope_scaling": {"type": "linear"}}),
        "`rope_scaling.factor` is missing; expected a number",
    );
    hf_refused(
        &json!({"rope_scaling": {"type": "linear", "factor": 0.0}}),
        "`rope_scaling.factor` is 0; expected a finite number of at least 1",
    );
    hf_refused(
        &json!({"rope_theta": -1}),
        "`rope_theta` is -1; expected a finite number of at least 1",
    );
    hf_refused(&json!({"rope_scaling": 3}), "`rope_scaling` is a number; expected an object");
}

#[test]
fn settings_that_are_not_computed() {
    for (key, value) in [
        ("pretraining_tp", json!(2)),
        ("attention_dropout", json!(0.1)),
        ("attention_multiplier", json!(0.0078125)),
        ("clip_qkv", json!(8.0)),
        ("embedding_multiplier", json!(12.0)),
        ("final_logit_softcapping", json!(30.0)),
        ("logit_scale", json!(0.0625)),
        ("logits_scaling", json!(8.0)),
        ("num_local_experts", json!(8)),
        ("partial_rotary_factor", json!(0.25)),
        ("query_pre_attn_scalar", json!(256)),
        ("residual_multiplier", json!(0.22)),
        ("sliding_window", json!(4096)),
        ("use_sliding_window", json!(true)),
        ("quantization_config", json!({"quant_method": "gptq", "bits": 4})),
        ("quantization_config", json!({"quant_method": "bitsandbytes"})),
        ("layer_types", json!(["full_attention", "sliding_attention"])),
        ("no_rope_layers", json!([1, 0])),
        ("hidden_act", json!("gelu")),
        ("architectures", json!(["LlamaForSequenceClassification"])),
        ("model_type", json!("falcon")),
        ("auto_map", json!({"AutoModelForCausalLM": "modeling_x.X"})),
    ] {
        let error = hf_config(&json!({ key: value })).unwrap_err();
        let DocumentError::Unsupported { key: named, .. } = &error else {
            panic!("{key} is refused, but as {error}")
        };
        assert!(named.starts_with(key), "{error}");
    }
}

#[test]
fn settings_that_are_off() {
    let changes = json!({
        "pretraining_tp": 1, "attention_dropout": 0, "sliding_window": null, "num_experts": 0,
        "layer_types": ["full_attention", "full_attention"], "qk_norm": false, "logit_scale": 1.0,
        "auto_map": {"AutoTokenizer": ["x.X", null]}, "quantization_config": null,
        "some_setting_of_a_trainer": {"a": 1},
    });
    assert_eq!(hf_config(&changes), hf_config(&json!({})));
    let idle = json!({"use_sliding_window": false, "sliding_window": 32768});
    assert_eq!(hf_config(&idle), hf_config(&json!({})));
}

#[test]
fn numbers_no_sound_config_has() {
    let whole = "expected a whole number from 1 to 1048576";
    hf_refused(&json!({"hidden_size": 0, "head_dim": 16}), &format!("`hidden_size` is 0; {whole}"));
    hf_refused(
        &json!({"intermediate_size": 9_007_199_254_740_993_u64}),
        &format!("`intermediate_size` is 9007199254740993; {whole}"),
    );
    hf_refused(
        &json!({"vocab_size": -1}),
        "`vocab_size` is -1; expected a whole number that is not negative",
    );
    hf_refused(&json!({"vocab_size": null}), "`vocab_size` is missing; expected a whole number");
    hf_refused(
        &json!({"hidden_size": "64"}),
        "`hidden_size` is text; expected a whole number that is not negative",
    );
    hf_refused(
        &json!({"num_key_value_heads": 3}),
        "`num_key_value_heads` is 3; expected a divisor of the 4 query heads",
    );
    hf_refused(
        &json!({"num_attention_heads": 0, "head_dim": null}),
        "`num_attention_heads` is 0; expected a divisor of hidden_size 64, or head_dim to be set",
    );
    hf_refused(
        &json!({"head_dim": 15}),
        "`head_dim` is 15; expected an even number, because rotary positions turn pairs",
    );
    hf_refused(
        &json!({"rms_norm_eps": 0.0}),
        "`rms_norm_eps` is 0; expected a number above 0 and below 1",
    );
    let huge = json!({"num_attention_heads": 16384, "num_key_value_heads": 1, "head_dim": 8192});
    hf_refused(&huge, "`head_dim` is 8192; expected at most 1048576 with 16384 heads");
}

#[test]
fn text_that_is_no_config() {
    let words = |text: &str| hf::parse_config(text).unwrap_err().to_string();
    assert_eq!(words(""), "line 1, column 0: EOF while parsing a value");
    assert!(words("{\n \"a\": ]}").starts_with("line 2, column "));
    assert!(words("[]").contains("expected a map"), "{}", words("[]"));
    assert_eq!(words("{}"), "`model_type` is missing; expected the name of a model family");
    assert!(words(&"{\"a\":".repeat(100_000)).contains("recursion limit"));
    let byte_order_mark = "\u{feff}{\"model_type\": 1}";
    assert_eq!(words(byte_order_mark), "`model_type` is a number; expected text");
}

fn gguf(change: impl FnOnce(&mut GgufBase)) -> Result<Hyperparameters, DocumentError> {
    let mut llama = GgufBase::llama();
    change(&mut llama);
    let bytes = llama.bytes();
    describe_gguf(&parse(&bytes).unwrap(), &bytes)
}

fn gguf_refused(key: &str, value: Value, words: &str) {
    let error = gguf(|llama| {
        llama.set(key, value);
    });
    assert_eq!(error.unwrap_err().to_string(), words);
}

#[test]
fn metadata_of_other_models() {
    let refused = "which is not supported; supported:";
    gguf_refused(
        "general.architecture",
        "qwen2moe".into(),
        &format!(
            "`general.architecture` is \"qwen2moe\", {refused} llama, mistral, qwen2, qwen3, \
             gemma3_text"
        ),
    );
    gguf_refused(
        "llama.expert_count",
        8.into(),
        &format!("`llama.expert_count` is 8, {refused} 0"),
    );
    gguf_refused(
        "llama.logit_scale",
        0.25.into(),
        &format!("`llama.logit_scale` is 0.25, {refused} 1"),
    );
    for key in ["attention.scale", "attention.layer_indices", "swin_norm"] {
        let key = format!("llama.{key}");
        let words = format!("`{key}` is 0.5, {refused} files without this key of `llama`");
        gguf_refused(&key, 0.5.into(), &words);
    }
    gguf_refused(
        "llama.rope.scaling.type",
        "yarn".into(),
        &format!("`llama.rope.scaling.type` is \"yarn\", {refused} \"none\", \"linear\""),
    );
    gguf_refused(
        "llama.rope.dimension_count",
        8.into(),
        &format!("`llama.rope.dimension_count` is 8, {refused} 16, the whole head"),
    );
    gguf_refused(
        "llama.attention.head_count",
        Value::U32s(vec![4, 4]),
        "`llama.attention.head_count` is an array of 2 u32; expected a whole number",
    );
    gguf_refused(
        "llama.vocab_size",
        300.into(),
        "`llama.vocab_size` is 300, but `rows of token_embd.weight` is 256",
    );
    gguf_refused(
        "llama.block_count",
        5000.into(),
        "`llama.block_count` is 5000; expected a whole number from 1 to 4096",
    );
    gguf_refused(
        "llama.rope.scaling.factor",
        4.0.into(),
        "`llama.rope.scaling.factor` is 4, but `llama.rope.scaling.type` is \
         absent, so the factor has no meaning",
    );
}

#[test]
fn metadata_that_is_off_changes_nothing() {
    let plain = gguf(|_| {});
    let same = gguf(|llama| {
        llama
            .set("general.type", "model".into())
            .set("llama.vocab_size", 256.into())
            .set("llama.expert_count", 0.into())
            .set("llama.attention.key_length", 16.into())
            .set("llama.attention.value_length", 16.into())
            .set("llama.attention.causal", true.into())
            .set("llama.rope.scaling.type", "none".into());
    });
    assert_eq!(plain, same);
}

#[test]
fn rope_scaling_in_metadata_and_as_a_tensor() {
    let linear = gguf(|llama| {
        llama.set("llama.rope.scaling.type", "linear".into());
        llama.set("llama.rope.scaling.factor", 4.0.into());
    });
    assert_eq!(linear.unwrap().rope.scaling, RopeScaling::Linear { factor: 4.0 });
    let factors: Vec<f32> = (1..=8).map(|i| i as f32).collect();
    let with = |shape: usize, values: Vec<f32>| {
        gguf(|llama| {
            llama.tensor("rope_freqs.weight", &[shape], values);
        })
    };
    let scaling = with(8, factors.clone()).unwrap().rope.scaling;
    assert_eq!(scaling, RopeScaling::Factors(factors.clone()));
    assert_eq!(
        with(4, factors[..4].to_vec()).unwrap_err().to_string(),
        "`rope_freqs.weight` is 4 values; expected 8 values, half of head_dim"
    );
    let mut bad = factors.clone();
    bad[3] = f32::NAN;
    assert_eq!(
        with(8, bad).unwrap_err().to_string(),
        "`rope_freqs.weight` is NaN; expected finite numbers above 0"
    );
    let both = gguf(|llama| {
        llama.tensor("rope_freqs.weight", &[8], factors);
        llama.set("llama.rope.scaling.type", "linear".into());
        llama.set("llama.rope.scaling.factor", 4.0.into());
    });
    assert!(matches!(both.unwrap_err(), DocumentError::Conflict { .. }));
}
