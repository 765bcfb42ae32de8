//! Why a base, an adapter or a text cannot be used.

use std::path::{Path, PathBuf};

use lowtide_adapter::BuildError;
use lowtide_convert::ConvertError;
use lowtide_data::{TemplateError, TokenizerError};
use lowtide_lora::SHARED_BYTES_MAX;
use lowtide_memory::ReserveError;
use lowtide_model::ModelError;

/// What stands between files and a running model. Each error names the file at fault.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// A window in which a token would not see even itself.
    #[error("`sliding-window` is 0, expected at least 1: a token sees itself")]
    Window,
    /// A file cannot be read.
    #[error(transparent)]
    Formats(#[from] lowtide_formats::Error),
    /// A base that is named by a hub id is not on this machine.
    #[error(transparent)]
    Hub(#[from] Box<lowtide_hub::HubError>),
    /// The base's tokenizer cannot be used.
    #[error("{}: {source}", path.display())]
    Tokenizer {
        /// The base.
        path: PathBuf,
        /// Why.
        source: TokenizerError,
    },
    /// A chat template cannot be used.
    #[error("{}: {source}", path.display())]
    Template {
        /// The base, or the file that was given instead of its template.
        path: PathBuf,
        /// Why.
        source: TemplateError,
    },
    /// A file with a chat template cannot be read.
    #[error("{}: {reason}", path.display())]
    TemplateFile {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
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
    /// A sampling value is outside what it may be.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
    /// The base has no tokenizer, so there is no text.
    #[error("{}: no tokenizer in it, so text can be neither read nor written", path.display())]
    NoTokenizer {
        /// The base.
        path: PathBuf,
    },
    /// The base has no chat template.
    #[error("{}: no chat template in it; it continues plain text only", path.display())]
    NoTemplate {
        /// The base.
        path: PathBuf,
    },
    /// A prompt of no token.
    #[error("the prompt is empty: there is nothing to continue")]
    EmptyPrompt,
    /// A prompt that does not fit the context.
    #[error("the prompt has {tokens} tokens and the context holds {context}")]
    PromptTooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// Tokens the context holds.
        context: usize,
    },
    /// A context the model cannot have.
    #[error("a context of {context} tokens: this base was trained for 1 to {longest}")]
    Context {
        /// What was asked for.
        context: usize,
        /// The longest sequence the base was trained for.
        longest: usize,
    },
    /// A prompt token outside the vocabulary.
    #[error("token {id} of the prompt is outside the vocabulary of {vocab_size}")]
    UnknownToken {
        /// The token.
        id: u32,
        /// Rows of the embedding.
        vocab_size: usize,
    },
    /// Nothing can be chosen from logits none of which is a number.
    #[error(
        "no logit after {tokens} tokens is a number: a weight of the base or the adapter is not \
         finite, or they do not belong together"
    )]
    LogitsNotFinite {
        /// Tokens read.
        tokens: usize,
    },
    /// Generating does not fit the budget.
    #[error(
        "generating within a context of {context} tokens does not fit the memory budget of \
         {budget} bytes: it holds {smallest} bytes at least"
    )]
    OverBudget {
        /// Bytes allowed.
        budget: u64,
        /// Bytes of the leanest plan for this context.
        smallest: u64,
        /// Tokens the context holds.
        context: usize,
    },
    /// A method that cannot read a text bit by bit.
    #[error(
        "method `{method}` at `{module}` needs all tokens of a sequence at once: it can be \
         evaluated, and no text can be generated with it"
    )]
    WholeSequence {
        /// Name of the method.
        method: &'static str,
        /// A module that it adapts.
        module: String,
    },
    /// What was planned cannot be reserved.
    #[error("cannot reserve what was planned: {0}")]
    Reserve(#[from] ReserveError),
    /// A merged base cannot be written.
    #[error(transparent)]
    Convert(#[from] Box<ConvertError>),
    /// A method that is more than a change of matrices.
    #[error(
        "{}: method `{method}` at `{module}` cannot be merged: what it does is no change of a \
         matrix of the base; use it beside the base, with --adapter", path.display()
    )]
    NotMergeable {
        /// The adapter's folder or file.
        path: PathBuf,
        /// Name of the method.
        method: &'static str,
        /// A module that it adapts.
        module: String,
    },
    /// An adapter does not belong to this base, or this run.
    #[error("{}: {reason}", path.display())]
    Adapter {
        /// The adapter's folder or file.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
}

impl RuntimeError {
    /// The fewest bytes that a memory budget has to be for this error to go away, where a larger
    /// budget can make it go away. Of what the sites of an adapter share these are the bytes of
    /// that alone, since nothing else is known before it is made.
    #[must_use]
    pub fn smallest_budget(&self) -> Option<u64> {
        match self {
            Self::OverBudget { smallest, .. } => Some(*smallest),
            Self::Build(error) | Self::Model { source: ModelError::Adapter(error), .. } => {
                match error {
                    // Above that bound no budget helps.
                    BuildError::TooLarge { bytes, .. } if *bytes <= SHARED_BYTES_MAX => {
                        Some(*bytes)
                    }
                    _ => None,
                }
            }
            Self::Convert(error) => match **error {
                ConvertError::Budget { needed, .. } => Some(needed),
                _ => None,
            },
            _ => None,
        }
    }

    pub(crate) fn model(path: &Path, error: ModelError) -> Self {
        Self::Model { path: path.to_owned(), source: error }
    }
}

/// A sampling value outside what it may be.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("{field} is {value}, expected {expected}")]
pub struct SamplingError {
    /// The value's name, as its flag is called.
    pub field: &'static str,
    /// What it is.
    pub value: f64,
    /// What it may be.
    pub expected: &'static str,
}
