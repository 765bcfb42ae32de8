//! Cross-entropy of a packed head, without the logits.
//!
//! A tile of at most [`ROWS`] rows by [`VOCAB_QUANTUM`] words of logits exists at a time. Each tile
//! gives, for each of its rows, a maximum and a sum of exponentials against it (in quanta of
//! [`QUANTUM`] words); the two are merged into the row's in ascending order of tiles.
//!
//! [`QUANTUM`]: lowtide_tensor::QUANTUM

use lowtide_quant::QMat;
use lowtide_tensor::{Float, Mat, MatMut, VOCAB_QUANTUM};

use crate::contract;

use super::lanes::sum;
use super::qmatmul::{self, qmatmul, qmatmul_t};

/// Rows of a tile of logits. No result depends on it.
const ROWS: usize = 32;

pub(super) fn scratch(rows: usize, vocab_size: usize, hidden_size: usize) -> usize {
    rows.min(ROWS) * vocab_size.min(VOCAB_QUANTUM) + qmatmul::scratch(hidden_size)
}

pub(super) fn scratch_vjp(rows: usize, vocab_size: usize, hidden_size: usize) -> usize {
    let product = qmatmul::scratch(hidden_size).max(qmatmul::scratch_t());
    rows.min(ROWS) * vocab_size.min(VOCAB_QUANTUM) + product
}

/// What the words seen so far say about one row.
#[derive(Clone, Copy)]
struct Seen<F> {
    max: F,
    sum: F,
    target: F,
    argmax: u32,
}

impl<F: Float> Seen<F> {
    const NOTHING: Self = Self { max: F::NEG_INFINITY, sum: F::ZERO, target: F::NAN, argmax: 0 };

    /// Merges the logits of the words from `first` on.
    fn merge(&mut self, logits: &[F], first: usize, target: u32) {
        let mut max = F::NEG_INFINITY;
        let mut argmax = 0;
        for (word, &logit) in logits.iter().enumerate() {
            if logit > max {
                (max, argmax) = (logit, word);
            }
        }
        let tile = sum(logits.iter().map(|&logit| (logit - max).exp()));
        if max > self.max {
            self.argmax = (first + argmax) as u32;
        }
        let joint = self.max.max(max);
        self.sum = self.sum * (self.max - joint).exp() + tile * (max - joint).exp();
        self.max = joint;
        if let Some(&logit) = (target as usize).checked_sub(first).and_then(|at| logits.get(at)) {
            self.target = logit;
        }
    }
}

/// `loss [N]`, `lse [N]`, `argmax [N]` of `softmax(h Wᵀ)` against `targets [N]`.
pub fn xent_head<F: Float>(
    h: Mat<'_, F>,
    w: QMat<'_>,
    targets: &[u32],
    loss: &mut [F],
    lse: &mut [F],
    argmax: &mut [u32],
    scratch: &mut [F],
) {
    contract::xent_head(h, w, targets, loss, lse, argmax);
    let (tile, scratch) = scratch.split_at_mut(h.rows().min(ROWS) * w.rows().min(VOCAB_QUANTUM));
    for n in (0..h.rows()).step_by(ROWS) {
        let rows = n..h.rows().min(n + ROWS);
        let mut seen = [Seen::NOTHING; ROWS];
        for word in (0..w.rows()).step_by(VOCAB_QUANTUM) {
            let words = word..w.rows().min(word + VOCAB_QUANTUM);
            let tile = &mut tile[..rows.len() * words.len()];
            let logits = MatMut::new(tile, rows.len(), words.len());
            qmatmul(h.rows_range(rows.clone()), w.slice_rows(words.clone()), logits, scratch);
            let logits = Mat::new(tile, rows.len(), words.len());
            for (i, seen) in seen[..rows.len()].iter_mut().enumerate() {
                seen.merge(logits.row(i), word, targets[n + i]);
            }
        }
        for (n, seen) in rows.zip(seen) {
            lse[n] = seen.max + seen.sum.ln();
            loss[n] = lse[n] - seen.target;
            argmax[n] = seen.argmax;
        }
    }
}

/// `dh += scale * (softmax(h Wᵀ) - onehot(targets)) W`. The contraction over words runs in quanta
/// as in [`qmatmul_t`].
pub fn xent_head_vjp<F: Float>(
    h: Mat<'_, F>,
    w: QMat<'_>,
    targets: &[u32],
    lse: &[F],
    scale: F,
    mut dh: MatMut<'_, F>,
    scratch: &mut [F],
) {
    contract::xent_head_vjp(h, w, targets, lse, dh.as_ref());
    let (tile, scratch) = scratch.split_at_mut(h.rows().min(ROWS) * w.rows().min(VOCAB_QUANTUM));
    for n in (0..h.rows()).step_by(ROWS) {
        let rows = n..h.rows().min(n + ROWS);
        for word in (0..w.rows()).step_by(VOCAB_QUANTUM) {
            let words = word..w.rows().min(word + VOCAB_QUANTUM);
            let head = w.slice_rows(words.clone());
            let tile = &mut tile[..rows.len() * words.len()];
            let mut logits = MatMut::new(tile, rows.len(), words.len());
            qmatmul(h.rows_range(rows.clone()), head, logits.rb(), scratch);
            for (i, n) in rows.clone().enumerate() {
                let row = logits.row_mut(i);
                for logit in &mut *row {
                    *logit = (*logit - lse[n]).exp();
                }
                let target = (targets[n] as usize).checked_sub(word);
                if let Some(p) = target.and_then(|at| row.get_mut(at)) {
                    *p -= F::ONE;
                }
                for p in row {
                    *p *= scale;
                }
            }
            qmatmul_t(logits.into_ref(), head, dh.rb().rows_range(rows.clone()), scratch);
        }
    }
}
