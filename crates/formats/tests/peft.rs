//! Adapter folders: what PEFT wrote is read, what is written is what PEFT writes.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use half::bf16;
use lowtide_formats::peft::{
    AdapterError, AdapterFiles, AdapterTensor, CONFIG_FILE, LoraConfig, MethodConfig,
    TargetModules, WEIGHTS_FILE, parse_lora_config, set_base, tensor_name, write,
};
use lowtide_formats::safe::{Outgoing, PermutedRows, SafeFile, Values};
use lowtide_formats::{DocumentError, Error, gguf::Gguf, rows, safe};
use serde_json::{Map, Value, json};
use support::golden;

const Q: &str = "model.layers.0.self_attn.q_proj";

#[test]
fn an_adapter_of_peft() {
    let files = AdapterFiles::open(&golden("formats/l4")).unwrap();
    assert_eq!(files.peft_type(), "LORA");
    let (config, pairs) = files.lora().unwrap();
    assert_eq!((config.r, config.lora_alpha, config.lora_dropout), (4, 8.0, 0.0));
    let targets = ["v_proj", "down_proj", "k_proj", "q_proj"].map(str::to_owned).to_vec();
    assert_eq!(config.target_modules, Some(TargetModules::List(targets)));
    assert_eq!(config.scale_of(Q), Ok(2.0));
    assert_eq!(config.extra["megatron_core"], "megatron.core");
    let modules: Vec<_> = pairs.iter().map(|pair| pair.module).collect();
    let in_block = ["mlp.down_proj", "self_attn.k_proj", "self_attn.q_proj", "self_attn.v_proj"];
    let expected: Vec<_> = (0..2)
        .flat_map(|block| in_block.map(|module| format!("model.layers.{block}.{module}")))
        .collect();
    assert_eq!(modules, expected);
    let down = &pairs[0];
    assert_eq!((down.a.shape, down.b.shape), (&[4, 64][..], &[32, 4][..]));
    assert_eq!(down.rank(), 4);
    assert!(files.tensor(Q, "lora_A.weight").is_some() && files.tensor(Q, "lora_C").is_none());
}

/// The tensors of an adapter, copied out so that they can be written again.
fn copied(files: &AdapterFiles) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let (_, pairs) = files.lora().unwrap();
    let part = |module: &str, parameter: &str| {
        let tensor = files.tensor(module, parameter).unwrap();
        (format!("{module} {parameter}"), tensor.shape.to_vec(), tensor.to_f32_vec())
    };
    pairs
        .iter()
        .flat_map(|p| [part(p.module, "lora_A.weight"), part(p.module, "lora_B.weight")])
        .collect()
}

fn outgoing(tensors: &[(String, Vec<usize>, Vec<f32>)]) -> Vec<AdapterTensor<'_>> {
    let tensor = |(name, shape, values): &'_ (String, Vec<usize>, Vec<f32>)| {
        let (module, parameter) = name.split_once(' ').unwrap();
        (module.to_owned(), parameter.to_owned(), shape.clone(), values.len())
    };
    tensors
        .iter()
        .map(|entry| {
            let (module, parameter, shape, _) = tensor(entry);
            let values = Values::F32(&entry.2);
            AdapterTensor { module, parameter, shape, values, permuted: None }
        })
        .collect()
}

#[test]
fn what_is_written_equals_what_peft_wrote() {
    for adapter in ["formats/l4", "llama_tied/lora", "llama_untied/lora"] {
        let source = golden(adapter);
        let files = AdapterFiles::open(&source).unwrap();
        let tensors = copied(&files);
        let (config, _) = files.lora().unwrap();
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &config.to_document(), &outgoing(&tensors)).unwrap();
        let read = |dir: &Path, file: &str| fs::read(dir.join(file)).unwrap();
        assert!(
            read(dir.path(), WEIGHTS_FILE) == read(&source, WEIGHTS_FILE),
            "{adapter}: the tensors, byte for byte"
        );
        let document = |dir: &Path| {
            let text = fs::read_to_string(dir.join(CONFIG_FILE)).unwrap();
            serde_json::from_str::<Value>(&text).unwrap()
        };
        assert_eq!(document(dir.path()), document(&source), "{adapter}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing else is left there");
        // A base that is somewhere else changes this and nothing else.
        let elsewhere = Some("elsewhere".to_owned());
        let moved = LoraConfig { base_model_name_or_path: elsewhere, ..config };
        set_base(dir.path(), "elsewhere").unwrap();
        assert_eq!(document(dir.path()), Value::Object(moved.to_document()), "{adapter}");
        assert!(read(dir.path(), WEIGHTS_FILE) == read(&source, WEIGHTS_FILE), "{adapter}");
    }
}

