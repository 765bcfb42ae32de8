//! The whole jobs: plan a run, or plan it and run it.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use lowtide_adapter::Registry;
use lowtide_backend::Backend;
use lowtide_data::order::permutation;
use lowtide_formats::atomic;
use lowtide_memory::{Budget, Ledger};
use lowtide_optim::{Schedule, StepHyper};
use lowtide_runtime::registry;

use crate::adapter_io::{adapter_bytes, settle};
use crate::board::Board;
use crate::control::{Control, Rests};
use crate::energy::Meter;
use crate::job::{Job, Planned};
use crate::log::Log;
use crate::metrics::{by_name, file};
use crate::ranks;
use crate::report::{self, HeldOut, Notes};
use crate::rss::{Watch, storage_read};
use crate::samples;
use crate::sensitivity::probe;
use crate::start::ready;
use crate::thin::Thinned;
use crate::timing::Timing;
use crate::{
    DataReport, Evaluation, Event, Phase, PlanReport, RanksLeft, SensitivityReport, Settings,
    SettingsError, StepReport, Summary, TrainError, Trainer, memory_now, save_adapter,
};

/// Everything of a run but the run: what the data is, and which plan was chosen.
///
/// # Errors
/// As [`finetune`], [`TrainError::NoPlanFits`] included.
pub fn plan(
    settings: &Settings,
    be: &dyn Backend<f32>,
    threads: usize,
) -> Result<(DataReport, PlanReport), TrainError> {
    let methods = registry();
    let mut job = Job::open(settings, &methods, be)?;
    job.settle_ranks(&methods, be, &mut |_, _| ())?;
    let model = job.build(&methods)?;
    let neighbours = job.neighbours(&model, be, &mut |_, _| ())?;
    let planned = job.plan(&model, be, threads, neighbours.as_ref())?;
    Ok((job.data.report.clone(), planned.report))
}

/// What the gradients of a few batches say of the sites of a run, before it is run; `tell` hears
/// how many batches are done, of how many.
///
/// # Errors
/// As [`plan`], and when the gradients do not fit the memory budget or are not finite, or there is
/// an adapter to start from.
pub fn sensitivity(
    settings: &Settings,
    be: &dyn Backend<f32>,
    tell: &mut dyn FnMut(usize, usize),
) -> Result<SensitivityReport, TrainError> {
    if let Some(path) = &settings.init_adapter {
        // It has its sites already, and what its parameters promise is not what new ones would.
        let expected = "none beside a profile, which is of a new adapter";
        let found = path.display().to_string();
        return Err(SettingsError::BadValue { field: "init-adapter", found, expected }.into());
    }
    let methods = registry();
    let job = Job::open(settings, &methods, be)?;
    probe(&job, &job.build(&methods)?, be, tell)
}

/// Trains an adapter as `settings` say and writes it to their output folder. `be` computes in the
/// caller's thread pool; `threads` is for the reports.
///
/// # Errors
/// [`TrainError`] naming the file or the setting at fault. Unless a save was already made, the
/// output folder is then as it was.
pub fn finetune(
    settings: &Settings,
    be: &dyn Backend<f32>,
    threads: usize,
    on_event: &mut dyn FnMut(&Event),
) -> Result<Summary, TrainError> {
    finetune_until(settings, be, threads, on_event, &AtomicBool::new(false))
}

/// As [`finetune`], until `control` stops it: then the update under way is completed, what was
/// learned is saved, and the summary says that the run was interrupted. Before the first update
/// there is nothing to save, and nothing is written. A flag alone is a control, too.
///
/// # Errors
/// As [`finetune`].
pub fn finetune_until<'c>(
    settings: &Settings,
    be: &dyn Backend<f32>,
    threads: usize,
    on_event: &mut dyn FnMut(&Event),
    control: impl Into<Control<'c>>,
) -> Result<Summary, TrainError> {
    finetune_with(&registry(), settings, be, threads, on_event, control)
}

