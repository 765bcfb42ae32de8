//! The [`Optimizer`] trait.

use lowtide_backend::Backend;

/// What changes from one update to the next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepHyper {
    /// Learning rate of this update.
    pub lr: f64,
    /// Number of this update, from 1.
    pub step: u64,
    /// Factor on the gradient before anything else: clipping, averaging over micro-batches.
    pub grad_scale: f64,
}

/// An update rule over flat slabs.
///
/// `tensors` holds the lengths of the tensors that lie one after another in the parameters `p` and
/// in the gradients `g`. What the rule remembers lies in `state`, exactly
/// [`Optimizer::state_words`] words of f32, whatever it packs into them.
///
/// Two promises make it possible to update one segment of a model while the gradients of the others
/// do not exist yet; `lowtide_conformance::optimizer` checks them:
///
/// - the state of a tensor depends on its own length only, and the states of several tensors follow
///   each other in the order of the tensors, so that `state_words` is additive;
/// - the update of a tensor reads nothing but that tensor's parameters, gradients and state.
///
/// A state slab is bytes that are lent as f32 words: packed forms may hold any bit pattern,
/// signalling NaNs included, so it is copied and stored bit by bit, never number by number.
pub trait Optimizer: Send + Sync {
    /// Name in configurations: `adamw8bit`.
    fn name(&self) -> &'static str;

    /// Length of the state of tensors of these lengths, in f32 words (4 bytes each).
    fn state_words(&self, tensors: &[usize]) -> usize;

    /// Makes `state` what it is before the first update, whatever it held: zeros unless the rule
    /// says otherwise.
    fn init(&self, _tensors: &[usize], state: &mut [f32]) {
        state.fill(0.0);
    }

    /// One update of all `tensors`, in place.
    ///
    /// # Panics
    /// When the length of a slab does not follow from `tensors`.
    fn update(
        &self,
        be: &dyn Backend<f32>,
        tensors: &[usize],
        p: &mut [f32],
        g: &[f32],
        state: &mut [f32],
        step: &StepHyper,
    );

    /// Makes the state of some entries of one tensor of `n` parameters, those that `which` names,
    /// what it is of entries whose gradients were always zero. An entry that is zero and whose
    /// gradients are zero from then on stays zero. All other entries go on as they would have.
    ///
    /// There is nothing to do for a rule without state.
    fn forget(&self, _n: usize, _state: &mut [f32], _which: &dyn Fn(usize) -> bool) {}
}
