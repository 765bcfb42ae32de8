//! Adapters from PEFT to GGUF and back.

use std::fs;
use std::path::{Path, PathBuf};

use lowtide_convert::{AdapterReport, AdapterSettings, ConvertError, convert_adapter, named_base};
use lowtide_formats::gguf::Gguf;
use lowtide_formats::gguf_adapter::{self, GgufAdapter};
use lowtide_formats::peft::{AdapterFiles, CONFIG_FILE, WEIGHTS_FILE};
use lowtide_testkit::golden::golden_dir;
use lowtide_testkit::mlx::mlx_folder;
use serde_json::{Value, json};

fn golden(name: &str) -> PathBuf {
    golden_dir().join(name)
}

fn settings(source: &Path, base: &str, output: &Path) -> AdapterSettings {
    AdapterSettings {
        source: source.to_owned(),
        base: golden(base),
        base_name: "org/base.gguf".to_owned(),
        output: output.to_owned(),
        overwrite: false,
    }
}

fn converted(source: &Path, base: &str, output: &Path) -> AdapterReport {
    convert_adapter(&settings(source, base, output)).unwrap()
}

/// A copy of an adapter folder with its settings changed.
fn changed(source: &str, dir: &Path, change: impl FnOnce(&mut Value)) -> PathBuf {
    let folder = dir.join("changed");
    fs::create_dir_all(&folder).unwrap();
    fs::copy(golden(source).join(WEIGHTS_FILE), folder.join(WEIGHTS_FILE)).unwrap();
    let text = fs::read_to_string(golden(source).join(CONFIG_FILE)).unwrap();
    let mut config = serde_json::from_str(&text).unwrap();
    change(&mut config);
    fs::write(folder.join(CONFIG_FILE), config.to_string()).unwrap();
    folder
}

#[test]
fn peft_becomes_what_llama_cpp_writes() {
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("a.gguf");
    let report = converted(&golden("formats/l4"), "formats/base", &output);
    let expected = AdapterReport {
        event: "done",
        output: output.display().to_string(),
        format: "gguf",
        rank: 4,
        alpha: 8.0,
        modules: 8,
        tensors: 16,
        parameters: 2048,
        bytes_after: fs::metadata(&output).unwrap().len(),
        notes: Vec::new(),
    };
    assert_eq!(report, expected);
    let (ours, theirs) = (Gguf::open(&output).unwrap(), golden("formats/l4.gguf"));
    let theirs = Gguf::open(&theirs).unwrap();
    assert_eq!(ours.tensor_names().count(), 16);
    for name in theirs.tensor_names() {
        let (ours, theirs) = (ours.tensor(name).unwrap(), theirs.tensor(name).unwrap());
        assert!(ours.shape == theirs.shape && ours.bytes == theirs.bytes, "{name}");
    }
    let text = |key| ours.metadata().get_str(key).unwrap();
    assert_eq!(text("general.base_model.0.name"), Some("base"));
    assert_eq!(text("general.name"), Some("l4"));
    assert_eq!(named_base(&output).unwrap().as_deref(), Some("base"));
}

#[test]
fn gguf_becomes_what_peft_wrote() {
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("a");
    let report = converted(&golden("formats/l4.gguf"), "formats/base", &output);
    assert_eq!((report.format, report.rank, report.alpha), ("peft", 4, 8.0));
    let bytes = |dir: &Path| fs::read(dir.join(WEIGHTS_FILE)).unwrap();
    assert!(bytes(&output) == bytes(&golden("formats/l4")), "the tensors, byte for byte");
    let document = |dir: &Path| -> Value {
        serde_json::from_str(&fs::read_to_string(dir.join(CONFIG_FILE)).unwrap()).unwrap()
    };
    let (ours, theirs) = (document(&output), document(&golden("formats/l4")));
    for (key, value) in ours.as_object().unwrap() {
        match key.as_str() {
            "base_model_name_or_path" => assert_eq!(value, "org/base.gguf"),
            "target_modules" => {
                assert_eq!(*value, json!(["down_proj", "k_proj", "q_proj", "v_proj"]));
            }
            key => assert_eq!(*value, theirs[key], "{key}"),
        }
    }
}

