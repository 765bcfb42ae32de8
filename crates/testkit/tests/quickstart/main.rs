//! Three updates of the quickstart's model on its own examples, in every precision, on the fastest
//! table of the processor at hand: a whole job over packed weights, whose losses are known.
//! `cargo xtask aarch64` runs it on processors of the other architecture, and `cargo xtask dist`
//! asks the same of the command it made. It lies here because whoever builds the tests of a crate
//! builds all that any of them needs, and this one needs everything up to training.
//!
//! `expected.json` has the losses of x86-64, and how far others may be off, relative to the loss.
//! Instruction sets round differently, by about 1e-6 here; rounding to integers with two digits and
//! with one moves losses by 2e-4 and 2e-3. The second and third losses are right only if the
//! gradients before them were.

use std::fs;

use lowtide_simd::{Compute, Simd};
use lowtide_testkit::models;
use lowtide_train::{Event, Settings, finetune};
use serde_json::Value;

#[test]
fn exact_updates_are_those_that_are_known() {
    trains_as_expected("exact", Compute::F32);
}

#[test]
fn balanced_updates_are_near_those_that_are_known() {
    trains_as_expected("balanced", Compute::Int8x2);
}

#[test]
fn fast_updates_are_near_those_that_are_known() {
    trains_as_expected("fast", Compute::Int8);
}

/// As `lowtide finetune` does it with one thread.
fn trains_as_expected(precision: &str, compute: Compute) {
    let expected: Value = serde_json::from_str(include_str!("expected.json")).unwrap();
    let (folder, model) = (tempfile::tempdir().unwrap(), models::quickstart());
    let examples = fs::read_to_string(model.with_file_name("home.jsonl")).unwrap();
    let few = expected["examples"].as_u64().unwrap() as usize;
    let few: String = examples.split_inclusive('\n').take(few).collect();
    let data = folder.path().join("examples.jsonl");
    fs::write(&data, few).unwrap();
    let settings = Settings {
        model,
        data,
        output: folder.path().join("adapter"),
        precision: precision.into(),
        max_steps: Some(3),
        batch_size: 2,
        lr: 4e-3,
        seed: 0,
        samples: 0,
        ..Settings::default()
    };

    let mut losses = Vec::new();
    let mut hear = |event: &Event| {
        if let Event::Step(step) = event {
            losses.push(step.loss);
        }
    };
    let be = Simd::new(1).computing(compute);
    let summary = finetune(&settings, &be, 1, &mut hear).unwrap();

    assert_eq!(summary.planned_peak_bytes, summary.peak_bytes);
    assert_eq!(summary.compute, compute.name());
    let known = expected["losses"].as_array().unwrap();
    assert_eq!(losses.len(), known.len());
    let tolerance = expected["tolerances"][precision].as_f64().unwrap();
    for (found, known) in losses.iter().zip(known) {
        let off = found / known.as_f64().unwrap() - 1.0;
        // What is not a number is not below anything.
        assert!(off.abs() < tolerance, "{precision}: {losses:?} and not {known:?}");
    }
}
