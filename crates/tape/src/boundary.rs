//! Where values lie that cross from one segment to the next, and memory cut up accordingly.

use lowtide_memory::Slab;
use lowtide_tensor::Float;

use crate::Plan;
use crate::reserved::Reserved;

/// Where the input of a segment (or the last output) lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Boundary {
    /// Kept for backward.
    Slot(usize),
    /// The arena's second boundary value.
    Top,
    /// The arena's first, while no gradient is on its way.
    Gradient,
    /// The arena's third, where a plan has one.
    Spare,
}

/// The executor's memory in the forward direction.
pub(crate) struct Parts<'m, F> {
    pub(crate) gradient: &'m mut [F],
    pub(crate) top: &'m mut [F],
    /// Empty unless the plan is for a pair.
    pub(crate) spare: &'m mut [F],
    pub(crate) work: &'m mut [F],
    pub(crate) apart: Apart<'m, F>,
}

/// What outlives the operations of one pass.
pub(crate) struct Apart<'m, F> {
    /// Segment inputs as they are.
    pub(crate) slots: &'m mut [F],
    /// Segment inputs in another form.
    pub(crate) lent: &'m mut [F],
    /// What backward reads besides segment inputs.
    pub(crate) kept: &'m mut [F],
    /// Elements of one boundary value.
    pub(crate) boundary: usize,
}

impl<'m, F: Float> Parts<'m, F> {
    /// Cuts up what was reserved for a plan.
    pub(crate) fn of(reserved: &'m mut Reserved, plan: &Plan) -> Self {
        let (gradient, rest) = reserved.arena.get_mut::<F>().split_at_mut(plan.boundary);
        let (top, rest) = rest.split_at_mut(plan.boundary);
        let (spare, work) = rest.split_at_mut(plan.spare);
        Self { gradient, top, spare, work, apart: Apart::of(&mut reserved.apart, plan) }
    }

    /// The memory of one boundary.
    pub(crate) fn only(self, at: Boundary) -> &'m mut [F] {
        match at {
            Boundary::Slot(i) => self.apart.slot(i),
            Boundary::Top => self.top,
            Boundary::Gradient => self.gradient,
            Boundary::Spare => self.spare,
        }
    }

    /// The memory of one boundary, to read, and that of inputs kept in another form.
    pub(crate) fn lend(self, at: Boundary) -> (&'m [F], &'m mut [F]) {
        let Self { gradient, top, spare, apart, .. } = self;
        let value = match at {
            Boundary::Slot(i) => &apart.slots[i * apart.boundary..][..apart.boundary],
            Boundary::Top => top,
            Boundary::Gradient => gradient,
            Boundary::Spare => spare,
        };
        (value, apart.lent)
    }

    /// Input and output of a segment, its working set, and all that is kept.
    pub(crate) fn between(
        self,
        from: Boundary,
        to: Boundary,
    ) -> (&'m [F], &'m mut [F], &'m mut [F], &'m mut [F]) {
        let Self { gradient, top, spare, work, apart } = self;
        let Apart { slots, kept, boundary, .. } = apart;
        let (mut gradient, mut top, mut spare) = (Some(gradient), Some(top), Some(spare));
        let (before, after) = match (from, to) {
            (Boundary::Slot(i), Boundary::Slot(j)) => {
                assert!(i < j, "a segment writes a slot after its own");
                slots.split_at_mut(j * boundary)
            }
            (Boundary::Slot(_), _) => (slots, &mut [][..]),
            (_, Boundary::Slot(j)) => slots.split_at_mut(j * boundary),
            _ => (&mut [][..], &mut [][..]),
        };
        let once = "a segment's output lies elsewhere than its input";
        let input = match from {
            Boundary::Slot(i) => &mut before[i * boundary..][..boundary],
            Boundary::Top => top.take().expect(once),
            Boundary::Gradient => gradient.take().expect(once),
            Boundary::Spare => spare.take().expect(once),
        };
        let output = match to {
            Boundary::Slot(_) => &mut after[..boundary],
            Boundary::Top => top.take().expect(once),
            Boundary::Gradient => gradient.take().expect(once),
            Boundary::Spare => spare.take().expect(once),
        };
        (input, output, work, kept)
    }
}

impl<'m, F: Float> Apart<'m, F> {
    /// Cuts up the slab of what outlives a pass.
    pub(crate) fn of(slab: &'m mut Slab, plan: &Plan) -> Self {
        let (slots, lent) = plan.apart();
        let (slots, rest) = slab.get_mut::<F>().split_at_mut(slots * plan.boundary);
        let (lent, kept) = rest.split_at_mut(lent * plan.lent);
        Self { slots, lent, kept, boundary: plan.boundary }
    }

    /// The memory of a slot.
    pub(crate) fn slot(self, i: usize) -> &'m mut [F] {
        &mut self.slots[i * self.boundary..][..self.boundary]
    }
}
