//! Why a run cannot start or go on.

use std::path::PathBuf;

use lowtide_adapter::BuildError;
use lowtide_data::DataError;
use lowtide_memory::{LockError, ReserveError};
use lowtide_model::TargetsError;
use lowtide_runtime::RuntimeError;
use lowtide_tape::CheckpointError;

use crate::report::ReportError;
use crate::resume::ResumeError;
use crate::{BudgetError, BudgetSource, SettingsError};

/// An error of a whole job. Each names the file or the setting at fault.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A setting is outside what it may be.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The selection of sites makes no sense.
    #[error(transparent)]
    Targets(#[from] TargetsError),
    /// A file cannot be read or written.
    #[error(transparent)]
    Formats(#[from] lowtide_formats::Error),
    /// The base, its text or an adapter cannot be used.
    #[error(transparent)]
    Runtime(Box<RuntimeError>),
    /// What backward needs could not be kept in the scratch file, or not be read from it.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The data cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// No plan fits the budget.
    #[error(
        "no plan fits the memory budget of {budget} bytes: the leanest holds {smallest} bytes \
         (policy `{policy}`); use --memory-budget {smallest}B or more, a shorter --max-seq-len, \
         a smaller --rank, or fewer --layers"
    )]
    NoPlanFits {
        /// Bytes allowed.
        budget: u64,
        /// Bytes of the leanest plan.
        smallest: u64,
        /// Policy of the leanest plan.
        policy: String,
        /// Where the budget comes from.
        from: BudgetSource,
    },
    /// The gradients that choose ranks do not fit the budget.
    #[error(
        "probing for sensitivity does not fit the memory budget of {budget} bytes: it holds \
         {smallest} bytes; use --memory-budget {smallest}B or more, a shorter --max-seq-len, \
         a smaller --rank, or fewer --layers"
    )]
    ProbesDoNotFit {
        /// Bytes allowed.
        budget: u64,
        /// Bytes of the leanest way to probe.
        smallest: u64,
    },
    /// Nothing that promises anything fits the adapter's budget.
    #[error(
        "no adapter fits --adapter-budget {budget}B: the smallest takes {smallest} bytes, header \
         included"
    )]
    AdapterBudget {
        /// Bytes allowed.
        budget: u64,
        /// Bytes of the smallest adapter of one site.
        smallest: u64,
    },
    /// What was planned cannot be reserved.
    #[error("cannot reserve what was planned: {0}")]
    Reserve(#[from] ReserveError),
    /// What was reserved cannot be locked in memory.
    #[error("cannot lock what was reserved, as --mlock asks: {0}")]
    Lock(#[from] LockError),
    /// The loss is no longer a number.
    #[error(
        "the loss of update {step} is {loss}: every weight of the base is finite, so training \
         diverged; use a smaller --lr (it was {lr:.3e}) or more --warmup-steps"
    )]
    Diverged {
        /// The update.
        step: u64,
        /// Its loss.
        loss: f64,
        /// Learning rate of the update before.
        lr: f64,
    },
    /// A loss that is not a number, although all weights are.
    #[error(
        "{}: the loss is {loss}, although every weight of the base and the adapter is finite: \
         they do not belong together, or the adapter's training diverged", path.display()
    )]
    LossNotFinite {
        /// The base.
        path: PathBuf,
        /// The loss.
        loss: f64,
    },
    /// A run cannot be read again.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// A run cannot go on where one was saved.
    #[error(transparent)]
    Resume(#[from] ResumeError),
    /// Two settings cannot be had together.
    #[error("{0}")]
    Unsupported(String),
    /// A temporary file cannot be made or written.
    #[error("{}: no temporary file for {purpose} can be written there: {reason}", folder.display())]
    Scratch {
        /// Its folder.
        folder: PathBuf,
        /// What it is for.
        purpose: &'static str,
        /// The system's words.
        reason: String,
    },
    /// A file of the output folder cannot be written.
    #[error("{}: {source}", path.display())]
    Output {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl TrainError {
    /// The smallest memory budget that is enough, where the budget is at fault; at least that much
    /// where [`RuntimeError::smallest_budget`] says so.
    #[must_use]
    pub fn smallest_budget(&self) -> Option<u64> {
        match self {
            Self::NoPlanFits { smallest, .. } | Self::ProbesDoNotFit { smallest, .. } => {
                Some(*smallest)
            }
            Self::Runtime(error) => error.smallest_budget(),
            _ => None,
        }
    }
}

impl From<BudgetError> for TrainError {
    fn from(error: BudgetError) -> Self {
        Self::Settings(error.into())
    }
}

impl From<BuildError> for TrainError {
    fn from(error: BuildError) -> Self {
        RuntimeError::from(error).into()
    }
}

impl From<RuntimeError> for TrainError {
    fn from(error: RuntimeError) -> Self {
        Self::Runtime(error.into())
    }
}
