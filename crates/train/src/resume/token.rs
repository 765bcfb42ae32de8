//! The resume token: what a run without any state but its adapter needs to go on, in at most 1 KB.
//!
//! A file of parameters and a token cannot be replaced in one step. So the token is written first,
//! with two entries, for the adapter that is there and for the one that takes its place; which of
//! them counts is known by a hash of the parameters.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use lowtide_formats::atomic;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::identity::{hex, short};
use super::{Identity, LAYOUT, Progress, ResumeError, Saved, broken};
use crate::{TrainError, Trainer};

/// Its name, in the output folder.
pub(super) const FILE: &str = "resume.json";

/// The longest that is read; those written are at most 1000 bytes long.
const BYTES_MAX: u64 = 4000;

/// What the file says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Token {
    layout: u32,
    seed: u64,
    identity: Identity,
    /// One, or two while an adapter is replaced: the old and the new.
    saves: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// Hash of the parameters.
    adapter: String,
    #[serde(rename = "at")]
    progress: Progress,
}

impl Token {
    /// Reads the token of an output folder.
    pub(super) fn read(folder: &Path) -> Result<Self, ResumeError> {
        let path = folder.join(FILE);
        let mut text = String::new();
        let read = File::open(&path)
            .and_then(|file| file.take(BYTES_MAX + 1).read_to_string(&mut text))
            .map_err(|error| broken(&path, error.to_string()))?;
        if read as u64 > BYTES_MAX {
            return Err(broken(&path, format!("longer than {BYTES_MAX} bytes, as no token is")));
        }
        let token: Self =
            serde_json::from_str(&text).map_err(|error| broken(&path, error.to_string()))?;
        let layout = token.layout;
        if layout != LAYOUT {
            return Err(broken(&path, format!("`layout` is {layout}, expected {LAYOUT}")));
        }
        if !(1..=2).contains(&token.saves.len()) {
            let found = token.saves.len();
            return Err(broken(&path, format!("`saves` has {found} entries, expected 1 or 2")));
        }
        Ok(token)
    }

    /// What was saved with an adapter of these parameters.
    pub(super) fn of(&self, params: &[f32], folder: &Path) -> Result<Saved, ResumeError> {
        let adapter = digest(params);
        let entry = self.saves.iter().rev().find(|e| e.adapter == adapter).ok_or_else(|| {
            let reason = "`saves` has no entry for the adapter beside it: the adapter was changed";
            broken(&folder.join(FILE), reason.into())
        })?;
        Ok(Saved::new(self.identity.clone(), entry.progress))
    }

    /// The latest of its saves, which is how far the run came at most.
    pub(super) fn latest(&self) -> Saved {
        let entry = self.saves.last().expect("a token has an entry");
        Saved::new(self.identity.clone(), entry.progress)
    }

    /// With an entry for these parameters, beside that of the adapter which is in `folder`, if that
    /// is of the same run.
    fn next(folder: &Path, saved: Saved, seed: u64, params: &[f32]) -> Self {
        let Saved { identity, progress, .. } = saved;
        // A run that goes on from a token begins with its state as the last good one.
        let seconds = (progress.seconds * 1e3).round() / 1e3;
        let progress = Progress { good_step: 0, good_next: false, seconds, ..progress };
        let mut saves = match Self::read(folder) {
            // The adapter there is that of the last entry, and stays until it is replaced.
            Ok(token) if token.identity.is_run_of(&identity) => token.saves,
            _ => Vec::new(),
        };
        saves.drain(..saves.len().saturating_sub(1));
        saves.push(Entry { adapter: digest(params), progress });
        Self { layout: LAYOUT, seed, identity, saves }
    }

    fn write(&self, folder: &Path) -> Result<(), TrainError> {
        Ok(atomic::write_file(&folder.join(FILE), |out| Ok(serde_json::to_writer(out, self)?))?)
    }
}

/// Saves a run together with its adapter.
pub(super) fn write(
    folder: &Path,
    saved: Saved,
    seed: u64,
    trainer: &mut Trainer<'_, '_>,
    save_adapter: impl FnOnce(&mut Trainer<'_, '_>) -> Result<(), TrainError>,
) -> Result<(), TrainError> {
    let token = Token::next(folder, saved, seed, trainer.params());
    if let [new] = &token.saves[..] {
        // There is no adapter of this run yet that it could tell of.
        tracing::debug!(adapter = new.adapter, "the first save");
        super::forget(&folder.join(FILE))?;
        save_adapter(trainer)?;
        return token.write(folder);
    }
    token.write(folder)?;
    save_adapter(trainer)
}

