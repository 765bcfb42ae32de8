//! The best adapter of a run by its held-out loss, and when to stop looking for a better one.

use std::io::Write;

use lowtide_formats::ScratchFile;
use serde::{Deserialize, Serialize};

use super::good::copy;
use crate::{Settings, TrainError, Trainer, place};

/// How held-out losses have gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Held {
    /// The best, and the updates before it.
    pub(crate) best: Option<(u64, f64)>,
    /// Evaluations since then.
    pub(crate) since: u64,
}

impl Held {
    /// Takes note of a held-out loss after `step` updates; whether it is the best. One that is not
    /// better by `min_delta` counts as none.
    pub(super) fn see(&mut self, step: u64, loss: f64, min_delta: f64) -> bool {
        let better = self.best.is_none_or(|(_, best)| loss < best - min_delta);
        if better {
            *self = Self { best: Some((step, loss)), since: 0 };
        } else {
            self.since += 1;
        }
        better
    }
}

/// Section of a save with the best parameters so far.
pub(super) const BEST: &str = "best";

/// The parameters of the best, in a temporary file.
#[derive(Debug)]
pub(super) struct Best {
    file: ScratchFile,
}

impl Best {
    /// Takes the parameters that `trainer` has.
    pub(super) fn of(trainer: &Trainer<'_, '_>, settings: &Settings) -> Result<Self, TrainError> {
        let bytes = trainer.param_bytes();
        let file = place::reserve(&settings.scratch_dir(), bytes.len() as u64, "the best adapter")?;
        file.write(0, bytes)?;
        Ok(Self { file })
    }

    /// Takes those that it has now.
    pub(super) fn take(&self, trainer: &Trainer<'_, '_>) -> Result<(), TrainError> {
        Ok(self.file.write(0, trainer.param_bytes())?)
    }

    /// Gives them back.
    pub(super) fn restore(&self, trainer: &mut Trainer<'_, '_>) -> Result<(), TrainError> {
        self.file.read(0, trainer.param_bytes_mut())?;
        trainer.state_changed();
        Ok(())
    }

    /// Takes those of a save.
    pub(super) fn set(&self, bytes: &[u8]) -> Result<(), TrainError> {
        Ok(self.file.write(0, bytes)?)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.file.bytes()
    }

    /// Copies them.
    pub(super) fn copy_to(&self, out: &mut dyn Write) -> std::io::Result<()> {
        copy(&self.file, 0, self.bytes(), out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_hardly_better_is_not_the_best() {
        let mut held = Held::default();
        let seen = [2.0, 1.5, 1.49, 1.52, 1.3, f64::NAN, 1.29].map(|loss| held.see(7, loss, 0.05));
        assert_eq!(seen, [true, true, false, false, true, false, false]);
        assert_eq!((held.best, held.since), (Some((7, 1.3)), 2));
    }
}
