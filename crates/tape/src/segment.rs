//! A segment: a recorded graph between two boundaries, and the runner of its schedules.

use lowtide_backend::Backend;
use lowtide_tensor::Float;

use crate::graph::{Graph, Node};
use crate::op::{Forward, Vjp};
use crate::operands::{Lent, Memory};
use crate::schedule::{Action, Needs, Operands, Schedule, Slot, backward, forward};
use crate::{Cx, Limits, MAX_INPUTS, MAX_OUTPUTS};

/// Operations that run as one between two boundaries, usually a decoder block. What crosses a
/// boundary is one value `[T, hidden]`; what is kept between forward and backward is the plan's.
pub struct Segment<'w, F: Float> {
    pub(crate) graph: Graph<'w, F>,
}

impl<'w, F: Float> Segment<'w, F> {
    /// A segment from the recorded graph; the last operation's output 0 is the segment's.
    ///
    /// # Panics
    /// When nothing was recorded, or the output is not as wide as the input.
    #[must_use]
    pub fn new(graph: Graph<'w, F>) -> Self {
        let last = graph.nodes.last().expect("a segment computes something");
        let (there, here) = (graph.cols[0], graph.cols[last.outputs[0].0]);
        assert!(there == here, "a segment of {there} columns in and {here} out");
        Self { graph }
    }

    /// Number of trainable parameters.
    #[must_use]
    pub fn params(&self) -> usize {
        self.graph.params()
    }

    /// Columns of what crosses the boundaries.
    #[must_use]
    pub fn hidden(&self) -> usize {
        self.graph.cols[0]
    }

    pub(crate) fn needs(&self, want_dx: bool) -> Needs {
        Needs::of(&self.graph, want_dx)
    }

    pub(crate) fn plan_forward(
        &self,
        keep: Option<&Needs>,
        be: &dyn Backend<F>,
        limits: Limits,
    ) -> Schedule {
        forward(&self.graph, keep, be, limits)
    }

    pub(crate) fn plan_backward(
        &self,
        needs: &Needs,
        kept: Option<&Schedule>,
        be: &dyn Backend<F>,
        limits: Limits,
    ) -> Schedule {
        backward(&self.graph, needs, kept, be, limits)
    }

    /// Runs a schedule of this segment. `grads` is empty in the forward direction. With `poison`,
    /// memory is filled with NaN as soon as its last reader is done.
    pub(crate) fn run(
        &self,
        schedule: &Schedule,
        cx: &Cx<'_, F>,
        params: &[F],
        grads: &mut [F],
        memory: &mut Memory<'_, F>,
        poison: bool,
    ) {
        for (i, action) in schedule.steps.iter().enumerate() {
            match action {
                Action::Forward(operands) => self.forward(schedule, operands, cx, params, memory),
                Action::Vjp(operands) => self.vjp(schedule, operands, cx, params, grads, memory),
                Action::Zero(slot) => {
                    let ids = [slot.buffer].into_iter();
                    let mut lent = Lent::new(memory, &schedule.buffers, ids, cx.rows());
                    lent.take(*slot).fill(F::ZERO);
                }
                Action::Copy { from, to } => {
                    let ids = [from.buffer, to.buffer].into_iter();
                    let mut lent = Lent::new(memory, &schedule.buffers, ids, cx.rows());
                    lent.take(*to).copy_from(lent.read(*from));
                }
                Action::Add { from, to } => {
                    let ids = [from.buffer, to.buffer].into_iter();
                    let mut lent = Lent::new(memory, &schedule.buffers, ids, cx.rows());
                    let to = lent.take(*to);
                    cx.be.axpby(F::ONE, lent.read(*from), F::ONE, to);
                }
            }
            if poison {
                for (at, len) in schedule.freed_after(i) {
                    memory.arena[at..at + len].fill(F::NAN);
                }
            }
        }
    }

    fn forward(
        &self,
        schedule: &Schedule,
        operands: &Operands,
        cx: &Cx<'_, F>,
        params: &[F],
        memory: &mut Memory<'_, F>,
    ) {
        let Node { op, params: range, .. } = &self.graph.nodes[operands.node];
        let mut lent = Lent::new(memory, &schedule.buffers, operands.buffers(), cx.rows());
        let scratch = operands.scratch.map_or(&mut [][..], |id| lent.take_all(id));
        let y = each::<_, _, MAX_OUTPUTS>(&operands.y, |slot| lent.take(slot));
        let x = each::<_, _, MAX_INPUTS>(&operands.x, |slot| lent.read(slot));
        op.forward(cx, Forward { x, y, p: &params[range.clone()], scratch });
    }

    fn vjp(
        &self,
        schedule: &Schedule,
        operands: &Operands,
        cx: &Cx<'_, F>,
        params: &[F],
        grads: &mut [F],
        memory: &mut Memory<'_, F>,
    ) {
        let Node { op, params: range, .. } = &self.graph.nodes[operands.node];
        let mut lent = Lent::new(memory, &schedule.buffers, operands.buffers(), cx.rows());
        let scratch = operands.scratch.map_or(&mut [][..], |id| lent.take_all(id));
        let dx = each::<_, _, MAX_INPUTS>(&operands.dx, |slot| lent.take(slot));
        let x = each::<_, _, MAX_INPUTS>(&operands.x, |slot| lent.read(slot));
        let y = each::<_, _, MAX_OUTPUTS>(&operands.y, |slot| lent.read(slot));
        let dy = operands.dy.map(|slot| lent.read(slot));
        let (p, grad) = (&params[range.clone()], &mut grads[range.clone()]);
        op.vjp(cx, Vjp { x, y, dy, dx, p, grad, scratch });
    }
}

/// Lends each present slot, in a fixed array.
fn each<S: Copy + Into<Slot>, V, const N: usize>(
    slots: &[Option<S>],
    mut lend: impl FnMut(Slot) -> V,
) -> [Option<V>; N] {
    core::array::from_fn(|i| slots.get(i).copied().flatten().map(|slot| lend(slot.into())))
}
