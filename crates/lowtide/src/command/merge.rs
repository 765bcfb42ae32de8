//! `lowtide merge`: an adapter folded into its base.

use std::path::PathBuf;

use clap::Args;
use clap::builder::PossibleValuesParser;
use lowtide::convert::{Event as ConvertEvent, Kind};
use lowtide::runtime::{MergeReport, MergeSettings, RuntimeError, registry};
use lowtide::train::{SettingsError, StreamWeights, evaluate_telling, parse_bytes};
use lowtide::{EvalSettings, Evaluation, Event};
use serde::Serialize;

use super::args::{MaskFlags, PackingFlags, Voice};
use super::computing::{ArithmeticFlags, MachineFlags};
use super::console::Console;
use super::failure::Failure;
use super::flags::size;
use super::machine::Machine;
use super::{convert, eval, inputs, show};

/// `lowtide merge`.
#[derive(Debug, Args)]
pub(crate) struct MergeArgs {
    /// Base: a Hugging Face folder, a .gguf file, or a hub id such as org/name
    #[arg(long, short, value_name = "PATH", help_heading = "Input and output")]
    model: PathBuf,
    /// Adapter: a folder of PEFT or mlx-lm, or a .gguf file
    #[arg(long, short, alias = "adapter-path", value_name = "PATH")]
    #[arg(help_heading = "Input and output")]
    adapter: PathBuf,
    /// What to write: a name that ends in .gguf, or a folder
    #[arg(long, short, value_name = "PATH", help_heading = "Input and output")]
    output: PathBuf,
    /// Replace an output that is there already
    #[arg(long, help_heading = "Input and output")]
    overwrite: bool,
    /// Type of the weights; folders take f32, f16 and bf16 [default: in a .gguf file the base's
    /// own, in a folder the smallest type of floats that holds the base]
    #[arg(long = "type", alias = "outtype", value_name = "TYPE", help_heading = "Weights")]
    #[arg(ignore_case = true)]
    #[arg(value_parser = PossibleValuesParser::new(Kind::ALL.map(Kind::name)))]
    kind: Option<String>,
    /// Largest file of weights in a folder; above it they are cut into several
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "5GB")]
    #[arg(help_heading = "Weights")]
    max_shard_size: String,
    /// Show what became of every tensor that is adapted
    #[arg(long, help_heading = "Weights")]
    tensors: bool,
    /// Data on which the loss of base and adapter is held against that of the output: a .jsonl or
    /// .txt file, or a folder with test.jsonl, valid.jsonl or train.jsonl
    #[arg(long, short, value_name = "PATH", help_heading = "Comparison")]
    data: Option<PathBuf>,
    /// Tokens of the longest sequence of the data; longer examples are truncated
    #[arg(long, aliases = ["max-seq-length", "max-length"], value_name = "TOKENS")]
    #[arg(default_value_t = 512, help_heading = "Comparison")]
    #[arg(allow_negative_numbers = true)]
    max_seq_len: usize,
    /// Sequences of a batch
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Comparison")]
    #[arg(allow_negative_numbers = true)]
    batch_size: usize,
    #[command(flatten, next_help_heading = "Comparison")]
    packing: PackingFlags,
    #[command(flatten, next_help_heading = "Comparison")]
    mask: MaskFlags,
    /// Heap that merging may hold; the comparison takes what it needs
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "64MiB")]
    #[arg(help_heading = "Memory")]
    memory_budget: String,
    #[command(flatten)]
    machine: MachineFlags,
    #[command(flatten)]
    pub(crate) voice: Voice,
}

/// The loss of a base with its adapter, and of what they were merged into.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Losses {
    pub(crate) adapted: Evaluation,
    pub(crate) merged: Evaluation,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Outcome<'a> {
    #[serde(flatten)]
    report: &'a MergeReport,
    loss: Option<Losses>,
}

/// Runs `lowtide merge`.
pub(crate) fn run(args: &MergeArgs) -> Result<(), Failure> {
    let settings = settings(args)?;
    let measure = measure(args)?;
    inputs::base("model", &args.model, args.voice)?;
    inputs::check_adapter("adapter", &args.adapter)?;
    if let Some(measure) = &measure {
        inputs::check("data", &measure.data)?;
    }
    let machine = Machine::start(args.machine, &ArithmeticFlags::NONE)?;
    let mut console = Console::new(args.voice);
    let done: Result<_, Failure> = machine.run(|backend, _| {
        let loss = |settings: &EvalSettings, console: &mut Console| {
            let mut hear = |event: &Event| eval::tell(event, console);
            let done = evaluate_telling(settings, backend, &mut hear);
            done.map_err(|error| Failure::Evaluation(error.into()))
        };
        // Data that cannot be read is told before anything is written.
        let adapted = measure.as_ref().map(|settings| loss(settings, &mut console));
        let adapted = adapted.transpose()?;
        let mut tell = |event: ConvertEvent<'_>| convert::tell("merging", event, &mut console);
        let report = lowtide::runtime::merge(&settings, &registry(), backend, &mut tell);
        let report = report.map_err(merging)?;
        let Some((adapted, measure)) = adapted.zip(measure) else { return Ok((report, None)) };
        let output = EvalSettings { model: settings.output.clone(), adapter: None, ..measure };
        let merged = loss(&output, &mut console)?;
        Ok((report, Some(Losses { adapted, merged })))
    });
    console.settle();
    let (report, loss) = done?;
    console.json(&Outcome { report: &report, loss });
    console.text(&show::merge::report(&report, args.tensors));
    if let Some(loss) = &loss {
        console.text(&show::merge::losses(loss));
    }
    Ok(console.finish()?)
}

fn settings(args: &MergeArgs) -> Result<MergeSettings, SettingsError> {
    let kind = args.kind.as_deref().map(|name| name.parse().expect("one of the names listed"));
    Ok(MergeSettings {
        model: args.model.clone(),
        adapter: args.adapter.clone(),
        output: args.output.clone(),
        kind,
        memory_budget: parse_bytes(&args.memory_budget)?,
        shard_bytes: convert::shard_bytes(&args.max_shard_size)?,
        overwrite: args.overwrite,
    })
}

/// How base and adapter are measured, if they are.
fn measure(args: &MergeArgs) -> Result<Option<EvalSettings>, SettingsError> {
    eval::check_sizes(args.max_seq_len, args.batch_size)?;
    let Some(data) = args.data.clone() else { return Ok(None) };
    Ok(Some(EvalSettings {
        model: args.model.clone(),
        adapter: Some(args.adapter.clone()),
        data,
        max_seq_len: args.max_seq_len,
        batch_size: args.batch_size,
        packing: args.packing.given().unwrap_or(false),
        mask_prompt: args.mask.given().unwrap_or(true),
        sliding_window: None,
        memory_budget: None,
        stream_weights: StreamWeights::Auto,
    }))
}

fn merging(error: RuntimeError) -> Failure {
    match error {
        RuntimeError::Convert(error) => Failure::Conversion(error),
        other => other.into(),
    }
}
