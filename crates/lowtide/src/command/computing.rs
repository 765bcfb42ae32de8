//! The flags that say what computes, and how exactly.

use std::ops::RangeInclusive;

use clap::builder::{PossibleValuesParser, RangedU64ValueParser, TypedValueParser};
use clap::{Args, ValueEnum};
use lowtide::train::Precision;
use lowtide::{Compute, Isa, Kernels, Settings};
use serde::Deserialize;

/// How many threads may be asked for.
pub(crate) const THREADS: RangeInclusive<u64> = 1..=1024;

/// What computes. Threads change no result; backends and instruction sets may differ from each
/// other in the last bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Args, Deserialize)]
#[command(next_help_heading = "Machine")]
pub(crate) struct MachineFlags {
    /// What computes; auto is simd [default: auto]
    #[arg(long, value_enum, value_name = "NAME")]
    pub(crate) backend: Option<BackendName>,
    /// Instruction set of the simd backend; auto is the fastest this processor has [default: auto]
    #[arg(long, value_name = "NAME", value_parser = isa_names())]
    pub(crate) isa: Option<IsaName>,
    /// Threads [default: one a core]
    #[arg(long, value_name = "N")]
    #[arg(value_parser = RangedU64ValueParser::<u16>::new().range(THREADS))]
    #[arg(allow_negative_numbers = true)]
    pub(crate) threads: Option<u16>,
}

/// Threads alone, where no backend computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Args)]
#[command(next_help_heading = "Machine")]
pub(crate) struct ThreadFlags {
    /// Threads [default: one a core]
    #[arg(long, value_name = "N")]
    #[arg(value_parser = RangedU64ValueParser::<u16>::new().range(THREADS))]
    #[arg(allow_negative_numbers = true)]
    pub(crate) threads: Option<u16>,
}

impl From<ThreadFlags> for MachineFlags {
    fn from(flags: ThreadFlags) -> Self {
        Self { threads: flags.threads, ..Self::default() }
    }
}

impl MachineFlags {
    /// These, and where nothing was given, those.
    pub(crate) fn or(self, other: Self) -> Self {
        Self {
            backend: self.backend.or(other.backend),
            isa: self.isa.or(other.isa),
            threads: self.threads.or(other.threads),
        }
    }

    /// These, or what computed a run that is to go on, if it is here and nothing else was asked
    /// for.
    pub(crate) fn or_of_save(self, (backend, isa): (&str, &str)) -> Self {
        if self.backend.is_some() || self.isa.is_some() {
            return self;
        }
        if backend == "ndarray" {
            return Self { backend: Some(BackendName::Ndarray), ..self };
        }
        let here = Isa::by_name(isa).filter(|isa| Kernels::of(*isa).is_some());
        Self { isa: here.map(IsaName::Of), ..self }
    }
}

/// A backend by name. Its variants are described in plain comments, because a doc comment on one
/// would make every flag's help take three lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum BackendName {
    // The quickest that this machine can run.
    #[default]
    Auto,
    // Hand-written kernels for each instruction set.
    Simd,
    // ndarray, matrixmultiply and rayon.
    Ndarray,
}

/// An instruction set by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) enum IsaName {
    /// The fastest that this processor has.
    #[default]
    Auto,
    /// This one, on whatever processor.
    Of(Isa),
}

impl IsaName {
    fn by_name(name: &str) -> Option<Self> {
        if name == "auto" { Some(Self::Auto) } else { Isa::by_name(name).map(Self::Of) }
    }
}

impl TryFrom<String> for IsaName {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        Self::by_name(&name).ok_or_else(|| {
            let known = Isa::ALL.map(Isa::name).join(", ");
            format!("unknown instruction set `{name}`, expected auto, {known}")
        })
    }
}

fn isa_names() -> impl TypedValueParser<Value = IsaName> {
    let names = ["auto"].into_iter().chain(Isa::ALL.map(Isa::name));
    PossibleValuesParser::new(names).map(|name| IsaName::by_name(&name).expect("a possible value"))
}

/// How exactly it is computed.
#[derive(Clone, Debug, Default, PartialEq, Args)]
#[command(next_help_heading = "Precision")]
pub(crate) struct ArithmeticFlags {
    /// How far results may stray for speed: f32, almost as good, visibly rounded [default: exact]
    #[arg(long, value_name = "NAME")]
    #[arg(value_parser = PossibleValuesParser::new(Precision::ALL.map(Precision::name)))]
    pub(crate) precision: Option<String>,
    /// Arithmetic of products with packed weights; auto follows --precision [default: auto]
    #[arg(long, value_name = "NAME", value_parser = compute_names())]
    pub(crate) compute: Option<String>,
}

fn compute_names() -> PossibleValuesParser {
    PossibleValuesParser::new(["auto"].into_iter().chain(Compute::ALL.map(Compute::name)))
}

impl ArithmeticFlags {
    /// Nothing given.
    pub(crate) const NONE: Self = Self { precision: None, compute: None };
}

/// Precision and arithmetic by name, as flags and settings have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arithmetic<'a> {
    pub(crate) precision: &'a str,
    pub(crate) compute: &'a str,
}

impl<'a> From<&'a ArithmeticFlags> for Arithmetic<'a> {
    fn from(flags: &'a ArithmeticFlags) -> Self {
        Self {
            precision: flags.precision.as_deref().unwrap_or(Precision::default().name()),
            compute: flags.compute.as_deref().unwrap_or("auto"),
        }
    }
}

impl<'a> From<&'a Settings> for Arithmetic<'a> {
    fn from(settings: &'a Settings) -> Self {
        Self { precision: &settings.precision, compute: &settings.compute }
    }
}
