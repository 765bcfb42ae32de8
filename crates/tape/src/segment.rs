//! A segment: a recorded graph between two boundaries, and the runner of its schedules.

use alloc::vec::Vec;
use core::ops::Range;

use lowtide_backend::Backend;
use lowtide_tensor::{Float, MatMut};

use crate::graph::{Graph, Node, ValueId};
use crate::op::{Forward, Vjp};
use crate::operands::{Lent, Memory};
use crate::schedule::{
    Action, Demands, Keep, Needs, Operands, Schedule, Slot, aligned, backward, forward,
};
use crate::state::States;
use crate::{Cx, DecodeLimits, Limits, MAX_INPUTS, MAX_OUTPUTS, State};

/// What goes with a segment's operations besides frozen weights.
#[derive(Clone, Copy)]
pub(crate) struct Values<'a, F> {
    /// What is trained.
    pub(crate) params: &'a [F],
    /// What is not.
    pub(crate) fixed: &'a [F],
}

impl<'a, F: Float> Values<'a, F> {
    /// Those of one operation.
    fn of(self, node: &Node<'_, F>) -> (&'a [F], &'a [F]) {
        (&self.params[node.params.clone()], &self.fixed[node.fixed.clone()])
    }
}

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

    /// Number of values that go with the parameters and are not trained.
    #[must_use]
    pub fn fixed(&self) -> usize {
        self.graph.fixed
    }

    /// Whether any of them are derived from the parameters.
    pub(crate) fn derives(&self) -> bool {
        self.graph.nodes.iter().any(|node| node.op.derives())
    }

    /// Whether it needs all rows of a sequence at once.
    #[must_use]
    pub fn whole_sequence(&self) -> bool {
        self.graph.nodes.iter().any(|node| node.op.whole_sequence())
    }

    /// Sets what starts from frozen weights.
    pub(crate) fn start(
        &self,
        be: &dyn Backend<F>,
        params: &mut [F],
        fixed: &mut [F],
        scratch: &mut [F],
    ) {
        for Node { op, params: p, fixed: f, .. } in &self.graph.nodes {
            op.start(be, &mut params[p.clone()], &mut fixed[f.clone()], scratch);
        }
    }

    /// Derives what follows from the parameters.
    pub(crate) fn prepare(
        &self,
        be: &dyn Backend<F>,
        params: &[F],
        fixed: &mut [F],
        scratch: &mut [F],
    ) {
        for Node { op, params: p, fixed: f, .. } in &self.graph.nodes {
            op.prepare(be, &params[p.clone()], &mut fixed[f.clone()], scratch);
        }
    }

    /// Roughly the work of that.
    pub(crate) fn prepare_work(&self) -> u64 {
        self.graph.nodes.iter().map(|node| node.op.prepare_work()).sum()
    }

    /// Columns of what crosses the boundaries.
    #[must_use]
    pub fn hidden(&self) -> usize {
        self.graph.cols[0]
    }

    /// Whether its input can be made from its output: operations with inverses, one on top of the
    /// other. Where its output is kept as the input of the next segment, its own is not.
    #[must_use]
    pub fn is_reversible(&self) -> bool {
        let mut last = ValueId(0);
        self.graph.nodes.iter().all(|node| {
            let chained = node.op.is_reversible() && node.inputs == [last];
            last = node.outputs[0];
            chained
        })
    }

    /// Turns a reversible segment's output into its input, up to rounding: `value [T, hidden]`, in
    /// tiles of `tile` rows, with the scratch of its backward.
    pub(crate) fn undo(
        &self,
        cx: &Cx<'_, F>,
        params: &[F],
        tile: usize,
        value: &mut [F],
        scratch: &mut [F],
    ) {
        let (rows, hidden) = (cx.rows(), self.hidden());
        for start in (0..rows).step_by(tile.max(1)) {
            let range = start..rows.min(start + tile);
            let cx = cx.tile(range.clone());
            let tile = &mut value[range.start * hidden..range.end * hidden];
            for node in self.graph.nodes.iter().rev() {
                let y = MatMut::new(&mut *tile, range.len(), hidden);
                node.op.inverse(&cx, y, &params[node.params.clone()], scratch);
            }
        }
    }

    pub(crate) fn needs(&self, want_dx: bool) -> Needs {
        Needs::of(&self.graph, want_dx)
    }

    /// Compiles forward over tiles of at most `tile` rows. Values are kept for all rows at once, so
    /// with `keep`, and where an operation needs whole sequences, there is one tile.
    pub(crate) fn plan_forward(
        &self,
        keep: Option<&Keep>,
        be: &dyn Backend<F>,
        limits: Limits,
        tile: usize,
    ) -> Schedule {
        let tile = if keep.is_some() { limits.tokens } else { self.tile(limits, tile) };
        forward(&self.graph, keep, &Demands::training(be, limits, tile))
    }

    /// Rows of a tile, given what is asked for.
    fn tile(&self, limits: Limits, asked: usize) -> usize {
        if self.whole_sequence() { limits.tokens } else { asked.min(limits.tokens) }
    }

    pub(crate) fn plan_decoding(&self, be: &dyn Backend<F>, limits: DecodeLimits) -> Schedule {
        for node in &self.graph.nodes {
            let (name, whole) = (node.op.name(), node.op.whole_sequence());
            assert!(
                !whole || node.op.state(limits) > 0,
                "`{name}` cannot read a sequence call by call"
            );
        }
        forward(&self.graph, None, &Demands::decoding(be, limits))
    }

    /// Where the state of each operation lies, from `end` of the cache on, which moves behind them.
    pub(crate) fn states(&self, limits: DecodeLimits, end: &mut usize) -> Vec<Range<usize>> {
        let state = |node: &Node<'_, F>| {
            let start = *end;
            let range = start..start + node.op.state(limits);
            *end = aligned(range.end);
            range
        };
        self.graph.nodes.iter().map(state).collect()
    }

    /// Whether every operation still has the state that rows after the first `tokens` tokens read,
    /// given the first token that each has kept.
    pub(crate) fn reaches(&self, tokens: usize, firsts: &[usize]) -> bool {
        let mut nodes = self.graph.nodes.iter().zip(firsts);
        nodes.all(|(node, first)| *first <= node.op.reads_from(tokens))
    }

    pub(crate) fn plan_backward(
        &self,
        needs: &Needs,
        kept: Option<(&Keep, &Schedule)>,
        be: &dyn Backend<F>,
        limits: Limits,
        tile: usize,
    ) -> Schedule {
        let tile = if kept.is_some() { limits.tokens } else { self.tile(limits, tile) };
        backward(&self.graph, needs, kept, &Demands::training(be, limits, tile))
    }

    /// Runs a schedule of this segment. `grads` is empty in the forward direction. With `poison`,
    /// memory is filled with NaN as soon as its last reader is done.
    ///
    /// Tiles come in ascending order, so sums over rows add up in the order of the rows.
    pub(crate) fn run(
        &self,
        schedule: &Schedule,
        cx: &Cx<'_, F>,
        values: Values<'_, F>,
        grads: &mut [F],
        memory: &mut Memory<'_, F>,
        poison: bool,
    ) {
        for body in &schedule.loops {
            for rows in schedule.tiles(cx.rows()) {
                let (cx, last) = (cx.tile(rows.clone()), rows.end == cx.rows());
                for step in body.clone() {
                    self.act(schedule, &schedule.steps[step], &cx, values, grads, memory);
                    if poison {
                        schedule.poison_after(step, last, memory.arena);
                    }
                }
            }
        }
    }

    /// One step, for the rows of `cx`.
    fn act(
        &self,
        schedule: &Schedule,
        action: &Action,
        cx: &Cx<'_, F>,
        values: Values<'_, F>,
        grads: &mut [F],
        memory: &mut Memory<'_, F>,
    ) {
        let buffers = &schedule.buffers;
        match action {
            Action::Forward(operands) => {
                self.forward(schedule, operands, cx, values, None, memory);
            }
            Action::Vjp(operands) => self.vjp(schedule, operands, cx, values, grads, memory),
            Action::Zero(slot) => {
                let ids = [slot.buffer].into_iter();
                Lent::new(memory, buffers, ids, cx.extent()).take(*slot).fill(F::ZERO);
            }
            Action::Copy { from, to } => {
                let ids = [from.buffer, to.buffer].into_iter();
                let mut lent = Lent::new(memory, buffers, ids, cx.extent());
                lent.take(*to).copy_from(lent.read(*from));
            }
            Action::Add { from, to } => {
                let ids = [from.buffer, to.buffer].into_iter();
                let mut lent = Lent::new(memory, buffers, ids, cx.extent());
                let to = lent.take(*to);
                cx.be.axpby(F::ONE, lent.read(*from), F::ONE, to);
            }
        }
    }

    /// Runs a schedule for decoding, in which every step is a forward one.
    pub(crate) fn decode(
        &self,
        schedule: &Schedule,
        cx: &Cx<'_, F>,
        values: Values<'_, F>,
        mut states: States<'_, F>,
        memory: &mut Memory<'_, F>,
        poison: bool,
    ) {
        for (i, action) in schedule.steps.iter().enumerate() {
            let Action::Forward(operands) = action else { unreachable!("nothing is kept") };
            let state = states.of(operands.node);
            self.forward(schedule, operands, cx, values, state, memory);
            if poison {
                schedule.poison_after(i, true, memory.arena);
            }
        }
    }

    fn forward(
        &self,
        schedule: &Schedule,
        operands: &Operands,
        cx: &Cx<'_, F>,
        values: Values<'_, F>,
        state: Option<State<'_, F>>,
        memory: &mut Memory<'_, F>,
    ) {
        let node = &self.graph.nodes[operands.node];
        let (p, fixed) = values.of(node);
        let mut lent = Lent::new(memory, &schedule.buffers, operands.buffers(), cx.extent());
        let scratch = operands.scratch.map_or(&mut [][..], |id| lent.take_all(id));
        let y = each::<_, _, MAX_OUTPUTS>(&operands.y, |slot| lent.take(slot));
        let x = each::<_, _, MAX_INPUTS>(&operands.x, |slot| lent.read(slot));
        node.op.forward(cx, Forward { x, y, p, fixed, state, scratch });
    }

    fn vjp(
        &self,
        schedule: &Schedule,
        operands: &Operands,
        cx: &Cx<'_, F>,
        values: Values<'_, F>,
        grads: &mut [F],
        memory: &mut Memory<'_, F>,
    ) {
        let node = &self.graph.nodes[operands.node];
        let (p, fixed) = values.of(node);
        let mut lent = Lent::new(memory, &schedule.buffers, operands.buffers(), cx.extent());
        let scratch = operands.scratch.map_or(&mut [][..], |id| lent.take_all(id));
        let dx = each::<_, _, MAX_INPUTS>(&operands.dx, |slot| lent.take(slot));
        let x = each::<_, _, MAX_INPUTS>(&operands.x, |slot| lent.read(slot));
        let y = each::<_, _, MAX_OUTPUTS>(&operands.y, |slot| lent.read(slot));
        let dy = operands.dy.map(|slot| lent.read(slot));
        let grad = &mut grads[node.params.clone()];
        node.op.vjp(cx, Vjp { x, y, dy, dx, p, fixed, grad, scratch });
    }
}

/// Lends each present slot, in a fixed array.
fn each<S: Copy + Into<Slot>, V, const N: usize>(
    slots: &[Option<S>],
    mut lend: impl FnMut(Slot) -> V,
) -> [Option<V>; N] {
    core::array::from_fn(|i| slots.get(i).copied().flatten().map(|slot| lend(slot.into())))
}
