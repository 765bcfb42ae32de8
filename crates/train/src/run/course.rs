//! The updates of a run, one after the other, with what is measured and saved between them.

use std::time::Instant;

use lowtide_optim::StepHyper;
use serde::{Deserialize, Serialize};

use super::best::{BEST, Best, Held};
use super::good::{GOOD, Good};
use super::shown::Shown;
use super::spikes::Usual;
use super::watching::GRADIENTS_BY;
use crate::adapter_io::settle;
use crate::batches::Batches;
use crate::control::{Control, Rests};
use crate::job::Job;
use crate::log::Log;
use crate::report::{self, HeldOut};
use crate::resume::{Identity, Progress, SavedRun};
use crate::rss::{Watch, memory_now, storage_read};
use crate::thin::Thinned;
use crate::{
    Evaluation, Event, Phase, PlanReport, Settings, StepReport, Summary, Times, TrainError, Trainer,
};

/// A run under way.
pub(super) struct Course<'r> {
    pub(super) job: &'r Job<'r>,
    /// The settings with nothing left to choose, with paths that mean the same from anywhere.
    pub(super) resolved: Settings,
    pub(super) identity: Identity,
    batches: Batches<'r>,
    /// Sequences computed at once.
    sequences: usize,
    pub(super) control: Control<'r>,
    pub(super) rests: Rests<'r>,
    pub(super) watch: &'r Watch,
    pub(super) on_event: &'r mut dyn FnMut(&Event),
    pub(super) summary: Summary,
    pub(super) log: Log,
    evaluations: Thinned<HeldOut>,
    /// Bytes that the process had read from storage when the run began.
    read_before: Option<u64>,
    held: u64,
    mapped: u64,
    gradient: &'static str,
    /// Updates of the whole run.
    pub(super) steps: u64,
    /// Updates made before this process took it up.
    pub(super) from: u64,
    /// Whether the parameters are what is read from the adapter's file, after the last update.
    settled: bool,
    /// What the learning rate has become by going back.
    pub(super) lr_factor: f64,
    pub(super) usual: Watched,
    /// Updates of this process since it last went back, until it is known that all trained tensors
    /// have gradients.
    pub(super) unchecked: Option<u64>,
    /// What is gone back to, where that is allowed.
    pub(super) good: Option<Good>,
    /// Updates before the last good state of the save that the run goes on from, and whether that
    /// run had just taken another.
    saved_good: (u64, bool),
    held_out: Held,
    /// Updates before the last evaluation.
    evaluated: Option<u64>,
    /// The best parameters so far, where they are kept.
    pub(super) best: Option<Best>,
    pub(super) shown: Shown,
}

/// What losses and gradient norms usually are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Watched {
    pub(super) loss: Usual,
    #[serde(rename = "norm")]
    pub(super) grad_norm: Usual,
}

/// What a run has around it.
pub(super) struct Around<'r> {
    pub(super) control: Control<'r>,
    pub(super) watch: &'r Watch,
    pub(super) on_event: &'r mut dyn FnMut(&Event),
    /// Bytes held while it runs.
    pub(super) held: u64,
    pub(super) shown: Shown,
}

/// A line of `evaluations.jsonl`.
#[derive(Serialize)]
struct EvaluationLine {
    /// Updates made before it.
    step: u64,
    #[serde(flatten)]
    result: Evaluation,
}

impl<'r> Course<'r> {
    /// A run that is at its start, or goes on where `progress` says it was saved.
    pub(super) fn new(
        job: &'r Job<'r>,
        (resolved, identity): (Settings, Identity),
        plan: &PlanReport,
        (resumed, progress): (Option<&SavedRun>, Progress),
        around: Around<'r>,
    ) -> Result<Self, TrainError> {
        let Around { control, watch, on_event, held, shown } = around;
        let mut evaluations = Thinned::new(report::UPDATES_MAX);
        let (from, steps) = (progress.step, plan.steps);
        let scratch = job.settings.scratch_dir();
        let log = match resumed {
            Some(run) => {
                let heard = &mut |step, loss| evaluations.push(HeldOut { step, loss });
                // The one after the last update is made again, but where the best was looked for.
                let best = job.settings.keeps_best() && progress.evaluated == Some(from);
                let last = if best { from } else { from.min(steps.saturating_sub(1)) };
                Log::of_run(&scratch, run.folder(), (from, last), progress.seconds, heard)?
            }
            None => Log::new(&scratch)?,
        };
        let summary = Summary {
            steps: from,
            tokens: progress.tokens,
            labelled_tokens: progress.labelled_tokens,
            loss_first: progress.loss_first,
            loss_last: progress.loss_last,
            eval_loss_before: progress.eval_loss_before,
            rollbacks: progress.rollbacks,
            spikes: progress.spikes,
            stopped_early: progress.stopped_early,
            ..Summary::default()
        };
        Ok(Self {
            job,
            resolved: resolved.with_whole_paths(),
            identity,
            batches: job.batches(),
            sequences: plan.micro_batch,
            control,
            rests: Rests::new(job.settings, control),
            watch,
            on_event,
            summary,
            log,
            evaluations,
            read_before: storage_read(),
            held,
            mapped: plan.mapped_bytes,
            gradient: plan.gradient,
            steps,
            from,
            settled: progress.settled,
            lr_factor: progress.lr_factor,
            usual: progress.usual,
            unchecked: (from < GRADIENTS_BY).then_some(0),
            good: None,
            saved_good: (progress.good_step, progress.good_next),
            held_out: progress.held_out,
            evaluated: progress.evaluated,
            best: None,
            shown,
        })
    }

