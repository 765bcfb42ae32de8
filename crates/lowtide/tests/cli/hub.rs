//! Bases by hub id: from a cache, and with a hub that cannot be reached.

use std::fs;
use std::process::{Command, Output};

use serde_json::Value;

use crate::place::Place;

/// Runs `lowtide` with a cache in the folder `home` and a hub at a port that nobody listens on.
fn lowtide(place: &Place, line: &str) -> (Option<i32>, String, String) {
    with(place, line, ("HF_HUB_CACHE", ""))
}

/// The same with one more variable.
fn with(place: &Place, line: &str, (name, value): (&str, &str)) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lowtide"));
    command.env("HF_HOME", place.path("home")).env("HF_ENDPOINT", "http://127.0.0.1:9");
    command.env(name, value);
    let command = command.args(line.split_whitespace()).current_dir(place.root());
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn a_cached_base_is_used_under_its_id() {
    let place = Place::new();
    let model = place.path("home/hub/models--org--tiny");
    fs::create_dir_all(model.join("refs")).unwrap();
    fs::create_dir_all(model.join("snapshots")).unwrap();
    fs::write(model.join("refs/main"), "0123abcd").unwrap();
    fs::rename(place.path("model"), model.join("snapshots/0123abcd")).unwrap();
    let (code, out, err) = lowtide(&place, "eval --model org/tiny --data data.jsonl --json");
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(serde_json::from_str::<Value>(&out).unwrap()["loss"].as_f64().unwrap() > 0.0);
    let line = "finetune --model org/tiny --data data.jsonl --output a --max-steps 1 --quiet";
    assert_eq!(lowtide(&place, line), (Some(0), String::new(), String::new()));
    let name = &place.json("a/adapter_config.json")["base_model_name_or_path"];
    assert_eq!(name, "org/tiny", "who shares the adapter names the base as others know it");
}

#[test]
fn the_cache_may_lie_elsewhere() {
    let place = Place::new();
    let model = place.path("moved/models--org--tiny");
    fs::create_dir_all(model.join("refs")).unwrap();
    fs::create_dir_all(model.join("snapshots")).unwrap();
    fs::write(model.join("refs/main"), "0123abcd").unwrap();
    fs::rename(place.path("model"), model.join("snapshots/0123abcd")).unwrap();
    let line = "eval --model org/tiny --data data.jsonl --json";
    let (code, _, err) = with(&place, line, ("HF_HUB_CACHE", "moved"));
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert_eq!(lowtide(&place, line).0, Some(1));
}

#[test]
fn a_hub_out_of_reach_is_told_with_what_to_do() {
    let place = Place::new();
    for line in ["eval", "plan", "finetune"] {
        let line = format!("{line} --model org/absent --data data.jsonl");
        let (code, out, err) = lowtide(&place, &line);
        assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
        let start = "error: --model org/absent: no file or folder of this name, and \
                     http://127.0.0.1:9/org/absent cannot be had: ";
        let end = "; download the repository by other means and give the folder as the model\n";
        assert!(err.starts_with(start) && err.ends_with(end), "{err}");
    }
}
