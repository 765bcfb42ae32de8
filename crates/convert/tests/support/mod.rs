//! Bases to convert and a measure of them.
#![allow(dead_code, reason = "every test file uses a part of it")]

use std::fs;
use std::path::{Path, PathBuf};

use lowtide_convert::{ConvertError, Kind, Report, Settings, convert};
use lowtide_formats::Base;
use lowtide_ndarray::NdArray;
use lowtide_testkit::golden::golden_dir;
use lowtide_train::{EvalSettings, evaluate};

/// The golden bases: one of each family, Llama tied and untied.
pub(crate) const GOLDEN: [&str; 5] = ["llama_tied", "llama_untied", "qwen2", "qwen3", "gemma3"];

pub(crate) fn golden(name: &str) -> PathBuf {
    golden_dir().join(name)
}

pub(crate) fn settings(source: &Path, output: &Path, kind: Option<Kind>) -> Settings {
    let (source, output) = (source.to_owned(), output.to_owned());
    Settings { source, output, kind, ..Settings::default() }
}

pub(crate) fn run(source: &Path, output: &Path, kind: Option<Kind>) -> Report {
    convert(&settings(source, output, kind), &mut |_| ()).unwrap()
}

pub(crate) fn refused(settings: &Settings) -> ConvertError {
    convert(settings, &mut |_| ()).unwrap_err()
}

/// The mean loss of a base on a few texts of ids.
pub(crate) fn loss(model: &Path) -> f64 {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data.jsonl");
    let lines: String = (0..6)
        .map(|line| {
            let ids: Vec<_> = (0..24).map(|t| (line * 37 + t * t * 5 + 11 * t) % 256).collect();
            format!("{}\n", serde_json::json!({ "input_ids": ids }))
        })
        .collect();
    fs::write(&data, lines).unwrap();
    let settings = EvalSettings {
        model: model.to_owned(),
        adapter: None,
        data,
        max_seq_len: 64,
        batch_size: 1,
        sliding_window: None,
        packing: false,
        mask_prompt: true,
        memory_budget: None,
        stream_weights: lowtide_train::StreamWeights::Auto,
    };
    evaluate(&settings, &NdArray::new(1)).unwrap().loss
}

/// All tensors of a base: name, format, bytes.
pub(crate) fn tensors(path: &Path) -> Vec<(String, &'static str, Vec<u8>)> {
    let base = Base::open(path).unwrap();
    let tensor = |name: String| {
        let tensor = base.tensor(&name).unwrap();
        (name, tensor.format.name(), tensor.bytes.to_vec())
    };
    base.tensor_names().map(tensor).collect()
}

/// Names of all files in a folder, sorted.
pub(crate) fn files(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
