//! Why a conversion cannot be done.

use std::path::PathBuf;

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
    #[error("{} is a part of the model to be read; give another name", path.display())]
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