/// As [`finetune_until`], where `settings.method` is a name among `methods`: the place for methods
/// that do not come with Lowtide, beside [`registry`] or instead of it.
///
/// # Errors
/// As [`finetune`].
pub fn finetune_with<'c>(
    methods: &Registry<f32>,
    settings: &Settings,
    be: &dyn Backend<f32>,
    threads: usize,
    on_event: &mut dyn FnMut(&Event),
    control: impl Into<Control<'c>>,
) -> Result<Summary, TrainError> {
    run(methods, settings, be, threads, on_event, control.into())
}

fn run(
    methods: &Registry<f32>,
    settings: &Settings,
    be: &dyn Backend<f32>,
    threads: usize,
    on_event: &mut dyn FnMut(&Event),
    control: Control<'_>,
) -> Result<Summary, TrainError> {
    let mut job = Job::open(settings, methods, be)?;
    on_event(&Event::Data(job.data.report.clone()));
    job.settle_ranks(methods, be, &mut |done, total| {
        on_event(&Event::Progress { phase: Phase::Probes, done, total });
    })?;
    if let Some(report) = &job.sensitivity {
        on_event(&Event::Sensitivity(Box::new(report.clone())));
    }
    // What probing held is told apart.
    let watch = Watch::start();
    let model = job.build(methods)?;
    let neighbours = job.neighbours(&model, be, &mut |done, total| {
        on_event(&Event::Progress { phase: Phase::Neighbours, done, total });
    })?;
    let Planned { plan, clip, optimizer, report } =
        job.plan(&model, be, threads, neighbours.as_ref())?;
    on_event(&Event::Plan(Box::new(report.clone())));
    let course = report::course(&plan.timeline());
    tracing::debug!(
        policy = report.policy,
        store = report.store,
        tile_rows = report.tile_rows,
        clipping = report.clipping,
        bytes = report.planned_peak_bytes,
        "plan chosen"
    );

    let timing = Timing::new(model.program.segments.len(), settings.trace.as_deref())?;
    let mut ledger = Ledger::new(report.memory_budget.map_or(Budget::UNLIMITED, Budget::of));
    let planned = Planned { plan, clip, optimizer, report: report.clone() };
    let (mut trainer, streams) =
        ready(&job, &model, be, planned, neighbours.as_ref(), &mut ledger)?;
    trainer.set_observer(timing.observer());
    let mut run = Run {
        timing,
        meter: Meter::of_system(),
        board: settings.tensorboard.as_deref().map(Board::new),
        job: &job,
        resolved: resolved(&job, &report),
        sequences: report.micro_batch,
        control,
        rests: Rests::new(settings, control),
        watch: &watch,
        on_event,
        summary: Summary { stream_weights: streams, mlock: settings.mlock, ..Summary::default() },
        read_before: storage_read(),
        log: Log::new()?,
        evaluations: Thinned::new(report::UPDATES_MAX),
        held: ledger.live().held(),
        mapped: report.mapped_bytes,
        gradient: report.gradient,
    };
    run.train(&mut trainer, report.steps)?;
    run.finish(&mut trainer)?;
    let Run { resolved, mut summary, log, evaluations, timing, .. } = run;
    trainer.release(&mut ledger);

    summary.peak_bytes = ledger.peak();
    summary.peak_by_category = report::named(by_name(ledger.at_peak()));
    summary.threads = threads;
    as_planned(&mut summary, &report);
    if summary.steps > 0 {
        let evaluations = evaluations.into_items();
        let times = timing.finish();
        let mut notes = Notes { course, evaluations, times, ..notes(&report, &summary) };
        // First without samples, which take a while: what is done is told whatever comes of them.
        tell(&settings.output, &resolved, &summary, &notes, &log)?;
        match samples::take(settings, job.data.valid.as_ref(), be, control.stop, on_event) {
            Ok(samples) => notes.samples = samples,
            Err(error) => tracing::warn!(%error, "the report goes without samples"),
        }
        if !notes.samples.is_empty() {
            tell(&settings.output, &resolved, &summary, &notes, &log)?;
        }
    }
    on_event(&Event::Done(Box::new(summary.clone())));
    Ok(summary)
}

