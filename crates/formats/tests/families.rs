//! Families besides Llama: the same base from both kinds of file, their own keys, and what each
//! refuses.

mod support;

use lowtide_formats::gguf::{Value, parse};
use lowtide_formats::{
    Activation, Base, DocumentError, Hyperparameters, LocalAttention, Pairing, Rope, RopeScaling,
    describe_gguf, hf,
};
use serde_json::{Value as Json, json};
use support::{GgufBase, golden};

/// The golden base as a GGUF file that says everything, also what is known of the family.
fn file_of(model: &str) -> GgufBase {
    let mut file = GgufBase::of(model, model);
    if model == "gemma3" {
        file.set("gemma3.attention.scale", ((1.0 / 24.0_f64.sqrt()) as f32).into())
            .set("gemma3.attention.sliding_window", 8.into())
            .set("gemma3.attention.sliding_window_pattern", 2.into())
            .set("gemma3.rope.freq_base_swa", 1e4.into());
    }
    file
}

fn describe(file: &GgufBase) -> Result<Hyperparameters, DocumentError> {
    let bytes = file.bytes();
    describe_gguf(&parse(&bytes).unwrap(), &bytes)
}

/// What that golden GGUF file says after a change.
fn gguf(model: &str, change: impl FnOnce(&mut GgufBase)) -> Result<Hyperparameters, DocumentError> {
    let mut file = file_of(model);
    change(&mut file);
    describe(&file)
}

/// The golden config in one of its styles, with some fields replaced.
fn config(model: &str, file: &str, changes: &Json) -> Result<Hyperparameters, DocumentError> {
    let text = std::fs::read_to_string(golden(model).join(file)).unwrap();
    let mut config: Json = serde_json::from_str(&text).unwrap();
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    hf::parse_config(&config.to_string())
}

fn old_style(model: &str, changes: &Json) -> Result<Hyperparameters, DocumentError> {
    config(model, "config.legacy.json", changes)
}

fn new_style(model: &str, changes: &Json) -> Result<Hyperparameters, DocumentError> {
    config(model, "config.json", changes)
}

fn words(result: Result<Hyperparameters, DocumentError>) -> String {
    result.unwrap_err().to_string()
}

fn rope(theta: f64) -> Rope {
    Rope { theta, scaling: RopeScaling::Default, pairing: Pairing::Halves }
}

#[test]
fn both_kinds_of_file_hold_the_same_base() {
    for model in ["qwen2", "qwen3", "gemma3"] {
        let hf = Base::open(&golden(model)).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let gguf = Base::open(&file_of(model).write(dir.path())).unwrap();
        let offset = hf.hyper().norm_offset;
        let mut expected = hf.hyper().clone();
        expected.norm_offset = 0.0;
        // Metadata holds floats of 32 bits.
        expected.attention_scale = gguf.hyper().attention_scale;
        assert_eq!(hf.hyper().attention_scale as f32, expected.attention_scale as f32, "{model}");
        assert_eq!(*gguf.hyper(), expected, "{model}");
        assert!(gguf.tensor_names().eq(hf.tensor_names()), "{model}: the same HF names");
        for name in hf.tensor_names() {
            let (hf, gguf) = (hf.tensor(&name).unwrap(), gguf.tensor(&name).unwrap());
            assert_eq!(hf.shape, gguf.shape, "{name}");
            let offset = if name.ends_with("norm.weight") { offset } else { 0.0 };
            let values: Vec<f32> = hf.to_f32_vec().iter().map(|value| value + offset).collect();
            assert_eq!(values, gguf.to_f32_vec(), "{model} {name}");
        }
        assert_eq!(gguf.hyper().permuted_heads("model.layers.0.self_attn.q_proj"), None);
    }
}