#[test]
fn every_family_comes_back_bit_for_bit() {
    for model in ["llama_tied", "llama_untied", "qwen2", "qwen3", "gemma3"] {
        let dir = tempfile::tempdir().unwrap();
        let (gguf, back) = (dir.path().join("a.gguf"), dir.path().join("back"));
        let source = golden(&format!("{model}/lora"));
        converted(&source, model, &gguf);
        converted(&gguf, model, &back);
        let bytes = |dir: &Path| fs::read(dir.join(WEIGHTS_FILE)).unwrap();
        assert!(bytes(&back) == bytes(&source), "{model}");
        let files = AdapterFiles::open(&back).unwrap();
        let (config, _) = files.lora().unwrap();
        assert_eq!((config.r, config.lora_alpha, config.use_rslora), (4, 8.0, false));
    }
}

#[test]
fn an_adapter_of_mlx_lm_becomes_either() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    mlx_folder(&golden("formats/l4"), &path("mlx"));
    assert_eq!(named_base(&path("mlx")).unwrap().as_deref(), Some("org/base"));
    let report = converted(&path("mlx"), "formats/base", &path("peft"));
    assert_eq!((report.format, report.rank, report.alpha), ("peft", 4, 8.0));
    let bytes = |dir: &Path| fs::read(dir.join(WEIGHTS_FILE)).unwrap();
    assert!(bytes(&path("peft")) == bytes(&golden("formats/l4")));
    let files = AdapterFiles::open(&path("peft")).unwrap();
    assert_eq!(files.lora().unwrap().0.lora_alpha, 8.0);
    let report = converted(&path("mlx"), "formats/base", &path("a.gguf"));
    assert_eq!((report.format, report.rank, report.alpha), ("gguf", 4, 8.0));
    converted(&path("a.gguf"), "formats/base", &path("back"));
    assert!(bytes(&path("back")) == bytes(&golden("formats/l4")));
    let other = settings(&path("mlx"), "llama_tied", &path("other"));
    let error = convert_adapter(&other).unwrap_err().to_string();
    assert!(error.ends_with("the adapter is of another base"), "{error}");
    assert!(!path("other").exists());
}

#[test]
fn a_rank_stabilised_scale_is_said_through_alpha() {
    let dir = tempfile::tempdir().unwrap();
    let source = changed("formats/l4", dir.path(), |config| config["use_rslora"] = true.into());
    let output = dir.path().join("a.gguf");
    let report = converted(&source, "formats/base", &output);
    // 8 / sqrt(4) is 16 / 4.
    assert_eq!(report.alpha, 16.0);
    assert!(report.notes[0].starts_with("alpha is 16 instead of 8: "), "{:?}", report.notes);
    assert_eq!(GgufAdapter::open(&output).unwrap().facts().alpha, 16.0);
}

#[test]
fn alphas_of_their_own_are_said_through_b() {
    let dir = tempfile::tempdir().unwrap();
    let source = changed("formats/l4", dir.path(), |config| {
        config["alpha_pattern"] = json!({ "q_proj": 3 });
    });
    let output = dir.path().join("a.gguf");
    let report = converted(&source, "formats/base", &output);
    assert_eq!((report.alpha, report.notes.len()), (8.0, 1));
    let words = "alpha is 8 for all modules: B of the 2 of 8 whose alpha differs is multiplied by";
    assert!(report.notes[0].starts_with(words), "{:?}", report.notes);
    let file = GgufAdapter::open(&output).unwrap();
    let plain = GgufAdapter::open(&golden("formats/l4.gguf")).unwrap();
    assert_eq!(file.facts().alpha, 8.0);
    for (ours, theirs) in file.pairs().zip(plain.pairs()) {
        let factor = if ours.module.ends_with("q_proj") { 3.0 / 8.0 } else { 1.0 };
        let b: Vec<f32> = theirs.b.to_f32_vec().iter().map(|b| b * factor).collect();
        assert_eq!(ours.b.to_f32_vec(), b, "{}", ours.module);
        assert!(ours.a.bytes == theirs.a.bytes, "{}", ours.module);
    }
}

