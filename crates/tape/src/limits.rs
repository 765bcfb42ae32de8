//! How large a batch may be, and what a batch is.

use core::ops::Range;

use lowtide_adapter::Phase;
use lowtide_backend::{Backend, Span};
use lowtide_quant::QMat;
use lowtide_tensor::Float;

/// The largest batch a plan is made for. Any batch within the limits runs in the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Rows: tokens of all sequences of a micro-batch together.
    pub tokens: usize,
    /// Sequences of a micro-batch.
    pub sequences: usize,
    /// Rows that carry loss.
    pub labelled: usize,
}

/// The longest sequence a decoder reads and the most rows it reads in one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeLimits {
    /// Tokens of the sequence.
    pub context: usize,
    /// Rows of one call.
    pub rows: usize,
}

impl DecodeLimits {
    /// What one call asks of operations that look no further than its rows.
    #[must_use]
    pub fn call(self) -> Limits {
        Limits { tokens: self.rows, sequences: 1, labelled: 1 }
    }
}

/// A micro-batch: one unpadded list of rows, cut into sequences by `spans`.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// Token ids, `[T]`.
    pub ids: &'a [u32],
    /// Position of each row in its sequence, `[T]`.
    pub positions: &'a [u32],
    /// The sequences; they cover all rows in order.
    pub spans: &'a [Span],
    /// Rows that carry loss, ascending, `[N]`.
    pub labelled: &'a [u32],
    /// The token each labelled row should predict, `[N]`.
    pub targets: &'a [u32],
    /// Rows of the head that the softmax of the loss runs over, packed `[N, D]`; `targets` number
    /// them then. `None` for the whole head, which is the exact loss.
    pub words: Option<QMat<'a>>,
    /// Counter of the micro-batch in the run: the dropout stream.
    pub counter: u64,
}

/// What every operation of a call shares.
#[derive(Clone, Copy)]
pub struct Cx<'a, F: Float> {
    /// Computes.
    pub be: &'a dyn Backend<F>,
    /// The sequences of the micro-batch, counted from its first row.
    pub spans: &'a [Span],
    /// Row of the micro-batch that is this call's first.
    pub row0: usize,
    /// While decoding, tokens that earlier calls read; 0 otherwise.
    pub past: usize,
    /// Position of each row of this call in its sequence.
    pub positions: &'a [u32],
    /// Seed of the run, for dropout.
    pub seed: u64,
    /// Counter of the micro-batch, for dropout.
    pub counter: u64,
    /// What the model is doing.
    pub phase: Phase,
}

impl<F: Float> Cx<'_, F> {
    /// The same for some of the rows.
    pub(crate) fn tile(&self, rows: Range<usize>) -> Self {
        let (row0, positions) = (self.row0 + rows.start, &self.positions[rows]);
        Self { row0, positions, ..*self }
    }

    /// The call's rows, counted in the micro-batch, and the number of its sequences.
    pub(crate) fn extent(&self) -> (Range<usize>, usize) {
        (self.row0..self.row0 + self.rows(), self.spans.len())
    }

    /// Rows of this call.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.positions.len()
    }
}
