//! The quickstart as a newcomer meets it.

use std::fs;

use serde_json::Value;

use crate::place::{Place, files};

/// The whole run, but for what it prints for people.
#[test]
fn the_quickstart_teaches_a_home_and_shows_it() {
    let place = Place::new();
    let out = place.lowtide("quickstart --json --threads 2").done();
    let said: Value = serde_json::from_str(&out).expect("one object");
    let number = |key: &str| said[key].as_f64().unwrap_or_else(|| panic!("{key}: {said}"));

    let answers = said["answers"].as_array().unwrap();
    assert!(answers.len() >= 100, "{} prompts", answers.len());
    for (key, told) in [("before", "exact_match_before"), ("after", "exact_match_after")] {
        let right = answers.iter().filter(|one| one[key] == one["expected"]).count();
        let share = right as f64 / answers.len() as f64;
        assert!((number(told) - share).abs() < 1e-12, "{told}: {share}");
    }
    let (before, after) = (number("exact_match_before"), number("exact_match_after"));
    assert!(before > 0.0 && before <= 0.2, "{before}");
    assert!(after >= 0.9, "{after}");
    assert!(number("eval_loss_after") < 0.1 * number("eval_loss_before"));
    assert_eq!(said["peak_bytes"], said["planned_peak_bytes"]);
    assert_eq!(said["adapter"], "lowtide-quickstart/adapter");

    let adapter = place.path("lowtide-quickstart/adapter");
    for file in ["adapter_config.json", "adapter_model.safetensors", "summary.json"] {
        assert!(adapter.join(file).is_file(), "{file}");
    }
    assert!(fs::metadata(place.path("lowtide-quickstart/model.gguf")).unwrap().len() <= 4_000_000);
}

#[test]
fn a_quickstart_that_cannot_run_says_so_before_it_asks() {
    let place = Place::new();
    let told = place.lowtide("quickstart --output small --memory-budget 1MiB").failed(3);
    assert!(told.contains("use --memory-budget "), "{told}");
    assert!(!place.path("small/adapter").exists());

    fs::create_dir(place.path("taken")).unwrap();
    fs::write(place.path("taken/home.jsonl"), "mine").unwrap();
    let told = place.lowtide("quickstart --output taken").failed(1);
    let expected = "error: --output taken: taken/home.jsonl is not the quickstart's to replace; \
                    name another folder, or remove it\n";
    assert_eq!(told, expected);
    assert_eq!(files(&place.path("taken")).len(), 1);
}
