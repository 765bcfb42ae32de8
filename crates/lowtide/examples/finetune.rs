//! Fine-tunes a base: `cargo run --release --example finetune -- MODEL DATA OUTPUT`.
#![allow(clippy::print_stdout, reason = "a program talks to the person who runs it")]

use std::path::PathBuf;

use lowtide::{Event, Settings, Simd, Summary, TrainError, finetune};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let paths: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [model, data, output] = paths.try_into().map_err(|_| "expected MODEL DATA OUTPUT")?;
    let summary = train(&Settings { model, data, output, ..Settings::default() })?;
    println!("held {} bytes, as planned: {}", summary.peak_bytes, summary.planned_peak_bytes);
    Ok(())
}

/// Trains on all cores and tells of each reported update.
pub(crate) fn train(settings: &Settings) -> Result<Summary, TrainError> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    finetune(settings, &Simd::new(threads), threads, &mut |event| match event {
        Event::Step(step) if step.report => println!("update {}: loss {:.4}", step.step, step.loss),
        Event::Saved { path, .. } => println!("the adapter is in {}", path.display()),
        _ => {}
    })
}
