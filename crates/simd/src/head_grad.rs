//! Loss and gradient of a packed head in one pass: attention's online softmax, with the head for
//! keys and for values.
//!
//! A tile of words is worked on by all threads together, in three steps. By words: they are
//! multiplied with every row. By rows: each row takes its logits in as [`crate::head`] does, to the
//! same bits, and turns them into exponentials against its largest logit so far; where that has
//! grown, the gradient's sums shrink. By columns: the words are added to these sums.
//!
//! The target's own word is left out of these sums and comes last, with minus the probability of
//! all other words as its weight: nothing cancels where the model is sure of the target.

use std::ops::Range;

use lowtide_backend::{Req, contract};
use lowtide_kernels::Kernels;
use lowtide_lanes::{RowBlock, RowBlocks, row_split, share, share_out};
use lowtide_quant::QMat;
use lowtide_tensor::{Mat, MatMut};

use crate::Simd;
use crate::head::{Seen, TILE, WORDS, merged};
use crate::panel::{WIDTH, decode};
use crate::words::{self, Rows};

/// Words of a tile: at most this many, and whole times [`merged`], where sums over the vocabulary
/// restart.
const WORDS_TILE: usize = 3 * WIDTH;

/// What is written of each row besides its gradient.
pub(crate) struct Losses<'a> {
    pub(crate) loss: &'a mut [f32],
    pub(crate) lse: &'a mut [f32],
    pub(crate) argmax: &'a mut [u32],
}

/// What a row's sums stand at; in scratch it follows what the row has [`Seen`].
#[derive(Clone, Copy)]
struct Running {
    /// The largest logit, which exponentials are against.
    max: f32,
    /// Of the exponentials of all words but the target.
    others: f32,
}

impl Running {
    /// Elements it takes in scratch.
    const LEN: usize = 2;

    const NOTHING: Self = Self { max: f32::NEG_INFINITY, others: 0.0 };

    fn read(from: &[f32]) -> Self {
        Self { max: from[0], others: from[1] }
    }

    fn write(self, to: &mut [f32]) {
        to.copy_from_slice(&[self.max, self.others]);
    }
}

/// What [`xent_head_grad`] needs.
pub(crate) fn req(be: &Simd, rows: usize, vocab_size: usize, hidden_size: usize) -> Req {
    let rows = words::at_once(be, rows, record(vocab_size), hidden_size);
    let step = step(hidden_size).min(vocab_size);
    let tile = step * rows + words::tile(be, rows, step, hidden_size);
    let word = be.threads() * hidden_size;
    let shared = rows * record(vocab_size) + words::room(be, rows, hidden_size);
    Req { scratch: shared + tile.max(word), library_bytes: 0 }
}

/// Elements that are kept of a row.
fn record(vocab_size: usize) -> usize {
    vocab_size.div_ceil(WORDS) * Seen::LEN + Running::LEN
}

fn step(hidden_size: usize) -> usize {
    let merged = merged(hidden_size);
    (TILE / hidden_size.max(1) / merged * merged).clamp(merged, WORDS_TILE)
}

/// `loss`, `lse`, `argmax` of `softmax(h Wᵀ)` against `targets`, and
/// `grad = scale * (softmax(h Wᵀ) - onehot(targets)) W`.
pub(crate) fn xent_head_grad(
    be: &Simd,
    h: Mat<'_, f32>,
    w: QMat<'_>,
    targets: &[u32],
    scale: f32,
    out: Losses<'_>,
    mut grad: MatMut<'_, f32>,
    scratch: &mut [f32],
) {
    let Losses { loss, lse, argmax } = out;
    contract::xent_head_grad(h, w, targets, loss, lse, argmax, grad.as_ref());
    let most = words::at_once(be, h.rows(), record(w.rows()), h.cols()).max(1);
    for n in (0..h.rows()).step_by(most) {
        let rows = n..h.rows().min(n + most);
        let mut grad = grad.rb().rows_range(rows.clone());
        let (records, scratch) = scratch.split_at_mut(rows.len() * record(w.rows()));
        let mut records = MatMut::new(records, rows.len(), record(w.rows()));
        for i in 0..rows.len() {
            let (seen, running) = apart(records.row_mut(i));
            seen.chunks_exact_mut(Seen::LEN).for_each(|seen| Seen::NOTHING.write(seen));
            Running::NOTHING.write(running);
        }
        grad.fill(0.0);
        let (h, scratch) = Rows::new(be, h.rows_range(rows.clone()), &w, scratch);
        let pass = Pass { be, h, w, targets: &targets[rows.clone()] };
        let step = step(w.cols());
        for word in (0..w.rows()).step_by(step) {
            pass.tile(word..w.rows().min(word + step), records.rb(), grad.rb(), scratch);
        }
        let out = Losses {
            loss: &mut loss[rows.clone()],
            lse: &mut lse[rows.clone()],
            argmax: &mut argmax[rows],
        };
        pass.finish(scale, records.into_ref(), out, grad, scratch);
    }
}

