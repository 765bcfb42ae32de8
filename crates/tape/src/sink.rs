//! Where finished gradients go.

use core::ops::Range;

use lowtide_tensor::Float;

/// Receives the gradients of one segment after another, from the top down.
pub trait GradSink<F: Float> {
    /// Memory for the gradients of a segment, holding what they are to be added to.
    fn slab(&mut self, segment: usize) -> &mut [F];

    /// The gradients of a segment are complete, and nothing of this backward reads its parameters
    /// any more.
    fn complete(&mut self, segment: usize, params: &mut [F]);

    /// Whether [`complete`](Self::complete) may change parameters; then values derived from them
    /// are computed again.
    fn applies(&self) -> bool {
        true
    }
}

/// Keeps every gradient: for accumulation over micro-batches and for clipping by global norm.
pub struct Accumulate<'a, F> {
    /// One gradient a parameter.
    pub grads: &'a mut [F],
    /// Where each segment's lie.
    pub ranges: &'a [Range<usize>],
}

impl<F: Float> GradSink<F> for Accumulate<'_, F> {
    fn slab(&mut self, segment: usize) -> &mut [F] {
        &mut self.grads[self.ranges[segment].clone()]
    }

    fn complete(&mut self, _segment: usize, _params: &mut [F]) {}

    fn applies(&self) -> bool {
        false
    }
}

/// Updates a segment's parameters as soon as its gradients are complete; its memory then serves the
/// next segment.
pub struct ApplyNow<'a, F, U> {
    /// As long as the widest segment's parameters.
    pub grads: &'a mut [F],
    /// Where each segment's parameters lie.
    pub ranges: &'a [Range<usize>],
    /// Updates the parameters of a segment with their gradients.
    pub update: U,
}

impl<F: Float, U: FnMut(usize, &mut [F], &[F])> GradSink<F> for ApplyNow<'_, F, U> {
    fn slab(&mut self, segment: usize) -> &mut [F] {
        let slab = &mut self.grads[..self.ranges[segment].len()];
        slab.fill(F::ZERO);
        slab
    }

    fn complete(&mut self, segment: usize, params: &mut [F]) {
        (self.update)(segment, params, &self.grads[..self.ranges[segment].len()]);
    }
}
