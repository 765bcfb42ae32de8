//! The examples do what they say.
#![allow(dead_code, reason = "the `main` of an example is called by the system only")]

#[path = "../examples/compose.rs"]
mod compose;
#[path = "../examples/finetune.rs"]
mod finetune;

use lowtide::Settings;
use lowtide_testkit::tiny::{TinyLlama, tiny_llama_folder};

#[test]
fn composed_parts_find_the_change_of_a_packed_matrix() {
    let losses = compose::losses();
    let (first, last) = (losses[0], losses[losses.len() - 1]);
    assert!(first > 0.1 && last < first / 1000.0, "{first} -> {last}");
    assert_eq!(losses, compose::losses(), "the same numbers every time");
}

#[test]
fn a_program_of_under_40_lines_fine_tunes() {
    let lines = include_str!("../examples/finetune.rs").lines().count();
    assert!(lines < 40, "{lines} lines");
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    tiny_llama_folder(&path("model"), &TinyLlama::default());
    let line = "{\"input_ids\": [1, 5, 9, 13, 17, 21, 25, 2]}\n";
    std::fs::write(path("data.jsonl"), line.repeat(4)).unwrap();
    let settings = Settings {
        model: path("model"),
        data: path("data.jsonl"),
        output: path("adapter"),
        epochs: 10,
        lr: 1e-2,
        ..Settings::default()
    };
    let summary = finetune::train(&settings).unwrap();
    let (first, last) = (summary.loss_first.unwrap(), summary.loss_last.unwrap());
    assert!(last < first / 10.0, "{first} -> {last}");
    assert_eq!(summary.peak_bytes, summary.planned_peak_bytes);
    for file in ["adapter_config.json", "adapter_model.safetensors", "report.html"] {
        assert!(path("adapter").join(file).is_file(), "{file}");
    }
}
