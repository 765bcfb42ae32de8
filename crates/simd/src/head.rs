//! Cross-entropy of a packed head, without the logits.
//!
//! *Forward*, a unit is [`WORDS`] words: its thread decodes them once, multiplies them with every
//! row, [`WIDTH`] words at a time, and leaves for each row a maximum, a sum of exponentials against
//! it and the best word. At the end these are merged in ascending order, so threads never wait for
//! each other.
//!
//! *Backward*, a tile of words is worked on by all threads together, because every word adds to
//! every gradient. First each thread decodes some of the tile's words, turns them for the logits
//! and makes these slopes; then each takes some columns of the gradient, for which it packs the
//! same decoded words as they lie. So a word is decoded once for both products.
//!
//! Both at once are in [`crate::head_grad`].

use lowtide_backend::{Req, contract};
use lowtide_kernels::Kernels;
use lowtide_lanes::share;
use lowtide_quant::QMat;
use lowtide_tensor::{Mat, MatMut};

use crate::Simd;
use crate::panel::{DEPTH, WIDTH};
use crate::words::{self, Rows};

/// Words of a unit: fixed, because sums over the vocabulary restart there. Whole widths.
pub(crate) const WORDS: usize = 5 * WIDTH;

/// Words of a backward tile: at most this many, a multiple of [`STEP`], and so that its decoded
/// words stay below [`TILE`] elements. Sums over the vocabulary restart there.
const WORDS_BACK: usize = 576;
const STEP: usize = 48;
/// Elements that decoded words of a tile take, unless [`STEP`] words take more.
pub(crate) const TILE: usize = 384 * 1024;

/// Words that [`Seen::merge`] takes in at once: a [`WIDTH`], or as large a part of it as [`TILE`]
/// holds, since the pass that also makes gradients keeps them decoded.
pub(crate) fn merged(hidden_size: usize) -> usize {
    [WIDTH, WIDTH / 2].into_iter().find(|words| words * hidden_size <= TILE).unwrap_or(STEP)
}

/// What the words of a unit say about one row.
#[derive(Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) max: f32,
    /// Of the exponentials, against the maximum.
    sum: f32,
    /// The first word with the maximum, counted from the unit's first.
    best: f32,
    /// The target's logit, where the unit holds the target.
    pub(crate) hit: f32,
}

impl Seen {
    /// Elements it takes in scratch.
    pub(crate) const LEN: usize = 4;

    pub(crate) const NOTHING: Self =
        Self { max: f32::NEG_INFINITY, sum: 0.0, best: 0.0, hit: f32::NAN };

    pub(crate) fn read(from: &[f32]) -> Self {
        Self { max: from[0], sum: from[1], best: from[2], hit: from[3] }
    }

    pub(crate) fn write(self, to: &mut [f32]) {
        to.copy_from_slice(&[self.max, self.sum, self.best, self.hit]);
    }

    /// Takes in the logits of [`merged`] words at most, the unit's from `first` on; `target` counts
    /// from the first of them. Logits become exponentials against the new maximum, whose sum is
    /// returned.
    pub(crate) fn merge(
        &mut self,
        kernels: &Kernels,
        logits: &mut [f32],
        first: usize,
        target: Option<usize>,
    ) -> f32 {
        if let Some(&hit) = target.and_then(|at| logits.get(at)) {
            self.hit = hit;
        }
        let best = kernels.max(logits);
        if best > self.max {
            let found = logits.iter().position(|&logit| logit == best).unwrap_or(0);
            self.best = (first + found) as f32;
            self.sum *= kernels.exp(self.max - best);
            self.max = best;
        }
        let sum = kernels.exp_sum(logits, self.max);
        self.sum += sum;
        sum
    }

    /// Loss, log-sum-exp and best word of a row, from all its units in ascending order.
    pub(crate) fn settle(
        kernels: &Kernels,
        units: impl Iterator<Item = Self> + Clone,
        target: u32,
    ) -> (f32, f32, u32) {
        let hit = units.clone().nth(target as usize / WORDS).map_or(f32::NAN, |unit| unit.hit);
        let (unit, best) = units.clone().enumerate().fold((0, Self::NOTHING), |best, seen| {
            if seen.1.max > best.1.max { seen } else { best }
        });
        let sum = units.fold(0.0, |sum, seen| sum + seen.sum * kernels.exp(seen.max - best.max));
        let lse = best.max + sum.ln();
        (lse - hit, lse, (unit * WORDS) as u32 + best.best as u32)
    }
}

/// What [`xent_head`] needs.
pub(crate) fn req(be: &Simd, rows: usize, vocab_size: usize, hidden_size: usize) -> Req {
    let seen = vocab_size.div_ceil(WORDS) * Seen::LEN;
    let rows = words::at_once(be, rows, seen, hidden_size);
    let shared = seen * rows + words::room(be, rows, hidden_size);
    Req {
        scratch: shared + be.threads() * each(be, rows, vocab_size, hidden_size),
        library_bytes: 0,
    }
}

/// A thread's part: logits, and the panel they come from.
fn each(be: &Simd, rows: usize, vocab_size: usize, hidden_size: usize) -> usize {
    rows * vocab_size.min(WIDTH) + words::each(be, vocab_size, hidden_size)
}

