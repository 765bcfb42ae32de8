//! What a method is told, and how it says that it was told something wrong.

#[cfg(feature = "alloc")]
use alloc::{collections::BTreeMap, string::String};

/// What every method can be told; a method reads what concerns it.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Inner width of low-rank methods.
    pub rank: usize,
    /// Numerator of the scale of low-rank methods.
    pub alpha: f64,
    /// Chance that an input element of the adapter is dropped in training.
    pub dropout: f64,
    /// Scale by `alpha / sqrt(rank)` instead of `alpha / rank`.
    pub use_rslora: bool,
    /// What only some methods know, by name: `pool` of LARS, for instance. A method says which
    /// names it reads.
    #[cfg(feature = "alloc")]
    pub options: BTreeMap<String, String>,
}

impl Default for Config {
    /// Rank 8, alpha 16, no dropout, scale `alpha / rank`.
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: 16.0,
            dropout: 0.0,
            use_rslora: false,
            #[cfg(feature = "alloc")]
            options: BTreeMap::new(),
        }
    }
}

/// What an adapter wraps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// A frozen linear of a block.
    #[default]
    Linear,
    /// What a branch of a block, attention or the feed-forward part, adds to the residual stream:
    /// the base is [`Identity`](crate::Identity).
    Branch,
}

/// A value outside what a method accepts.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("{method}: `{field}` is {value}, expected {expected}")]
pub struct BadValue {
    /// The method that refused.
    pub method: &'static str,
    /// Name of the field of [`Config`].
    pub field: &'static str,
    /// What it was.
    pub value: f64,
    /// What it may be.
    pub expected: &'static str,
}
