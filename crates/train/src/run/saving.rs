//! Saving a run: its adapter, what it needs to go on, and what it tells.

use lowtide_formats::atomic;

use super::course::Course;
use crate::adapter_io::adapter_bytes;
use crate::job::Job;
use crate::metrics::file;
use crate::resume::{self, Saved};
use crate::{Event, RanksLeft, TrainError, Trainer, ranks, save_adapter};

impl Course<'_> {
    /// Saves what was learned so far.
    pub(super) fn save(&mut self, trainer: &mut Trainer<'_, '_>) -> Result<(), TrainError> {
        let (job, step) = (self.job, self.summary.steps);
        let output = &job.settings.output;
        if !trainer.is_finite() {
            let loss = self.summary.loss_last.unwrap_or(f64::NAN);
            return Err(TrainError::Diverged { step, loss, lr: job.settings.lr });
        }
        std::fs::create_dir_all(output)
            .map_err(|source| TrainError::Output { path: output.clone(), source })?;
        // Before the state, which goes on from them: of lines behind its update none is taken.
        let config = self.resolved.to_toml();
        atomic::write_file(&file(output, "config.toml"), |out| out.write_all(config.as_bytes()))?;
        self.log.publish(output)?;
        let saved = Saved::new(self.identity.clone(), self.progress(trainer));
        let mut bytes = 0;
        resume::save(output, &self.resolved, saved, trainer, |trainer| {
            bytes = save_compacted(job, trainer)?;
            Ok(())
        })?;
        self.summary.adapter_bytes = bytes;
        self.summary.ranks = trainer
            .ranks_left()
            .map(|ranks| RanksLeft { asked: job.settings.adaptive_rank, ..RanksLeft::of(&ranks) });
        tracing::debug!(step, path = %output.display(), "saved");
        (self.on_event)(&Event::Saved { step, path: output.clone() });
        Ok(())
    }
}

/// Writes the adapter, without pairs that are switched off; the bytes of its file of weights.
fn save_compacted(job: &Job<'_>, trainer: &mut Trainer<'_, '_>) -> Result<u64, TrainError> {
    let (output, hyper) = (&job.settings.output, job.base.file().hyper());
    let (r#type, adaptive) = (job.settings.adapter_type()?, trainer.pairs_left().is_some());
    trainer.compacted(|sites, values| {
        let made = adaptive.then(|| ranks::patterns(sites, (&job.config, &job.patterns)));
        let told = (&job.config, made.as_ref().unwrap_or(&job.patterns));
        save_adapter(output, job.base.name(), hyper, sites, told, r#type, values)?;
        Ok(adapter_bytes(sites, r#type))
    })
}