/// What [`xent_head_vjp`] needs.
pub(crate) fn req_vjp(be: &Simd, rows: usize, vocab_size: usize, hidden_size: usize) -> Req {
    let rows = words::at_once(be, rows, 0, hidden_size);
    let step = words_back(hidden_size).min(vocab_size);
    let shared = words::room(be, rows, hidden_size) + step * rows;
    Req { scratch: shared + words::tile(be, rows, step, hidden_size), library_bytes: 0 }
}

fn words_back(hidden_size: usize) -> usize {
    (TILE / hidden_size.max(1) / STEP * STEP).clamp(STEP, WORDS_BACK)
}

/// `loss`, `lse`, `argmax` of `softmax(h Wᵀ)` against `targets`.
pub(crate) fn xent_head(
    be: &Simd,
    h: Mat<'_, f32>,
    w: QMat<'_>,
    targets: &[u32],
    loss: &mut [f32],
    lse: &mut [f32],
    argmax: &mut [u32],
    scratch: &mut [f32],
) {
    contract::xent_head(h, w, targets, loss, lse, argmax);
    let units = w.rows().div_ceil(WORDS);
    let most = words::at_once(be, h.rows(), units * Seen::LEN, h.cols()).max(1);
    for n in (0..h.rows()).step_by(most) {
        let rows = n..h.rows().min(n + most);
        let count = rows.len() * Seen::LEN;
        let (seen, scratch) = scratch.split_at_mut(units * count);
        let (h, scratch) = Rows::new(be, h.rows_range(rows.clone()), &w, scratch);
        let own = each(be, rows.len(), w.rows(), w.cols());
        let targets = &targets[rows.clone()];
        let units = seen.chunks_exact_mut(count).enumerate();
        share(be.threads(), scratch, own, units, |(unit, seen), own| {
            let word = unit * WORDS;
            let w = w.slice_rows(word..w.rows().min(word + WORDS));
            look(be.kernels(), &h, w, targets, word, seen, own);
        });
        for (i, n) in rows.clone().enumerate() {
            let units = seen.chunks_exact(count).map(|unit| Seen::read(&unit[i * Seen::LEN..]));
            (loss[n], lse[n], argmax[n]) = Seen::settle(be.kernels(), units, targets[i]);
        }
    }
}

/// What the words of a unit, which begins at `word`, say about each row.
fn look(
    kernels: &Kernels,
    h: &Rows<'_>,
    w: QMat<'_>,
    targets: &[u32],
    word: usize,
    seen: &mut [f32],
    own: &mut [f32],
) {
    seen.chunks_exact_mut(Seen::LEN).for_each(|seen| Seen::NOTHING.write(seen));
    let width = merged(w.cols());
    for first in (0..w.rows()).step_by(width) {
        let w = w.slice_rows(first..w.rows().min(first + width));
        let (logits, room) = own.split_at_mut(h.count() * w.rows());
        h.times(w, MatMut::new(logits, h.count(), w.rows()), room);
        let rows = logits.chunks_exact_mut(w.rows()).zip(seen.chunks_exact_mut(Seen::LEN));
        for ((logits, slot), &target) in rows.zip(targets) {
            let mut seen = Seen::read(slot);
            seen.merge(kernels, logits, first, (target as usize).checked_sub(word + first));
            seen.write(slot);
        }
    }
}

/// `dh += scale * (softmax(h Wᵀ) - onehot(targets)) W`.
pub(crate) fn xent_head_vjp(
    be: &Simd,
    h: Mat<'_, f32>,
    w: QMat<'_>,
    targets: &[u32],
    lse: &[f32],
    scale: f32,
    mut dh: MatMut<'_, f32>,
    scratch: &mut [f32],
) {
    contract::xent_head_vjp(h, w, targets, lse, dh.as_ref());
    let (kernels, step) = (be.kernels(), words_back(w.cols()));
    let most = words::at_once(be, h.rows(), 0, h.cols()).max(1);
    for n in (0..h.rows()).step_by(most) {
        let rows = n..h.rows().min(n + most);
        let mut dh = dh.rb().rows_range(rows.clone());
        let (targets, lse) = (&targets[rows.clone()], &lse[rows.clone()]);
        let (h, scratch) = Rows::new(be, h.rows_range(rows.clone()), &w, scratch);
        for word in (0..w.rows()).step_by(step) {
            let head = w.slice_rows(word..w.rows().min(word + step));
            let (slopes, scratch) = scratch.split_at_mut(head.rows() * rows.len());
            let mut slopes = MatMut::new(slopes, rows.len(), head.rows());
            let tile = h.tile(head, slopes.rb(), scratch, |start, mut slopes| {
                for i in 0..slopes.rows() {
                    slope(kernels, slopes.row_mut(i), targets[i], word + start, lse[i], scale);
                }
            });
            tile.back(be, slopes.into_ref(), DEPTH, dh.rb());
        }
    }
}

/// Turns the logits of the words from `word` on into `scale * (p - onehot)`.
fn slope(kernels: &Kernels, logits: &mut [f32], target: u32, word: usize, lse: f32, scale: f32) {
    kernels.exp_scaled(logits, lse, scale);
    if let Some(hit) = at(logits, target, word) {
        *hit -= scale;
    }
}

/// The target's element, where it is one of those from `word` on.
fn at(logits: &mut [f32], target: u32, word: usize) -> Option<&mut f32> {
    logits.get_mut((target as usize).checked_sub(word)?)
}