/// Leaves of a token only the save that `saved` is.
pub(super) fn settle(folder: &Path, saved: &Saved) -> Result<(), TrainError> {
    let mut token = Token::read(folder)?;
    token.saves.retain(|entry| entry.progress == saved.progress);
    token.write(folder)
}

fn digest(params: &[f32]) -> String {
    short(&hex(&Sha256::digest(bytemuck::cast_slice::<f32, u8>(params))))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: u64 = i64::MAX as u64;

    const USUAL: &str =
        r#"{"loss":[255,1.2345679,0.012345679],"norm":[255,0.012345679,0.0012345679]}"#;

    /// With the longest numbers there are.
    fn progress(step: u64) -> Progress {
        Progress {
            step,
            micro_batches: 9_000_000_000,
            tokens: 900_000_000_000,
            labelled_tokens: 900_000_000_000,
            loss_first: Some(1.234_567_890_123_456_7),
            loss_last: Some(0.123_456_789_012_345_67),
            eval_loss_before: Some(1.234_567_890_123_456_7),
            seconds: 1_234_567.891,
            settled: true,
            lr_factor: 0.000_976_562_5,
            rollbacks: 10,
            spikes: 1000,
            usual: serde_json::from_str(USUAL).unwrap(),
            evaluated: Some(1_000_000),
            ..Progress::default()
        }
    }

    fn saved(config: &str, step: u64) -> Saved {
        Saved::new(Identity::named(config), progress(step))
    }

    #[test]
    fn the_adapter_that_is_there_decides() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, path) = (dir.path(), dir.path().join(FILE));
        let written = |config, step, params: &[f32]| {
            Token::next(folder, saved(config, step), SEED, params).write(folder).unwrap();
            Token::read(folder).unwrap()
        };
        written("a", 1_000_001, &[1.0]);
        let token = written("a", 1_000_002, &[2.0]);
        let size = std::fs::metadata(&path).unwrap().len();
        assert!(size <= 1000, "{size} bytes");
        // Stopped before or after the adapter was replaced: each has its entry.
        assert_eq!(token.of(&[1.0], folder).unwrap(), saved("a", 1_000_001));
        assert_eq!(token.of(&[2.0], folder).unwrap(), saved("a", 1_000_002));
        assert_eq!(token.latest().progress.step, 1_000_002);
        let error = token.of(&[3.0], folder).unwrap_err().to_string();
        assert!(error.contains("resume.json: `saves` has no entry"), "{error}");
        // What was gone back to is what is replaced next.
        settle(folder, &saved("a", 1_000_001)).unwrap();
        let token = written("a", 1_000_003, &[3.0]);
        assert_eq!(token.of(&[1.0], folder).unwrap(), saved("a", 1_000_001));
        assert_eq!(token.saves.len(), 2);
        // Another run has no part in this one's saves.
        let token = written("b", 1_000_001, &[9.0]);
        assert_eq!((token.saves.len(), token.latest()), (1, saved("b", 1_000_001)));
    }

    #[test]
    fn other_files_are_refused_by_field() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path();
        Token::next(folder, saved("a", 1), SEED, &[1.0]).write(folder).unwrap();
        let path = folder.join(FILE);
        let good = std::fs::read_to_string(&path).unwrap();
        for (from, to, says) in [
            ("\"layout\":1", "\"layout\":2", "`layout` is 2, expected 1"),
            ("\"saves\":[", "\"saves\":[],\"old\":[", "unknown field `old`"),
            ("\"step\":1", "\"step\":-1", "invalid value"),
            ("{\"layout", "", "expected"),
        ] {
            std::fs::write(&path, good.replacen(from, to, 1)).unwrap();
            let error = Token::read(folder).unwrap_err().to_string();
            assert!(error.contains(says) && error.contains("resume.json"), "{error}");
        }
        std::fs::write(&path, " ".repeat(5000)).unwrap();
        let error = Token::read(folder).unwrap_err().to_string();
        assert!(error.contains("longer than 4000 bytes"), "{error}");
    }
}