#[test]
fn what_the_golden_bases_are() {
    let open = |model: &str| Base::open(&golden(model)).unwrap();
    let (qwen2, qwen3, gemma3) = (open("qwen2"), open("qwen3"), open("gemma3"));
    let counts = [&qwen2, &qwen3, &gemma3].map(|base| base.tensor_names().count());
    assert_eq!(counts, [2 * 12 + 2, 2 * 11 + 2, 2 * 13 + 2]);

    let hyper = qwen2.hyper();
    assert!(hyper.attention_bias && !hyper.attention_output_bias && !hyper.mlp_bias);
    assert_eq!((hyper.head_dim, hyper.attention_scale, &hyper.rope), (16, 0.25, &rope(1e6)));

    let hyper = qwen3.hyper();
    assert!(!hyper.attention_bias && !hyper.attention_output_bias);
    assert_eq!((hyper.head_dim, hyper.query_size(), hyper.key_value_size()), (32, 128, 64));
    assert_eq!(qwen3.tensor("model.layers.1.self_attn.k_norm.weight").unwrap().shape, [32]);

    let hyper = gemma3.hyper();
    assert_eq!((hyper.architecture.as_str(), hyper.head_dim), ("gemma3_text", 32));
    assert_eq!((hyper.hidden_act, hyper.norm_offset), (Activation::GeluTanh, 1.0));
    assert_eq!((hyper.embedding_scale, hyper.attention_scale), (8.0, 1.0 / 24.0_f64.sqrt()));
    let local = LocalAttention { window: 8, rope: rope(1e4), layers: vec![true, false] };
    assert_eq!((&hyper.rope, hyper.local.as_ref()), (&rope(1e6), Some(&local)));
}

#[test]
fn a_mistral_has_a_window_unless_it_says_null() {
    let mistral = |edits: Json| {
        let mut all = json!({"model_type": "mistral", "architectures": ["MistralForCausalLM"]});
        all.as_object_mut().unwrap().extend(edits.as_object().unwrap().clone());
        old_style("llama_untied", &all)
    };
    let window = |edits| mistral(edits).unwrap().local.map(|local| local.window);
    assert_eq!(window(json!({"sliding_window": null})), None);
    assert_eq!(window(json!({"sliding_window": 8})), Some(8));
    assert_eq!(window(json!({})), Some(4096), "the reference's default");
    let hyper = mistral(json!({"sliding_window": 8})).unwrap();
    let local = hyper.local.as_ref().unwrap();
    assert_eq!((&local.layers, &local.rope), (&vec![true; 2], &hyper.rope));
    let silent = mistral(json!({"num_key_value_heads": null, "num_attention_heads": 16}));
    assert_eq!(silent.unwrap().num_key_value_heads, 8);
    let zero = words(mistral(json!({"sliding_window": 0})));
    assert!(zero.starts_with("`sliding_window` is 0"), "{zero}");
}

#[test]
fn a_qwen_has_its_window_switched_off() {
    for model in ["qwen2", "qwen3"] {
        let plain = old_style(model, &json!({})).unwrap();
        for off in [
            json!({"sliding_window": 32_768, "max_window_layers": 21}),
            json!({"sliding_window": 32_768, "use_sliding_window": null}),
        ] {
            assert_eq!(old_style(model, &off).unwrap(), plain, "{model} with {off}");
        }
        for (key, on) in [
            ("use_sliding_window", json!(true)),
            ("layer_types", json!(["full_attention", "sliding_attention"])),
            ("rope_scaling", json!({"type": "yarn", "factor": 4.0})),
        ] {
            let error = words(old_style(model, &json!({ key: on })));
            assert!(error.starts_with(&format!("`{key}")), "{model}: {error}");
        }
    }
    let silent = json!({"head_dim": null, "attention_bias": true});
    let hyper = old_style("qwen3", &silent).unwrap();
    assert!(hyper.attention_bias && hyper.attention_output_bias);
    assert_eq!(hyper.head_dim, 128, "not an even split");
    let class = words(old_style("qwen2", &json!({"architectures": ["Qwen3ForCausalLM"]})));
    assert!(class.starts_with("`architectures` is \"Qwen3ForCausalLM\""), "{class}");
}

#[test]
fn a_qwen2_without_biases_is_incomplete() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = file_of("qwen2");
    file.tensors.retain(|(name, ..)| !name.ends_with(".bias"));
    let error = Base::open(&file.write(dir.path())).unwrap_err().to_string();
    assert!(error.contains("`blk.0.attn_q.bias` is missing; expected shape [64]"), "{error}");
    let mut file = file_of("qwen3");
    file.tensors.retain(|(name, ..)| name != "blk.1.attn_k_norm.weight");
    let error = Base::open(&file.write(dir.path())).unwrap_err().to_string();
    assert!(error.contains("`blk.1.attn_k_norm.weight` is missing"), "{error}");
}