#[test]
fn one_module_in_one_block_is_named_whole() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("one.gguf");
    let files = AdapterFiles::open(&golden("formats/l4")).unwrap();
    let (_, pairs) = files.lora().unwrap();
    let base = lowtide_formats::Base::open(&golden("formats/base")).unwrap();
    let said = gguf_adapter::Settings { alpha: 2.0, alphas: &[], name: None, base_name: None };
    gguf_adapter::write(&source, base.hyper(), &said, &pairs[..1]).unwrap();
    let output = dir.path().join("a");
    converted(&source, "formats/base", &output);
    let text = fs::read_to_string(output.join(CONFIG_FILE)).unwrap();
    let config: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(config["target_modules"], json!(["model.layers.0.mlp.down_proj"]));
    assert_eq!(named_base(&source).unwrap(), None);
}

#[test]
fn what_gguf_cannot_say_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("a.gguf");
    let refused = |source: &Path| {
        let error = convert_adapter(&settings(source, "formats/base", &output)).unwrap_err();
        assert!(!output.exists());
        error.to_string()
    };
    for (adapter, words) in [("ia3", "`peft_type` is \"IA3\""), ("lora_dora", "`use_dora` is true")]
    {
        let error = refused(&golden(&format!("formats/{adapter}")));
        assert!(error.contains(words) && error.contains("can be plain LoRA only"), "{error}");
        assert!(error.contains("`lowtide merge` folds") && !error.contains("none"), "{error}");
    }
    let source = changed("formats/l4", dir.path(), |config| config["lora_alpha"] = 1e300.into());
    assert!(refused(&source).contains("alpha is 1"), "{}", refused(&source));
    let pattern = |alpha: f64| {
        changed("formats/l4", dir.path(), |c| c["alpha_pattern"] = json!({ "q_proj": alpha }))
    };
    let one = refused(&pattern(1e39));
    assert!(one.contains("alpha is 1") && one.contains("32 bits cannot hold"), "{one}");
    // What that is of the others' alpha is too much for B.
    let huge = changed("formats/l4", dir.path(), |config| {
        config["lora_alpha"] = 1e-3.into();
        config["alpha_pattern"] = json!({ "q_proj": 3e38 });
    });
    let error = refused(&huge);
    assert!(error.contains("q_proj.lora_B.weight` holds ") && error.contains("inf"), "{error}");
}

#[test]
fn other_bases_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (gguf, folder) = (dir.path().join("a.gguf"), dir.path().join("a"));
    let refused = |source: &str, base: &str, output: &Path| {
        let error = convert_adapter(&settings(&golden(source), base, output)).unwrap_err();
        assert!(!output.exists());
        error.to_string()
    };
    let error = refused("formats/l4", "llama_tied", &gguf);
    let words = "it adapts `model.layers.0.mlp.down_proj` as [32, 64], which is [64, 128] in ";
    assert!(error.contains(words) && error.ends_with("the adapter is of another base"), "{error}");
    let error = refused("formats/l4.gguf", "llama_tied", &folder);
    assert!(error.contains(words), "{error}");
    let error = refused("formats/l4.gguf", "qwen2", &folder);
    assert!(error.contains("`general.architecture` is \"llama\""), "{error}");
}

#[test]
fn outputs_that_are_there() {
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("a.gguf");
    let mut settings = settings(&golden("formats/l4"), "formats/base", &output);
    fs::write(&output, "mine").unwrap();
    let error = convert_adapter(&settings).unwrap_err();
    assert!(matches!(error, ConvertError::Exists { .. }), "{error}");
    assert_eq!(fs::read(&output).unwrap(), b"mine");
    settings.overwrite = true;
    convert_adapter(&settings).unwrap();
    // Onto itself, and into the kind that it is already.
    settings.source = output.clone();
    let error = convert_adapter(&settings).unwrap_err().to_string();
    assert!(error.contains("a.gguf is a GGUF file already"), "{error}");
    settings.source = golden("formats/l4");
    settings.output = dir.path().join("b");
    let error = convert_adapter(&settings).unwrap_err().to_string();
    assert!(error.contains("l4 is a PEFT folder already"), "{error}");
    assert!(!settings.output.exists());
}