#[test]
fn a_minimal_config_has_what_peft_needs() {
    let config = LoraConfig {
        base_model_name_or_path: Some("org/name".to_owned()),
        r: 4,
        lora_alpha: 8.0,
        target_modules: Some(TargetModules::List(vec!["q_proj".to_owned()])),
        ..LoraConfig::default()
    };
    let dir = tempfile::tempdir().unwrap();
    let values = [1.0; 4];
    let tensor = AdapterTensor {
        module: Q.to_owned(),
        parameter: "lora_A.weight".to_owned(),
        shape: vec![1, 4],
        values: Values::F32(&values),
        permuted: None,
    };
    write(dir.path(), &config.to_document(), &[tensor]).unwrap();
    let text = fs::read_to_string(dir.path().join(CONFIG_FILE)).unwrap();
    let expected = r#"{
  "alpha_pattern": {},
  "base_model_name_or_path": "org/name",
  "bias": "none",
  "fan_in_fan_out": false,
  "inference_mode": true,
  "init_lora_weights": true,
  "lora_alpha": 8,
  "lora_dropout": 0.0,
  "modules_to_save": null,
  "peft_type": "LORA",
  "r": 4,
  "rank_pattern": {},
  "target_modules": [
    "q_proj"
  ],
  "task_type": "CAUSAL_LM",
  "use_dora": false,
  "use_rslora": false
}"#;
    assert_eq!(text, expected);
    let golden = fs::read_to_string(golden("llama_tied/lora/adapter_config.json")).unwrap();
    let golden: Map<String, Value> = serde_json::from_str(&golden).unwrap();
    for (key, value) in config.to_document() {
        if !["base_model_name_or_path", "target_modules"].contains(&key.as_str()) {
            assert_eq!(golden[&key], value, "{key} as PEFT writes it");
        }
    }
    assert_eq!(parse_lora_config(&text).unwrap().to_document(), config.to_document());
}

