//! Where a run is shown and measured beside its log, and when it does not work.

use super::course::Course;
use crate::board::Board;
use crate::energy::Meter;
use crate::timing::Timing;
use crate::{Evaluation, Event, Settings, StepReport, TrainError, Trainer};

/// What follows a run.
pub(super) struct Shown {
    pub(super) timing: Timing,
    pub(super) meter: Meter,
    board: Option<Board>,
}

impl Shown {
    /// As the settings ask for, of a program of so many segments.
    pub(super) fn new(settings: &Settings, segments: usize) -> Result<Self, TrainError> {
        Ok(Self {
            timing: Timing::new(segments, settings.trace.as_deref())?,
            meter: Meter::of_system(),
            board: settings.tensorboard.as_deref().map(Board::new),
        })
    }

    /// A reported update; so many passes over the data were made with it.
    pub(super) fn update(&mut self, update: &StepReport, epochs: f64, anonymous: Option<u64>) {
        if let Some(board) = &mut self.board {
            board.update(update, epochs, anonymous);
        }
    }

    /// An evaluation after so many updates.
    pub(super) fn evaluation(&mut self, step: u64, result: &Evaluation) {
        if let Some(board) = &mut self.board {
            board.evaluation(step, result);
        }
    }
}

impl Course<'_> {
    /// Rests, and pauses while it is asked to.
    pub(super) fn wait(&mut self, trainer: &mut Trainer<'_, '_>) -> Result<(), TrainError> {
        self.rests.rest();
        let Some(cause) = self.rests.cause() else { return Ok(()) };
        let step = self.summary.steps;
        if step > 0 {
            // Whatever ends a process in its sleep then takes nothing away.
            self.save(trainer)?;
        }
        (self.on_event)(&Event::Paused { step, cause });
        self.watch.doze(true);
        self.shown.meter.read(true);
        let seconds = self.rests.pause();
        self.shown.meter.read(false);
        self.watch.doze(false);
        if !self.control.stopped() {
            (self.on_event)(&Event::Continued { step, seconds });
        }
        Ok(())
    }
}
