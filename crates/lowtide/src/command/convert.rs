//! `lowtide convert`: a base or an adapter from one kind of file into another.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::PossibleValuesParser;
use lowtide::convert::{
    AdapterSettings, ConvertError, Event, Kind, LoftqSettings, Settings, is_coded, is_gguf,
};
use lowtide::hub::{self, ModelId};
use lowtide::train::{SettingsError, parse_bytes};

use super::args::Voice;
use super::computing::{ArithmeticFlags, ThreadFlags};
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
    #[arg(required_unless_present = "adapter")]
    model: Option<PathBuf>,
    /// Adapter to convert instead, a folder of PEFT or mlx-lm or a .gguf file; --model is its base
    #[arg(long, short, alias = "adapter-path", value_name = "PATH")]
    #[arg(help_heading = "Input and output")]
    #[arg(conflicts_with_all = ["kind", "max_shard_size", "memory_budget"])]
    adapter: Option<PathBuf>,
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
    /// Folder for an adapter that makes up for a part of what packing loses (LoftQ); needs a
    /// quantized --type
    #[arg(long, value_name = "DIR", help_heading = "LoftQ", requires = "kind")]
    #[arg(conflicts_with = "adapter")]
    loftq: Option<PathBuf>,
    /// Rank of that adapter
    #[arg(long, short, alias = "lora-r", value_name = "RANK", default_value_t = 8)]
    #[arg(help_heading = "LoftQ", requires = "loftq")]
    rank: usize,
    /// How often packing and fitting take turns
    #[arg(long, value_name = "N", default_value = "5", help_heading = "LoftQ")]
    #[arg(requires = "loftq")]
    loftq_steps: NonZeroUsize,
    /// Linears that get a part of it, such as q_proj,v_proj [default: all]
    #[arg(long, value_name = "NAMES", value_delimiter = ',', help_heading = "LoftQ")]
    #[arg(requires = "loftq")]
    target_modules: Vec<String>,
    /// Seed of the search for singular vectors
    #[arg(long, value_name = "SEED", default_value_t = 0, help_heading = "LoftQ")]
    #[arg(requires = "loftq")]
    seed: u64,
    /// Show every matrix
    #[arg(long, help_heading = "LoftQ", requires = "loftq")]
    tensors: bool,
    /// Largest file of weights in a folder; above it they are cut into several
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "5GB")]
    #[arg(help_heading = "Weights")]
    max_shard_size: String,
    /// Heap that may be held
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "64MiB")]
    #[arg(help_heading = "Memory")]
    memory_budget: String,
    #[command(flatten)]
    threads: ThreadFlags,
    #[command(flatten)]
    pub(crate) voice: Voice,
}

/// Runs `lowtide convert`.
pub(crate) fn run(args: &ConvertArgs) -> Result<(), Failure> {
    match (&args.adapter, &args.model) {
        (Some(adapter), _) => run_adapter(args, adapter),
        (None, Some(model)) => run_base(args, model),
        (None, None) => unreachable!("one of the two is required"),
    }
}

fn run_base(args: &ConvertArgs, model: &Path) -> Result<(), Failure> {
    let settings = settings(args)?;
    let source = base(model, args.voice)?;
    let settings = Settings { source, ..settings };
    let machine = Machine::start(args.threads.into(), &ArithmeticFlags::NONE)?;
    let mut console = Console::new(args.voice);
    if let Some(adapter) = &args.loftq {
        let settings = LoftqSettings {
            conversion: settings,
            adapter: adapter.clone(),
            rank: args.rank,
            steps: args.loftq_steps.get(),
            target_modules: args.target_modules.clone(),
            seed: args.seed,
        };
        let done = machine.run(|_, _| {
            lowtide::convert::loftq(&settings, &mut |event| tell("fitting", event, &mut console))
                .map_err(Box::new)
        });
        console.settle();
        let report = done.map_err(Failure::Conversion)?;
        console.json(&report);
        console.text(&show::conversion::loftq(&report, args.tensors));
        return Ok(console.finish()?);
    }
    let done = machine.run(|_, _| {
        let done = lowtide::convert::convert(&settings, &mut |event| {
            tell("converting", event, &mut console);
        });
        done.map_err(Box::new)
    });
    console.settle();
    let report = done.map_err(Failure::Conversion)?;
    console.json(&report);
    console.text(&show::conversion::report(&report));
    Ok(console.finish()?)
}

