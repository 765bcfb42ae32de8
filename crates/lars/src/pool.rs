//! Which rows are pooled for which, how, and the way back.

use core::ops::Range;

use lowtide_backend::{Backend, OpShape, Req, Span};
use lowtide_tensor::{Float, Mat, MatMut, QUANTUM};

/// The longest chunk, and the usual one: so that a sum over a chunk has one order, whether it is
/// read at once or token by token.
pub const CHUNK: usize = QUANTUM;

/// What the bias of a row is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    /// The mean over the prompt plus the prompt's last row. A sequence without a prompt has no
    /// bias.
    Prompt,
    /// The mean over the sequence plus its last row, as published. Rows see what comes after them,
    /// so a loss on each next token is too good to be true.
    All,
    /// The mean over the chunk of so many rows before the row's own, plus that chunk's last row;
    /// nothing in the first. From 1 to [`CHUNK`].
    Chunk(usize),
    /// The rows of the prompt, weighted by a softmax over a trained product with each.
    Learned,
}

/// Rows that are pooled, and those that the bias is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    /// Which sequence.
    pub(crate) sequence: usize,
    pub(crate) from: Range<usize>,
    pub(crate) to: Range<usize>,
}

impl Pool {
    /// The shares of these sequences.
    pub(crate) fn shares(self, spans: &[Span]) -> impl Iterator<Item = Share> {
        spans.iter().enumerate().flat_map(move |(sequence, &span)| {
            let Span { start, prompt_end, end } = span;
            let step = if let Self::Chunk(len) = self { len } else { end - start };
            let count = match self {
                Self::Prompt | Self::Learned => usize::from(prompt_end > start),
                Self::All => usize::from(end > start),
                Self::Chunk(len) => (end - start).saturating_sub(1) / len,
            };
            (0..count).map(move |at| {
                let from = start + at * step;
                let (from, to) = match self {
                    Self::Prompt | Self::Learned => (start..prompt_end, start..end),
                    Self::All => (start..end, start..end),
                    Self::Chunk(_) => (from..from + step, from + step..end.min(from + 2 * step)),
                };
                Share { sequence, from, to }
            })
        })
    }

    /// Scratch for the weights of `rows` rows and their gradients, where they are learned.
    pub(crate) fn weights_len(self, rows: usize) -> usize {
        if self == Self::Learned { 2 * rows } else { 0 }
    }

    /// What pooling `rows` rows of `width` needs.
    pub(crate) fn req<F: Float>(self, be: &dyn Backend<F>, rows: usize, width: usize) -> Req {
        if self != Self::Learned {
            return Req::default();
        }
        let matmul = |m, k, n| be.req(OpShape::Matmul { m, k, n });
        matmul(rows, width, 1).max(matmul(1, rows, width)).max(matmul(rows, 1, width))
    }
}

/// `p = mean(x) + x[last]`.
pub(crate) fn mean_and_last<F: Float>(be: &dyn Backend<F>, x: Mat<'_, F>, p: &mut [F]) {
    p.fill(F::ZERO);
    be.sum_rows(x, p);
    finish_mean(p, x.rows(), x.row(x.rows() - 1));
}

/// Makes of a sum over `count` rows what [`mean_and_last`] gives.
pub(crate) fn finish_mean<F: Float>(sum: &mut [F], count: usize, last: &[F]) {
    let share = F::from_f64(1.0 / count as f64);
    sum.iter_mut().zip(last).for_each(|(p, &last)| *p = *p * share + last);
}

/// The way back of [`mean_and_last`]: `dp` is scaled on the way.
pub(crate) fn mean_and_last_vjp<F: Float>(
    be: &dyn Backend<F>,
    dp: &mut [F],
    mut dx: MatMut<'_, F>,
) {
    let count = dx.rows();
    be.add_bias(dp, dx.rb().rows_range(count - 1..count));
    let share = F::from_f64(1.0 / count as f64);
    dp.iter_mut().for_each(|d| *d *= share);
    be.add_bias(dp, dx);
}

/// `p = Σ w_t x_t` with `w = softmax(x vᵀ)`, which is left in `weights [T]`.
pub(crate) fn attend<F: Float>(
    be: &dyn Backend<F>,
    x: Mat<'_, F>,
    v: &[F],
    p: &mut [F],
    weights: &mut [F],
    rest: &mut [F],
) {
    soften(be, x, v, weights, rest);
    let (rows, width) = (x.rows(), x.cols());
    let weights = Mat::new(weights, 1, rows);
    be.matmul(F::ONE, weights, x, F::ZERO, MatMut::new(p, 1, width), rest);
}

/// `weights = softmax(x vᵀ)`.
fn soften<F: Float>(
    be: &dyn Backend<F>,
    x: Mat<'_, F>,
    v: &[F],
    weights: &mut [F],
    rest: &mut [F],
) {
    let rows = x.rows();
    let v = Mat::new(v, 1, x.cols());
    be.matmul(F::ONE, x, v.t(), F::ZERO, MatMut::new(weights, rows, 1), rest);
    let largest = weights.iter().fold(F::NEG_INFINITY, |largest, &logit| largest.max(logit));
    let mut sum = F::ZERO;
    for weight in weights.iter_mut() {
        *weight = (*weight - largest).exp();
        sum += *weight;
    }
    weights.iter_mut().for_each(|weight| *weight /= sum);
}

/// The way back of [`attend`]: `dv +=` and `dx +=`, given `p` and its gradient.
pub(crate) fn attend_vjp<F: Float>(
    be: &dyn Backend<F>,
    x: Mat<'_, F>,
    v: &[F],
    (p, dp): (&[F], &[F]),
    dv: &mut [F],
    dx: Option<MatMut<'_, F>>,
    room: &mut [F],
    rest: &mut [F],
) {
    let (rows, width) = (x.rows(), x.cols());
    let (weights, room) = room.split_at_mut(rows);
    let d_logits = &mut room[..rows];
    soften(be, x, v, weights, rest);
    let dp_row = Mat::new(dp, 1, width);
    be.matmul(F::ONE, x, dp_row.t(), F::ZERO, MatMut::new(d_logits, rows, 1), rest);
    let mut along = F::ZERO;
    p.iter().zip(dp).for_each(|(&p, &dp)| along += p * dp);
    for (d, &weight) in d_logits.iter_mut().zip(weights.iter()) {
        *d = weight * (*d - along);
    }
    be.matmul(F::ONE, Mat::new(d_logits, 1, rows), x, F::ONE, MatMut::new(dv, 1, width), rest);
    if let Some(mut dx) = dx {
        be.matmul(F::ONE, Mat::new(weights, rows, 1), dp_row, F::ONE, dx.rb(), rest);
        let v = Mat::new(v, 1, width);
        be.matmul(F::ONE, Mat::new(d_logits, rows, 1), v, F::ONE, dx, rest);
    }
}
