//! Cross-entropy of a packed head, without the logits.
//!
//! A panel of logits exists at a time, [`WORDS`] words for up to [`ROWS`] rows: large enough that
//! the head is decoded once for all labelled rows of an ordinary batch, bounded whatever the
//! vocabulary. The panel comes from [`qmatmul`] and its gradient goes back through [`qmatmul_t`];
//! between the two, rows are shared out.

use lowtide_backend::Req;
use lowtide_lanes::{RowBlock, RowBlocks, row_split, share_out};
use lowtide_quant::QMat;
use lowtide_tensor::{Mat, MatMut};

use crate::exp::{exp, exp_all, max};
use crate::qmatmul::{self, qmatmul, qmatmul_t};

/// Words of a panel: fixed, because sums over the vocabulary restart there.
const WORDS: usize = 512;

/// Rows of a panel. No result depends on it.
const ROWS: usize = 512;

/// What [`xent_head`] needs on `lanes` threads.
pub(crate) fn req(lanes: usize, rows: usize, vocab_size: usize, hidden_size: usize) -> Req {
    let rows = rows.min(ROWS);
    let product = |words| qmatmul::req(lanes, rows, words, hidden_size);
    panels(vocab_size, product).plus(rows * (vocab_size.min(WORDS) + 1))
}

/// What [`xent_head_vjp`] needs on `lanes` threads.
pub(crate) fn req_vjp(lanes: usize, rows: usize, vocab_size: usize, hidden_size: usize) -> Req {
    let rows = rows.min(ROWS);
    let products = |words| {
        let there = qmatmul::req(lanes, rows, words, hidden_size);
        there.max(qmatmul::req_t(lanes, rows, words, hidden_size))
    };
    panels(vocab_size, products).plus(rows * vocab_size.min(WORDS))
}

/// Enough for a whole panel and for the last one, which may be cut differently.
fn panels(vocab_size: usize, req: impl Fn(usize) -> Req) -> Req {
    req(vocab_size.min(WORDS)).max(req(vocab_size % WORDS))
}

/// `loss`, `lse`, `argmax` of `softmax(h Wᵀ)` against `targets`.
///
/// Until the last panel, `lse` holds each row's running maximum and `loss` its running sum.
pub(crate) fn xent_head(
    lanes: usize,
    h: Mat<'_, f32>,
    w: QMat<'_>,
    targets: &[u32],
    loss: &mut [f32],
    lse: &mut [f32],
    argmax: &mut [u32],
    scratch: &mut [f32],
) {
    lse.fill(f32::NEG_INFINITY);
    loss.fill(0.0);
    argmax.fill(0);
    let (hit, scratch) = scratch.split_at_mut(h.rows().min(ROWS));
    for n in (0..h.rows()).step_by(ROWS) {
        let rows = n..h.rows().min(n + ROWS);
        let (targets, hit) = (&targets[rows.clone()], &mut hit[..rows.len()]);
        let (loss, lse) = (&mut loss[rows.clone()], &mut lse[rows.clone()]);
        let argmax = &mut argmax[rows.clone()];
        hit.fill(f32::NAN);
        for word in (0..w.rows()).step_by(WORDS) {
            let head = w.slice_rows(word..w.rows().min(word + WORDS));
            let (panel, scratch) = scratch.split_at_mut(rows.len() * head.rows());
            let h = h.rows_range(rows.clone());
            qmatmul(lanes, h, head, MatMut::new(panel, rows.len(), head.rows()), scratch);

            let panel = MatMut::new(panel, rows.len(), head.rows());
            let (lanes, step) = row_split(lanes, panel.rows(), panel.cols());
            let running = lse.chunks_mut(step).zip(loss.chunks_mut(step));
            let picked = argmax.chunks_mut(step).zip(hit.chunks_mut(step));
            let units = RowBlocks::new(panel, step).zip(running).zip(picked);
            share_out(lanes, units, |((block, (lse, loss)), (argmax, hit))| {
                let RowBlock { start, rows: mut panel } = block;
                for i in 0..panel.rows() {
                    let logits = panel.row_mut(i);
                    if let Some(&mut logit) = at(logits, targets[start + i], word) {
                        hit[i] = logit;
                    }
                    merge(logits, word, &mut lse[i], &mut loss[i], &mut argmax[i]);
                }
            });
        }
        for ((lse, loss), hit) in lse.iter_mut().zip(loss).zip(hit) {
            *lse += loss.ln();
            *loss = *lse - *hit;
        }
    }
}

/// `dh += scale * (softmax(h Wᵀ) - onehot(targets)) W`.
pub(crate) fn xent_head_vjp(
    lanes: usize,
    h: Mat<'_, f32>,
    w: QMat<'_>,
    targets: &[u32],
    lse: &[f32],
    scale: f32,
    mut dh: MatMut<'_, f32>,
    scratch: &mut [f32],
) {
    for n in (0..h.rows()).step_by(ROWS) {
        let rows = n..h.rows().min(n + ROWS);
        let (targets, lse) = (&targets[rows.clone()], &lse[rows.clone()]);
        for word in (0..w.rows()).step_by(WORDS) {
            let head = w.slice_rows(word..w.rows().min(word + WORDS));
            let (panel, scratch) = scratch.split_at_mut(rows.len() * head.rows());
            let mut panel = MatMut::new(panel, rows.len(), head.rows());
            qmatmul(lanes, h.rows_range(rows.clone()), head, panel.rb(), scratch);

            let (own_lanes, step) = row_split(lanes, panel.rows(), panel.cols());
            share_out(own_lanes, RowBlocks::new(panel.rb(), step), |block| {
                let RowBlock { start, rows: mut panel } = block;
                for i in 0..panel.rows() {
                    slope(panel.row_mut(i), targets[start + i], word, lse[start + i], scale);
                }
            });
            qmatmul_t(lanes, panel.into_ref(), head, dh.rb().rows_range(rows.clone()), scratch);
        }
    }
}

/// Merges a panel's logits, which it uses up, into a row's running maximum, sum and best word.
fn merge(logits: &mut [f32], word: usize, running: &mut f32, sum: &mut f32, argmax: &mut u32) {
    let best = max(logits);
    if best > *running {
        let found = logits.iter().position(|&logit| logit == best).unwrap_or(0);
        *argmax = (word + found) as u32;
        *sum *= exp(*running - best);
        *running = best;
    }
    exp_all(logits, *running);
    *sum += crate::exp::sum(logits);
}

/// Turns a panel's logits into `scale * (p - onehot)`.
fn slope(logits: &mut [f32], target: u32, word: usize, lse: f32, scale: f32) {
    let hit = at(logits, target, word).map(|&mut logit| (exp(logit - lse) - 1.0) * scale);
    for logit in &mut *logits {
        *logit = exp(*logit - lse) * scale;
    }
    if let (Some(slot), Some(hit)) = (at(logits, target, word), hit) {
        *slot = hit;
    }
}

/// The target's element, when it lies in the panel that begins at `word`.
fn at(panel: &mut [f32], target: u32, word: usize) -> Option<&mut f32> {
    panel.get_mut((target as usize).checked_sub(word)?)
}
