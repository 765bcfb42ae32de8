//! Lent memory, handed out front to back and taken back by scope.

/// A bump allocator over memory that somebody else owns.
///
/// ```
/// let mut memory = [0.0_f32; 8];
/// let mut scratch = lowtide_memory::Scratch::new(&mut memory);
/// let tile = scratch.take(6);
/// tile.fill(1.0);
/// assert_eq!(scratch.remaining(), 2);
/// ```
#[derive(Debug)]
pub struct Scratch<'a, T> {
    rest: &'a mut [T],
}

impl<'a, T> Scratch<'a, T> {
    /// All of `memory`, to hand out.
    pub fn new(memory: &'a mut [T]) -> Self {
        Self { rest: memory }
    }

    /// The next `len` elements, with whatever they held before.
    ///
    /// # Panics
    /// When fewer remain: the caller lent less than the operation's requirement.
    pub fn take(&mut self, len: usize) -> &'a mut [T] {
        let rest = core::mem::take(&mut self.rest);
        assert!(len <= rest.len(), "scratch of {} elements, {len} asked for", rest.len());
        let (taken, rest) = rest.split_at_mut(len);
        self.rest = rest;
        taken
    }

    /// Elements not handed out.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// What remains, for an inner scope; it is whole again afterwards.
    pub fn inner(&mut self) -> Scratch<'_, T> {
        Scratch { rest: self.rest }
    }

    /// What remains, as a slice.
    #[must_use]
    pub fn into_rest(self) -> &'a mut [T] {
        self.rest
    }
}

#[cfg(test)]
mod tests {
    use super::Scratch;

    #[test]
    fn pieces_are_disjoint_and_scopes_give_back() {
        let mut memory = [0; 5];
        let mut scratch = Scratch::new(&mut memory);
        let a = scratch.take(2);
        {
            let mut inner = scratch.inner();
            inner.take(3).fill(7);
            assert_eq!(inner.remaining(), 0);
        }
        let b = scratch.take(1);
        a.fill(1);
        b.fill(2);
        assert_eq!(scratch.into_rest(), [7, 7]);
        assert_eq!(memory, [1, 1, 2, 7, 7]);
    }

    #[test]
    #[should_panic(expected = "scratch of 2 elements, 3 asked for")]
    fn taking_more_than_was_lent_is_a_broken_contract() {
        Scratch::new(&mut [0; 2]).take(3);
    }
}
