//! The backward direction: recompute what was not kept, then walk the operations in reverse.
//!
//! Tiles take a loop for each stage of [`Needs::stage`]. Each recomputes what its own operations
//! read, a tile at a time. Without tiles there is one loop, with the operations in the same order:
//! so the contributions to a gradient add up in the same order, and its bits are the same.

use alloc::vec;
use alloc::vec::Vec;

use lowtide_memory::Category;
use lowtide_tensor::Float;

use super::build::{Builder, Demands, Home};
use super::forward::Values;
use super::{Action, BufferId, Keep, Needs, Operands, Place, Schedule, Slot, making};
use crate::GradRule;
use crate::graph::{Graph, ValueId};

/// Compiles the backward pass. With `kept`, the values named there come from the segment's kept
/// region, laid out as that schedule of [`forward`](super::forward) lays it out; all others that it
/// reads are computed again, from those and from the segment's input.
pub(crate) fn backward<F: Float>(
    graph: &Graph<'_, F>,
    needs: &Needs,
    kept: Option<(&Keep, &Schedule)>,
    demands: &Demands<'_, F>,
) -> Schedule {
    let mut builder = Builder::new(graph, demands);
    let mut values = Values::new(&mut builder);
    if let Some((keep, _)) = kept {
        for (i, node) in graph.nodes.iter().enumerate() {
            for (output, v) in node.outputs.iter().enumerate().filter(|(_, v)| keep.has(v.0)) {
                values.buffer[v.0] = Some(builder.value_buffer(i, output, Home::Kept));
            }
        }
    }
    let kept_buffers = values.buffer.clone();
    let mut stages = needs.stages();
    if !builder.tiled() {
        stages = vec![stages.concat()];
    }
    let mut grads = Gradients::new(&mut builder, needs);
    for (i, nodes) in stages.iter().enumerate() {
        let mut read = vec![false; graph.cols.len()];
        nodes.iter().flat_map(|&node| graph.nodes[node].reads()).for_each(|v| read[v.0] = true);
        let runs = making(graph, read.clone(), &|value| values.buffer[value].is_some());
        values.begin(graph, &runs, &|value| read[value]);
        for node in (0..graph.nodes.len()).filter(|&node| runs[node]) {
            values.compute(&mut builder, node, &|_| Home::Arena);
        }
        grads.begin(graph, nodes, &values.buffer);
        for &node in nodes {
            grads.vjp(&mut builder, node);
        }
        if i + 1 == stages.len() {
            grads.deliver(&mut builder);
        }
        builder.end_loop();
        values.end(&builder);
    }
    let mut schedule = builder.finish();
    if let Some((keep, forward)) = kept {
        // Kept values lie where the forward schedule put them.
        for (value, place) in kept_places(graph, keep, forward) {
            let buffer = kept_buffers[value].expect("kept values have a buffer");
            schedule.buffers[buffer].place = place;
        }
        schedule.kept = forward.kept;
    }
    schedule
}

/// Where a forward schedule leaves each value that it keeps.
fn kept_places<'s, F: Float>(
    graph: &'s Graph<'_, F>,
    keep: &'s Keep,
    forward: &'s Schedule,
) -> impl Iterator<Item = (usize, Place)> + 's {
    forward.steps.iter().flat_map(move |action| {
        let outputs = match action {
            Action::Forward(o) => o.y.iter().zip(&graph.nodes[o.node].outputs),
            _ => [].iter().zip(&[]),
        };
        outputs.filter_map(|(slot, v)| {
            let slot = slot.filter(|_| keep.has(v.0))?;
            Some((v.0, forward.buffers[slot.buffer].place))
        })
    })
}

/// Gradients found so far, with their buffers.
struct Gradients<'n> {
    needs: &'n Needs,
    value: Vec<Option<BufferId>>,
    grad: Vec<Option<BufferId>>,
    /// The segment's gradient buffer.
    outer: BufferId,
    /// How many values' gradients a buffer holds that are still to be consumed.
    sharers: Vec<(BufferId, usize)>,
    /// The last node of the loop whose backward reads each value.
    last_read: Vec<Option<usize>>,
    /// Values whose gradient is gathered in one loop and consumed in a later one.
    waits: Vec<bool>,
    /// What operations add to the gradients of histories.
    late: Vec<(Slot, ValueId)>,
}

impl<'n> Gradients<'n> {
    fn new<F: Float>(builder: &mut Builder<'_, '_, F>, needs: &'n Needs) -> Self {
        let graph = builder.graph;
        let waits =
            if builder.tiled() { needs.waits(graph) } else { vec![false; graph.cols.len()] };
        let y = graph.output();
        let outer = builder.buffer(graph.cols[y.0], Category::Workspace, Home::Gradient);
        let mut grad = vec![None; graph.cols.len()];
        grad[y.0] = Some(outer);
        let (value, last_read, sharers) = (Vec::new(), Vec::new(), vec![(outer, 1)]);
        Self { needs, value, grad, outer, sharers, last_read, waits, late: Vec::new() }
    }