    /// What a save says of how far it has come.
    pub(super) fn progress(&self, trainer: &Trainer<'_, '_>) -> Progress {
        let summary = &self.summary;
        Progress {
            step: summary.steps,
            micro_batches: trainer.micro_batches(),
            tokens: summary.tokens,
            labelled_tokens: summary.labelled_tokens,
            loss_first: summary.loss_first,
            loss_last: summary.loss_last,
            eval_loss_before: summary.eval_loss_before,
            seconds: self.log.seconds(),
            settled: self.settled,
            lr_factor: self.lr_factor,
            rollbacks: summary.rollbacks,
            spikes: summary.spikes,
            good_step: self.good.as_ref().map_or(0, Good::step),
            good_next: self.good.as_ref().is_some_and(Good::waits),
            usual: self.usual,
            held_out: self.held_out,
            evaluated: self.evaluated,
            stopped_early: summary.stopped_early,
        }
    }

    /// Trains to the end, or until it is told to stop.
    pub(super) fn train(&mut self, trainer: &mut Trainer<'_, '_>) -> Result<(), TrainError> {
        let (settings, steps) = (self.job.settings, self.steps);
        if self.from == 0 {
            self.summary.eval_loss_before = self.evaluate(trainer, 0)?;
        }
        self.compare_softmax(trainer)?;
        let schedule = settings.schedule(steps)?;
        // One that was stopped in the middle of an evaluation has it now.
        self.evaluate_if_due(trainer, self.from)?;
        for step in self.from + 1..=steps {
            self.wait(trainer)?;
            if self.control.stopped() {
                self.summary.interrupted = true;
                return Ok(());
            }
            if self.summary.stopped_early {
                break;
            }
            if let Err(error) = self.job.base.file().check_whole() {
                // What was learned does not hang on the file.
                if self.summary.steps > 0 {
                    self.save(trainer)?;
                }
                return Err(error.into());
            }
            let lr = schedule.lr(step - 1, steps) * self.lr_factor;
            self.step(trainer, step, lr)?;
            self.evaluate_if_due(trainer, step)?;
            if self.is_due(settings.save_every, step) {
                self.save(trainer)?;
            }
        }
        self.conclude(trainer)
    }

    /// Whether something happens after this update that happens every so many, but not at the end.
    fn is_due(&self, every: u64, step: u64) -> bool {
        every > 0 && step.is_multiple_of(every) && (1..self.steps).contains(&step)
    }

    /// Measures held-out loss where the settings say so, and ends a run whose loss has not become
    /// better for long enough.
    fn evaluate_if_due(
        &mut self,
        trainer: &mut Trainer<'_, '_>,
        step: u64,
    ) -> Result<(), TrainError> {
        let settings = self.job.settings;
        let measured = self.evaluated == Some(step) || self.summary.stopped_early;
        if self.is_due(settings.eval_every, step) && !measured {
            self.evaluate(trainer, step)?;
            let patience = settings.patience.filter(|_| self.evaluated == Some(step));
            self.summary.stopped_early =
                patience.is_some_and(|patience| self.held_out.since >= patience);
        }
        Ok(())
    }

