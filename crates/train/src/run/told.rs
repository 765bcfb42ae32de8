//! What a run says about itself once it is planned, and once it is done.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use lowtide_formats::atomic;

use crate::job::Job;
use crate::log::{Log, UPDATES};
use crate::metrics::file;
use crate::report::{self, Notes};
use crate::{PlanReport, Settings, Summary, TrainError};

/// The settings with nothing left to choose.
pub(super) fn resolved(job: &Job<'_>, plan: &PlanReport) -> Settings {
    let settings = job.settings;
    let schedule = settings.schedule(plan.steps).expect("settings are checked before a plan");
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
        micro_batch,
        target_modules: job.target_modules.clone(),
        optimizer: plan.optimizer.clone(),
        optimizer_states: plan.optimizer_states.into(),
        clipping,
        checkpointing,
        checkpoint_store,
        tile_rows: plan.tile_rows.map_or_else(|| "all".into(), |rows| rows.to_string()),
        compute: plan.compute.to_owned(),
        ..settings.clone()
    };
    resolved.method_option.clone_from(&job.config.options);
    resolved.set_schedule(&schedule);
    resolved.set_patterns(&job.patterns);
    // The ranks that it chose are among the patterns.
    resolved.adapter_budget = None;
    resolved
}

/// Takes over what the plan settled.
pub(super) fn as_planned(summary: &mut Summary, plan: &PlanReport) {
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
pub(super) fn notes(plan: &PlanReport, summary: &Summary) -> Notes {
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
pub(super) fn tell(
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
    let updates = report::updates(log.updates.read()?, &file(output, UPDATES))?;
    let (folder, settings) = (output.to_owned(), settings.clone());
    let (summary, notes) = (summary.clone(), notes.clone());
    let run = report::Run { folder, settings, summary, updates, notes };
    Ok(report::write(&file(output, report::FILE), &report::page(&run))?)
}
