//! Runs that do not go as they should: back to a good state, to the best adapter, or to an end.

use lowtide_simd::Simd;
use lowtide_testkit::tiny::TinyLlama;
use lowtide_train::{EvalSettings, Event, Settings, StreamWeights, Summary, TrainError};
use lowtide_train::{evaluate, finetune};

use crate::support::{Home, write_data};

const LENGTHS: [usize; 5] = [20, 33, 12, 28, 9];

fn home() -> Home {
    let home = Home::new(&TinyLlama::default());
    write_data(&home.path("data.valid.jsonl"), &[14, 22]);
    home
}

fn settings(home: &Home) -> Settings {
    Settings {
        lr_scheduler: "constant".into(),
        warmup_steps: Some(0),
        report_every: 1,
        ..home.settings(&LENGTHS)
    }
}

/// What the run came to, and what it told that is unusual.
fn run(settings: &Settings) -> (Result<Summary, TrainError>, Vec<Event>) {
    let mut told = Vec::new();
    let done = finetune(settings, &Simd::new(1), 1, &mut |event| {
        use Event::{RolledBack, Spike, Untrained};
        if matches!(event, RolledBack { .. } | Spike { .. } | Untrained { .. }) {
            told.push(event.clone());
        }
    });
    (done, told)
}

fn backs(told: &[Event]) -> Vec<(u64, u64, f64)> {
    let back = |event: &Event| match event {
        Event::RolledBack { step, to, lr_factor, .. } => Some((*step, *to, *lr_factor)),
        _ => None,
    };
    told.iter().filter_map(back).collect()
}

#[test]
fn a_run_goes_back_to_where_its_loss_was_a_number() {
    let home = home();
    let wild = Settings { lr: 3e18, max_steps: Some(6), ..settings(&home) };
    let (done, told) = run(&wild);
    let done = done.unwrap();
    // That second factors are zero after going back is nothing to warn of.
    assert!(!told.iter().any(|event| matches!(event, Event::Untrained { .. })), "{told:?}");
    let told = backs(&told);
    assert_eq!((done.steps, done.rollbacks), (6, told.len() as u64));
    assert!((1..=3).contains(&told.len()), "{told:?}");
    for (back, factor) in told.iter().zip([0.5, 0.25, 0.125]) {
        assert_eq!((back.1, back.2), (0, factor), "{told:?}");
    }
    assert!(done.eval_loss_after.unwrap().is_finite());
    // What is no use after all is told as ever, and how often it may try is for the user to say.
    let wild = Settings { lr: 1e30, max_steps: Some(20), ..settings(&home) };
    let (done, told) = run(&wild);
    assert!(matches!(done, Err(TrainError::Diverged { .. })), "{done:?}");
    assert_eq!(backs(&told).len(), 3);
    let (done, told) = run(&Settings { max_rollbacks: 0, ..wild });
    assert!(matches!(done, Err(TrainError::Diverged { step: 2, .. })), "{done:?}");
    assert_eq!(told, Vec::new());
}

#[test]
fn the_best_adapter_is_what_is_left() {
    let home = home();
    // Random tokens: what is learned of one example is of no use for another.
    let run_of = |keep_best: bool| {
        let settings = Settings {
            lr: 0.05,
            max_steps: Some(12),
            eval_every: 1,
            keep_best,
            output: home.path(if keep_best { "best" } else { "last" }),
            ..settings(&home)
        };
        let mut losses = Vec::new();
        let summary = finetune(&settings, &Simd::new(1), 1, &mut |event| {
            if let Event::Evaluation { step, result } = event {
                losses.push((*step, result.loss));
            }
        });
        (summary.unwrap(), losses, settings)
    };
    let (last, seen, _) = run_of(false);
    assert_eq!((last.eval_loss_after, last.best_step), (seen.last().map(|(_, l)| *l), None));
    let (best, same, settings) = run_of(true);
    assert_eq!(seen, same);
    let lowest = seen[1..].iter().copied().reduce(|a, b| if b.1 < a.1 { b } else { a }).unwrap();
    assert!(lowest.0 < 12, "the last is the best: {seen:?}");
    assert_eq!((best.best_step, best.eval_loss_after), (Some(lowest.0), Some(lowest.1)));
    // It is the one in the folder.
    let measured = evaluate(
        &EvalSettings {
            model: settings.model.clone(),
            adapter: Some(settings.output),
            data: home.path("data.valid.jsonl"),
            max_seq_len: 512,
            batch_size: 1,
            packing: false,
            mask_prompt: true,
            sliding_window: None,
            memory_budget: None,
            stream_weights: StreamWeights::Off,
        },
        &Simd::new(1),
    );
    assert_eq!(measured.unwrap().loss, lowest.1);
}

#[test]
fn a_run_ends_when_patience_does() {
    let home = home();
    let mut patient = Settings {
        lr: 0.05,
        max_steps: Some(30),
        eval_every: 1,
        patience: Some(3),
        ..settings(&home)
    };
    let (done, _) = run(&patient);
    let done = done.unwrap();
    assert!(done.stopped_early && done.steps < 30, "{} updates", done.steps);
    assert_eq!(done.best_step, Some(done.steps - 3));
    // What is better by less than asked for is not better.
    patient.min_delta = 100.0;
    let (done, _) = run(&patient);
    assert_eq!(done.unwrap().steps, 4);
    for (patience, eval_every, min_delta, words) in [
        (Some(0), 1, 0.0, "`patience` is 0, expected at least 1"),
        (Some(3), 0, 0.0, "`patience` is set, expected eval-every"),
        (None, 0, -1.0, "`min-delta` is -1, expected"),
    ] {
        let bad = Settings { patience, eval_every, min_delta, ..settings(&home) };
        let error = bad.check().unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn tensors_without_a_gradient_are_named() {
    let home = home();
    let good = Settings { max_steps: Some(3), ..settings(&home) };
    assert_eq!(run(&good).1, Vec::new());
    for max_grad_norm in [1.0, 0.0] {
        // With B at zero for good, A never has a gradient.
        let (_, told) = run(&Settings { lr: 0.0, max_grad_norm, ..good.clone() });
        let [Event::Untrained { updates: 3, tensors }] = &told[..] else { panic!("{told:?}") };
        assert!(tensors.iter().all(|name| name.ends_with("lora_A.weight")), "{tensors:?}");
        assert_eq!(tensors.len(), 14, "seven linears in two layers");
    }
}
