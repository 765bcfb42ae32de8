//! Changes that a caller makes to tensors on their way, and what the written type holds of them.

use std::ops::Range;

use serde::Serialize;

/// Changes values of a base while it is converted.
pub trait Changes {
    /// Whether it changes the tensor of this HF name.
    fn touches(&self, tensor: &str) -> bool;

    /// Changes rows `rows` of a tensor that it touches: `values [rows.len(), columns]` hold them as
    /// they are in the source, whose order `rows` counts. A vector is rows of one value.
    ///
    /// Rows of a tensor come together, each once, in any order.
    fn change(&mut self, tensor: &str, rows: Range<usize>, values: &mut [f32]);

    /// Length of the groups of neighbours in a row over which the change of a tensor is one number;
    /// nothing where it is not constant.
    fn group(&self, _tensor: &str) -> Option<usize> {
        None
    }

    /// What the change adds to the values of each group of some rows of such a tensor:
    /// `out [rows.len(), columns / group]`, overwritten. Where the type that is kept has a minimum
    /// for each block, this is asked instead of [`change`](Self::change), and the minima are moved.
    fn shifts(&mut self, _tensor: &str, _rows: Range<usize>, _out: &mut [f32]) {}
}

/// No change at all.
pub(crate) struct Unchanged;

impl Changes for Unchanged {
    fn touches(&self, _tensor: &str) -> bool {
        false
    }

    fn change(&mut self, _tensor: &str, _rows: Range<usize>, _values: &mut [f32]) {}
}

/// How much of an update of weights is left in the type that is written.
///
/// With weights `W`, an update `Δ` and `r` for writing and reading back, there are three sums: the
/// squares of `Δ`, those of `r(W + Δ) − (W + Δ)`, and the product of `r(W + Δ) − r(W)` with `Δ`.
/// Where a tensor keeps its type, `r(W)` is the base as it was.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Kept {
    errors: f64,
    update: f64,
    held: f64,
}

impl Kept {
    pub(crate) fn add(&mut self, errors: f64, update: f64, held: f64) {
        self.errors += errors;
        self.update += update;
        self.held += held;
    }

    /// The sums of both.
    #[must_use]
    pub fn plus(mut self, other: Self) -> Self {
        self.add(other.errors, other.update, other.held);
        self
    }

    /// Frobenius norm of the update, `‖Δ‖`.
    #[must_use]
    pub fn update_norm(&self) -> f64 {
        self.update.sqrt()
    }

    /// How far rounding leads from what was meant, over the size of the update:
    /// `‖r(W + Δ) − (W + Δ)‖ / ‖Δ‖`; 0 without an update. It can be far above 1, because `W` is
    /// rounded with the update.
    #[must_use]
    pub fn error(&self) -> f64 {
        if self.update > 0.0 { (self.errors / self.update).sqrt() } else { 0.0 }
    }

    /// The share of the update along its own direction that is there after rounding,
    /// `⟨r(W + Δ) − r(W), Δ⟩ / ‖Δ‖²`; 1 without an update.
    #[must_use]
    pub fn survived(&self) -> f64 {
        if self.update > 0.0 { self.held / self.update } else { 1.0 }
    }
}

/// What became of the update of one tensor.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChangeReport {
    /// Its name in the output.
    pub tensor: String,
    /// Its HF name.
    #[serde(skip)]
    pub hf_name: String,
    /// The type written.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// As [`Kept::update_norm`].
    pub update_norm: f64,
    /// As [`Kept::error`].
    pub error: f64,
    /// As [`Kept::survived`].
    pub survived: f64,
    /// Whether codes and scales are those of the base, and only minima of blocks moved.
    pub minima_only: bool,
    /// The sums behind the numbers.
    #[serde(skip)]
    pub kept: Kept,
}

impl ChangeReport {
    pub(crate) fn new(
        (name, hf_name): (&str, &str),
        kind: &'static str,
        kept: Kept,
        minima_only: bool,
    ) -> Self {
        Self {
            tensor: name.to_owned(),
            hf_name: hf_name.to_owned(),
            kind,
            update_norm: kept.update_norm(),
            error: kept.error(),
            survived: kept.survived(),
            minima_only,
            kept,
        }
    }
}