    /// Makes room for the last good state and the best parameters, and takes those of a save.
    pub(super) fn keep_states(
        &mut self,
        trainer: &mut Trainer<'_, '_>,
        run: Option<&SavedRun>,
    ) -> Result<(), TrainError> {
        let settings = self.job.settings;
        let section = |name, need| run.map_or(Ok(&[][..]), |run| run.section(name, need));
        if settings.max_rollbacks > 0 {
            let good = Good::of(trainer, settings, self.from)?;
            let saved = section(GOOD, good.bytes())?;
            self.good = Some(good.or_of_save(trainer, self.saved_good, saved)?);
        }
        if settings.keeps_best() && self.job.data.valid.is_some() {
            let best = Best::of(trainer, settings)?;
            let saved = section(BEST, best.bytes())?;
            if !saved.is_empty() {
                best.set(saved)?;
            }
            self.best = Some(best);
        }
        Ok(())
    }

    /// Brings the parameters to what is saved of them, and measures that.
    fn conclude(&mut self, trainer: &mut Trainer<'_, '_>) -> Result<(), TrainError> {
        let (settings, step) = (self.job.settings, self.summary.steps);
        if !self.settled {
            self.end_with_a_number(trainer)?;
        }
        let keeps = self.best.is_some();
        if keeps && !self.settled && self.evaluated != Some(step) {
            self.evaluate(trainer, step)?;
        }
        if !self.settled && !self.summary.interrupted {
            if let (Some(best), Some((at, _))) = (&self.best, self.held_out.best)
                && at != step
            {
                best.restore(trainer)?;
            }
            // What is measured is what is saved.
            let (hyper, sites) = (self.job.base.file().hyper(), &trainer.model().sites);
            let (codes, r#type) = (self.job.codes(), settings.adapter_type()?);
            trainer.with_values(|mut values| settle(hyper, sites, codes, r#type, &mut values));
            self.settled = true;
        }
        if keeps {
            let measured = self.measure(trainer, step)?;
            self.summary.eval_loss_after = measured.map(|measured| measured.loss);
            self.summary.best_step = self.held_out.best.map(|(step, _)| step);
        } else {
            self.summary.eval_loss_after = self.evaluate(trainer, step)?;
        }
        let measured = self.job.data.valid.is_none() || self.summary.eval_loss_after.is_some();
        if !measured && !self.summary.interrupted {
            return Err(TrainError::Diverged { step, loss: f64::NAN, lr: settings.lr });
        }
        Ok(())
    }

    /// Goes back where the last update left parameters that give no number: no update looks at them
    /// any more.
    fn end_with_a_number(&mut self, trainer: &mut Trainer<'_, '_>) -> Result<(), TrainError> {
        loop {
            let loss = trainer.loss_of(&self.job.data.train, 0)?.mean();
            if loss.is_finite() {
                return Ok(());
            }
            let lr = self.job.settings.lr * self.lr_factor;
            self.go_back(trainer, self.summary.steps, loss, lr)?;
        }
    }

    fn step(
        &mut self,
        trainer: &mut Trainer<'_, '_>,
        step: u64,
        lr: f64,
    ) -> Result<(), TrainError> {
        let (job, settings, steps) = (self.job, self.job.settings, self.steps);
        let data = &job.data.train;
        let sequences = self.batches.of(step)?;
        let mut labelled = 0;
        for &sequence in sequences {
            labelled += data.sequence(sequence)?.labelled;
        }
        let report =
            step == 1 || step == steps || step.is_multiple_of(settings.report_every.max(1));
        // The first update of a process reads what the others find in memory.
        let first = step == self.from + 1;
        self.shown.timing.begin(report && (!first || step == steps));
        let start = Instant::now();
        let sequences = sequences.iter().copied();
        let hyper = StepHyper { lr, step, grad_scale: 1.0 };
        let update = trainer.update(data, sequences, self.sequences, labelled, hyper)?;
        let seconds = start.elapsed().as_secs_f64();
        self.shown.timing.end(step);
        self.shown.meter.read(true);
        self.watch.look();
        let loss = update.sum.mean();
        self.summary.steps = step;
        self.summary.tokens += update.tokens;
        self.summary.labelled_tokens += update.sum.labelled as u64;
        self.log.time(seconds);
        if !loss.is_finite() || update.non_finite > 0 {
            return self.go_back(trainer, step, loss, lr);
        }
        let line = StepReport {
            step,
            steps,
            loss,
            lr,
            grad_norm: update.grad_norm,
            tokens: update.tokens,
            seconds,
            held_bytes: self.held,
            pairs: trainer.pairs_left(),
            gradient: self.gradient,
            report,
        };
        self.summary.loss_first.get_or_insert(loss);
        self.summary.loss_last = Some(loss);
        if report {
            self.log.updates.write(&line)?;
            let epochs = step as f64 / job.steps_per_epoch() as f64;
            self.shown.update(&line, epochs, self.watch.peak());
        }
        (self.on_event)(&Event::Step(line));
        self.watch(trainer, step, &update, lr)
    }

    /// Tells how far an approximate softmax is from the exact one on the first micro-batch.
    fn compare_softmax(&mut self, trainer: &mut Trainer<'_, '_>) -> Result<(), TrainError> {
        let data = &self.job.data.train;
        let first = self.batches.of(1)?.iter().take(self.sequences).copied();
        let Some(error) = trainer.softmax_error(data, first)? else { return Ok(()) };
        self.summary.softmax_error = Some(error);
        (self.on_event)(&Event::Softmax(error));
        Ok(())
    }

    /// Measures held-out loss, if there is held-out data, and takes note of it.
    fn evaluate(
        &mut self,
        trainer: &mut Trainer<'_, '_>,
        step: u64,
    ) -> Result<Option<f64>, TrainError> {
        let Some(result) = self.measure(trainer, step)? else { return Ok(None) };
        let loss = result.loss;
        self.evaluated = Some(step);
        if let Some(best) = self.best.as_ref().filter(|_| step > 0)
            && self.held_out.see(step, loss, self.job.settings.min_delta)
        {
            best.take(trainer)?;
        }
        self.evaluations.push(HeldOut { step, loss });
        self.log.evaluations.write(&EvaluationLine { step, result })?;
        self.shown.evaluation(step, &result);
        (self.on_event)(&Event::Evaluation { step, result });
        Ok(Some(loss))
    }

    /// Held-out loss, if there is held-out data.
    fn measure(
        &mut self,
        trainer: &mut Trainer<'_, '_>,
        step: u64,
    ) -> Result<Option<Evaluation>, TrainError> {
        let Some(valid) = &self.job.data.valid else { return Ok(None) };
        let (start, total, rested) = (Instant::now(), valid.len(), self.rests.rested());
        let (on_event, control, rests) = (&mut *self.on_event, self.control, &mut self.rests);
        let mut go_on = |done| {
            on_event(&Event::Progress { phase: Phase::Evaluation, done, total });
            rests.rest();
            !control.stopped()
        };
        let (sum, complete) = trainer.evaluate_while(valid, self.sequences, &mut go_on)?;
        if !complete {
            self.summary.interrupted = true;
            return Ok(None);
        }
        let loss = sum.mean();
        if loss.is_finite() {
            let seconds = start.elapsed().as_secs_f64() - (self.rests.rested() - rested);
            return Ok(Some(Evaluation::of(sum, valid.stats().tokens, seconds)));
        }
        if step == 0 {
            self.job.base.file().check_finite()?;
            let path = self.job.settings.model.clone();
            return Err(TrainError::LossNotFinite { path, loss });
        }
        // The update to come goes back: how often is measured changes no result.
        tracing::warn!(step, loss, "held-out loss is no number");
        Ok(None)
    }

    /// Saves what was learned, and sums the run up but for what the plan and the
    /// ledger know.
    pub(super) fn finish(&mut self, trainer: &mut Trainer<'_, '_>) -> Result<(), TrainError> {
        if self.summary.steps > 0 && !self.save(trainer)? {
            let (step, lr) = (self.summary.steps, self.job.settings.lr * self.lr_factor);
            return Err(TrainError::Diverged { step, loss: f64::NAN, lr });
        }
        let total = self.log.seconds();
        let summary = &mut self.summary;
        summary.seconds_per_step_median = self.log.median();
        summary.tokens_per_second = (total > 0.0).then(|| summary.tokens as f64 / total);
        self.shown.meter.read(true);
        summary.energy_joules = self.shown.meter.joules();
        summary.energy_source = self.shown.meter.source().map(str::to_owned);
        summary.seconds_rested = self.rests.rested();
        summary.seconds_paused = self.rests.paused();
        summary.mapped_bytes = self.mapped;
        summary.storage_read_bytes =
            storage_read().zip(self.read_before).map(|(after, before)| after - before);
        summary.rss_anon_peak_bytes = self.watch.peak();
        summary.rss_peak_bytes = memory_now().peak_bytes;
        Ok(())
    }

    /// What is left to tell when it is done.
    pub(super) fn into_told(self) -> (Settings, Summary, Log, Vec<HeldOut>, Times) {
        let Self { resolved, summary, log, evaluations, shown, .. } = self;
        (resolved, summary, log, evaluations.into_items(), shown.timing.finish())
    }
}