/// The rows worked on together.
struct Pass<'a> {
    be: &'a Simd,
    h: Rows<'a>,
    w: QMat<'a>,
    targets: &'a [u32],
}

impl Pass<'_> {
    /// Takes in some words: what rows know of them, and what they add to the gradient.
    fn tile(
        &self,
        at: Range<usize>,
        records: MatMut<'_, f32>,
        mut grad: MatMut<'_, f32>,
        scratch: &mut [f32],
    ) {
        let (be, rows) = (self.be, self.h.count());
        let (exps, scratch) = scratch.split_at_mut(at.len() * rows);
        let mut exps = MatMut::new(exps, rows, at.len());
        let tile = self.h.tile(self.w.slice_rows(at.clone()), exps.rb(), scratch, |_, _| {});
        let merged = merged(self.w.cols());

        let (lanes, step) = row_split(be.threads(), rows, at.len());
        let units = RowBlocks::new(exps.rb(), step).zip(RowBlocks::new(records, step));
        share_out(lanes, units.zip(RowBlocks::new(grad.rb(), step)), |((exps, records), grad)| {
            let (targets, mut exps) = (&self.targets[exps.start..], exps.rows);
            let (mut records, mut grad) = (records.rows, grad.rows);
            for i in 0..exps.rows() {
                let (exps, target) = (exps.row_mut(i), targets[i] as usize);
                let record = records.row_mut(i);
                let shrink = soften(be.kernels(), exps, at.start, target, merged, record);
                if shrink != 1.0 {
                    grad.row_mut(i).iter_mut().for_each(|sum| *sum *= shrink);
                }
            }
        });
        tile.back(be, exps.into_ref(), merged, grad);
    }

    /// Losses, and gradients of what was summed.
    fn finish(
        &self,
        scale: f32,
        records: Mat<'_, f32>,
        out: Losses<'_>,
        grad: MatMut<'_, f32>,
        scratch: &mut [f32],
    ) {
        let (kernels, inputs) = (self.be.kernels(), self.w.cols());
        let (lanes, step) = row_split(self.be.threads(), grad.rows(), inputs);
        let Losses { loss, lse, argmax } = out;
        let of_rows = loss.chunks_mut(step).zip(lse.chunks_mut(step));
        let units = RowBlocks::new(grad, step).zip(of_rows).zip(argmax.chunks_mut(step));
        share(lanes, scratch, inputs, units, |((block, (loss, lse)), argmax), word| {
            let RowBlock { start, rows: mut grad } = block;
            for i in 0..grad.rows() {
                let (target, record) = (self.targets[start + i], records.row(start + i));
                let (seen, running) = record.split_at(record.len() - Running::LEN);
                let hit = Seen::read(&seen[target as usize / WORDS * Seen::LEN..]).hit;
                let seen = seen.chunks_exact(Seen::LEN).map(Seen::read);
                (loss[i], lse[i], argmax[i]) = Seen::settle(kernels, seen, target);
                let Running { max, others } = Running::read(running);
                let all = others + kernels.exp(hit - max);
                decode(kernels, self.w, target as usize, 0..inputs, word);
                kernels.axpby(-scale * (others / all), word, scale / all, grad.row_mut(i));
            }
        });
    }
}

/// Takes in a row's logits of the words from `word` on, which become exponentials against the
/// row's largest logit, zero for the target. Gives what earlier sums are to be multiplied with.
fn soften(
    kernels: &Kernels,
    logits: &mut [f32],
    word: usize,
    target: usize,
    merged: usize,
    record: &mut [f32],
) -> f32 {
    let (seen, slot) = apart(record);
    let before = Running::read(slot);
    let max = before.max.max(kernels.max(logits));
    let shrink = if max > before.max { kernels.exp(before.max - max) } else { 1.0 };
    let mut others = before.others * shrink;
    for (logits, word) in logits.chunks_mut(merged).zip((word..).step_by(merged)) {
        let slot = &mut seen[word / WORDS * Seen::LEN..][..Seen::LEN];
        let mut seen = Seen::read(slot);
        let target = target.checked_sub(word);
        let mut sum = seen.merge(kernels, logits, word % WORDS, target);
        seen.write(slot);
        if let Some(own) = target.and_then(|at| logits.get_mut(at)) {
            *own = 0.0;
            sum = kernels.sum(logits);
        }
        let factor = kernels.exp(seen.max - max);
        if factor != 1.0 {
            logits.iter_mut().for_each(|exp| *exp *= factor);
        }
        others += sum * factor;
    }
    Running { max, others }.write(slot);
    shrink
}

/// A row's record: what it has [`Seen`] of each unit, and [`Running`].
fn apart(record: &mut [f32]) -> (&mut [f32], &mut [f32]) {
    record.split_at_mut(record.len() - Running::LEN)
}
