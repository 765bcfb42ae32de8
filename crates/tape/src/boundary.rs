//! Where values lie that cross from one segment to the next, and memory cut up accordingly.

/// Where the input of a segment (or the last output) lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Boundary {
    /// Kept for backward.
    Slot(usize),
    /// The arena's second boundary value.
    Top,
    /// The arena's first, while no gradient is on its way.
    Gradient,
}

/// The executor's memory in the forward direction.
pub(crate) struct Parts<'m, F> {
    pub(crate) gradient: &'m mut [F],
    pub(crate) top: &'m mut [F],
    pub(crate) work: &'m mut [F],
    pub(crate) slots: &'m mut [F],
    pub(crate) kept: &'m mut [F],
    /// Elements of one boundary value.
    pub(crate) boundary: usize,
}

impl<'m, F> Parts<'m, F> {
    /// The memory of one boundary.
    pub(crate) fn only(self, at: Boundary) -> &'m mut [F] {
        match at {
            Boundary::Slot(i) => &mut self.slots[i * self.boundary..][..self.boundary],
            Boundary::Top => self.top,
            Boundary::Gradient => self.gradient,
        }
    }

    /// Input and output of a segment, its working set, and all that is kept.
    pub(crate) fn between(
        self,
        from: Boundary,
        to: Boundary,
    ) -> (&'m [F], &'m mut [F], &'m mut [F], &'m mut [F]) {
        let Self { gradient, top, work, slots, kept, boundary } = self;
        let slot = |slots: &'m mut [F], i: usize| &mut slots[i * boundary..][..boundary];
        let (input, output): (&'m mut [F], &'m mut [F]) = match (from, to) {
            (Boundary::Slot(i), Boundary::Slot(j)) => {
                assert!(i < j, "a segment writes the slot after its own");
                let (before, after) = slots.split_at_mut(j * boundary);
                (slot(before, i), &mut after[..boundary])
            }
            (Boundary::Slot(i), Boundary::Top) => (slot(slots, i), top),
            (Boundary::Slot(i), Boundary::Gradient) => (slot(slots, i), gradient),
            (Boundary::Gradient, Boundary::Slot(i)) => (gradient, slot(slots, i)),
            (Boundary::Gradient, Boundary::Top) => (gradient, top),
            (Boundary::Top, Boundary::Gradient) => (top, gradient),
            (Boundary::Top, _) | (Boundary::Gradient, Boundary::Gradient) => {
                panic!("no segment runs from {from:?} to {to:?}")
            }
        };
        (input, output, work, kept)
    }
}
