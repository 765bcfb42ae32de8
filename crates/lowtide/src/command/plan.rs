//! `lowtide plan`: everything but the run.

use lowtide::train::{DataReport, PlanReport};
use serde::Serialize;

use super::args::RunArgs;
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
}

/// Runs `lowtide plan`.
pub(crate) fn run(args: &RunArgs) -> Result<(), Failure> {
    let (settings, machine) = config::resolve(args)?;
    inputs::check_all(&settings, args.voice)?;
    let machine = Machine::start(machine, &settings)?;
    let mut console = Console::new(args.voice);
    let planned = machine.run(|backend, threads| lowtide::plan(&settings, backend, threads));
    let (data, plan) = planned.map_err(|error| Failure::training(error, &settings))?;
    console.json(&Planned { plan: &plan, data: &data });
    let coloured = console.coloured();
    console.text(&show::data::data(&data, settings.max_seq_len, coloured));
    console.text(&format!("\n{}", show::plan::plan(&plan)));
    Ok(console.finish()?)
}
