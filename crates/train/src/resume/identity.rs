//! What has to be the same for a run to go on as it was.

use std::collections::BTreeMap;
use std::path::Path;

use lowtide_backend::Backend;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::{ResumeError, broken};
use crate::job::Job;
use crate::{Settings, TrainError};

/// Settings that never change a result, only what is held, how long it takes and what is told; and
/// those that are judged by what they lead to.
const FREE: [&str; 18] = [
    "model",
    "data",
    "output",
    "init-adapter",
    "tile-rows",
    "optimizer-states",
    "stream-weights",
    "mlock",
    "scratch-dir",
    "save-every",
    "report-every",
    "samples",
    "probes",
    "adapter-budget",
    "pause-file",
    "duty",
    "tensorboard",
    "trace",
];

/// Whether a setting changes no result of a run with these others.
fn is_free(key: &str, settings: &Settings) -> bool {
    match key {
        // What the best is chosen among.
        "eval-every" => !settings.keeps_best(),
        // What is computed again begins with what was rounded.
        "checkpointing" => !settings.rounds(),
        // How much is kept, where that hangs on the room there is.
        "memory-budget" => !settings.rounds() || settings.checkpointing != "selective",
        _ => FREE.contains(&key),
    }
}

/// Settings that a run may leave open and that are known when it is planned.
const LEFT_OPEN: [&str; 14] = [
    "optimizer",
    "micro-batch",
    "lr-scheduler",
    "warmup-steps",
    "warmup-ratio",
    "decay-steps",
    "decay-ratio",
    "target-modules",
    "checkpoint-store",
    "clipping",
    "compute",
    "rank-pattern",
    "alpha-pattern",
    "method-option",
];

/// Settings whose other values `--resume-anyway` accepts.
const ANYWAY: [&str; 2] = ["precision", "compute"];

/// What a run computes with and from. Hashes are the first 16
/// hexadecimal digits of a SHA-256.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Identity {
    model: String,
    data: String,
    /// Of the settings that a result depends on.
    config: String,
    backend: String,
    isa: String,
}

impl Identity {
    /// Of a run with these settings, in which nothing is left to choose.
    pub(crate) fn of(
        job: &Job<'_>,
        resolved: &Settings,
        be: &dyn Backend<f32>,
    ) -> Result<Self, TrainError> {
        let model = job.base.file().fingerprint().to_string();
        let mut hash = Sha256::new();
        hash.update(job.data.train.digest()?);
        if let Some(valid) = &job.data.valid {
            hash.update(valid.digest()?);
        }
        Ok(Self {
            model: short(&model),
            data: short(&hex(&hash.finalize())),
            config: config(resolved),
            backend: be.name().to_owned(),
            isa: be.caps().isa.to_owned(),
        })
    }

    /// One that differs from others by its settings.
    #[cfg(test)]
    pub(super) fn named(config: &str) -> Self {
        let hash = |text: &str| short(&hex(&Sha256::digest(text)));
        let (backend, isa) = ("ndarray".into(), "avx512vnni".into());
        Self { model: hash("model"), data: hash("data"), config: hash(config), backend, isa }
    }

    /// Refuses a run, with identity `now`, of another model, other data, or on another machine;
    /// settings are compared one by one elsewhere.
    pub(crate) fn check(
        &self,
        now: &Self,
        settings: &Settings,
        path: &Path,
    ) -> Result<(), ResumeError> {
        let of = |path: &Path, hash: &str| format!("{} ({hash})", path.display());
        let Settings { model, data, .. } = settings;
        for (what, now, then, told, anyway) in [
            ("model", &now.model, &self.model, of(model, &now.model), false),
            ("data", &now.data, &self.data, of(data, &now.data), false),
            ("backend", &now.backend, &self.backend, now.backend.clone(), true),
            ("isa", &now.isa, &self.isa, now.isa.clone(), true),
        ] {
            if now != then && !(anyway && settings.resume_anyway) {
                let (path, what) = (path.to_owned(), what.to_owned());
                return Err(ResumeError::Differs {
                    path,
                    what,
                    now: told,
                    then: then.clone(),
                    anyway,
                });
            }
        }
        Ok(())
    }

    /// Names of the backend and the instruction set.
    pub(super) fn machine(&self) -> (&str, &str) {
        (&self.backend, &self.isa)
    }

    /// Whether it is the same run, wherever it is computed.
    pub(super) fn is_run_of(&self, other: &Self) -> bool {
        let run = |id: &Self| (id.model.clone(), id.data.clone(), id.config.clone());
        run(self) == run(other)
    }

    /// Whether settings, which lie in a file of their own, are those of the save.
    pub(super) fn check_config(&self, settings: &Settings, path: &Path) -> Result<(), ResumeError> {
        match config(settings) == self.config {
            true => Ok(()),
            false => Err(broken(
                path,
                "it was changed after the run saved it; expected the settings of that run".into(),
            )),
        }
    }
}

