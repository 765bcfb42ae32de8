//! Why a model cannot be built.

use alloc::string::String;
use alloc::vec::Vec;

use lowtide_adapter::BuildError;

use crate::TargetsError;

/// A base that does not fit its configuration, or adapters that do not fit the base.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ModelError {
    /// A family that cannot be built.
    #[error("model family `{name}` is not known; known: {}", known.join(", "))]
    UnknownFamily {
        /// What was asked for, as a Hugging Face `model_type`.
        name: String,
        /// The families there are.
        known: Vec<&'static str>,
    },
    /// A tensor the family needs is not in the base.
    #[error("tensor `{name}` is missing, expected shape {expected:?}")]
    MissingTensor {
        /// Its name, as Hugging Face names it.
        name: String,
        /// The shape it should have.
        expected: Vec<usize>,
    },
    /// A tensor has another shape than the configuration says.
    #[error("tensor `{name}` has shape {found:?}, the configuration says {expected:?}")]
    Shape {
        /// Its name, as Hugging Face names it.
        name: String,
        /// The shape it should have.
        expected: Vec<usize>,
        /// The shape it has.
        found: Vec<usize>,
    },
    /// The rotary scaling lists another number of factors than there are frequencies.
    #[error("{found} rotary factors for {expected} frequencies")]
    RopeFactors {
        /// Half a head's width.
        expected: usize,
        /// Factors listed.
        found: usize,
    },
    /// The selection of sites makes no sense for this model.
    #[error(transparent)]
    Targets(#[from] TargetsError),
    /// The adapter method refuses its configuration.
    #[error(transparent)]
    Adapter(#[from] BuildError),
}
