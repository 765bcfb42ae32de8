//! What fine-tuning a real model takes, as the operating system sees it: SmolLM2-135M, 512 tokens,
//! rank 8 on every linear, AdamW, policy `block`. Alone in its binary: the numbers are those of the
//! whole process.

use std::path::Path;
use std::time::Duration;

use lowtide_simd::{Compute, Simd};
use lowtide_testkit::models::smollm2;
use lowtide_testkit::rss::{self, Sampler};
use lowtide_train::{Event, Settings, finetune};

use support::{in_pool, say};

#[path = "suite/support.rs"]
mod support;

/// What the whole process may hold at any moment.
const PEAK_BYTES: u64 = 130_000_000;

/// What training may add beyond its plan.
const SLACK_BYTES: u64 = 2 << 20;

/// Examples of prose, longer than any limit here.
fn prose(path: &Path) {
    let sentences = [
        "A value is dropped when its owner goes out of scope, and then its memory is free again.",
        "The tide comes in twice a day and leaves the harbour shallow for the hours in between.",
        "Numbers are kept in columns so that a reader can compare them without a second look.",
    ];
    let text: String = (0..90).map(|i| format!("{i}. {} ", sentences[i % 3])).collect();
    let lines = (0..3).map(|i| serde_json::json!({ "text": format!("{i}. {text}") }).to_string());
    std::fs::write(path, lines.collect::<Vec<_>>().join("\n")).unwrap();
}

#[test]
fn smollm2_is_fine_tuned_in_130_megabytes() {
    let Some(model) = smollm2() else { return };
    if rss::read().is_none() {
        return say("skipped: this system does not tell what a process holds");
    }
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("data.jsonl");
    prose(&data);
    let (exact, balanced) = (("exact", Compute::F32), ("balanced", Compute::Int8x2));
    for (max_grad_norm, (precision, compute)) in [(1.0, exact), (0.0, balanced)] {
        let settings = Settings {
            model: model.clone(),
            data: data.clone(),
            output: temp.path().join("adapter"),
            optimizer: "adamw".into(),
            checkpointing: "block".into(),
            precision: precision.into(),
            max_seq_len: 512,
            max_steps: Some(2),
            max_grad_norm,
            ..Settings::default()
        };
        check(&settings, compute);
    }
}

fn check(settings: &Settings, compute: Compute) {
    let anon = || rss::read().unwrap().anon;
    let sampler = Sampler::start(Duration::from_millis(5)).unwrap();
    let (mut before_reserve, mut before_plan, mut trained) = (0, 0, 0);
    let mut on_event = |event: &Event| match event {
        Event::Plan(_) => (before_plan, before_reserve) = (sampler.peak().anon_peak, anon()),
        Event::Step(_) => trained = sampler.peak().anon_peak,
        _ => {}
    };
    let summary = in_pool(2, |_| {
        let be = Simd::new(2).computing(compute);
        finetune(settings, &be, 2, &mut on_event).unwrap()
    });
    let whole = sampler.stop().anon_peak;
    let (planned, grown) = (summary.planned_peak_bytes, trained - before_reserve);
    say(&format!(
        "SmolLM2, 512 tokens, block, {}, max-grad-norm {}: planned {planned} bytes {:?}; RssAnon \
         at most {before_plan} before reserve, grew by {grown} to the end of training, at most \
         {whole} in all; {:.1} s a step",
        compute.name(),
        settings.max_grad_norm,
        summary.peak_by_category,
        summary.seconds_per_step_median.unwrap(),
    ));
    assert_eq!(summary.tokens, 1024, "two examples of 512 tokens");
    assert_eq!(summary.peak_bytes, planned);
    assert!(grown <= planned + SLACK_BYTES, "{grown} bytes, {planned} planned");
    assert!(whole <= PEAK_BYTES, "{whole} bytes");
    let watched = summary.rss_anon_peak_bytes.unwrap();
    assert!(watched.abs_diff(whole) < SLACK_BYTES, "{watched} by the run's own watch, {whole}");
}
