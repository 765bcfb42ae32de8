//! The softmax of the loss: over all words, or over those that the targets of a micro-batch are
//! likely to be confused with.
//!
//! *Union of neighbours* (Qualcomm): `U` is the union, over the labelled positions of a
//! micro-batch, of the target and the `K` words most similar to it. The loss is
//! `-z_y + log sum_U exp(z)` and its gradient `p^U - onehot` on `U`, nothing elsewhere. It is never
//! above the exact loss, and it is approximate: how far off is measured on the first micro-batch
//! and told. What is measured on held-out examples is always exact.

mod neighbours;
mod union;

use std::fmt;
use std::num::NonZeroUsize;

use lowtide_tape::HeadGap;
use serde::{Deserialize, Serialize};

pub(crate) use neighbours::Neighbours;
pub(crate) use union::Union;

use crate::SettingsError;

/// Which words the softmax of the training loss runs over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Softmax {
    /// All of them.
    #[default]
    Exact,
    /// The targets of a micro-batch and so many neighbours of each: approximate.
    Union(NonZeroUsize),
}

impl Softmax {
    /// Reads `exact` or `union:K`.
    ///
    /// # Errors
    /// [`SettingsError::BadValue`] that says what is expected.
    pub fn named(name: &str) -> Result<Self, SettingsError> {
        let read = match name.strip_prefix("union:") {
            None => (name == "exact").then_some(Self::Exact),
            Some(count) => count.parse().ok().map(Self::Union),
        };
        read.ok_or_else(|| SettingsError::BadValue {
            field: "softmax",
            found: name.into(),
            expected: "exact, or union:K with K neighbours of each target, at least 1",
        })
    }
}

impl fmt::Display for Softmax {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact => f.write_str("exact"),
            Self::Union(count) => write!(f, "union:{count}"),
        }
    }
}

/// What a softmax over some words holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnionBytes {
    /// Copies of the packed rows of those words.
    pub head: u64,
    /// Lists of words.
    pub data: u64,
}

/// How many words the softmax will run over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct UnionReport {
    /// Neighbours of each target.
    pub neighbours: usize,
    /// Words that are a target anywhere in the training data.
    pub targets: usize,
    /// Words of a micro-batch, at most.
    pub words_max: usize,
    /// Words that the model knows.
    pub vocabulary: usize,
    /// Bytes of the copied rows and of the lists.
    pub bytes: u64,
    /// Bytes of the neighbours in a temporary file.
    pub file_bytes: u64,
}

/// How far a softmax over some words is from the exact one, on the first micro-batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SoftmaxError {
    /// Words it ran over.
    pub words: usize,
    /// Words that the model knows.
    pub vocabulary: usize,
    /// Mean loss of a labelled token over all words.
    pub exact_loss: f64,
    /// The same over those words only.
    pub loss: f64,
    /// Cosine of the angle between the two gradients of the topmost block's output.
    pub gradient_cosine: f64,
    /// Norm of their difference, as a share of the exact gradient's.
    pub gradient_error: f64,
}

impl SoftmaxError {
    pub(crate) fn of(gap: &HeadGap, words: usize, vocabulary: usize) -> Self {
        Self {
            words,
            vocabulary,
            exact_loss: gap.exact.mean(),
            loss: gap.approximate.mean(),
            gradient_cosine: gap.cosine(),
            gradient_error: gap.relative_error(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written_back() {
        for name in ["exact", "union:1", "union:1000"] {
            assert_eq!(Softmax::named(name).unwrap().to_string(), name);
        }
        for name in ["", "union", "union:", "union:0", "union:-1", "union:1.5", "Exact", "all"] {
            let error = Softmax::named(name).unwrap_err().to_string();
            let says = format!("`softmax` is {name}, expected exact, or union:K with K");
            assert!(error.starts_with(&says), "{error}");
        }
    }
}
