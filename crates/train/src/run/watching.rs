//! What is watched while a run goes on, and what is done about it.

use super::course::Course;
use super::good::SLOWER;
use crate::{Event, TrainError, Trainer, Update};

/// Spikes that are told of one by one; of more there is a number in the end.
const TOLD_MAX: u64 = 5;

/// How many times the mean of the first losses one may be, and how much larger at the least, before
/// more is known of them. Norms of gradients rise by more when second factors leave zero.
const EARLY: f32 = 3.0;

/// After how many updates every trained tensor has had a gradient: second factors begin at zero, so
/// that the first ones have none in the first update.
pub(super) const GRADIENTS_BY: u64 = 3;

impl Course<'_> {
    /// Looks at an update whose loss is a number. Its step is of this process.
    pub(super) fn watch(
        &mut self,
        trainer: &mut Trainer<'_, '_>,
        step: u64,
        update: &Update,
        lr: f64,
    ) -> Result<(), TrainError> {
        let action = self.job.settings.on_spike.as_str();
        let loss = update.sum.mean();
        let mut spiked = false;
        if action != "off" {
            let usual = &mut self.usual;
            let loss = usual.loss.see(loss, Some(EARLY)).map(|usual| ("loss", loss, usual));
            let norm = update.grad_norm;
            let norm =
                norm.and_then(|norm| Some(("grad_norm", norm, usual.grad_norm.see(norm, None)?)));
            for (what, value, usual) in loss.into_iter().chain(norm) {
                spiked = true;
                self.summary.spikes += 1;
                if self.summary.spikes <= TOLD_MAX {
                    (self.on_event)(&Event::Spike { step, what, value, usual });
                }
            }
        }
        if spiked && action == "roll-back" && self.may_go_back() {
            return self.go_back(trainer, step, loss, lr);
        }
        if let Some(good) = &mut self.good {
            good.passed(trainer, step - 1)?;
        }
        self.check_gradients(trainer, step);
        Ok(())
    }

    /// Names tensors without a gradient, once there were updates enough.
    fn check_gradients(&mut self, trainer: &Trainer<'_, '_>, step: u64) {
        let Some(updates) = &mut self.unchecked else { return };
        *updates += 1;
        let updates = *updates;
        if updates < GRADIENTS_BY && (step < self.steps || updates == 1) {
            return;
        }
        self.unchecked = None;
        let tensors = trainer.without_gradient();
        if !tensors.is_empty() {
            (self.on_event)(&Event::Untrained { updates, tensors });
        }
    }

    fn may_go_back(&self) -> bool {
        self.good.is_some() && self.summary.rollbacks < self.job.settings.max_rollbacks
    }

    /// Goes back to the last good state after an update with this loss. The data of the updates
    /// since then is not seen again, and the learning rate is lower from now on.
    ///
    /// # Errors
    /// [`TrainError::Diverged`] where it went back as often as it may.
    pub(super) fn go_back(
        &mut self,
        trainer: &mut Trainer<'_, '_>,
        step: u64,
        loss: f64,
        lr: f64,
    ) -> Result<(), TrainError> {
        // A weight that is not a number is the base's fault, anything else the run's.
        self.job.base.file().check_finite()?;
        let may = self.may_go_back();
        let Some(good) = self.good.as_mut().filter(|_| may) else {
            return Err(TrainError::Diverged { step, loss, lr });
        };
        let to = good.restore(trainer)?;
        // At the start of a run, second factors are zero.
        self.unchecked = self.unchecked.map(|_| 0);
        if to == 0 && step == self.steps {
            // Nothing was learned.
            return Err(TrainError::Diverged { step, loss, lr });
        }
        self.lr_factor *= SLOWER;
        self.summary.rollbacks += 1;
        let lr_factor = self.lr_factor;
        tracing::warn!(step, to, loss, lr_factor, "went back to the last good state");
        (self.on_event)(&Event::RolledBack { step, to, loss, lr_factor });
        Ok(())
    }
}
