//! The whole jobs: plan a run, or plan it and run it.

mod best;
mod course;
mod good;
mod saving;
mod shown;
mod spikes;
mod told;
mod watching;

use std::sync::atomic::AtomicBool;

use lowtide_adapter::Registry;
use lowtide_backend::Backend;
use lowtide_memory::{Budget, Ledger};
use lowtide_runtime::registry;

pub(crate) use self::best::Held;
pub(crate) use self::course::Watched;
use self::course::{Around, Course};
use self::shown::Shown;
use crate::control::Control;
use crate::job::{Job, Planned};
use crate::metrics::by_name;
use crate::report::{self, Notes};
use crate::resume::{self, Identity};
use crate::rss::Watch;
use crate::samples;
use crate::sensitivity::probe;
use crate::start::{Ready, ready};
use crate::{
    DataReport, Event, Phase, PlanReport, SensitivityReport, Settings, SettingsError, Summary,
    TrainError,
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
    if let Some(run) = &job.resumed {
        run.check_settings(&told::resolved(&job, &planned.report))?;
    }
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
    let resumed = job.resumed.take();
    let model = job.build(methods)?;
    let neighbours = job.neighbours(&model, be, &mut |done, total| {
        on_event(&Event::Progress { phase: Phase::Neighbours, done, total });
    })?;
    let Planned { plan, clip, optimizer, report } =
        job.plan(&model, be, threads, neighbours.as_ref())?;
    on_event(&Event::Plan(Box::new(report.clone())));
    let course = report::course(&plan.timeline());
    let resolved = told::resolved(&job, &report);
    let identity = Identity::of(&job, &resolved, be)?;
    if let Some(run) = &resumed {
        run.check(&identity, &resolved, report.steps)?;
    }
    resume::tidy_up(&settings.output);
    let shown = Shown::new(settings, model.program.segments.len())?;
    let mut ledger = Ledger::new(report.memory_budget.map_or(Budget::UNLIMITED, Budget::of));
    let planned = Planned { plan, clip, optimizer, report: report.clone() };
    let ready =
        ready(&job, &model, be, planned, neighbours.as_ref(), resumed.as_ref(), &mut ledger)?;
    let Ready { mut trainer, streams, progress } = ready;
    if let Some(run) = &resumed {
        let (step, path) = (progress.step, run.folder().to_owned());
        on_event(&Event::Resumed { step, steps: report.steps, path });
    }
    let held = ledger.live().held();
    trainer.set_observer(shown.timing.observer());
    let around = Around { control, watch: &watch, on_event: &mut *on_event, held, shown };
    let mut run =
        Course::new(&job, (resolved, identity), &report, (resumed.as_ref(), progress), around)?;
    run.keep_states(&mut trainer, resumed.as_ref())?;
    // The file of a save that is about to be replaced: its room on disk is free from then on.
    drop(resumed);
    run.train(&mut trainer)?;
    run.finish(&mut trainer)?;
    let (resolved, mut summary, log, evaluations, times) = run.into_told();
    trainer.release(&mut ledger);

    summary.stream_weights = streams;
    summary.mlock = settings.mlock;
    summary.peak_bytes = ledger.peak();
    summary.peak_by_category = report::named(by_name(ledger.at_peak()));
    summary.threads = threads;
    told::as_planned(&mut summary, &report);
    if summary.steps > 0 {
        let mut notes = Notes { course, evaluations, times, ..told::notes(&report, &summary) };
        // First without samples, which take a while: what is done is told whatever comes of them.
        told::tell(&settings.output, &resolved, &summary, &notes, &log)?;
        match samples::take(settings, job.data.valid.as_ref(), be, control.stop, on_event) {
            Ok(samples) => notes.samples = samples,
            Err(error) => tracing::warn!(%error, "the report goes without samples"),
        }
        if !notes.samples.is_empty() {
            told::tell(&settings.output, &resolved, &summary, &notes, &log)?;
        }
    }
    on_event(&Event::Done(Box::new(summary.clone())));
    Ok(summary)
}
