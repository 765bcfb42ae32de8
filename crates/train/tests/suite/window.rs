//! Attention to the last tokens only: what a token then sees, that nothing else changes bits, and
//! that a run is told with it.

use std::fs;
use std::path::PathBuf;

use lowtide_testkit::golden::golden_dir;
use lowtide_testkit::tiny::TinyLlama;
use lowtide_train::{EvalSettings, Settings, evaluate, finetune};
use serde_json::json;

use crate::refused::eval;
use crate::support::{Home, Kind, write_data};

/// Mean loss of the base where tokens see `sliding_window` tokens.
fn loss(settings: &EvalSettings, sliding_window: Option<usize>) -> f64 {
    let settings = EvalSettings { sliding_window, ..settings.clone() };
    evaluate(&settings, &*Kind::fastest().make(2)).unwrap().loss
}

#[test]
fn a_token_sees_the_last_ones_and_itself() {
    // With one block, what is out of reach is gone; with more, it comes in through others.
    let home = Home::new(&TinyLlama { layers: 1, ..TinyLlama::default() });
    let ids: Vec<u32> = (0..90).map(|t| 3 + t * 53 % 200).collect();
    let only_last = |ids: &[u32], name: &str| {
        let mut labels = vec![-100_i64; ids.len()];
        *labels.last_mut().unwrap() = i64::from(*ids.last().unwrap());
        let path = home.path(name);
        fs::write(&path, format!("{}\n", json!({ "input_ids": ids, "labels": labels }))).unwrap();
        EvalSettings { data: path, ..eval(&home.settings(&[9]), None) }
    };
    let whole = only_last(&ids, "whole.jsonl");
    let mut before = loss(&whole, None);
    assert_eq!(loss(&whole, Some(1000)).to_bits(), before.to_bits());
    for window in [70, 64, 7, 1] {
        let (windowed, rest) = (loss(&whole, Some(window)), &ids[ids.len() - 1 - window..]);
        let cut = loss(&only_last(rest, "cut.jsonl"), None);
        assert!((windowed - cut).abs() < 1e-4, "{window}: {windowed}, {cut} on the cut text");
        assert!((windowed - before).abs() > 1e-4, "{window}: {windowed} after {before}");
        before = windowed;
    }
}

#[test]
fn the_smaller_of_two_windows_counts() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data.jsonl");
    write_data(&data, &[60, 40]);
    let model: PathBuf = golden_dir().join("gemma3");
    let settings = Settings { model, data, ..Settings::default() };
    let settings = eval(&settings, None);
    let own = loss(&settings, None);
    assert_eq!(loss(&settings, Some(60)).to_bits(), own.to_bits());
    let losses = [40, 9, 2].map(|window| loss(&settings, Some(window)));
    assert!(losses[0] != own && losses[1] != losses[0] && losses[2] != losses[1], "{losses:?}");
}

#[test]
fn a_run_with_a_window_says_so_and_depends_on_nothing_else() {
    let home = Home::new(&TinyLlama::default());
    let base = Settings { val_split: 0.25, ..home.settings(&[150, 90, 30, 80]) };
    let run = |settings: &Settings| {
        let summary = finetune(settings, &*Kind::fastest().make(2), 2, &mut |_| ()).unwrap();
        assert_eq!(summary.planned_peak_bytes, summary.peak_bytes);
        (fs::read(settings.output.join("adapter_model.safetensors")).unwrap(), summary)
    };
    let (all, before) = run(&base);
    let windowed = Settings { sliding_window: Some(70), ..base.clone() };
    let (adapter, summary) = run(&windowed);
    assert!(adapter != all && summary.eval_loss_after != before.eval_loss_after);
    assert_eq!((summary.sliding_window, before.sliding_window), (Some(70), None));
    let config = fs::read_to_string(windowed.output.join("config.toml")).unwrap();
    assert!(config.contains("sliding-window = 70\n"), "{config}");
    for policy in ["store", "sqrt"] {
        let other = Settings {
            checkpointing: policy.into(),
            tile_rows: if policy == "sqrt" { "64".into() } else { "auto".into() },
            ..windowed.clone()
        };
        assert!(run(&other).0 == adapter, "{policy}");
    }
    let (far, _) = run(&Settings { sliding_window: Some(150), ..base });
    assert!(far == all, "a window that holds every sequence changes nothing");
}