#[test]
fn which_layers_of_a_gemma_slide() {
    let layers = |changes: Json| {
        let local = old_style("gemma3", &changes).unwrap().local;
        local.map(|local| local.layers).unwrap_or_default()
    };
    let pattern = json!({"layer_types": null, "sliding_window_pattern": 3, "num_hidden_layers": 7});
    assert_eq!(layers(pattern), [true, true, false, true, true, false, true]);
    let known =
        json!({"layer_types": null, "sliding_window_pattern": null, "num_hidden_layers": 12});
    let five_to_one = [true, true, true, true, true, false];
    assert_eq!(layers(known), [five_to_one, five_to_one].concat());
    assert!(layers(json!({"layer_types": null, "sliding_window_pattern": 1})).is_empty());
    let none = json!({"layer_types": ["full_attention", "full_attention"], "sliding_window": null});
    assert!(layers(none).is_empty());

    let same = gguf("gemma3", |_| {}).unwrap();
    let listed = gguf("gemma3", |file| {
        let pattern = Value::Bools(vec![true, false]);
        file.set("gemma3.attention.sliding_window_pattern", pattern);
    });
    assert_eq!(listed.unwrap(), same);
    let known = gguf("gemma3", |file| {
        file.unset("gemma3.attention.sliding_window_pattern").unset("gemma3.rope.freq_base_swa");
        file.set("gemma3.block_count", 12.into());
    });
    let local = known.unwrap().local.unwrap();
    assert_eq!(local.layers, [five_to_one, five_to_one].concat());
    assert_eq!((local.window, local.rope), (8, rope(1e4)));
    let none = gguf("gemma3", |file| {
        file.set("gemma3.attention.sliding_window", 0.into());
    });
    assert_eq!(none.unwrap().local, None);
}

#[test]
fn the_scale_of_a_gemmas_scores() {
    let scale = |layers: u32| {
        let hyper = gguf("gemma3", |file| {
            file.unset("gemma3.attention.scale").set("gemma3.block_count", layers.into());
        });
        hyper.unwrap().attention_scale
    };
    assert_eq!(scale(26), 1.0 / 32.0_f64.sqrt(), "the width of a head");
    assert_eq!(scale(62), 0.25, "hidden size by heads: 16");
    let silent = old_style("gemma3", &json!({"query_pre_attn_scalar": null})).unwrap();
    assert_eq!(silent.attention_scale, 1.0 / 16.0);
    assert_eq!(
        words(old_style("gemma3", &json!({"query_pre_attn_scalar": 0}))),
        "`query_pre_attn_scalar` is 0; expected a finite number above 0"
    );
    let nan = gguf("gemma3", |file| {
        file.set("gemma3.attention.scale", f32::NAN.into());
    });
    assert_eq!(words(nan), "`gemma3.attention.scale` is NaN; expected a finite number above 0");
}