/// The settings with nothing left to choose.
fn resolved(job: &Job<'_>, plan: &PlanReport) -> Settings {
    let settings = job.settings;
    let warmup_steps = settings.warmup_steps.unwrap_or(plan.steps.saturating_mul(3) / 100);
    let clipping = match plan.clipping {
        "off" => settings.clipping.clone(),
        way => way.to_owned(),
    };
    let (checkpointing, checkpoint_store) = match plan.gradient {
        // There is no policy to name.
        "mezo" => (settings.checkpointing.clone(), settings.checkpoint_store.clone()),
        _ => (plan.policy.clone(), plan.store.to_owned()),
    };
    let micro_batch = match plan.micro_batch {
        all if all == settings.batch_size => "all".into(),
        some => some.to_string(),
    };
    let mut resolved = Settings {
        warmup_steps: Some(warmup_steps),
        micro_batch,
        target_modules: job.target_modules.clone(),
        optimizer: plan.optimizer.clone(),
        clipping,
        checkpointing,
        checkpoint_store,
        tile_rows: plan.tile_rows.map_or_else(|| "all".into(), |rows| rows.to_string()),
        compute: plan.compute.to_owned(),
        ..settings.clone()
    };
    resolved.method_option.clone_from(&job.config.options);
    resolved.set_patterns(&job.patterns);
    // The ranks that it chose are among the patterns.
    resolved.adapter_budget = None;
    resolved
}

/// Takes over what the plan settled.
fn as_planned(summary: &mut Summary, plan: &PlanReport) {
    summary.planned_peak_bytes = plan.planned_peak_bytes;
    summary.backend.clone_from(&plan.backend);
    summary.precision = plan.precision.into();
    summary.compute = plan.compute.into();
    summary.gradient = plan.gradient.into();
    summary.softmax.clone_from(&plan.softmax);
    summary.sliding_window = plan.sliding_window;
    summary.policy.clone_from(&plan.policy);
    summary.store = plan.store.into();
    summary.tile_rows = plan.tile_rows;
    summary.clipping = plan.clipping.into();
    summary.micro_batch = plan.micro_batch;
    summary.optimizer.clone_from(&plan.optimizer);
    summary.packing_overhead = plan.packing_overhead;
    summary.trainable_parameters = plan.trainable_parameters;
}

/// What only the plan knows.
fn notes(plan: &PlanReport, summary: &Summary) -> Notes {
    let ended = SystemTime::now().duration_since(UNIX_EPOCH).ok();
    Notes {
        version: env!("CARGO_PKG_VERSION").into(),
        ended: ended.map(|since| since.as_secs()),
        interrupted: summary.interrupted,
        architecture: plan.architecture.clone(),
        sites: plan.sites,
        memory_budget: plan.memory_budget,
        planned: report::named(plan.peak_by_category.clone()),
        ..Notes::default()
    }
}

/// Writes `summary.json` and `report.html`.
fn tell(
    output: &Path,
    settings: &Settings,
    summary: &Summary,
    notes: &Notes,
    log: &Log,
) -> Result<(), TrainError> {
    atomic::write_file(&file(output, "summary.json"), |out| {
        serde_json::to_writer_pretty(&mut *out, summary)?;
        out.write_all(b"\n")
    })?;
    let path = file(output, "metrics.jsonl");
    let updates = report::updates(log.lines()?, &path)?;
    let (folder, settings) = (output.to_owned(), settings.clone());
    let (summary, notes) = (summary.clone(), notes.clone());
    let run = report::Run { folder, settings, summary, updates, notes };
    Ok(report::write(&file(output, report::FILE), &report::page(&run))?)
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

/// A run under way.
struct Run<'r> {
    timing: Timing,
    meter: Meter,
    board: Option<Board>,
    job: &'r Job<'r>,
    /// The settings with nothing left to choose.
    resolved: Settings,
    /// Computed at once.
    sequences: usize,
    control: Control<'r>,
    rests: Rests<'r>,
    watch: &'r Watch,
    on_event: &'r mut dyn FnMut(&Event),
    summary: Summary,
    log: Log,
    evaluations: Thinned<HeldOut>,
    /// Bytes that the process had read from storage when the run began.
    read_before: Option<u64>,
    held: u64,
    mapped: u64,
    gradient: &'static str,
}

