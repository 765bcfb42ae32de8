//! What can go wrong.

use std::path::PathBuf;

use lowtide_data::DataError;
use lowtide_memory::ReserveError;
use lowtide_model::ModelError;
use lowtide_runtime::RuntimeError;
use lowtide_train::TrainError;

use crate::PeersError;

/// A bench that could not be run or told.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// No operation has a name like that.
    #[error("no kernel has `{filter}` in its name")]
    NoKernel {
        /// What was looked for.
        filter: String,
    },
    /// The base cannot be opened, or is unsound.
    #[error(transparent)]
    Base(Box<RuntimeError>),
    /// A model of random weights cannot be built.
    #[error("{name}: {source}")]
    Shape {
        /// What it is called.
        name: String,
        /// Why.
        source: ModelError,
    },
    /// More tokens than the base was made for, or too few.
    #[error("{tokens} tokens: expected 2 to {longest}")]
    Tokens {
        /// What was asked for.
        tokens: usize,
        /// What the base can have.
        longest: usize,
    },
    /// The tokens cannot be laid down in a temporary file.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The system has not the memory that a contender needs.
    #[error("{contender}: {source}")]
    Reserve {
        /// Who needs it.
        contender: String,
        /// What was refused.
        source: ReserveError,
    },
    /// An update failed.
    #[error(transparent)]
    Update(#[from] TrainError),
    /// A run with a lever moved failed.
    #[error("{name}: {source}")]
    Trial {
        /// The lever, and where it was.
        name: String,
        /// Why.
        source: Box<TrainError>,
    },
    /// The loss is not a number: nothing that was timed would mean anything.
    #[error("{contender}: the loss is {loss}")]
    Loss {
        /// Who computed it.
        contender: String,
        /// What came out.
        loss: f64,
    },
    /// A file of peers' figures.
    #[error(transparent)]
    Peers(#[from] PeersError),
    /// A report cannot be written.
    #[error("{source}")]
    Write {
        /// Where.
        path: PathBuf,
        /// Why not; it names the file, too.
        source: Box<lowtide_formats::Error>,
    },
}

impl From<RuntimeError> for BenchError {
    fn from(error: RuntimeError) -> Self {
        Self::Base(Box::new(error))
    }
}
