//! What operations keep of the sequence that is being decoded.

use core::ops::Range;

/// The state of one operation, lent to it for one call.
pub struct State<'a, F> {
    /// [`Op::state`](crate::Op::state) elements, as the call before left them.
    pub values: &'a mut [F],
    /// The token whose state the operation keeps first; 0 when a sequence begins. An operation that
    /// lets go of what it will not read again says so by raising it.
    pub first: &'a mut usize,
}

/// The states of one segment's operations.
pub(crate) struct States<'a, F> {
    /// Where each lies in the cache; empty for an operation without state.
    pub(crate) ranges: &'a [Range<usize>],
    pub(crate) firsts: &'a mut [usize],
    pub(crate) cache: &'a mut [F],
}

impl<F> States<'_, F> {
    /// The state of operation `node`, if it has any.
    pub(crate) fn of(&mut self, node: usize) -> Option<State<'_, F>> {
        let range = self.ranges[node].clone();
        let first = &mut self.firsts[node];
        (!range.is_empty()).then(|| State { values: &mut self.cache[range], first })
    }
}
