//! The forward direction: values are born when computed and die with their last reader.

use alloc::vec;
use alloc::vec::Vec;

use lowtide_memory::Category;
use lowtide_tensor::Float;

use super::build::{Builder, Demands, Home};
use super::needs::reaching;
use super::{Action, BufferId, Needs, Operands, Schedule};
use crate::graph::Graph;

/// Compiles the forward pass; with `keep`, what backward reads is kept in a region of its own.
pub(crate) fn forward<F: Float>(
    graph: &Graph<'_, F>,
    keep: Option<&Needs>,
    demands: &Demands<'_, F>,
) -> Schedule {
    let kept = |value: usize| value != 0 && keep.is_some_and(|needs| needs.read[value]);
    let y = graph.output();
    let runs = reaching(graph);
    let mut builder = Builder::new(graph, demands);
    let mut values = Values::new(&mut builder, &runs, &kept);
    let home = |value: usize| match value {
        _ if kept(value) => Home::Kept,
        _ if value == y.0 => Home::Output,
        _ => Home::Arena,
    };
    for node in (0..graph.nodes.len()).filter(|&i| runs[i]) {
        values.compute(&mut builder, node, &home);
    }
    if kept(y.0) {
        // The boundary's memory belongs to the next segment; what backward reads lies here.
        let to = builder.buffer(graph.cols[y.0], Category::Workspace, Home::Output);
        let from = values.buffer[y.0].expect("the output was computed");
        builder.step(Action::Copy { from: builder.slot(from, y), to: builder.slot(to, y) });
    }
    builder.finish()
}

/// Values computed so far, with their buffers.
pub(crate) struct Values<'f> {
    pub(crate) buffer: Vec<Option<BufferId>>,
    /// Last node that reads each value in the forward direction.
    last_use: Vec<Option<usize>>,
    /// Values that must survive the forward direction.
    survives: &'f dyn Fn(usize) -> bool,
}

impl<'f> Values<'f> {
    /// Starts with the segment's input; `runs` says which nodes will be computed.
    pub(crate) fn new<F: Float>(
        builder: &mut Builder<'_, '_, F>,
        runs: &[bool],
        survives: &'f dyn Fn(usize) -> bool,
    ) -> Self {
        let graph = builder.graph;
        let mut last_use = vec![None; graph.cols.len()];
        for (i, node) in graph.nodes.iter().enumerate().filter(|(i, _)| runs[*i]) {
            for v in &node.inputs {
                last_use[v.0] = Some(i);
            }
        }
        let mut buffer = vec![None; graph.cols.len()];
        buffer[0] = Some(builder.buffer(graph.cols[0], Category::Checkpoint, Home::Input));
        Self { buffer, last_use, survives }
    }

    /// Appends the forward step of `node`, its outputs at `home`.
    pub(crate) fn compute<F: Float>(
        &mut self,
        builder: &mut Builder<'_, '_, F>,
        node: usize,
        home: &dyn Fn(usize) -> Home,
    ) {
        let graph = builder.graph;
        let recorded = &graph.nodes[node];
        // Taking a buffer to a place outside the arena is sound: from its birth on it lies there,
        // and nothing else of this segment does.
        let taken = self.taken_over(builder, node);
        for (i, v) in recorded.outputs.iter().enumerate() {
            let place = home(v.0);
            self.buffer[v.0] = match taken.filter(|_| i == 0) {
                Some(input) => {
                    let buffer = self.buffer[recorded.inputs[input].0].expect("computed before");
                    if place != Home::Arena {
                        builder.rehome(buffer, place);
                    }
                    Some(buffer)
                }
                None => Some(builder.value_buffer(node, i, place)),
            };
        }
        let slot = |v: &crate::ValueId| {
            Some(builder.slot(self.buffer[v.0].expect("inputs come before"), *v))
        };
        let mut x: Vec<_> = recorded.inputs.iter().map(slot).collect();
        if let Some(input) = taken {
            x[input] = None;
        }
        let y = recorded.outputs.iter().map(slot).collect();
        let scratch = builder.scratch(node);
        builder.step(Action::Forward(Operands { node, x, y, scratch, ..Operands::default() }));
    }

    /// The input whose storage output 0 may take over: its last reader is this node, it need not
    /// survive, it lies in the arena, and no other operand is the same value.
    fn taken_over<F: Float>(&self, builder: &Builder<'_, '_, F>, node: usize) -> Option<usize> {
        let recorded = &builder.graph.nodes[node];
        let facts = recorded.op.facts();
        let free = |i: &usize| {
            let v = recorded.inputs[*i];
            let same_width = builder.graph.cols[v.0] == builder.graph.cols[recorded.outputs[0].0];
            let once = recorded.inputs.iter().filter(|w| **w == v).count() == 1;
            facts.takes_input(*i)
                && same_width
                && once
                && self.last_use[v.0] == Some(node)
                && !(self.survives)(v.0)
                && self.buffer[v.0].is_some_and(|b| builder.home(b) == Home::Arena)
        };
        (0..recorded.inputs.len()).find(free)
    }
}
