//! Adapters in both kinds of file: converted, looked at, and used wherever a base is taken.

use std::fs;

use lowtide_testkit::golden::golden_dir;
use lowtide_testkit::mlx::mlx_folder;
use serde_json::Value;

use crate::place::Place;

const TRAIN: &str = "finetune --rank 4 --max-steps 3 --val-split 0 --output a";

/// A place with a trained adapter in `a` and the same in `a.gguf`.
fn trained() -> (Place, String) {
    let place = Place::new();
    place.on_model(TRAIN).done();
    let out = place.lowtide("convert --adapter a --output a.gguf").done();
    (place, out)
}

#[test]
fn an_adapter_becomes_gguf_and_peft_again() {
    let (place, out) = trained();
    // The adapter names its base, which is here.
    assert!(out.starts_with("Converted\n  written       a.gguf, a GGUF adapter\n"), "{out}");
    let back = place.lowtide("convert --adapter a.gguf --model model --output b --json").done();
    let back: Value = serde_json::from_str(&back).unwrap();
    assert_eq!((&back["event"], &back["format"]), (&"done".into(), &"peft".into()));
    let bytes = |dir: &str| fs::read(place.path(dir).join("adapter_model.safetensors")).unwrap();
    assert!(bytes("a") == bytes("b"), "the tensors, byte for byte");
    let config = place.json("b/adapter_config.json");
    assert_eq!((&config["r"], &config["base_model_name_or_path"]), (&4.into(), &"model".into()));
}

#[test]
fn either_kind_gives_the_same_losses() {
    let (place, _) = trained();
    let loss = |flags: &str| {
        let out = place.on_model(&format!("eval --json {flags}")).done();
        serde_json::from_str::<Value>(&out).unwrap()["loss"].clone()
    };
    let (folder, file) = (loss("--adapter a"), loss("--adapter a.gguf"));
    assert_eq!(folder, file);
    assert_ne!(folder, loss(""));
    for (output, from) in [("c", "a"), ("d", "a.gguf")] {
        let line = format!(
            "{} --init-adapter {from}",
            TRAIN.replace("output a", &format!("output {output}"))
        );
        place.on_model(&line).done();
    }
    let bytes = |dir: &str| fs::read(place.path(dir).join("adapter_model.safetensors")).unwrap();
    assert!(bytes("c") == bytes("d") && bytes("c") != bytes("a"));
}

#[test]
fn an_adapter_of_mlx_lm_is_used_looked_at_and_converted() {
    let (place, _) = trained();
    mlx_folder(&place.path("a"), &place.path("m"));
    let loss = |adapter: &str| {
        let out = place.on_model(&format!("eval --json --adapter {adapter}")).done();
        serde_json::from_str::<Value>(&out).unwrap()["loss"].clone()
    };
    assert_eq!(loss("m"), loss("a"));
    let out = place.lowtide("inspect m").done();
    for part in ["\n  file          folder of mlx-lm\n", "\n  rank          4\n", "org/base"] {
        assert!(out.contains(part), "{part}: {out}");
    }
    place.lowtide("convert --adapter m --model model --output b").done();
    let bytes = |dir: &str| fs::read(place.path(dir).join("adapter_model.safetensors")).unwrap();
    assert!(bytes("a") == bytes("b"));
}

#[test]
fn a_gguf_adapter_is_told_as_one() {
    let place = Place::new();
    let file = golden_dir().join("formats/l4.gguf");
    let out = place.lowtide(&format!("inspect {}", file.display())).done();
    for part in [
        "Adapter ",
        "\n  file          GGUF, for bases of architecture llama\n",
        "\n  method        lora\n  rank          4\n  alpha         8, scaled by alpha / rank\n",
        "\n  adapts        8 linears: down_proj 2, k_proj 2, q_proj 2, v_proj 2\n",
        "\n  tensors       16 tensors of F32\n",
    ] {
        assert!(out.contains(part), "{part}: {out}");
    }
    let out = place.lowtide(&format!("inspect {} --json --tensors", file.display())).done();
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&report["kind"], &report["format"]), (&"adapter".into(), &"gguf".into()));
    assert_eq!((&report["rank"], &report["parameters"]), (&4.into(), &2048.into()));
    assert_eq!(report["tensor_list"][0]["name"], "blk.0.attn_k.weight.lora_a");
}

#[test]
fn what_is_refused_says_what_to_do() {
    let (place, _) = trained();
    let before = fs::read(place.path("a.gguf")).unwrap();
    let error = place.lowtide("convert --adapter a --output a.gguf").failed(1);
    assert!(error.contains("a.gguf is there already") && error.contains("--overwrite"), "{error}");
    assert!(fs::read(place.path("a.gguf")).unwrap() == before);
    place.lowtide("convert --adapter a --output a.gguf --overwrite").done();
    fs::rename(place.path("model"), place.path("moved")).unwrap();
    let error = place.lowtide("convert --adapter a --output b.gguf").failed(1);
    assert!(error.contains("it names \"model\", which is not on this machine"), "{error}");
    assert!(error.contains("use --model to say where it is"), "{error}");
    place.lowtide("convert --adapter a --output b.gguf --model moved").done();
    let error = place.lowtide("convert --adapter a --output c.gguf --type f16").failed(2);
    assert!(error.contains("--type") && error.contains("--adapter"), "{error}");
    place.lowtide("convert --output c.gguf").failed(2);
    let error = place.lowtide("convert --adapter absent --output c.gguf").failed(1);
    assert!(error.contains("--adapter absent: no such file or folder"), "{error}");
    // A base is no adapter, in whichever kind of file.
    place.lowtide("convert --model moved --output m.gguf").done();
    let error = place.lowtide("eval --model moved --data data.jsonl --adapter m.gguf").failed(1);
    assert!(error.contains("m.gguf: `general.type` is \"model\""), "{error}");
    assert!(!place.path("c.gguf").exists());
}