impl Run<'_> {
    fn train(&mut self, trainer: &mut Trainer<'_, '_>, steps: u64) -> Result<(), TrainError> {
        let settings = self.job.settings;
        self.summary.eval_loss_before = self.evaluate(trainer, 0)?;
        self.compare_softmax(trainer)?;
        let warmup_steps = self.resolved.warmup_steps.unwrap_or(0);
        let schedule = Schedule { kind: settings.schedule_kind()?, lr: settings.lr, warmup_steps };
        for step in 1..=steps {
            self.wait(trainer, step - 1)?;
            if self.control.stopped() {
                self.summary.interrupted = true;
                return Ok(());
            }
            let lr = schedule.lr(step - 1, steps);
            self.step(trainer, step, steps, lr)?;
            let every = |n: u64| n > 0 && step.is_multiple_of(n) && step < steps;
            if every(settings.eval_every) {
                self.evaluate(trainer, step)?;
            }
            if every(settings.save_every) {
                self.save(trainer, step)?;
            }
        }
        // What is measured is what is saved.
        let (hyper, sites) = (self.job.base.file().hyper(), &trainer.model().sites);
        let (codes, r#type) = (self.job.codes(), settings.adapter_type()?);
        settle(hyper, sites, codes, r#type, &mut trainer.values_mut());
        self.summary.eval_loss_after = self.evaluate(trainer, steps)?;
        if self.job.data.valid.is_none() {
            // Nobody else looks at the model after its last update.
            let loss = trainer.loss_of(&self.job.data.train, 0)?.mean();
            if !loss.is_finite() {
                return Err(TrainError::Diverged { step: steps, loss, lr: settings.lr });
            }
        }
        Ok(())
    }

    fn step(
        &mut self,
        trainer: &mut Trainer<'_, '_>,
        step: u64,
        steps: u64,
        lr: f64,
    ) -> Result<(), TrainError> {
        let (job, settings) = (self.job, self.job.settings);
        let data = &job.data.train;
        let (epoch, within) =
            ((step - 1) / job.steps_per_epoch(), (step - 1) % job.steps_per_epoch());
        let order = permutation(data.len(), settings.seed, epoch);
        let per_update = settings.per_update();
        let first = within as usize * per_update;
        let positions = first..(first + per_update).min(data.len());
        let mut labelled = 0;
        for position in positions.clone() {
            labelled += data.sequence(order.at(position))?.labelled;
        }
        let report =
            step == 1 || step == steps || step.is_multiple_of(settings.report_every.max(1));
        // The first update reads what the others find in memory.
        self.timing.begin(report && (step > 1 || steps == 1));
        let start = Instant::now();
        let sequences = positions.map(|position| order.at(position));
        let hyper = StepHyper { lr, step, grad_scale: 1.0 };
        let update = trainer.update(data, sequences, self.sequences, labelled, hyper)?;
        let seconds = start.elapsed().as_secs_f64();
        self.timing.end(step);
        self.meter.read(true);
        self.watch.look();
        let loss = update.sum.mean();
        if !loss.is_finite() || update.non_finite > 0 {
            // A weight that is not a number is the base's fault, anything else the run's.
            job.base.file().check_finite()?;
            return Err(TrainError::Diverged { step, loss, lr });
        }
        let (tokens, grad_norm) = (update.tokens, update.grad_norm);
        let held_bytes = self.held;
        let gradient = self.gradient;
        let line = StepReport {
            step,
            steps,
            loss,
            lr,
            grad_norm,
            tokens,
            seconds,
            held_bytes,
            pairs: trainer.pairs_left(),
            gradient,
            report,
        };
        self.log.time(seconds);
        self.summary.steps = step;
        self.summary.tokens += tokens;
        self.summary.labelled_tokens += update.sum.labelled as u64;
        self.summary.loss_first.get_or_insert(loss);
        self.summary.loss_last = Some(loss);
        if report {
            self.log.write(&line)?;
            if let Some(board) = &mut self.board {
                let epochs = step as f64 / job.steps_per_epoch() as f64;
                board.update(&line, epochs, self.watch.peak());
            }
        }
        (self.on_event)(&Event::Step(line));
        Ok(())
    }

    /// Rests, and pauses while it is asked to, after so many updates.
    fn wait(&mut self, trainer: &mut Trainer<'_, '_>, step: u64) -> Result<(), TrainError> {
        self.rests.rest();
        let Some(cause) = self.rests.cause() else { return Ok(()) };
        if step > 0 {
            // Whatever ends a process in its sleep then takes nothing away.
            self.save(trainer, step)?;
        }
        (self.on_event)(&Event::Paused { step, cause });
        self.watch.doze(true);
        self.meter.read(true);
        let seconds = self.rests.pause();
        self.meter.read(false);
        self.watch.doze(false);
        if !self.control.stopped() {
            (self.on_event)(&Event::Resumed { step, seconds });
        }
        Ok(())
    }

    /// Tells how far an approximate softmax is from the exact one on the first micro-batch.
    fn compare_softmax(&mut self, trainer: &mut Trainer<'_, '_>) -> Result<(), TrainError> {
        let (data, settings) = (&self.job.data.train, self.job.settings);
        let order = permutation(data.len(), settings.seed, 0);
        let first = (0..self.sequences.min(data.len())).map(|position| order.at(position));
        let Some(error) = trainer.softmax_error(data, first)? else { return Ok(()) };
        self.summary.softmax_error = Some(error);
        (self.on_event)(&Event::Softmax(error));
        Ok(())
    }

    /// Held-out loss, if there is held-out data.
    fn evaluate(
        &mut self,
        trainer: &mut Trainer<'_, '_>,
        step: u64,
    ) -> Result<Option<f64>, TrainError> {
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
        if !sum.loss.is_finite() {
            self.job.base.file().check_finite()?;
            let (path, lr) = (self.job.settings.model.clone(), self.job.settings.lr);
            if step > 0 {
                return Err(TrainError::Diverged { step, loss: sum.mean(), lr });
            }
            return Err(TrainError::LossNotFinite { path, loss: sum.mean() });
        }
        let seconds = start.elapsed().as_secs_f64() - (self.rests.rested() - rested);
        let result = Evaluation::of(sum, valid.stats().tokens, seconds);
        self.evaluations.push(HeldOut { step, loss: result.loss });
        if let Some(board) = &mut self.board {
            board.evaluation(step, &result);
        }
        (self.on_event)(&Event::Evaluation { step, result });
        Ok(Some(result.loss))
    }

    fn save(&mut self, trainer: &mut Trainer<'_, '_>, step: u64) -> Result<(), TrainError> {
        let job = self.job;
        let output = &job.settings.output;
        if !trainer.is_finite() {
            let loss = self.summary.loss_last.unwrap_or(f64::NAN);
            return Err(TrainError::Diverged { step, loss, lr: job.settings.lr });
        }
        self.summary.adapter_bytes = save_compacted(job, trainer)?;
        self.summary.ranks = trainer.ranks_left().map(|ranks| RanksLeft::of(&ranks));
        let config = self.resolved.to_toml();
        atomic::write_file(&file(output, "config.toml"), |out| out.write_all(config.as_bytes()))?;
        atomic::write_file(&file(output, "metrics.jsonl"), |out| self.log.copy_to(out))?;
        tracing::debug!(step, path = %output.display(), "saved");
        (self.on_event)(&Event::Saved { step, path: output.clone() });
        Ok(())
    }

    /// Saves, and sums the run up but for what the plan and the ledger know.
    fn finish(&mut self, trainer: &mut Trainer<'_, '_>) -> Result<(), TrainError> {
        if self.summary.steps > 0 {
            self.save(trainer, self.summary.steps)?;
        }
        let total = self.log.seconds();
        let summary = &mut self.summary;
        summary.seconds_per_step_median = self.log.median();
        summary.tokens_per_second = (total > 0.0).then(|| summary.tokens as f64 / total);
        self.meter.read(true);
        summary.energy_joules = self.meter.joules();
        summary.energy_source = self.meter.source().map(str::to_owned);
        summary.seconds_rested = self.rests.rested();
        summary.seconds_paused = self.rests.paused();
        summary.mapped_bytes = self.mapped;
        summary.storage_read_bytes =
            storage_read().zip(self.read_before).map(|(after, before)| after - before);
        summary.rss_anon_peak_bytes = self.watch.peak();
        summary.rss_peak_bytes = memory_now().peak_bytes;
        Ok(())
    }
}
