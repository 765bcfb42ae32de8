//! `lowtide plan`: everything but the run.

use lowtide::Settings;
use lowtide::train::{DataReport, Phase, PlanReport, SensitivityReport};
use serde::Serialize;

use super::args::PlanArgs;
use super::config::Resolved;
use super::console::Console;
use super::failure::Failure;
use super::machine::Machine;
use super::{config, inputs, show};

/// What `--json` prints: the plan's fields, and the data.
#[derive(Serialize)]
struct Planned<'a> {
    #[serde(flatten)]
    plan: &'a PlanReport,
    data: &'a DataReport,
    /// Absent unless it was asked for.
    #[serde(skip_serializing_if = "Option::is_none", rename = "profile")]
    sensitivity: Option<&'a Profile>,
}

/// What `--sensitivity` adds.
#[derive(Serialize)]
struct Profile {
    #[serde(flatten)]
    report: SensitivityReport,
    /// The plan of a run with the proposal; absent where ranks were chosen for a budget.
    #[serde(skip_serializing_if = "Option::is_none")]
    proposed_plan: Option<PlanReport>,
}

/// Runs `lowtide plan`.
pub(crate) fn run(args: &PlanArgs) -> Result<(), Failure> {
    let voice = args.run.voice;
    let resolved = config::resolve(&args.run).map_err(|error| Failure::Files(error.into()))?;
    let Resolved { settings, machine, .. } = resolved;
    inputs::check_all(&settings, voice)?;
    let machine = Machine::start(machine, &settings)?;
    let mut console = Console::new(voice);
    let planned = machine.run(|backend, threads| lowtide::plan(&settings, backend, threads));
    let (data, plan) = planned.map_err(|error| Failure::training(error, &settings))?;
    let profile = match args.sensitivity {
        true => Some(profile(&settings, &plan, &machine, &mut console)?),
        false => None,
    };
    console.json(&Planned { plan: &plan, data: &data, sensitivity: profile.as_ref() });
    let coloured = console.coloured();
    console.text(&show::data::data(&data, settings.max_seq_len, coloured));
    console.text(&format!("\n{}", show::plan::plan(&plan)));
    let report = profile.as_ref().map(|profile| &profile.report).or(plan.sensitivity.as_ref());
    if let Some(report) = report {
        console.text(&format!("\n{}", show::sensitivity::sensitivity(report)));
    }
    let proposes = |profile: &&Profile| profile.report.proposal.freezes();
    let profile = profile.as_ref().filter(proposes);
    if let Some(proposed) = profile.and_then(|profile| profile.proposed_plan.as_ref()) {
        console.text(&format!("\n{}", show::sensitivity::saved(&plan, proposed)));
    }
    Ok(console.finish()?)
}

fn profile(
    settings: &Settings,
    plan: &PlanReport,
    machine: &Machine,
    console: &mut Console,
) -> Result<Profile, Failure> {
    if let Some(report) = &plan.sensitivity {
        return Ok(Profile { report: report.clone(), proposed_plan: None });
    }
    let profiled = machine.run(|backend, threads| {
        let report = lowtide::train::sensitivity(settings, backend, &mut |done, total| {
            let words = show::evaluation::progress(Phase::Probes, done, total);
            console.advance(done as u64, total as u64, words, String::new());
        })?;
        let proposed = Settings {
            layers: report.proposal.layers.clone(),
            target_modules: report.proposal.target_modules.clone(),
            ..settings.clone()
        };
        let (_, plan) = lowtide::plan(&proposed, backend, threads)?;
        Ok(Profile { report, proposed_plan: Some(plan) })
    });
    console.settle();
    profiled.map_err(|error| Failure::training(error, settings))
}
