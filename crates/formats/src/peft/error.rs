//! What can be wrong with an adapter.

use crate::DocumentError;

/// What can be wrong with an adapter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdapterError {
    /// A setting of an adapter that keeps its settings beside its tensors.
    #[error(transparent)]
    Setting(Box<DocumentError>),
    /// No tensors at all.
    #[error("there are no tensors")]
    Empty,
    /// A name that PEFT does not give.
    #[error("tensor `{name}` does not belong to a {method} adapter; expected {expected}")]
    Name {
        /// The tensor.
        name: String,
        /// The method.
        method: String,
        /// How names look.
        expected: &'static str,
    },
    /// NaN or an infinite value.
    #[error("tensor `{name}` holds {value} at index {index}; expected finite values")]
    NotFinite {
        /// The tensor.
        name: String,
        /// Index of the first such value, row-major.
        index: usize,
        /// The value, as text.
        value: String,
    },
    /// Only one of two tensors that belong together.
    #[error("tensor `{missing}` is missing; `{present}` is there")]
    MissingPair {
        /// The tensor that is not there.
        missing: String,
        /// Its counterpart.
        present: String,
    },
    /// A file of codes that says of no known kind to be.
    #[error("the metadata say `codes` {found}; expected int8 or int4")]
    Codes {
        /// What they say.
        found: String,
    },
    /// A file of codes with more or fewer scales than its codes have lines and groups.
    #[error("there are {found} scales; the codes need {expected}")]
    Scales {
        /// How many there are.
        found: usize,
        /// How many there must be.
        expected: usize,
    },
    /// A tensor in a file of codes that holds no such codes and no 32-bit floats.
    #[error("tensor `{name}` has dtype {dtype}; expected codes of {expected}, or F32")]
    Dtype {
        /// The tensor.
        name: String,
        /// Its dtype.
        dtype: String,
        /// What the codes are.
        expected: &'static str,
    },
    /// Two tensors of a file of codes that are the same parameter.
    #[error("tensor `{name}` is there twice")]
    Twice {
        /// The parameter.
        name: String,
    },
    /// A shape that does not fit the method or the config.
    #[error("tensor `{name}` has shape {shape:?}; expected {expected}")]
    Shape {
        /// The tensor.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
        /// What fits.
        expected: String,
    },
}

impl From<DocumentError> for AdapterError {
    fn from(reason: DocumentError) -> Self {
        Self::Setting(Box::new(reason))
    }
}
