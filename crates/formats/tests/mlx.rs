//! Adapters of mlx-lm: what is read, and what is refused by name.

use std::fs;
use std::path::{Path, PathBuf};

use lowtide_formats::mlx::{MlxAdapter, WEIGHTS_FILE, describe, is_adapter, parse_config};
use lowtide_formats::peft::{AdapterFiles, CONFIG_FILE};
use lowtide_formats::{Error, safe};
use lowtide_testkit::golden::{Array, Arrays, golden_dir, load_safetensors};
use lowtide_testkit::mlx::mlx_folder;
use lowtide_testkit::tiny::write_safetensors;
use proptest::prelude::*;
use proptest::sample::Index;

fn peft() -> PathBuf {
    golden_dir().join("llama_tied/lora")
}

/// A folder with the golden adapter as mlx-lm would have written it.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    mlx_folder(&peft(), dir.path());
    dir
}

#[test]
fn pairs_are_those_of_peft() {
    let dir = folder();
    assert!(is_adapter(dir.path()) && !is_adapter(&peft()));
    let (ours, theirs) = (MlxAdapter::open(dir.path()).unwrap(), AdapterFiles::open(&peft()));
    let theirs = theirs.unwrap();
    let (config, pairs) = theirs.lora().unwrap();
    assert_eq!((ours.config().rank, ours.config().scale), (4, 2.0));
    assert_eq!((ours.config().alpha(), config.lora_alpha), (8.0, 8.0));
    assert_eq!(ours.config().model.as_deref(), Some("org/base"));
    assert_eq!(ours.pairs().count(), pairs.len());
    for (ours, theirs) in ours.pairs().zip(&pairs) {
        assert_eq!(ours.module, theirs.module);
        for (ours, theirs) in [(ours.a, theirs.a), (ours.b, theirs.b)] {
            assert!(ours.shape == theirs.shape && ours.bytes == theirs.bytes);
        }
    }
    let module = "model.layers.0.self_attn.q_proj";
    assert_eq!(ours.tensor(module, "lora_B.weight").unwrap().shape, [64, 4]);
    assert!(ours.tensor(module, "lora_C.weight").is_none());
    assert!(ours.tensor("model.layers.0.self_attn", "lora_A.weight").is_none());
}

