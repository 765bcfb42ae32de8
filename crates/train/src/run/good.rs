//! The last good state of a run, on disk: what is gone back to when an update comes out as no
//! number.
//!
//! A loss judges the parameters that the update before left. So a state that was taken is good when
//! a loss was finite after it; there is room for two, and one of them is good at any time.

use std::io::{self, Write};

use lowtide_formats::ScratchFile;

use crate::{Settings, TrainError, Trainer, place};

/// Updates between states.
const EVERY: u64 = 20;

/// What is left of the learning rate when a run goes back.
pub(super) const SLOWER: f64 = 0.5;

/// Section of a save with the last good state.
pub(super) const GOOD: &str = "good";

/// Two states in a temporary file.
pub(super) struct Good {
    file: ScratchFile,
    /// Of a state.
    bytes: u64,
    /// Which of the two a finite loss came after, and the updates made before it.
    good: (u64, u64),
    /// The other, if it waits for its loss.
    next: Option<(u64, u64)>,
}

impl Good {
    /// Takes the state that `trainer` has after `step` updates.
    pub(super) fn of(
        trainer: &mut Trainer<'_, '_>,
        settings: &Settings,
        step: u64,
    ) -> Result<Self, TrainError> {
        let mut bytes = 0;
        trainer.each_state(&mut |part| {
            bytes += part.len() as u64;
            Ok(())
        })?;
        let file = place::reserve(&settings.scratch_dir(), 2 * bytes, "the last good state")?;
        let good = Self { file, bytes, good: (0, step), next: None };
        good.write(trainer, 0)?;
        Ok(good)
    }

    /// With the last good state of a save, of so many updates, if it has one; then the state that
    /// was taken has to show itself, if the run that was saved had taken it, too.
    pub(super) fn or_of_save(
        mut self,
        trainer: &mut Trainer<'_, '_>,
        (of, next): (u64, bool),
        saved: &[u8],
    ) -> Result<Self, TrainError> {
        if !saved.is_empty() {
            let step = self.good.1;
            self.file.write(0, saved)?;
            self.good = (0, of);
            if next {
                self.take_if_due(trainer, step)?;
            }
        }
        Ok(self)
    }

    /// Takes note of a finite loss, before which `step` updates were made: of the parameters as
    /// they then were. `trainer` is as it is after the next update.
    pub(super) fn passed(
        &mut self,
        trainer: &mut Trainer<'_, '_>,
        step: u64,
    ) -> Result<(), TrainError> {
        if let Some(next) = self.next.take_if(|(_, taken)| *taken <= step) {
            self.good = next;
        }
        self.take_if_due(trainer, step + 1)
    }

    /// Takes every so many updates' state, always the same ones, so that a run that goes on has
    /// what it would have had.
    fn take_if_due(&mut self, trainer: &mut Trainer<'_, '_>, step: u64) -> Result<(), TrainError> {
        if self.next.is_none() && step.is_multiple_of(EVERY) && step > self.good.1 {
            let slot = 1 - self.good.0;
            self.write(trainer, slot)?;
            self.next = Some((slot, step));
        }
        Ok(())
    }

    /// Brings `trainer` back; the updates that were made before the state it then has.
    pub(super) fn restore(&mut self, trainer: &mut Trainer<'_, '_>) -> Result<u64, TrainError> {
        self.next = None;
        let (slot, step) = self.good;
        let mut at = slot * self.bytes;
        trainer.each_state(&mut |part| {
            let start = at;
            at += part.len() as u64;
            Ok(self.file.read(start, part)?)
        })?;
        trainer.state_changed();
        Ok(step)
    }

    /// Updates made before the last good state.
    pub(super) fn step(&self) -> u64 {
        self.good.1
    }

    /// Whether a state was taken that has to show itself yet.
    pub(super) fn waits(&self) -> bool {
        self.next.is_some()
    }

    /// Of a state.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Copies the last good state.
    pub(super) fn copy_to(&self, out: &mut dyn Write) -> io::Result<()> {
        copy(&self.file, self.good.0 * self.bytes, self.bytes, out)
    }

    fn write(&self, trainer: &mut Trainer<'_, '_>, slot: u64) -> Result<(), TrainError> {
        let mut at = slot * self.bytes;
        trainer.each_state(&mut |part| {
            let start = at;
            at += part.len() as u64;
            Ok(self.file.write(start, part)?)
        })
    }
}

/// Bytes copied at a time.
const BLOCK: usize = 1 << 16;

/// Copies a part of a temporary file.
pub(super) fn copy(
    file: &ScratchFile,
    mut at: u64,
    bytes: u64,
    out: &mut dyn Write,
) -> io::Result<()> {
    let (mut block, end) = (vec![0; BLOCK], at + bytes);
    while at < end {
        let len = (end - at).min(BLOCK as u64) as usize;
        file.read(at, &mut block[..len]).map_err(io::Error::other)?;
        out.write_all(&block[..len])?;
        at += len as u64;
    }
    Ok(())
}
