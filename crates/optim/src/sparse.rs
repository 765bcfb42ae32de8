//! Updates of some entries only, with states for those only.

use core::ops::Range;

use lowtide_backend::Backend;

use crate::slabs::{Part, for_each_tensor};
use crate::{Optimizer, StepHyper};

/// Entries that are gathered at once, on the stack: a block of the 8-bit moments.
const CHUNK: usize = 256;

/// What an index is before any was chosen.
const NONE: u32 = u32::MAX;

/// Another rule, on the share of each tensor's entries whose gradients were largest when they first
/// were not all zero.
///
/// Entries are chosen once and kept, so that the state of the rule exists for them only. The state
/// of a tensor of `n` parameters, of which `k` are updated: `k` indices in ascending order, as u32,
/// then the rule's states of pieces of at most 256 chosen entries.
///
/// A tensor whose gradients are all zero stays as it is, and nothing is chosen of it yet: the `A`
/// of LoRA has none while `B` is zero. Weight decay reaches the chosen entries only.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SparseTop<O> {
    /// The rule for the chosen entries.
    pub inner: O,
    /// Which share of a tensor is chosen: above 0, at most 1; of any tensor, at least one entry.
    pub share: f64,
}

impl<O: Optimizer> SparseTop<O> {
    /// How many of `n` entries are updated.
    #[must_use]
    pub fn chosen(&self, n: usize) -> usize {
        // Rounded up, and safely so where a product such as 0.1 * 30 falls beside a whole number.
        let exact = self.share * n as f64 - 1e-9;
        let whole = exact as usize;
        let up = whole + usize::from(exact > whole as f64);
        up.clamp(usize::from(n > 0), n)
    }

    fn words(&self, n: usize) -> usize {
        let k = self.chosen(n);
        k + pieces(k).map(|piece| self.inner.state_words(&[piece.len()])).sum::<usize>()
    }
}

impl<O: Optimizer> Optimizer for SparseTop<O> {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn state_words(&self, tensors: &[usize]) -> usize {
        tensors.iter().map(|&n| self.words(n)).sum()
    }

    fn init(&self, tensors: &[usize], state: &mut [f32]) {
        let mut rest = state;
        for &n in tensors {
            let k = self.chosen(n);
            let (tensor, after) = rest.split_at_mut(self.words(n));
            rest = after;
            let (indices, mut states) = tensor.split_at_mut(k);
            indices.fill(f32::from_bits(NONE));
            for piece in pieces(k) {
                let words = self.inner.state_words(&[piece.len()]);
                let (own, after) = states.split_at_mut(words);
                states = after;
                self.inner.init(&[piece.len()], own);
            }
        }
    }

    fn update(
        &self,
        be: &dyn Backend<f32>,
        tensors: &[usize],
        p: &mut [f32],
        g: &[f32],
        state: &mut [f32],
        step: &StepHyper,
    ) {
        for_each_tensor(
            tensors,
            p,
            g,
            state,
            |n| self.words(n),
            |Part { p, g, state }| {
                let (indices, mut states) = state.split_at_mut(self.chosen(p.len()));
                let unset = indices.first().is_some_and(|index| index.to_bits() == NONE);
                if unset && !choose(g, indices) {
                    return;
                }
                for piece in pieces(indices.len()) {
                    let words = self.inner.state_words(&[piece.len()]);
                    let (own, after) = states.split_at_mut(words);
                    states = after;
                    gathered(&indices[piece], p, g, |p, g| {
                        self.inner.update(be, &[p.len()], p, g, own, step);
                    });
                }
            },
        );
    }

    fn forget(&self, n: usize, state: &mut [f32], which: &dyn Fn(usize) -> bool) {
        let (indices, mut states) = state.split_at_mut(self.chosen(n));
        if indices.first().is_some_and(|index| index.to_bits() == NONE) {
            return;
        }
        for piece in pieces(indices.len()) {
            let words = self.inner.state_words(&[piece.len()]);
            let (own, after) = states.split_at_mut(words);
            states = after;
            let indices = &indices[piece];
            self.inner.forget(indices.len(), own, &|i| which(indices[i].to_bits() as usize));
        }
    }
}

/// Another rule, on those entries only whose scaled gradients are at least a threshold. The states
/// of the others stay as they are, and weight decay does not reach them in this update.
///
/// To the rule, an entry's updates are its own, counted from 1: a moment that started at zero has
/// grown with them and not with those that passed the entry by, so the number that corrects its
/// bias is theirs. By the number of the run's update, the first update of an entry that comes late
/// would be three times as large as the rate, and the tenth six times.
///
/// The state of a tensor of `n` is one state of the rule for each entry, as of a tensor of its own,
/// then the counts, two to a word; a count stops at 65,535, where bias is long gone. Nothing for a
/// rule without state.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SparseThreshold<O> {
    /// The rule for entries that are updated.
    pub inner: O,
    /// Magnitudes of gradients below it are not applied; as they are after clipping and averaging.
    pub threshold: f64,
}

impl<O: Optimizer> SparseThreshold<O> {
    fn words(&self, n: usize) -> usize {
        match self.inner.state_words(&[1]) {
            0 => 0,
            each => n * each + n.div_ceil(2),
        }
    }
}

