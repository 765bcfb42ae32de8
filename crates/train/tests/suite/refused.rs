//! What tests of bad input share: a job that must fail, in words that name its fault, and must
//! leave everything as it was.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lowtide_simd::Simd;
use lowtide_testkit::tiny::TinyLlama;
use lowtide_train::{EvalSettings, Settings, Summary, TrainError, evaluate, finetune};

use crate::support::Home;

/// Everything under a folder.
pub(crate) fn tree(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(tree(&path));
            files.insert(path, Vec::new());
        } else {
            files.insert(path.clone(), std::fs::read(&path).unwrap());
        }
    }
    files
}

pub(crate) fn run(settings: &Settings) -> Result<Summary, TrainError> {
    finetune(settings, &Simd::new(1), 1, &mut |_| ())
}

/// The job fails with a message of one line that holds all of `parts`, with and without an output
/// folder, and changes nothing anywhere.
#[track_caller]
pub(crate) fn refused(home: &Home, settings: &Settings, parts: &[&str]) -> TrainError {
    let check = || {
        let error = run(settings).expect_err("bad input is refused");
        let text = error.to_string();
        // A regular expression is shown with its mistake pointed at, below it.
        assert!(!text.contains('\n') || matches!(error, TrainError::Targets(_)), "{text}");
        for part in parts {
            assert!(text.contains(part), "`{part}` is not in: {text}");
        }
        error
    };
    let before = tree(&home.path(""));
    assert!(!settings.output.exists());
    check();
    assert!(tree(&home.path("")) == before, "a failed job left something behind");

    std::fs::create_dir(&settings.output).unwrap();
    std::fs::write(settings.output.join("adapter_model.safetensors"), "an older adapter").unwrap();
    let before = tree(&home.path(""));
    let error = check();
    assert!(tree(&home.path("")) == before, "a failed job changed something");
    std::fs::remove_dir_all(&settings.output).unwrap();
    error
}

pub(crate) fn eval(settings: &Settings, adapter: Option<PathBuf>) -> EvalSettings {
    EvalSettings {
        model: settings.model.clone(),
        adapter,
        data: settings.data.clone(),
        max_seq_len: settings.max_seq_len,
        batch_size: 1,
        sliding_window: None,
        packing: false,
        mask_prompt: true,
        memory_budget: None,
        stream_weights: lowtide_train::StreamWeights::Auto,
    }
}

#[track_caller]
pub(crate) fn evaluation_refused(settings: &EvalSettings, parts: &[&str]) {
    let text = evaluate(settings, &Simd::new(1)).unwrap_err().to_string();
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
}

pub(crate) fn home() -> (Home, Settings) {
    let home = Home::new(&TinyLlama::default());
    let settings = home.settings(&[12, 9]);
    (home, settings)
}
