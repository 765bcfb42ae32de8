//! Bad files at the level of whole jobs: one error that names file and field, and nothing is left
//! behind or changed.

use std::path::PathBuf;

use lowtide_testkit::tiny::{TinyLlama, tiny_llama_folder, write_safetensors};
use lowtide_train::Settings;

use crate::refused::{eval, evaluation_refused, home, refused, run};
use crate::support::Home;

#[test]
fn damaged_model_files_are_refused() {
    let (home, settings) = home();
    let weights = home.base().join("model.safetensors");
    let sound = std::fs::read(&weights).unwrap();
    let truncated = &sound[..sound.len() - 100];
    let mut huge_header = sound.clone();
    huge_header[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    let mut flipped = sound.clone();
    flipped[9] ^= 0x55;
    for damaged in [truncated, &sound[..4], &[], &huge_header, &flipped, b"not a model at all"] {
        std::fs::write(&weights, damaged).unwrap();
        refused(&home, &settings, &["model.safetensors"]);
        evaluation_refused(&eval(&settings, None), &["model.safetensors"]);
    }
    std::fs::remove_file(&weights).unwrap();
    refused(&home, &settings, &["base", "model.safetensors"]);

    let gguf = home.path("model.gguf");
    for damaged in [&b"GGUF"[..], b"GGUF\x03\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff", b"", b"FUGG"] {
        std::fs::write(&gguf, damaged).unwrap();
        let settings = Settings { model: gguf.clone(), ..settings.clone() };
        refused(&home, &settings, &["model.gguf"]);
        evaluation_refused(&eval(&settings, None), &["model.gguf"]);
    }
    let nowhere = Settings { model: home.path("nowhere"), ..settings };
    refused(&home, &nowhere, &["nowhere"]);
}

#[test]
fn unknown_architectures_and_contradicting_configs_are_refused() {
    let (home, settings) = home();
    let path = home.base().join("config.json");
    let sound = TinyLlama::default().config();
    let change = |key: &str, value: serde_json::Value, parts: &[&str]| {
        let mut config = sound.clone();
        config[key] = value;
        std::fs::write(&path, config.to_string()).unwrap();
        refused(&home, &settings, parts);
        evaluation_refused(&eval(&settings, None), parts);
    };
    change("model_type", "mamba2".into(), &["config.json", "model_type", "mamba2", "llama"]);
    change("architectures", serde_json::json!(["FooForCausalLM"]), &["config.json", "Foo"]);
    change("hidden_act", "relu".into(), &["config.json", "hidden_act", "relu"]);
    change("hidden_size", "wide".into(), &["config.json", "hidden_size"]);
    change("num_hidden_layers", u64::MAX.into(), &["config.json", "num_hidden_layers"]);
    change("intermediate_size", 96.into(), &["mlp.", "shape", "96"]);
    let scaling = serde_json::json!({ "rope_type": "yarn", "factor": 2.0 });
    change("rope_scaling", scaling, &["config.json", "rope", "yarn"]);
    std::fs::write(&path, "{ \"model_type\": ").unwrap();
    refused(&home, &settings, &["config.json", "line 1"]);
}

#[test]
fn a_weight_that_is_not_a_number_is_named() {
    let shape = TinyLlama { tied: false, ..TinyLlama::default() };
    for (name, value) in [
        ("model.layers.1.self_attn.q_proj.weight", f32::NAN),
        ("model.layers.0.mlp.down_proj.weight", f32::INFINITY),
        ("model.layers.0.input_layernorm.weight", f32::NAN),
        ("model.norm.weight", f32::NEG_INFINITY),
        ("lm_head.weight", f32::NAN),
    ] {
        let home = Home::new(&shape);
        let mut tensors = shape.tensors();
        tensors.get_mut(name).unwrap().data[5] = value;
        write_safetensors(&home.base().join("model.safetensors"), &tensors);
        let settings = home.settings(&[12, 9]);
        refused(&home, &settings, &[name, "index 5", &value.to_string()]);
        let free = Settings { max_grad_norm: 0.0, val_split: 0.5, ..settings };
        refused(&home, &free, &[name, "index 5"]);
        evaluation_refused(&eval(&free, None), &[name, "index 5"]);
    }
}

#[test]
fn unusable_data_is_refused_with_its_line() {
    let (home, settings) = home();
    let good = r#"{"input_ids": [3, 4, 5]}"#;
    let write = |text: &str| std::fs::write(&settings.data, text).unwrap();
    let refuse = |text: &str, parts: &[&str]| {
        write(text);
        refused(&home, &settings, parts);
        evaluation_refused(&eval(&settings, None), parts);
    };
    let line_two = |line: &str| format!("{good}\n{line}\n");
    refuse(&line_two(r#"{"question": "?", "answer": "!"}"#), &["data.jsonl:2", "question"]);
    refuse("", &["data.jsonl", "no examples"]);
    refuse("\n \n", &["data.jsonl", "no examples"]);
    refuse(&line_two("{\"input_ids\": [3,"), &["data.jsonl:2", "JSON"]);
    let unlabelled = r#"{"input_ids": [3, 4, 5], "labels": [-100, -100, -100]}"#;
    refuse(&line_two(unlabelled), &["data.jsonl:2", "no labelled token", "-100"]);
    refuse(&line_two(r#"{"input_ids": [3, 256]}"#), &["data.jsonl:2", "input_ids[1]", "256"]);
    let label = r#"{"input_ids": [3, 4], "labels": [3, 9999]}"#;
    refuse(&line_two(label), &["data.jsonl:2", "labels[1]", "9999"]);
    refuse(&line_two(r#"{"input_ids": [-1, 3]}"#), &["data.jsonl:2", "input_ids[0]"]);
    refuse(&line_two(r#"{"text": "no tokenizer"}"#), &["data.jsonl:2", "tokenizer"]);
    refuse(&line_two(r#"{"messages": []}"#), &["data.jsonl:2", "messages"]);

    std::fs::write(&settings.data, b"{\"text\": \"\xff\"}").unwrap();
    refused(&home, &settings, &["data.jsonl:1", "UTF-8"]);
    write(good);
    let split = Settings { val_split: 0.5, ..settings.clone() };
    refused(&home, &split, &["0.5", "1 examples"]);
    let missing = Settings { data: home.path("missing.jsonl"), ..settings.clone() };
    refused(&home, &missing, &["missing.jsonl"]);
    let strange = Settings { data: home.base().join("config.json"), ..settings };
    refused(&home, &strange, &["config.json", ".jsonl"]);
}

#[test]
fn an_adapter_of_another_base_is_refused() {
    let (home, settings) = home();
    run(&settings).unwrap();
    let adapter = home.path("started");
    std::fs::rename(&settings.output, &adapter).unwrap();
    let started = |model: PathBuf| Settings {
        model,
        init_adapter: Some(adapter.clone()),
        ..settings.clone()
    };
    let other = |name: &str, shape: &TinyLlama| {
        tiny_llama_folder(&home.path(name), shape);
        started(home.path(name))
    };

    let wide = other("wide", &TinyLlama { intermediate: 192, ..TinyLlama::default() });
    let parts = ["started", "mlp.", "shape", "another base"];
    refused(&home, &wide, &parts);
    evaluation_refused(&eval(&wide, Some(adapter.clone())), &parts);

    let shallow = other("shallow", &TinyLlama { layers: 1, ..TinyLlama::default() });
    let parts = ["started", "model.layers.1.", "another base"];
    refused(&home, &shallow, &parts);
    evaluation_refused(&eval(&shallow, Some(adapter.clone())), &parts);

    let deep = other("deep", &TinyLlama { layers: 3, ..TinyLlama::default() });
    let everywhere = Settings { target_modules: "all-linear".into(), ..deep };
    refused(&home, &everywhere, &["started", "model.layers.2.", "missing"]);

    let rank = Settings { rank: 4, ..started(settings.model.clone()) };
    refused(&home, &rank, &["started", "--rank 8 --alpha 16", "this run has --rank 4"]);
    let scale = Settings { alpha: 8.0, ..started(settings.model.clone()) };
    refused(&home, &scale, &["started", "--rank 8 --alpha 16", "this run has --rank 8 --alpha 8"]);
    let absent = home.path("absent");
    let none = Settings { init_adapter: Some(absent.clone()), ..settings.clone() };
    refused(&home, &none, &["absent", "adapter_config.json"]);
    evaluation_refused(&eval(&none, Some(absent)), &["absent", "adapter_config.json"]);

    let weights = adapter.join("adapter_model.safetensors");
    let sound = std::fs::read(&weights).unwrap();
    for damaged in [&sound[..sound.len() - 1], &sound[..3], b"{}"] {
        std::fs::write(&weights, damaged).unwrap();
        refused(&home, &started(settings.model.clone()), &["adapter_model.safetensors"]);
        let evaluation = eval(&settings, Some(adapter.clone()));
        evaluation_refused(&evaluation, &["adapter_model.safetensors"]);
    }
    // The last float of the file becomes a NaN.
    let mut nan = sound;
    let end = nan.len();
    nan[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&weights, nan).unwrap();
    refused(&home, &started(settings.model.clone()), &["adapter_model.safetensors", "NaN"]);
}
