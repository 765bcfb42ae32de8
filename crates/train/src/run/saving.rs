//! Saving a run: its adapter, what it needs to go on, and what it tells.

use std::io::Write;

use lowtide_formats::atomic;
use lowtide_formats::snapshot::Section;

use super::best::{BEST, Best};
use super::course::Course;
use super::good::{GOOD, Good};
use crate::adapter_io::adapter_bytes;
use crate::job::Job;
use crate::metrics::file;
use crate::resume::{self, Saved};
use crate::{Event, RanksLeft, TrainError, Trainer, ranks, save_adapter};

impl Course<'_> {
    /// Saves what was learned so far; or not, where the parameters are no numbers.
    pub(super) fn save(&mut self, trainer: &mut Trainer<'_, '_>) -> Result<bool, TrainError> {
        let (job, step) = (self.job, self.summary.steps);
        let output = &job.settings.output;
        if !trainer.is_finite() {
            // The update to come has a loss that is no number, and goes back. What was saved stays.
            tracing::warn!(step, "not saved: parameters are no numbers");
            return Ok(false);
        }
        std::fs::create_dir_all(output)
            .map_err(|source| TrainError::Output { path: output.clone(), source })?;
        // Before the state, which goes on from them: of lines behind its update none is taken.
        let resolved = self.resolved.with_whole_paths();
        let config = resolved.to_toml();
        atomic::write_file(&file(output, "config.toml"), |out| out.write_all(config.as_bytes()))?;
        self.log.publish(output)?;
        let saved = Saved::new(self.identity.clone(), self.progress(trainer));
        let mut bytes = 0;
        let (best, good) = (self.best.as_ref(), self.good.as_ref());
        let write_best = |out: &mut dyn Write| best.map_or(Ok(()), |best| best.copy_to(out));
        let write_good = |out: &mut dyn Write| good.map_or(Ok(()), |good| good.copy_to(out));
        let kept = [
            Section { name: BEST, bytes: best.map_or(0, Best::bytes), write: &write_best },
            Section { name: GOOD, bytes: good.map_or(0, Good::bytes), write: &write_good },
        ];
        resume::save(output, &resolved, saved, trainer, &kept, |trainer| {
            bytes = save_compacted(job, trainer)?;
            Ok(())
        })?;
        self.summary.adapter_bytes = bytes;
        self.summary.ranks = trainer
            .ranks_left()
            .map(|ranks| RanksLeft { asked: job.settings.adaptive_rank, ..RanksLeft::of(&ranks) });
        tracing::debug!(step, path = %output.display(), "saved");
        (self.on_event)(&Event::Saved { step, path: output.clone() });
        Ok(true)
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
