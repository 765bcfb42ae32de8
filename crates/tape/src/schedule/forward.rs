//! The forward direction: values are born when computed and die with their last reader.

use alloc::vec;
use alloc::vec::Vec;

use lowtide_memory::Category;
use lowtide_tensor::Float;

use super::build::{Builder, Demands, Home};
use super::needs::reaching;
use super::{Action, BufferId, Keep, Operands, Schedule};
use crate::graph::{Graph, ValueId};

/// Compiles the forward pass; what `keep` names is kept in a region of its own.
/// One loop is enough for tiles: what a row reads of others lies in the tiles before.
pub(crate) fn forward<F: Float>(
    graph: &Graph<'_, F>,
    keep: Option<&Keep>,
    demands: &Demands<'_, F>,
) -> Schedule {
    let kept = |value: usize| keep.is_some_and(|keep| keep.has(value));
    let y = graph.output();
    let runs = reaching(graph);
    let mut builder = Builder::new(graph, demands);
    let mut values = Values::new(&mut builder);
    values.begin(graph, &runs, &kept);
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
    builder.end_loop();
    builder.finish()
}

/// Values computed so far, with their buffers.
pub(crate) struct Values {
    pub(crate) buffer: Vec<Option<BufferId>>,
    /// Last node that reads each value in the forward direction.
    last_use: Vec<Option<usize>>,
    /// Values that must survive the forward direction.
    survives: Vec<bool>,
}

impl Values {
    /// Starts with the segment's input.
    pub(crate) fn new<F: Float>(builder: &mut Builder<'_, '_, F>) -> Self {
        let graph = builder.graph;
        let mut buffer = vec![None; graph.cols.len()];
        buffer[0] = Some(builder.buffer(graph.cols[0], Category::Checkpoint, Home::Input));
        Self { buffer, last_use: Vec::new(), survives: Vec::new() }
    }

    /// Begins a loop: `runs` says which nodes will be computed in it, `survives` which values are
    /// read after them.
    pub(crate) fn begin<F: Float>(
        &mut self,
        graph: &Graph<'_, F>,
        runs: &[bool],
        survives: &dyn Fn(usize) -> bool,
    ) {
        let values = 0..graph.cols.len();
        self.last_use = vec![None; values.len()];
        for (i, node) in graph.nodes.iter().enumerate().filter(|(i, _)| runs[*i]) {
            for v in &node.inputs {
                self.last_use[v.0] = Some(i);
            }
        }
        self.survives = values.map(survives).collect();
    }

    /// Ends a loop: of what was computed in it, only what holds all rows is still there.
    pub(crate) fn end<F: Float>(&mut self, builder: &Builder<'_, '_, F>) {
        for buffer in &mut self.buffer {
            *buffer = buffer.filter(|b| builder.is_whole(*b));
        }
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
        let slot = |v: &ValueId| builder.slot(self.buffer[v.0].expect("inputs come before"), *v);
        let facts = recorded.op.facts();
        let input = |(i, v)| if facts.looks_back(i) { slot(v).up_to() } else { slot(v) };
        let mut x: Vec<_> = recorded.inputs.iter().enumerate().map(|i| Some(input(i))).collect();
        if let Some(input) = taken {
            x[input] = None;
        }
        let y = recorded.outputs.iter().map(|v| Some(slot(v))).collect();
        let scratch = builder.scratch(node);
        builder.step(Action::Forward(Operands { node, x, y, scratch, ..Operands::default() }));
    }

    /// The input whose storage output 0 may take over: its last reader is this node, it need not
    /// survive, it lies in the arena, and no other operand is the same value.
    fn taken_over<F: Float>(&self, builder: &Builder<'_, '_, F>, node: usize) -> Option<usize> {
        let recorded = &builder.graph.nodes[node];
        let facts = recorded.op.facts();
        let free = |i: &usize| {
            let (v, y) = (recorded.inputs[*i], recorded.outputs[0]);
            let same_width = builder.graph.cols[v.0] == builder.graph.cols[y.0];
            let once = recorded.inputs.iter().filter(|w| **w == v).count() == 1;
            facts.takes_input(*i)
                && same_width
                && once
                && self.last_use[v.0] == Some(node)
                && !self.survives[v.0]
                && !builder.is_history(v)
                && !builder.is_history(y)
                && self.buffer[v.0].is_some_and(|b| builder.home(b) == Home::Arena)
        };
        (0..recorded.inputs.len()).find(free)
    }
}
