//! Why a base, an adapter or a text cannot be used.

use std::path::{Path, PathBuf};

use lowtide_adapter::BuildError;
use lowtide_data::{TemplateError, TokenizerError};
use lowtide_model::ModelError;

/// What stands between files and a running model. Each error names the file at fault.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// A file cannot be read.
    #[error(transparent)]
    Formats(#[from] lowtide_formats::Error),
    /// The base's tokenizer cannot be used.
    #[error("{}: {source}", path.display())]
    Tokenizer {
        /// The base.
        path: PathBuf,
        /// Why.
        source: TokenizerError,
    },
    /// The base's chat template cannot be used.
    #[error("{}: {source}", path.display())]
    Template {
        /// The base.
        path: PathBuf,
        /// Why.
        source: TemplateError,
    },
    /// The base does not fit its configuration, or the adapter the base.
    #[error("{}: {source}", path.display())]
    Model {
        /// The base.
        path: PathBuf,
        /// Why.
        source: ModelError,
    },
    /// The adapter method or its configuration is refused.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// An adapter folder does not belong to this base, or this run.
    #[error("{}: {reason}", path.display())]
    Adapter {
        /// The adapter folder.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
}

impl RuntimeError {
    pub(crate) fn model(path: &Path, error: ModelError) -> Self {
        Self::Model { path: path.to_owned(), source: error }
    }
}
