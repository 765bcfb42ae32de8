//! A run that is shown: traces, event files and times by block, and none of them changes a bit.

use std::fs;

use lowtide_simd::Simd;
use lowtide_testkit::tiny::TinyLlama;
use lowtide_train::report::Run;
use lowtide_train::{Settings, finetune};
use serde_json::Value;

use crate::support::Home;

const LENGTHS: [usize; 4] = [9, 12, 7, 10];

fn run(settings: &Settings) -> (Vec<u8>, Run) {
    finetune(settings, &Simd::new(1), 1, &mut |_| ()).unwrap();
    let file = fs::read(settings.output.join("adapter_model.safetensors")).unwrap();
    (file, Run::read(&settings.output).unwrap())
}

/// Events of a trace by name, each with its beginning and its end.
fn events(path: &std::path::Path) -> Vec<(String, f64, f64)> {
    let trace: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let spans = trace["traceEvents"].as_array().unwrap().iter().filter(|event| event["ph"] == "X");
    spans
        .map(|event| {
            let start = event["ts"].as_f64().unwrap();
            let end = start + event["dur"].as_f64().unwrap();
            (event["name"].as_str().unwrap().to_owned(), start, end)
        })
        .collect()
}

#[test]
fn what_shows_a_run_changes_no_bit_of_it() {
    let shape = TinyLlama { layers: 3, ..TinyLlama::default() };
    let home = Home::new(&shape);
    let plain = Settings {
        max_steps: Some(7),
        report_every: 1,
        checkpointing: "every:2".into(),
        ..home.settings(&LENGTHS)
    };
    let (expected, _) = run(&plain);
    let (board, trace) = (home.path("board"), home.path("trace.json"));
    let shown = Settings {
        tensorboard: Some(board.clone()),
        trace: Some(trace.clone()),
        output: home.path("shown"),
        ..plain
    };
    let (got, run) = run(&shown);
    assert!(got == expected, "bits differ");

    // All reported updates but the first.
    let times = &run.notes.times;
    assert_eq!((times.updates, times.blocks.len()), (6, shape.layers));
    assert!(times.head > 0.0 && times.blocks.iter().all(|block| block.forward > 0.0));
    assert!(times.blocks.iter().all(|block| block.backward > 0.0 && block.update > 0.0));

    let events = events(&trace);
    let count = |name: &str| events.iter().filter(|(of, ..)| of == name).count();
    assert_eq!((count("step"), count("head")), (5, 5));
    assert_eq!((count("forward"), count("backward")), (5 * shape.layers, 5 * shape.layers));
    // The lowest block, for the input of the one above it.
    assert_eq!(count("again"), 5);
    let (steps, stages): (Vec<_>, Vec<_>) = events.iter().partition(|(name, ..)| name == "step");
    // Times are rounded to nanoseconds.
    let slack = 0.01;
    for (name, start, end) in &stages {
        let inside = steps.iter().any(|(_, from, to)| *start >= from - slack && *end <= to + slack);
        assert!(inside, "{name} from {start} to {end} lies in no update");
    }
    let ordered = stages.windows(2).all(|pair| pair[0].2 <= pair[1].1 + slack);
    assert!(ordered, "stages follow each other");

    let files: Vec<_> = fs::read_dir(&board).unwrap().collect();
    assert_eq!(files.len(), 1);
    let bytes = fs::read(files[0].as_ref().unwrap().path()).unwrap();
    let tag = b"train/loss";
    assert_eq!(bytes.windows(tag.len()).filter(|at| at == tag).count(), 7);
}

#[test]
fn a_place_that_takes_no_file_is_refused_before_the_run() {
    let home = Home::new(&TinyLlama::default());
    let file = home.path("file");
    fs::write(&file, "").unwrap();
    let plain = home.settings(&LENGTHS);
    let refused = |settings: Settings| {
        let error = finetune(&settings, &Simd::new(1), 1, &mut |_| ()).unwrap_err().to_string();
        assert!(error.contains(file.to_str().unwrap()), "{error}");
        assert!(!settings.output.exists());
    };
    refused(Settings { tensorboard: Some(file.join("runs")), ..plain.clone() });
    refused(Settings { trace: Some(file.join("trace.json")), ..plain.clone() });
    // A folder takes no file's place, and one that is not there yet is made.
    let error = finetune(
        &Settings { trace: Some(home.path("")), ..plain.clone() },
        &Simd::new(1),
        1,
        &mut |_| (),
    );
    assert!(error.is_err() && !plain.output.exists());
    let trace = plain.output.join("deep/trace.json");
    finetune(&Settings { trace: Some(trace.clone()), ..plain }, &Simd::new(1), 1, &mut |_| ())
        .unwrap();
    assert!(trace.is_file());
}