impl<O: Optimizer> Optimizer for SparseThreshold<O> {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn state_words(&self, tensors: &[usize]) -> usize {
        tensors.iter().map(|&n| self.words(n)).sum()
    }

    fn init(&self, tensors: &[usize], state: &mut [f32]) {
        let each = self.inner.state_words(&[1]);
        if each == 0 {
            return;
        }
        let mut rest = state;
        for &n in tensors {
            let (tensor, after) = rest.split_at_mut(self.words(n));
            rest = after;
            let (states, counts) = tensor.split_at_mut(n * each);
            states.chunks_exact_mut(each).for_each(|entry| self.inner.init(&[1], entry));
            counts.fill(f32::from_bits(0));
        }
    }

    fn update(
        &self,
        be: &dyn Backend<f32>,
        tensors: &[usize],
        p: &mut [f32],
        g: &[f32],
        state: &mut [f32],
        step: &StepHyper,
    ) {
        let each = self.inner.state_words(&[1]);
        for_each_tensor(
            tensors,
            p,
            g,
            state,
            |n| self.words(n),
            |Part { p, g, state }| {
                let (states, counts) = state.split_at_mut(p.len() * each);
                for i in 0..p.len() {
                    if (f64::from(g[i]) * step.grad_scale).abs() >= self.threshold {
                        let own = if each > 0 { count(counts, i) } else { step.step };
                        let step = StepHyper { step: own, ..*step };
                        let (p, g) = (&mut p[i..=i], &g[i..=i]);
                        self.inner.update(be, &[1], p, g, &mut states[i * each..][..each], &step);
                    }
                }
            },
        );
    }

    fn forget(&self, n: usize, state: &mut [f32], which: &dyn Fn(usize) -> bool) {
        let each = self.inner.state_words(&[1]);
        for i in (0..n).filter(|&i| which(i)) {
            self.inner.forget(1, &mut state[i * each..][..each], &|_| true);
            if each > 0 {
                forget_count(&mut state[n * each..], i);
            }
        }
    }
}

/// Counts one more update of entry `i`; answers how many there were.
fn count(counts: &mut [f32], i: usize) -> u64 {
    let (word, shift) = (&mut counts[i / 2], i % 2 * 16);
    let bits = word.to_bits();
    let count = ((bits >> shift) as u16).saturating_add(1);
    *word = f32::from_bits(bits & !(0xffff << shift) | u32::from(count) << shift);
    u64::from(count)
}

/// Counts the updates of entry `i` from the beginning again.
fn forget_count(counts: &mut [f32], i: usize) {
    let (word, shift) = (&mut counts[i / 2], i % 2 * 16);
    *word = f32::from_bits(word.to_bits() & !(0xffff << shift));
}

/// Ranges of at most [`CHUNK`] of `k` entries.
fn pieces(k: usize) -> impl Iterator<Item = Range<usize>> {
    (0..k).step_by(CHUNK).map(move |start| start..(start + CHUNK).min(k))
}

/// Lends the entries at `indices` to `update`, one after another, and puts them back.
fn gathered(indices: &[f32], p: &mut [f32], g: &[f32], update: impl FnOnce(&mut [f32], &[f32])) {
    let (mut some_p, mut some_g) = ([0.0; CHUNK], [0.0; CHUNK]);
    let (some_p, some_g) = (&mut some_p[..indices.len()], &mut some_g[..indices.len()]);
    for ((index, some_p), some_g) in indices.iter().zip(&mut *some_p).zip(&mut *some_g) {
        let at = index.to_bits() as usize;
        (*some_p, *some_g) = (p[at], g[at]);
    }
    update(some_p, some_g);
    for (index, value) in indices.iter().zip(some_p) {
        p[index.to_bits() as usize] = *value;
    }
}

/// Writes the places of the largest magnitudes of `g` in ascending order, the first of equal ones;
/// `false` and nothing when all are zero.
fn choose(g: &[f32], indices: &mut [f32]) -> bool {
    // Bits of magnitudes are in the order of magnitudes.
    let magnitude = |value: f32| value.abs().to_bits();
    if g.iter().all(|value| *value == 0.0) {
        return false;
    }
    let reached = |least: u32| g.iter().filter(|value| magnitude(**value) >= least).count();
    // The largest magnitude that enough entries reach: bisection needs no room.
    let (mut low, mut high) = (0, u32::MAX);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        match reached(middle) >= indices.len() {
            true => low = middle,
            false => high = middle,
        }
    }
    let above = g.iter().filter(|value| magnitude(**value) > low).count();
    let mut equal = indices.len() - above;
    let mut places = indices.iter_mut();
    for (i, value) in g.iter().enumerate() {
        let takes = match magnitude(*value) {
            more if more > low => true,
            same if same == low && equal > 0 => {
                equal -= 1;
                true
            }
            _ => false,
        };
        if takes {
            let place = places.next().expect("as many as there is room for");
            *place = f32::from_bits(i as u32);
        }
    }
    true
}

#[cfg(test)]
mod tests;
