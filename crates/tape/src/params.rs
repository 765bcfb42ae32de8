//! Where a program's parameters are.

use core::ops::Range;

use lowtide_tensor::Float;

/// The parameters of a program, which may lie in another form than they are computed with. What is
/// asked for is always those of one segment or a part of it.
pub trait Params<F: Float> {
    /// The parameters in `range`, to read before anything else is asked for.
    fn get(&mut self, range: Range<usize>) -> &[F];

    /// Lends the parameters in `range` to `change`, and keeps what it made of them.
    fn change(&mut self, range: Range<usize>, change: &mut dyn FnMut(&mut [F]));
}

/// Parameters that lie as they are computed with.
pub(crate) struct Plain<'a, F>(pub(crate) &'a mut [F]);

impl<F: Float> Params<F> for Plain<'_, F> {
    fn get(&mut self, range: Range<usize>) -> &[F] {
        &self.0[range]
    }

    fn change(&mut self, range: Range<usize>, change: &mut dyn FnMut(&mut [F])) {
        change(&mut self.0[range]);
    }
}

/// Parameters that nothing changes.
pub(crate) struct ReadOnly<'a, F>(pub(crate) &'a [F]);

impl<F: Float> Params<F> for ReadOnly<'_, F> {
    fn get(&mut self, range: Range<usize>) -> &[F] {
        &self.0[range]
    }

    fn change(&mut self, _range: Range<usize>, _change: &mut dyn FnMut(&mut [F])) {
        unreachable!("a pass without a sink changes no parameters")
    }
}
