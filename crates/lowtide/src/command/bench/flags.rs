//! The flags of `lowtide bench`.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, RangedU64ValueParser, TypedValueParser};
use clap::{Args, ValueEnum};
use lowtide::train::Precision;
use lowtide::{Isa, Kernels};

use crate::command::args::Voice;
use crate::command::computing::{BackendName, THREADS};

/// `lowtide bench`.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// What is timed, by commas: single operations, whole steps, generation; or what is held, by
    /// the base, at the settings of published tables, or against held-out loss; or how far
    /// gradients are from exact ones
    #[arg(long, value_enum, value_delimiter = ',', value_name = "LIST")]
    #[arg(default_value = "kernels", help_heading = "What")]
    suite: Vec<Suite>,
    /// Base for step, generate, memory and gradients: as elsewhere, or qwen2.5-0.5b-shape (random
    /// weights); and for tradeoff, methods and tasks, with --data
    #[arg(long, short, value_name = "PATH", help_heading = "What")]
    pub(super) model: Option<PathBuf>,
    /// Examples for tradeoff and methods, with --model; without both, the quickstart's
    #[arg(long, short, value_name = "PATH", help_heading = "What")]
    pub(super) data: Option<PathBuf>,
    /// Learning rate of LoRA in tradeoff, methods and tasks; other methods take a multiple of it
    /// [default: 5e-4, with the quickstart's base 4e-3]
    #[arg(long, alias = "learning-rate", value_name = "RATE", help_heading = "What")]
    pub(super) lr: Option<f64>,
    /// Methods of the suites methods and tasks, such as `lora,ia3` [default: all of methods, four
    /// of tasks]
    #[arg(long, value_delimiter = ',', value_name = "LIST", help_heading = "What")]
    pub(super) methods: Vec<String>,
    /// Updates of each run of tradeoff, methods and tasks [default: 60, quick 20]
    #[arg(long, value_name = "N", help_heading = "What")]
    #[arg(value_parser = RangedU64ValueParser::<u64>::new().range(1..=1_000_000))]
    pub(super) updates: Option<u64>,
    /// Tokens of a step and of a prompt [default: 512, for the shape 256]
    #[arg(long, value_name = "N", help_heading = "What")]
    pub(super) tokens: Option<usize>,
    /// Only operations with this in their names
    #[arg(long, value_name = "TEXT", help_heading = "What")]
    pub(super) filter: Option<String>,
    /// Who takes turns, by commas; ratios are to the first
    #[arg(long, value_enum, value_delimiter = ',', value_name = "LIST")]
    #[arg(default_value = "ndarray,simd", help_heading = "Contenders")]
    pub(super) backend: Vec<BackendName>,
    /// Instruction sets of simd, by commas, or all [default: the quickest]
    #[arg(long, value_delimiter = ',', value_parser = instructions, value_name = "LIST")]
    #[arg(help_heading = "Contenders")]
    pub(super) isa: Vec<Instructions>,
    /// Precisions of simd, by commas
    #[arg(long, value_parser = precisions(), value_delimiter = ',', value_name = "LIST")]
    #[arg(default_value = "exact", help_heading = "Contenders")]
    pub(super) precision: Vec<Precision>,
    /// Numbers of threads, by commas [default: one a core]
    #[arg(long, value_delimiter = ',', value_name = "LIST", help_heading = "Contenders")]
    #[arg(value_parser = RangedU64ValueParser::<u16>::new().range(THREADS))]
    pub(super) threads: Vec<u16>,
    /// Turns that each contender gets [default: 7, quick 3]
    #[arg(long, value_name = "N", help_heading = "Contenders")]
    #[arg(value_parser = RangedU64ValueParser::<u16>::new().range(1..=1000))]
    pub(super) rounds: Option<u16>,
    /// A glance: short turns, few rows, one model's shapes
    #[arg(long, help_heading = "Contenders")]
    pub(super) quick: bool,
    /// Figures of others to put beside ours
    #[arg(long, value_name = "FILE", help_heading = "Input")]
    pub(super) peers: Option<PathBuf>,
    /// Write everything that was found as JSON
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub(super) json: Option<PathBuf>,
    /// Write a page with charts, which loads nothing and runs nothing
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub(super) html: Option<PathBuf>,
    /// Only errors
    #[arg(long, short, help_heading = "Output")]
    quiet: bool,
    /// Trace what happens on standard error
    #[arg(long, short, conflicts_with = "quiet", help_heading = "Output")]
    verbose: bool,
}

impl BenchArgs {
    /// How much is said; here `--json` names a file.
    pub(crate) fn voice(&self) -> Voice {
        Voice { json: false, quiet: self.quiet, verbose: self.verbose }
    }

    /// The suites in the order in which they were asked for, each once.
    pub(super) fn suites(&self) -> Vec<Suite> {
        once(&self.suite)
    }
}

/// The same, each once.
pub(super) fn once<T: PartialEq + Copy>(values: &[T]) -> Vec<T> {
    let mut seen = Vec::new();
    for &value in values {
        if !seen.contains(&value) {
            seen.push(value);
        }
    }
    seen
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Suite {
    Kernels,
    Step,
    Generate,
    Memory,
    Gradients,
    Papers,
    Lars,
    Tradeoff,
    Methods,
    Tasks,
}

impl Suite {
    /// Whether it trains on examples.
    pub(super) fn trains(&self) -> bool {
        matches!(self, Self::Tradeoff | Self::Methods | Self::Tasks)
    }
}

fn precisions() -> impl TypedValueParser<Value = Precision> {
    PossibleValuesParser::new(Precision::ALL.map(Precision::name))
        .map(|name| Precision::by_name(&name).expect("a possible value"))
}

/// One instruction set of this processor, or all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Instructions {
    All,
    Of(Isa),
}

fn instructions(name: &str) -> Result<Instructions, String> {
    if name == "all" {
        return Ok(Instructions::All);
    }
    match Isa::by_name(name) {
        Some(isa) if Kernels::of(isa).is_some() => Ok(Instructions::Of(isa)),
        _ => {
            let here: Vec<_> = Kernels::available().map(|kernels| kernels.isa().name()).collect();
            Err(format!("this processor has {}", here.join(", ")))
        }
    }
}
