//! Why a conversion cannot be done.

use std::path::{Path, PathBuf};

use lowtide_data::TokenizerError;
use lowtide_memory::ReserveError;

/// Why a conversion cannot be done. Nothing has been written then.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// A file that cannot be read or written, or is not sound.
    #[error(transparent)]
    Formats(#[from] lowtide_formats::Error),
    /// A tokenizer that cannot be said in the other kind of file.
    #[error("{}: {source}", path.display())]
    Tokenizer {
        /// The base.
        path: PathBuf,
        /// Why.
        source: TokenizerError,
    },
    /// A setting that cannot be said in the other kind of file.
    #[error("{}: {source}", path.display())]
    Setting {
        /// The base.
        path: PathBuf,
        /// Which, and why.
        source: lowtide_formats::DocumentError,
    },
    /// The output is there already.
    #[error("{} is there already; give another name, or --overwrite to replace it", path.display())]
    Exists {
        /// The output.
        path: PathBuf,
    },
    /// The output is the input, or a part of it.
    #[error("{} is a part of what is to be read; give another name", path.display())]
    OverInput {
        /// The output.
        path: PathBuf,
    },
    /// A type that the kind of output cannot hold.
    #[error("type {kind} cannot be written to {}: expected {expected}", path.display())]
    Kind {
        /// The type.
        kind: &'static str,
        /// The output.
        path: PathBuf,
        /// Which types it can hold.
        expected: &'static str,
    },
    /// An adapter that is already what it should become.
    #[error(
        "{} is {kind} already: a PEFT folder becomes a name that ends in .gguf, and a GGUF \
         adapter a folder", path.display()
    )]
    SameKind {
        /// The adapter.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// An adapter that is no plain LoRA.
    #[error(
        "{}: {source}\na GGUF adapter can be plain LoRA only: `lowtide merge` folds any other that \
         is a change of matrices into its base, as a GGUF file if its name ends so; Lowtide itself \
         uses it as it is, with --adapter", path.display()
    )]
    NotInGguf {
        /// The adapter's settings.
        path: PathBuf,
        /// The setting that cannot be said.
        source: Box<lowtide_formats::DocumentError>,
    },
    /// An alpha that is nothing in 32 bits.
    #[error("{}: alpha is {alpha}, which 32 bits cannot hold", path.display())]
    Alpha {
        /// The adapter.
        path: PathBuf,
        /// Alpha.
        alpha: f64,
    },
    /// An adapter of another base.
    #[error(
        "{}: it adapts `{module}` as {found:?}, {}: the adapter is of another base", path.display(),
        stands(base, expected.as_deref())
    )]
    OtherBase {
        /// The adapter.
        path: PathBuf,
        /// The base that was given.
        base: PathBuf,
        /// The module.
        module: Box<str>,
        /// Outputs and inputs in the adapter.
        found: Box<[usize]>,
        /// Outputs and inputs in the base, if it has the module.
        expected: Option<Box<[usize]>>,
    },
    /// A name that no linear of a block has.
    #[error(
        "{}: no linear is called `{target}`; names are such as q_proj or down_proj",
        path.display()
    )]
    Targets {
        /// The base.
        path: PathBuf,
        /// The name.
        target: String,
    },
    /// A rank that a matrix cannot have.
    #[error("a rank of {rank}, but `{tensor}` can have 1 to {most}")]
    Rank {
        /// The rank.
        rank: usize,
        /// The matrix, by its HF name.
        tensor: String,
        /// Its largest rank.
        most: usize,
    },
    /// A budget that holds not even one row.
    #[error(
        "the memory budget of {budget} bytes is too small: the vocabulary and one row of the \
         widest tensor take {needed} bytes; use --memory-budget {needed}B or more"
    )]
    Budget {
        /// Bytes allowed.
        budget: u64,
        /// Bytes needed.
        needed: u64,
    },
    /// What was planned cannot be reserved.
    #[error("cannot reserve what was planned: {0}")]
    Reserve(#[from] ReserveError),
    /// A weight that is NaN or infinite.
    #[error(
        "{}: tensor `{tensor}` holds a value in row {row} that {kind} cannot hold: not finite, or \
         too large for its scales", path.display()
    )]
    NotFinite {
        /// The base.
        path: PathBuf,
        /// The tensor, by its HF name.
        tensor: String,
        /// Which row.
        row: usize,
        /// The type written.
        kind: &'static str,
    },
}

/// What a base has at a module.
fn stands(base: &Path, shape: Option<&[usize]>) -> String {
    match shape {
        Some(shape) => format!("which is {shape:?} in {}", base.display()),
        None => format!("which {} does not have", base.display()),
    }
}
