//! Runs that wait, by a file and by signals.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::place::Place;

/// A run with more updates than anyone waits for, which tells its events.
fn endless(place: &Place, flags: &str) -> Child {
    let line = format!("finetune --model model --data data.jsonl --epochs 1000000 --json {flags}");
    Command::new(env!("CARGO_BIN_EXE_lowtide"))
        .args(line.split_whitespace())
        .current_dir(place.root())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn signal(run: u32, name: &str) {
    let id = run.to_string();
    assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
}

#[test]
fn a_run_waits_for_a_file_and_for_signals() {
    let place = Place::new();
    let (wait, saved) = (place.path("wait"), place.path("adapter/adapter_model.safetensors"));
    let mut run = endless(&place, "--pause-file wait");
    let id = run.id();
    let (mut causes, mut saves, mut continued) = (Vec::new(), Vec::new(), 0);
    for line in BufReader::new(run.stdout.take().unwrap()).lines() {
        let event: Value = serde_json::from_str(&line.unwrap()).unwrap();
        let step = event["step"].as_u64();
        match (event["event"].as_str().unwrap(), continued) {
            ("step", 0) if step == Some(3) => fs::write(&wait, "").unwrap(),
            ("step", 1) if causes.len() == 1 => {
                // Steps go on for a while: the first of them is enough.
                causes.push(Value::Null);
                signal(id, "-USR1");
            }
            ("saved", _) => saves.push(step),
            ("paused", _) => {
                assert!(saved.is_file() && step >= Some(3));
                assert_eq!(saves.last(), Some(&step), "what was learned is saved before");
                causes.push(event["cause"].clone());
                if continued == 0 { fs::remove_file(&wait).unwrap() } else { signal(id, "-USR2") }
            }
            ("continued", _) => {
                assert!(event["seconds"].as_f64().unwrap() >= 0.0);
                continued += 1;
                if continued == 2 {
                    signal(id, "-INT");
                }
            }
            _ => {}
        }
    }
    assert_eq!(run.wait().unwrap().code(), Some(130));
    assert_eq!(causes, [serde_json::json!({ "file": "wait" }), Value::Null, "signal".into()]);
    let summary = place.json("adapter/summary.json");
    assert!(summary["seconds_paused"].as_f64().unwrap() > 0.0, "{summary}");
}

#[test]
fn a_run_that_waits_can_be_stopped() {
    let place = Place::new();
    fs::write(place.path("wait"), "").unwrap();
    let mut run = endless(&place, "--pause-file wait");
    for line in BufReader::new(run.stdout.take().unwrap()).lines() {
        let event: Value = serde_json::from_str(&line.unwrap()).unwrap();
        assert!(event["event"] != "step" && event["event"] != "continued", "{event}");
        if event["event"] == "paused" {
            assert_eq!(event["step"], 0);
            signal(run.id(), "-INT");
        }
    }
    assert_eq!(run.wait().unwrap().code(), Some(130));
    assert!(!place.path("adapter").exists(), "nothing was learned");
}

#[test]
fn a_preset_is_shown_before_a_run() {
    let place = Place::new();
    let out = place.on_model("finetune --preset pi --save-every 7 --dry-run").done();
    for line in ["memory-budget = \"512MiB\"", "save-every = 7", "duty = 1.0"] {
        assert!(out.contains(&format!("{line}\n")), "{line}: {out}");
    }
    let out = place.on_model("plan --preset phone").done();
    assert!(out.contains("of 256.00 MiB allowed"), "{out}");
    assert!(out.contains("with the rest after it"), "{out}");
    let error = place.on_model("plan --preset mainframe");
    assert_eq!(error.code, Some(2));
    assert!(error.err.contains("phone, pi, laptop"), "{}", error.err);
    let error = place.on_model("plan --duty 0").failed(2);
    assert!(error.contains("--duty is 0, expected a share from 0.01 to 1"), "{error}");
}