#[test]
fn rows_of_a_permuted_base_are_saved_in_hf_order() {
    // The same adapter from two tools: in the GGUF file, B of q and k is in the base's order.
    let gguf = Gguf::open(&golden("formats/l4.gguf")).unwrap();
    let peft = AdapterFiles::open(&golden("formats/l4")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for (hf, name, heads) in [("q_proj", "attn_q", 4), ("k_proj", "attn_k", 2)] {
        let module = format!("model.layers.1.self_attn.{hf}");
        let theirs = peft.tensor(&module, "lora_B.weight").unwrap();
        let stored = gguf.tensor(&format!("blk.1.{name}.weight.lora_b")).unwrap();
        let values = stored.to_f32_vec();
        assert_ne!(values, theirs.to_f32_vec(), "{hf}");
        let tensor = AdapterTensor {
            module: module.clone(),
            parameter: "lora_B.weight".to_owned(),
            shape: stored.shape.to_vec(),
            values: Values::F32(&values),
            permuted: Some(PermutedRows { heads, head_dim: 8 }),
        };
        write(dir.path(), &LoraConfig::default().to_document(), &[tensor]).unwrap();
        let ours = AdapterFiles::open(dir.path()).unwrap();
        assert_eq!(ours.tensor(&module, "lora_B.weight").unwrap().bytes, theirs.bytes, "{hf}");
        // And onto the permuted base again.
        let mut back = vec![0.0; values.len()];
        rows::permute(&theirs.to_f32_vec(), &mut back, heads, 8);
        assert_eq!(back, values, "{hf}");
        let a = gguf.tensor(&format!("blk.1.{name}.weight.lora_a")).unwrap();
        assert_eq!(a.bytes, peft.tensor(&module, "lora_A.weight").unwrap().bytes, "{hf}");
    }
}

#[test]
fn brain_floats_come_back() {
    let values: Vec<bf16> = (0..3000).map(|i| bf16::from_f32(i as f32 * 0.25 - 300.0)).collect();
    let wide = [1.0_f32, -2.0];
    let tensor = |name: &str, shape: Vec<usize>, values| Outgoing {
        name: name.to_owned(),
        shape,
        values,
        permuted: None,
    };
    let tensors = [
        tensor("b", vec![30, 100], Values::Bf16(&values)),
        tensor("z", vec![2], Values::F32(&wide)),
    ];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    let mut file = fs::File::create(&path).unwrap();
    safe::write(&mut file, &tensors).unwrap();
    let file = SafeFile::open(&path).unwrap();
    let b = file.tensor("b").unwrap();
    assert_eq!((b.shape, b.format.name()), (&[30, 100][..], "BF16"));
    assert!(b.to_f32_vec().iter().zip(&values).all(|(read, v)| *read == v.to_f32()));
    assert_eq!(file.tensor("z").unwrap().to_f32_vec(), wide);
}

#[test]
fn scales_follow_patterns() {
    let config = parse_lora_config(
        &json!({
            "peft_type": "LORA", "r": 4, "lora_alpha": 16, "use_rslora": true,
            "rank_pattern": {"down_proj": 9, "layers.1.self_attn.q_proj": 16},
            "alpha_pattern": {"^model\\.layers\\.0\\.mlp\\.down_proj": 6.0},
        })
        .to_string(),
    )
    .unwrap();
    let rank = |module| config.rank_of(module).unwrap();
    assert_eq!(rank("model.layers.0.mlp.down_proj"), 9);
    assert_eq!(rank("model.layers.1.self_attn.q_proj"), 16);
    assert_eq!(rank("model.layers.0.self_attn.q_proj"), 4);
    assert_eq!(rank("model.layers.0.mlp.not_down_proj"), 4, "a name, not the end of one");
    assert_eq!(config.scale_of("model.layers.0.mlp.down_proj"), Ok(2.0));
    assert_eq!(config.scale_of("model.layers.1.mlp.down_proj"), Ok(16.0 / 3.0));
    assert_eq!(config.scale_of("model.layers.0.self_attn.q_proj"), Ok(8.0));
    let (plain, half) = (LoraConfig::default(), 0.5);
    assert_eq!(plain.scale_of(Q), Ok(1.0));
    let document = LoraConfig { lora_alpha: half, ..plain }.to_document();
    assert_eq!(document["lora_alpha"], json!(0.5));
}

fn refused(changes: &Value, words: &str) {
    let text = fs::read_to_string(golden("formats/l4/adapter_config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    let error = parse_lora_config(&config.to_string()).unwrap_err();
    assert_eq!(error.to_string(), words);
}

#[test]
fn settings_that_would_change_the_arithmetic() {
    for (key, value, shown) in [
        ("use_bdlora", json!(true), "true"),
        ("use_something_new", json!(true), "true"),
        ("fan_in_fan_out", json!(true), "true"),
        ("lora_bias", json!(true), "true"),
        ("modules_to_save", json!(["lm_head"]), "a list of 1"),
        ("alora_invocation_tokens", json!([1, 2]), "a list of 2"),
        ("layer_replication", json!([[0, 2]]), "a list of 1"),
        ("trainable_token_indices", json!([5]), "a list of 1"),
        ("target_parameters", json!(["x"]), "a list of 1"),
        ("corda_config", json!({"a": 1}), "an object with \"a\""),
        ("velora_config", json!({"a": 1}), "an object with \"a\""),
    ] {
        let words = format!("`{key}` is {shown}, which is not supported; supported: none");
        refused(&json!({ key: value }), &words);
    }
    let words = |key: &str, rest: &str| format!("`{key}` is {rest}");
    refused(
        &json!({"bias": "all"}),
        &words("bias", "\"all\", which is not supported; supported: \"none\""),
    );
    refused(
        &json!({"task_type": "SEQ_CLS"}),
        &words("task_type", "\"SEQ_CLS\", which is not supported; supported: \"CAUSAL_LM\""),
    );
    refused(
        &json!({"peft_type": "IA3"}),
        &words("peft_type", "\"IA3\", which is not supported; supported: \"LORA\""),
    );
    refused(
        &json!({"init_lora_weights": "pissa"}),
        "`init_lora_weights` is \"pissa\", which is not supported; \
         supported: true, false, gaussian, eva, orthogonal",
    );
}

#[test]
fn numbers_no_adapter_has() {
    let ranks = "expected a whole number from 1 to 65536";
    refused(&json!({"r": 0}), &format!("`r` is 0; {ranks}"));
    refused(&json!({"r": 4.5}), &format!("`r` is 4.5; {ranks}"));
    refused(&json!({"r": null}), &format!("`r` is missing; {ranks}"));
    refused(&json!({"rank_pattern": {"x": -1}}), &format!("`rank_pattern.x` is -1; {ranks}"));
    refused(&json!({"lora_alpha": "8"}), "`lora_alpha` is \"8\"; expected a finite number above 0");
    refused(
        &json!({"lora_dropout": 1.0}),
        "`lora_dropout` is 1; expected a number from 0 to below 1",
    );
    refused(
        &json!({"alpha_pattern": {"(": 1.0}}),
        "`alpha_pattern` is \"(\", which is not supported; \
         supported: regular expressions without look-around and back-references",
    );
    refused(
        &json!({"target_modules": [1]}),
        "`target_modules` is a list; expected a list of module names, or a regular expression",
    );
}

/// A folder with the golden config and tensors of one's own.
fn folder(tensors: &[(&str, &[usize], f32)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::copy(golden("formats/l4").join(CONFIG_FILE), dir.path().join(CONFIG_FILE)).unwrap();
    let values: Vec<Vec<f32>> =
        tensors.iter().map(|(_, shape, v)| vec![*v; shape.iter().product()]).collect();
    let outgoing: Vec<_> = tensors
        .iter()
        .zip(&values)
        .map(|((name, shape, _), values)| Outgoing {
            name: (*name).to_owned(),
            shape: shape.to_vec(),
            values: Values::F32(values),
            permuted: None,
        })
        .collect();
    let mut file = fs::File::create(dir.path().join(WEIGHTS_FILE)).unwrap();
    safe::write(&mut file, &outgoing).unwrap();
    dir
}

fn lora_refused(tensors: &[(&str, &[usize], f32)], words: &str) {
    let dir = folder(tensors);
    let error = AdapterFiles::open(dir.path()).and_then(|files| files.lora().map(|_| ()));
    let error = error.unwrap_err();
    let Error::Adapter { path, reason } = &error else { panic!("{error}") };
    assert_eq!(*path, dir.path().join(WEIGHTS_FILE));
    assert_eq!(reason.to_string(), words);
}

#[test]
fn tensors_that_are_no_lora() {
    let (a, b) = (tensor_name(Q, "lora_A.weight"), tensor_name(Q, "lora_B.weight"));
    lora_refused(&[], "there are no tensors");
    lora_refused(&[(&a, &[4, 32], 1.0)], &format!("tensor `{b}` is missing; `{a}` is there"));
    lora_refused(&[(&b, &[32, 4], 1.0)], &format!("tensor `{a}` is missing; `{b}` is there"));
    lora_refused(
        &[(&a, &[4, 32], 1.0), (&b, &[32, 4], f32::NAN)],
        &format!("tensor `{b}` holds NaN at index 0; expected finite values"),
    );
    lora_refused(
        &[(&a, &[4, 32], 1.0), (&b, &[32, 5], 1.0)],
        &format!("tensor `{b}` has shape [32, 5]; expected [outputs, 4]"),
    );
    lora_refused(
        &[(&a, &[128], 1.0), (&b, &[32, 4], 1.0)],
        &format!("tensor `{a}` has shape [128]; expected [rank, inputs]"),
    );
    lora_refused(
        &[(&a, &[8, 32], 1.0), (&b, &[32, 8], 1.0)],
        &format!(
            "tensor `{a}` has shape [8, 32]; expected 4 rows, the rank in adapter_config.json"
        ),
    );
    let magnitude = tensor_name(Q, "lora_magnitude_vector");
    lora_refused(
        &[(&magnitude, &[32], 1.0)],
        &format!(
            "tensor `{magnitude}` does not belong to a LORA adapter; \
             expected names that end with `.lora_A.weight` or `.lora_B.weight`"
        ),
    );
    lora_refused(
        &[("q_proj.lora_A.weight", &[4, 32], 1.0)],
        "tensor `q_proj.lora_A.weight` does not belong to a LORA adapter; \
         expected names that start with `base_model.model.`",
    );
}

#[test]
fn folders_that_are_incomplete() {
    let dir = tempfile::tempdir().unwrap();
    let error = AdapterFiles::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("adapter_config.json: cannot read: "), "{error}");
    fs::write(dir.path().join(CONFIG_FILE), "{}").unwrap();
    let error = AdapterFiles::open(dir.path()).unwrap_err().to_string();
    assert!(error.ends_with("`peft_type` is missing; expected the name of a method"), "{error}");
    fs::write(dir.path().join(CONFIG_FILE), r#"{"peft_type": "LORA"}"#).unwrap();
    let error = AdapterFiles::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("adapter_model.safetensors: cannot open: "), "{error}");
}

#[test]
fn a_value_that_is_not_finite_is_not_saved() {
    let dir = tempfile::tempdir().unwrap();
    let values = [0.0, f32::INFINITY];
    let tensor = AdapterTensor {
        module: Q.to_owned(),
        parameter: "lora_A.weight".to_owned(),
        shape: vec![2],
        values: Values::F32(&values),
        permuted: None,
    };
    let target = dir.path().join("adapter");
    let error = write(&target, &Map::new(), &[tensor]).unwrap_err();
    let expected = AdapterError::NotFinite {
        name: tensor_name(Q, "lora_A.weight"),
        index: 1,
        value: "inf".to_owned(),
    };
    assert_eq!(error, Error::Adapter { path: target.join(WEIGHTS_FILE), reason: expected });
    assert!(!target.exists(), "nothing is written");
}

#[test]
fn other_methods_share_the_layout() {
    let dir = tempfile::tempdir().unwrap();
    let values = [1.0_f32; 16];
    let tensor = AdapterTensor {
        module: "model.layers.0.self_attn.k_proj".to_owned(),
        parameter: "ia3_l".to_owned(),
        shape: vec![16, 1],
        values: Values::F32(&values),
        permuted: None,
    };
    let config = json!({"peft_type": "IA3", "z": {"b": 1, "a": 2}});
    write(dir.path(), config.as_object().unwrap(), &[tensor]).unwrap();
    let files = AdapterFiles::open(dir.path()).unwrap();
    assert_eq!((files.peft_type(), files.config()["z"]["a"].clone()), ("IA3", json!(2)));
    let vector = files.tensor("model.layers.0.self_attn.k_proj", "ia3_l").unwrap();
    assert_eq!(vector.shape, [16, 1]);
    let error = files.lora().unwrap_err();
    let Error::Document { reason: DocumentError::Unsupported { key, .. }, .. } = error else {
        panic!("{error}")
    };
    assert_eq!(key, "peft_type");
}

#[test]
fn ia3_is_read_and_written_as_peft_has_it() {
    let theirs = AdapterFiles::open(&golden("llama_tied/ia3")).unwrap();
    let (config, modules) = theirs.method().unwrap();
    assert_eq!((config.peft_type.as_str(), modules.len()), ("IA3", 6));
    assert!(modules.contains("model.layers.1.mlp.down_proj"));
    assert_eq!(config.options["feedforward_modules"], "down_proj");
    let ours = config.to_document();
    for (key, value) in &ours {
        assert_eq!(Some(value), theirs.config().get(key), "{key}");
    }
    let some = |names: &[&str]| {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        MethodConfig { target_modules: Some(TargetModules::List(names)), ..config.clone() }
    };
    let (one, other) = ("model.layers.1.mlp.down_proj", "model.layers.1.self_attn.k_proj");
    assert_eq!(some(&[one, other]).to_document()["feedforward_modules"], json!([one]));
    let without = some(&["k_proj"]).to_document();
    assert_eq!(without["feedforward_modules"], json!([]));
    let read = MethodConfig::from_document(&without, &modules).unwrap();
    assert_eq!(read.options["feedforward_modules"], "none");
    assert_eq!(MethodConfig::from_document(&ours, &modules).unwrap(), config);
}

#[test]
fn feed_forward_modules_of_ia3_as_a_regular_expression() {
    let theirs = AdapterFiles::open(&golden("llama_tied/ia3")).unwrap();
    let (_, modules) = theirs.method().unwrap();
    let chosen = |value: Value| {
        let mut config = theirs.config().clone();
        config.insert("target_modules".into(), json!(r".*\.(k_proj|v_proj|down_proj)"));
        config.insert("feedforward_modules".into(), value);
        let read = MethodConfig::from_document(&config, &modules);
        read.map(|read| read.options["feedforward_modules"].clone()).map_err(|e| e.to_string())
    };
    let ok = |names: &str| Ok(names.to_owned());
    assert_eq!(chosen(json!(r".*\.mlp\..*")), ok("down_proj"));
    assert_eq!(chosen(json!(r".*\.1\.mlp\.down_proj")), ok("model.layers.1.mlp.down_proj"));
    assert_eq!(chosen(json!(".*(down|v)_proj")), ok("down_proj,v_proj"));
    // A regular expression is for whole names, also where it has letters only.
    assert_eq!(chosen(json!("down_proj")), ok("none"));
    for (bad, words) in [
        (json!(7), "`feedforward_modules` is a number; expected a list of module names, or a"),
        (json!("(?=x)"), "`feedforward_modules` is \"(?=x)\", which is not supported"),
        (json!("down)|(up"), "`feedforward_modules` is \"down)|(up\", which is not supported"),
    ] {
        let told = chosen(bad).unwrap_err();
        assert!(told.contains(words), "{told}");
    }
}

#[test]
fn methods_that_peft_has_not_keep_their_settings() {
    let document = |value: Value| value.as_object().unwrap().clone();
    let told = document(json!({
        "peft_type": "LARS", "r": 4, "alpha": 16, "dropout": 0.1, "rank_pattern": {"q_proj": 2},
        "alpha_pattern": {"v_proj": 4},
        "target_modules": ["q_proj", "v_proj"], "options": {"pool": "chunk", "chunk": "32"},
        "base_model_name_or_path": "base", "inference_mode": true, "task_type": "CAUSAL_LM",
    }));
    let config = MethodConfig::from_document(&told, &BTreeSet::new()).unwrap();
    assert_eq!((config.r, config.dropout, config.options["chunk"].as_str()), (4, 0.1, "32"));
    assert_eq!(config.to_document(), told);
    let refused = |field: &str, value: Value| {
        let mut changed = told.clone();
        changed.insert(field.into(), value);
        MethodConfig::from_document(&changed, &BTreeSet::new()).unwrap_err().to_string()
    };
    assert!(refused("r", json!(0)).contains("`r`"));
    assert!(refused("dropout", json!(1)).contains("`dropout`"));
    assert!(refused("options", json!({"chunk": 32})).contains("`options.chunk`"));
    assert!(refused("modules_to_save", json!(["lm_head"])).contains("`modules_to_save`"));
}