    /// Begins a loop over the backward of `nodes`, with what they read in the buffers `value`.
    fn begin<F: Float>(
        &mut self,
        graph: &Graph<'_, F>,
        nodes: &[usize],
        value: &[Option<BufferId>],
    ) {
        self.value = value.to_vec();
        self.last_read = vec![None; graph.cols.len()];
        for &i in nodes {
            graph.nodes[i].reads().for_each(|v| self.last_read[v.0] = Some(i));
        }
    }

    /// Appends the backward of `node` and sees to it that each input's gradient is gathered.
    fn vjp<F: Float>(&mut self, builder: &mut Builder<'_, '_, F>, node: usize) {
        let graph = builder.graph;
        let recorded = &graph.nodes[node];
        let facts = recorded.op.facts();
        let y = recorded.outputs[0];
        self.settle(builder, y);
        let dy = self.grad[y.0].take().expect("an active operation's output has a gradient");
        let mut operands = self.read_values(builder, node);
        operands.dy = Some(builder.slot(dy, y));
        // Contributions that lie apart from the gradients they belong to.
        let mut apart = Vec::new();
        for (i, v) in recorded.inputs.iter().enumerate() {
            let wanted = self.needs.wanted[v.0];
            let first = !recorded.inputs[..i].contains(v);
            if facts.looks_back(i) {
                operands.dx.push(Some(self.history(builder, *v)));
                continue;
            }
            let slot = match facts.grads[i] {
                GradRule::PassThrough => None,
                _ if recorded.inputs.len() == 1 && !wanted => None,
                GradRule::Accumulate if wanted && first => {
                    operands.dx.push(Some(self.accumulator(builder, *v)));
                    continue;
                }
                GradRule::Accumulate => Some(self.zeroed(builder, *v)),
                GradRule::OverDy => Some(self.over_dy(builder, &mut operands, *v)),
                GradRule::OverValue => {
                    operands.x[i] = None;
                    Some(self.over_value(builder, node, *v))
                }
            };
            operands.dx.push(slot);
            apart.extend(slot.filter(|_| wanted).map(|slot| (slot.buffer, *v)));
        }
        let passes = |rule: &GradRule| *rule == GradRule::PassThrough;
        let all_pass = facts.grads[..recorded.inputs.len()].iter().all(passes);
        if !all_pass || recorded.op.params() > 0 {
            operands.scratch = builder.scratch(node);
            builder.step(Action::Vjp(operands));
        }
        self.unshare(dy);
        // Passed gradients first: what comes after may change the buffer they were passed in.
        for (i, v) in recorded.inputs.iter().enumerate() {
            if passes(&facts.grads[i]) && self.needs.wanted[v.0] {
                self.merge(builder, dy, *v);
            }
        }
        for (from, v) in apart {
            self.merge(builder, from, v);
        }
    }

    /// Operands of a node's `vjp`, so far only the values that the facts say it reads.
    fn read_values<F: Float>(&self, builder: &Builder<'_, '_, F>, node: usize) -> Operands {
        let recorded = &builder.graph.nodes[node];
        let facts = recorded.op.facts();
        let slot =
            |v: &ValueId| builder.slot(self.value[v.0].expect("read values are at hand"), *v);
        let inputs = recorded.inputs.iter().enumerate();
        let outputs = recorded.outputs.iter().enumerate();
        let seen = |i, v| if facts.looks_back(i) { slot(v).up_to() } else { slot(v) };
        let x = inputs.map(|(i, v)| facts.reads_input(i).then(|| seen(i, v))).collect();
        let y = outputs.map(|(i, v)| facts.reads_output(i).then(|| slot(v))).collect();
        Operands { node, x, y, ..Operands::default() }
    }

    /// `v`'s gradient, for `vjp` to add to: zeroed if this is the first contribution, `v`'s alone
    /// if others share it.
    fn accumulator<F: Float>(&mut self, builder: &mut Builder<'_, '_, F>, v: ValueId) -> Slot {
        if self.grad[v.0].is_some() {
            return self.make_own(builder, v);
        }
        let slot = self.zeroed(builder, v);
        self.own(slot.buffer, v);
        slot
    }

    /// Zeros apart from `v`'s gradient: nobody wants that, or the operation adds to it already.
    fn zeroed<F: Float>(&self, builder: &mut Builder<'_, '_, F>, v: ValueId) -> Slot {
        let slot = self.fresh(builder, v);
        builder.step(Action::Zero(slot));
        slot
    }

    /// What an operation adds to the gradient of a history: apart, since it is complete only after
    /// the last tile, and other contributions must not come in between. Its rows are zeroed with
    /// their tile, before anything adds to them.
    fn history<F: Float>(&mut self, builder: &mut Builder<'_, '_, F>, v: ValueId) -> Slot {
        let slot = self.fresh(builder, v);
        builder.widen(slot.buffer);
        builder.step(Action::Zero(slot));
        if self.needs.wanted[v.0] {
            self.late.push((slot, v));
        }
        slot.up_to()
    }