fn run_adapter(args: &ConvertArgs, adapter: &Path) -> Result<(), Failure> {
    inputs::check_adapter("adapter", adapter)?;
    // To decode takes no base.
    let decodes = !is_gguf(&args.output) && is_coded(adapter).map_err(conversion)?;
    let model = match &args.model {
        Some(model) => model.clone(),
        None if decodes => PathBuf::new(),
        None => named_base(adapter)?,
    };
    let settings = AdapterSettings {
        source: adapter.to_owned(),
        base: if decodes { PathBuf::new() } else { base(&model, args.voice)? },
        base_name: model.display().to_string(),
        output: args.output.clone(),
        overwrite: args.overwrite,
    };
    let report = lowtide::convert::convert_adapter(&settings).map_err(conversion)?;
    let mut console = Console::new(args.voice);
    console.json(&report);
    console.text(&show::conversion::adapter(&report));
    Ok(console.finish()?)
}

/// The base that an adapter names, if it is on this machine: nothing is downloaded unasked.
fn named_base(adapter: &Path) -> Result<PathBuf, Failure> {
    let named = lowtide::convert::named_base(adapter).map_err(conversion)?;
    let here = |name: &String| match ModelId::of_missing(name.as_ref()) {
        Some(_) => hub::locate(name.as_ref()).is_ok(),
        None => Path::new(name).exists(),
    };
    if let Some(name) = named.as_ref().filter(|name| here(name)) {
        return Ok(name.into());
    }
    let names = match named {
        Some(name) => format!("it names {name:?}, which is not on this machine"),
        None => "it names none".to_owned(),
    };
    let reason = format!(
        "the order of rows in GGUF depends on the base: {names}\nuse --model to say where it is"
    );
    Err(Failure::Input { flag: "adapter", path: adapter.to_owned(), reason })
}

/// Where a base lies that is named by a flag.
fn base(model: &Path, voice: Voice) -> Result<PathBuf, Failure> {
    inputs::base("model", model, voice)?;
    hub::locate(model).map_err(|error| Failure::Hub { flag: "model", error })
}

fn conversion(error: ConvertError) -> Failure {
    Failure::Conversion(Box::new(error))
}

fn settings(args: &ConvertArgs) -> Result<Settings, SettingsError> {
    let kind = args.kind.as_deref().map(|name| name.parse().expect("one of the names listed"));
    Ok(Settings {
        source: PathBuf::new(),
        output: args.output.clone(),
        kind,
        memory_budget: parse_bytes(&args.memory_budget)?,
        shard_bytes: shard_bytes(&args.max_shard_size)?,
        overwrite: args.overwrite,
    })
}

/// The size of the largest file of weights.
pub(crate) fn shard_bytes(size: &str) -> Result<u64, SettingsError> {
    match parse_bytes(size)? {
        0 => {
            let (field, expected) = ("max-shard-size", "a size above 0: a file holds a tensor");
            Err(SettingsError::BadValue { field, found: size.to_owned(), expected })
        }
        bytes => Ok(bytes),
    }
}

/// Moves the live line of what is being done to the tensors of a base.
pub(crate) fn tell(doing: &str, event: Event<'_>, console: &mut Console) {
    let Event { tensor, done, total } = event;
    let share = number::percent(done as f64, total as f64);
    console.advance(done, total, format!("{doing} {share}"), tensor.to_owned());
}
