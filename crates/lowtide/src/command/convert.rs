//! `lowtide convert`: a base from one kind of file into another.

use std::path::PathBuf;

use clap::Args;
use clap::builder::PossibleValuesParser;
use lowtide::convert::{Event, Kind, Settings};
use lowtide::hub;
use lowtide::train::{SettingsError, parse_bytes};

use super::args::{MachineFlags, Voice};
use super::console::Console;
use super::failure::Failure;
use super::flags::size;
use super::machine::Machine;
use super::show::number;
use super::{inputs, show};

/// `lowtide convert`.
#[derive(Debug, Args)]
pub(crate) struct ConvertArgs {
    /// Base: a Hugging Face folder, a .gguf file, or a hub id such as org/name
    #[arg(long, short, value_name = "PATH", help_heading = "Input and output")]
    model: PathBuf,
    /// What to write: a name that ends in .gguf, or a folder
    #[arg(long, short, value_name = "PATH", help_heading = "Input and output")]
    output: PathBuf,
    /// Replace an output that is there already
    #[arg(long, help_heading = "Input and output")]
    overwrite: bool,
    /// Type of the weights; folders take f32, f16 and bf16 [default: as the source has them]
    #[arg(long = "type", alias = "outtype", value_name = "TYPE", help_heading = "Weights")]
    #[arg(ignore_case = true)]
    #[arg(value_parser = PossibleValuesParser::new(Kind::ALL.map(Kind::name)))]
    kind: Option<String>,
    /// Largest file of weights in a folder; above it they are cut into several
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "5GB")]
    #[arg(help_heading = "Weights")]
    max_shard_size: String,
    /// Heap that may be held
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "64MiB")]
    #[arg(help_heading = "Memory")]
    memory_budget: String,
    #[command(flatten)]
    machine: MachineFlags,
    #[command(flatten)]
    pub(crate) voice: Voice,
}

/// Runs `lowtide convert`.
pub(crate) fn run(args: &ConvertArgs) -> Result<(), Failure> {
    let settings = settings(args)?;
    inputs::base("model", &args.model, args.voice)?;
    let source = hub::locate(&args.model).map_err(|error| Failure::Hub { flag: "model", error })?;
    let settings = Settings { source, ..settings };
    let machine = Machine::start(args.machine)?;
    let mut console = Console::new(args.voice);
    let done = machine.run(|_, _| {
        let done = lowtide::convert::convert(&settings, &mut |event| tell(event, &mut console));
        done.map_err(Box::new)
    });
    console.settle();
    let report = done.map_err(Failure::Conversion)?;
    console.json(&report);
    console.text(&show::conversion::report(&report));
    Ok(console.finish()?)
}

fn settings(args: &ConvertArgs) -> Result<Settings, SettingsError> {
    let kind = args.kind.as_deref().map(|name| name.parse().expect("one of the names listed"));
    Ok(Settings {
        source: PathBuf::new(),
        output: args.output.clone(),
        kind,
        memory_budget: parse_bytes(&args.memory_budget)?,
        shard_bytes: parse_bytes(&args.max_shard_size)?,
        overwrite: args.overwrite,
    })
}

fn tell(event: Event<'_>, console: &mut Console) {
    let Event { tensor, done, total } = event;
    let share = number::percent(done as f64, total as f64);
    console.advance(done, total, format!("converting {share}"), tensor.to_owned());
}