    /// Completes `v`'s gradient with what operations added to it as a history.
    fn settle<F: Float>(&mut self, builder: &mut Builder<'_, '_, F>, v: ValueId) {
        let late = core::mem::take(&mut self.late);
        let (now, later) = late.into_iter().partition(|(_, of)| *of == v);
        self.late = later;
        let now: Vec<(Slot, ValueId)> = now;
        now.into_iter().for_each(|(from, v)| self.merge(builder, from.buffer, v));
    }

    /// `dy` itself when nobody else wants it, else a copy of it.
    fn over_dy<F: Float>(
        &mut self,
        builder: &mut Builder<'_, '_, F>,
        operands: &mut Operands,
        v: ValueId,
    ) -> Slot {
        let dy = operands.dy.take().expect("the gradient of output 0 is at hand");
        if self.shared(dy.buffer) == 1 { dy } else { self.copied(builder, dy, v) }
    }

    /// The value's own buffer when nothing reads it later, else a copy.
    fn over_value<F: Float>(
        &mut self,
        builder: &mut Builder<'_, '_, F>,
        node: usize,
        v: ValueId,
    ) -> Slot {
        let value = builder.slot(self.value[v.0].expect("read values are at hand"), v);
        let once = builder.graph.nodes[node].inputs.iter().filter(|w| **w == v).count() == 1;
        let last = self.last_read[v.0] == Some(node);
        let free = v.0 != 0 && once && last && !builder.is_history(v);
        if free { value } else { self.copied(builder, value, v) }
    }

    /// Adds what `from` holds to `v`'s gradient; the first contribution just becomes it.
    fn merge<F: Float>(&mut self, builder: &mut Builder<'_, '_, F>, from: BufferId, v: ValueId) {
        let to = match self.grad[v.0] {
            // The tile's memory will be another tile's when this gradient is consumed.
            None if self.waits[v.0] && !builder.is_whole(from) => {
                let slot = self.copied(builder, builder.slot(from, v), v);
                return self.own(slot.buffer, v);
            }
            None => return self.own(from, v),
            // An operation passed its gradient to one value twice.
            Some(grad) if grad == from => self.moved(builder, v),
            Some(_) => self.make_own(builder, v),
        };
        builder.step(Action::Add { from: builder.slot(from, v), to });
    }

    /// `v`'s gradient in a buffer that no other value's gradient shares.
    fn make_own<F: Float>(&mut self, builder: &mut Builder<'_, '_, F>, v: ValueId) -> Slot {
        let buffer = self.grad[v.0].expect("a gradient was gathered");
        if self.shared(buffer) == 1 { builder.slot(buffer, v) } else { self.moved(builder, v) }
    }

    /// Moves `v`'s gradient to a new buffer.
    fn moved<F: Float>(&mut self, builder: &mut Builder<'_, '_, F>, v: ValueId) -> Slot {
        let buffer = self.grad[v.0].expect("a gradient was gathered");
        let slot = self.copied(builder, builder.slot(buffer, v), v);
        self.unshare(buffer);
        self.own(slot.buffer, v);
        slot
    }

    /// Sees to it that the gradient of the segment's input leaves in the outer buffer.
    fn deliver<F: Float>(&mut self, builder: &mut Builder<'_, '_, F>) {
        if !self.needs.wanted[0] {
            return;
        }
        self.settle(builder, ValueId(0));
        let to = builder.slot(self.outer, ValueId(0));
        match self.grad[0] {
            Some(buffer) if buffer == self.outer => {}
            Some(buffer) => {
                let from = builder.slot(buffer, ValueId(0));
                builder.step(Action::Copy { from, to });
            }
            None => builder.step(Action::Zero(to)),
        }
    }

    fn copied<F: Float>(&self, builder: &mut Builder<'_, '_, F>, from: Slot, v: ValueId) -> Slot {
        let to = self.fresh(builder, v);
        builder.step(Action::Copy { from, to });
        to
    }

    fn fresh<F: Float>(&self, builder: &mut Builder<'_, '_, F>, v: ValueId) -> Slot {
        let cols = builder.graph.cols[v.0];
        let buffer = builder.buffer(cols, Category::Workspace, Home::Arena);
        if self.waits[v.0] {
            builder.widen(buffer);
        }
        builder.slot(buffer, v)
    }

    fn own(&mut self, buffer: BufferId, v: ValueId) {
        self.grad[v.0] = Some(buffer);
        match self.sharers.iter_mut().find(|(b, _)| *b == buffer) {
            Some((_, count)) => *count += 1,
            None => self.sharers.push((buffer, 1)),
        }
    }

    fn unshare(&mut self, buffer: BufferId) {
        let sharer = self.sharers.iter_mut().find(|(b, _)| *b == buffer);
        sharer.expect("every gradient buffer is counted").1 -= 1;
    }

    fn shared(&self, buffer: BufferId) -> usize {
        self.sharers.iter().find(|(b, _)| *b == buffer).map_or(0, |(_, count)| *count)
    }
}