/// A hash of the settings that a result depends on, wherever it is computed. Those that are as
/// they are by default do not count: a later version may have more of them.
fn config(settings: &Settings) -> String {
    let (mut told, usual) = (told(settings), told(&Settings::default()));
    told.retain(|key, value| {
        let counts = !is_free(key, settings) && !ANYWAY.contains(&key.as_str());
        counts && usual.get(key) != Some(value)
    });
    let told: BTreeMap<String, Value> = told.into_iter().collect();
    short(&hex(&Sha256::digest(serde_json::to_vec(&told).expect("settings are plain values"))))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Enough of a hash to tell runs apart, so that a token is short.
pub(super) fn short(digits: &str) -> String {
    digits.chars().take(16).collect()
}

/// Refuses settings that would not go on with the run of `then`, both with nothing left to choose.
pub(super) fn compare(then: &Settings, now: &Settings, path: &Path) -> Result<(), ResumeError> {
    compare_but(&[], then, now, path)
}

/// As [`compare`], before a run is planned.
pub(super) fn compare_early(
    then: &Settings,
    now: &Settings,
    path: &Path,
) -> Result<(), ResumeError> {
    compare_but(&LEFT_OPEN, then, now, path)
}

fn compare_but(
    but: &[&str],
    then: &Settings,
    now: &Settings,
    path: &Path,
) -> Result<(), ResumeError> {
    let (old, new) = (told(then), told(now));
    let mut keys: Vec<&String> = old.keys().chain(new.keys()).collect();
    keys.sort();
    keys.dedup();
    for key in keys.into_iter().filter(|key| !but.contains(&key.as_str()) && !is_free(key, then)) {
        let (then, anyway) = (old.get(key), ANYWAY.contains(&key.as_str()));
        let found = new.get(key);
        if then != found && !(anyway && now.resume_anyway) {
            let show = |value: Option<&Value>| value.map_or("not set".into(), ToString::to_string);
            return Err(ResumeError::Differs {
                path: path.to_owned(),
                what: key.clone(),
                now: show(found),
                then: show(then),
                anyway,
            });
        }
    }
    Ok(())
}

/// Settings by name, with one value for all that give the same bits.
fn told(settings: &Settings) -> Map<String, Value> {
    let Ok(Value::Object(mut told)) = serde_json::to_value(settings) else {
        unreachable!("settings are plain values")
    };
    let mut same = |key: &str, from: &str, to: &str| {
        if let Some(value) = told.get_mut(key).filter(|value| value.as_str() == Some(from)) {
            *value = to.into();
        }
    };
    same("clipping", "two-pass", "whole");
    same("checkpoint-store", "file", "f32");
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    fn differs(then: &Settings, now: &Settings, anyway: bool) -> Option<String> {
        let now = Settings { resume_anyway: anyway, ..now.clone() };
        compare(then, &now, Path::new("save")).err().map(|error| error.to_string())
    }

    #[test]
    fn what_computes_something_else_is_named() {
        let then = Settings::default();
        assert_eq!(differs(&then, &then, false), None);
        let now = Settings { lr: 0.5, ..Settings::default() };
        assert_eq!(
            differs(&then, &now, true).unwrap(),
            "save: `lr` is 0.5, and the run that was saved had 0.0002: give the same, or begin \
             another run from its adapter with --init-adapter"
        );
        let now = Settings { max_steps: Some(9), ..Settings::default() };
        assert!(differs(&then, &now, false).unwrap().contains("`max-steps` is 9, and"));
        assert!(differs(&now, &then, false).unwrap().contains("`max-steps` is not set, and"));
        let now = Settings { precision: "fast".into(), ..Settings::default() };
        assert!(differs(&then, &now, false).unwrap().contains("--resume-anyway accepts that"));
        assert_eq!(differs(&then, &now, true), None);
    }

    #[test]
    fn what_gives_the_same_bits_may_differ() {
        let then = Settings { clipping: "whole".into(), ..Settings::default() };
        let now = Settings {
            clipping: "two-pass".into(),
            memory_budget: Some("1GB".into()),
            checkpointing: "sqrt".into(),
            output: "elsewhere".into(),
            save_every: 3,
            ..Settings::default()
        };
        assert_eq!(differs(&then, &now, false), None);
        let file = |name: &str| Settings { checkpoint_store: name.into(), ..Settings::default() };
        assert_eq!(differs(&file("f32"), &file("file"), false), None);
        assert!(differs(&file("f32"), &file("bf16"), false).is_some());
    }

    #[test]
    fn what_is_rounded_ties_more_down() {
        let rounded = || Settings { checkpoint_store: "int8".into(), ..Settings::default() };
        let sqrt = Settings { checkpointing: "sqrt".into(), ..rounded() };
        assert!(differs(&rounded(), &sqrt, false).unwrap().contains("`checkpointing` is \"sqrt\""));
        let best = || Settings { keep_best: true, eval_every: 3, ..Settings::default() };
        let other = Settings { eval_every: 4, ..best() };
        assert!(differs(&best(), &other, false).unwrap().contains("`eval-every` is 4, and"));
        let plain = Settings { eval_every: 4, ..Settings::default() };
        assert_eq!(differs(&Settings::default(), &plain, false), None);
        // Only what a result depends on makes another run.
        let free = Settings { duty: 0.5, output: "other".into(), ..Settings::default() };
        assert_eq!(config(&free), config(&Settings::default()));
        assert_ne!(config(&other), config(&best()));
    }

    #[test]
    fn every_name_is_that_of_a_setting() {
        let all = Settings {
            max_steps: Some(1),
            memory_budget: Some("1GB".into()),
            scratch_dir: Some("s".into()),
            init_adapter: Some("a".into()),
            adapter_budget: Some("1MB".into()),
            pause_file: Some("w".into()),
            tensorboard: Some("b".into()),
            trace: Some("t".into()),
            warmup_steps: Some(1),
            warmup_ratio: Some(0.1),
            decay_steps: Some(1),
            decay_ratio: Some(0.1),
            rank_pattern: crate::PatternTable(vec![("a".into(), 1)]),
            alpha_pattern: crate::PatternTable(vec![("a".into(), 1.0)]),
            method_option: [("a".to_owned(), "b".to_owned())].into(),
            ..Settings::default()
        };
        let table = told(&all);
        let others = ["eval-every", "checkpointing", "memory-budget"];
        for name in FREE.iter().chain(&LEFT_OPEN).chain(&ANYWAY).chain(&others) {
            assert!(table.contains_key(*name), "{name}");
        }
    }
}
