//! Trains shifts: `cargo run --release -p custom-adapter -- MODEL DATA OUTPUT`.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a program talks to the person who runs it")]

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use custom_adapter::{KIND, ShiftMethod};
use lowtide::{Event, Settings, Simd, Summary, TrainError, finetune_with, train::registry};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let paths: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [model, data, output] = paths.try_into().map_err(|_| "expected MODEL DATA OUTPUT")?;
    let summary = train(&Settings { model, data, output, lr: 1e-2, ..Settings::default() })?;
    println!("held {} bytes, as planned: {}", summary.peak_bytes, summary.planned_peak_bytes);
    Ok(())
}

/// Trains with the method of this crate beside those of Lowtide.
fn train(settings: &Settings) -> Result<Summary, TrainError> {
    let (methods, stop) = (registry().with(ShiftMethod), AtomicBool::new(false));
    let settings = Settings { method: KIND.into(), ..settings.clone() };
    let mut tell = |event: &Event| match event {
        Event::Step(step) if step.report => println!("update {}: loss {:.4}", step.step, step.loss),
        Event::Saved { path, .. } => println!("the adapter is in {}", path.display()),
        _ => {}
    };
    finetune_with(&methods, &settings, &Simd::new(1), 1, &mut tell, &stop)
}

#[cfg(test)]
mod tests {
    use lowtide::Settings;
    use lowtide_testkit::tiny::{TinyLlama, tiny_llama_folder};

    #[test]
    fn it_trains_is_saved_and_gone_on_with() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        tiny_llama_folder(&path("model"), &TinyLlama::default());
        let line = "{\"input_ids\": [1, 5, 9, 13, 17, 21, 25, 2]}\n";
        std::fs::write(path("data.jsonl"), line).unwrap();
        let (model, data, output) = (path("model"), path("data.jsonl"), path("adapter"));
        let first = Settings { model, data, output, epochs: 20, lr: 0.05, ..Settings::default() };
        let summary = super::train(&first).unwrap();
        let (before, after) = (summary.loss_first.unwrap(), summary.loss_last.unwrap());
        assert!(after < before / 2.0, "{before} -> {after}");
        let (init_adapter, output) = (Some(first.output.clone()), path("second"));
        let second = Settings { init_adapter, output, epochs: 1, ..first };
        assert!(super::train(&second).unwrap().loss_first.unwrap() < after);
    }
}