#[test]
fn only_full_layers_of_a_gemma_are_stretched() {
    let linear = RopeScaling::Linear { factor: 8.0 };
    let stretched = Rope { scaling: linear, ..rope(1e6) };
    let full = json!({"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6});
    let scaling = json!({"rope_type": "linear", "factor": 8.0});
    let in_file = gguf("gemma3", |file| {
        file.set("gemma3.rope.scaling.type", "linear".into());
        file.set("gemma3.rope.scaling.factor", 8.0.into());
    });
    for hyper in [
        old_style("gemma3", &json!({"rope_scaling": scaling})),
        new_style("gemma3", &json!({"rope_parameters": {"full_attention": full}})),
        in_file,
    ] {
        let hyper = hyper.unwrap();
        assert_eq!((hyper.rope, hyper.local.unwrap().rope), (stretched.clone(), rope(1e4)));
    }
    assert_eq!(
        words(new_style("gemma3", &json!({"rope_theta": 5e5}))),
        "`rope_parameters.full_attention.rope_theta` is 1000000, but `rope_theta` is 500000"
    );
    let bad = json!({"rope_parameters": {"sliding_attention": {"rope_theta": 0.5}}});
    assert_eq!(
        words(new_style("gemma3", &bad)),
        "`rope_parameters.sliding_attention.rope_theta` is 0.5; \
         expected a finite number of at least 1"
    );
    assert_eq!(
        words(new_style("gemma3", &json!({"rope_parameters": {"rope_theta": 1e6}}))),
        "`rope_parameters.rope_theta` is 1000000.0, which is not supported; \
         supported: full_attention, sliding_attention"
    );
}

#[test]
fn what_a_gemma_config_may_not_say() {
    for (key, value) in [
        ("attn_logit_softcapping", json!(50.0)),
        ("final_logit_softcapping", json!(30.0)),
        ("use_bidirectional_attention", json!(true)),
        ("hidden_activation", json!("gelu")),
        ("architectures", json!(["Gemma3ForConditionalGeneration"])),
        ("model_type", json!("gemma2")),
        ("model_type", json!("gemma3")),
        ("layer_types", json!(["full_attention", "chunked_attention"])),
    ] {
        let error = new_style("gemma3", &json!({ key: value })).unwrap_err();
        let DocumentError::Unsupported { key: named, .. } = &error else {
            panic!("{key} is refused, but as {error}")
        };
        assert_eq!(named, key);
    }
    let old = |changes: Json| words(old_style("gemma3", &changes));
    assert_eq!(
        old(json!({"layer_types": ["full_attention"]})),
        "`layer_types` is a list of 1; expected 2 kinds"
    );
    assert_eq!(
        old(json!({"layer_types": null, "sliding_window_pattern": 0})),
        "`sliding_window_pattern` is 0; expected a whole number of at least 1"
    );
    assert_eq!(
        old(json!({"sliding_window": null})),
        "`sliding_window` is missing; expected a whole number"
    );
    assert_eq!(
        old(json!({"sliding_window": 0})),
        "`sliding_window` is 0; expected a whole number from 1 to 2147483648"
    );
    // Nothing is made as long as this says before it is refused.
    let many = json!({"layer_types": null, "num_hidden_layers": 1_u64 << 60});
    assert!(old(many).starts_with("`num_hidden_layers` is 1152921504606846976"));
    let llama = json!({"rope_local_base_freq": 1e4});
    let error = words(config("llama_tied", "config.json", &llama));
    assert!(error.starts_with("`rope_local_base_freq` is 10000.0"), "{error}");
}

#[test]
fn what_gemma_metadata_may_not_say() {
    let refused = "which is not supported; supported:";
    let set = |key: &str, value: Value| {
        words(gguf("gemma3", |file| {
            file.set(&format!("gemma3.{key}"), value);
        }))
    };
    for key in ["attn_logit_softcapping", "final_logit_softcapping"] {
        assert_eq!(set(key, 30.0.into()), format!("`gemma3.{key}` is 30, {refused} 0"));
    }
    assert_eq!(
        set("rope.local.freq_base", 1e4.into()),
        format!(
            "`gemma3.rope.local.freq_base` is 10000, {refused} files without this key of `gemma3`"
        )
    );
    assert_eq!(
        set("attention.sliding_window_pattern", Value::Bools(vec![true])),
        "`gemma3.attention.sliding_window_pattern` is a list of 1; \
         expected one a layer, of which there are 2"
    );
    assert_eq!(
        set("attention.sliding_window_pattern", Value::U32s(vec![1, 0])),
        "`gemma3.attention.sliding_window_pattern` is an array of 2 u32; \
         expected an array of truth values"
    );
    assert_eq!(
        set("rope.freq_base_swa", 0.0.into()),
        "`gemma3.rope.freq_base_swa` is 0; expected a finite number of at least 1"
    );
    let missing = gguf("gemma3", |file| {
        file.unset("gemma3.rope.freq_base");
    });
    assert_eq!(words(missing), "`gemma3.rope.freq_base` is missing; expected a float");
    // The keys of one family mean nothing in another.
    let window = gguf("qwen3", |file| {
        file.set("qwen3.attention.sliding_window", 8.into());
    });
    assert_eq!(words(window), format!("`qwen3.attention.sliding_window` is 8, {refused} 0"));
}