#[test]
fn what_cannot_be_held_is_refused_by_name() {
    let reads = |text: &str| parse_config(text).map_err(|error| error.to_string());
    let least = r#"{"lora_parameters": {"rank": 2, "scale": 10, "alpha": 2}}"#;
    assert_eq!(reads(least).unwrap().alpha(), 20.0);
    for (text, words) in [
        (r#"{"fine_tune_type": "dora"}"#, "`fine_tune_type` is \"dora\", which is not supported"),
        (r#"{"fine_tune_type": "full"}"#, "`fine_tune_type` is \"full\""),
        ("{}", "`lora_parameters` is missing"),
        (r#"{"lora_parameters": 3}"#, "`lora_parameters` is a number; expected an object"),
        (r#"{"lora_parameters": {"rank": 2}}"#, "`lora_parameters.scale` is missing"),
        (r#"{"lora_parameters": {"scale": 2}}"#, "`lora_parameters.rank` is missing"),
        (r#"{"lora_parameters": {"rank": 0, "scale": 1}}"#, "`lora_parameters.rank` is 0"),
        (r#"{"lora_parameters": {"rank": 1, "scale": -1}}"#, "`lora_parameters.scale` is -1"),
        (
            r#"{"lora_parameters": {"rank": 1, "scale": 1, "dropout": 1}}"#,
            "`lora_parameters.dropout` is 1",
        ),
        (
            r#"{"lora_parameters": {"rank": 8, "scale": 10, "alpha": 16}}"#,
            "`lora_parameters.alpha` is 16, which is not supported; supported: none, or 8",
        ),
    ] {
        let error = reads(text).unwrap_err();
        assert!(error.contains(words), "{error}");
    }
}

/// The error of the golden adapter with its tensors changed.
fn refused(change: impl FnOnce(&mut Arrays)) -> String {
    let dir = folder();
    let path = dir.path().join(WEIGHTS_FILE);
    let mut arrays = load_safetensors(&path);
    change(&mut arrays);
    write_safetensors(&path, &arrays);
    let error = MlxAdapter::open(dir.path()).unwrap_err();
    assert!(matches!(error, Error::Adapter { .. }), "{error}");
    error.to_string()
}

#[test]
fn tensors_that_are_no_pairs_of_the_rank_are_refused() {
    let q = |end: &str| format!("model.layers.0.self_attn.q_proj.{end}");
    let ones =
        |shape: &[usize]| Array { shape: shape.to_vec(), data: vec![1.0; shape.iter().product()] };
    let error = refused(|arrays| drop(arrays.insert(q("m"), ones(&[64]))));
    assert!(error.contains("q_proj.m` does not belong to a LoRA adapter"), "{error}");
    let error = refused(|arrays| drop(arrays.remove(&q("lora_a"))));
    assert!(error.contains("q_proj.lora_a` is missing"), "{error}");
    let error = refused(|arrays| drop(arrays.insert(q("lora_a"), ones(&[64, 3]))));
    assert!(
        error.contains("has shape [64, 3]; expected [inputs, rank] with the rank 4"),
        "{error}"
    );
    let error = refused(|arrays| drop(arrays.insert(q("lora_b"), ones(&[4, 64, 1]))));
    assert!(error.contains("has shape [4, 64, 1]; expected [rank, outputs]"), "{error}");
    let error = refused(|arrays| arrays.get_mut(&q("lora_b")).unwrap().data[7] = f32::NAN);
    assert!(error.contains("holds NaN at index 7"), "{error}");
    let error = refused(Arrays::clear);
    assert!(error.contains("there are no tensors"), "{error}");
    let dir = folder();
    fs::remove_file(dir.path().join(CONFIG_FILE)).unwrap();
    let error = MlxAdapter::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("adapter_config.json"), "{error}");
}

/// Whatever is read is whole: pairs of the rank that the settings say.
fn sound(text: &str, weights: &[u8]) {
    let Ok(config) = parse_config(text) else { return };
    assert!(config.alpha() > 0.0 && config.alpha().is_finite());
    let Ok(contents) = safe::parse(weights) else { return };
    let Ok(modules) = describe(&contents, weights, &config) else { return };
    for module in modules {
        let shape = |end: &str| {
            let tensor = contents.tensor(weights, &format!("{}{end}", module.module));
            tensor.expect("pairs are whole").shape.to_vec()
        };
        assert_eq!(shape(".lora_a"), [module.inputs, config.rank]);
        assert_eq!(shape(".lora_b"), [config.rank, module.outputs]);
    }
}

fn bytes(dir: &Path, name: &str) -> Vec<u8> {
    fs::read(dir.join(name)).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64,
        failure_persistence: None,
        ..Default::default()
    })]

    #[test]
    fn any_text_as_a_config(text in r#"[{}\[\]":,a-z0-9_.\- ]{0,80}"#) {
        let _ = parse_config(&text);
    }

    #[test]
    fn a_folder_with_some_bytes_changed(changes in changes()) {
        let dir = folder();
        let (mut text, mut weights) =
            (bytes(dir.path(), CONFIG_FILE), bytes(dir.path(), WEIGHTS_FILE));
        for (i, (at, value)) in changes.into_iter().enumerate() {
            // Changes in the values of tensors find little: the header is where they go.
            let into = if i % 2 == 0 { &mut text[..] } else { &mut weights[..2000] };
            into[at.index(into.len())] = value;
        }
        sound(&String::from_utf8_lossy(&text), &weights);
    }
}

fn changes() -> impl Strategy<Value = Vec<(Index, u8)>> {
    prop::collection::vec((any::<Index>(), any::<u8>()), 1..6)
}
