//! The half-built schedule that both directions grow.

use alloc::vec::Vec;

use lowtide_backend::{Backend, Req};
use lowtide_memory::{ByCategory, Category};
use lowtide_tensor::Float;

use super::pack::{Interval, aligned, pack};
use super::{Action, Buffer, BufferId, Place, Schedule, Slot};
use crate::graph::{Graph, ValueId};
use crate::{DecodeLimits, Limits, Op};

/// Where a buffer under construction will lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Home {
    Arena,
    Kept,
    Input,
    Output,
    Gradient,
}

/// What operations ask for: in training, or in decoding.
pub(crate) struct Demands<'b, F: Float> {
    be: &'b dyn Backend<F>,
    limits: Limits,
    decoding: Option<DecodeLimits>,
}

impl<'b, F: Float> Demands<'b, F> {
    pub(crate) fn training(be: &'b dyn Backend<F>, limits: Limits) -> Self {
        Self { be, limits, decoding: None }
    }

    pub(crate) fn decoding(be: &'b dyn Backend<F>, limits: DecodeLimits) -> Self {
        Self { be, limits: limits.call(), decoding: Some(limits) }
    }

    fn of(&self, op: &dyn Op<F>) -> Req {
        match self.decoding {
            Some(limits) => op.decode_req(self.be, limits),
            None => op.req(self.be, self.limits),
        }
    }
}

pub(crate) struct Builder<'g, 'w, F: Float> {
    pub(crate) graph: &'g Graph<'w, F>,
    demands: &'g Demands<'g, F>,
    steps: Vec<Action>,
    buffers: Vec<(Buffer, Home)>,
    library_bytes: usize,
}

impl<'g, 'w, F: Float> Builder<'g, 'w, F> {
    pub(crate) fn new(graph: &'g Graph<'w, F>, demands: &'g Demands<'g, F>) -> Self {
        Self { graph, demands, steps: Vec::new(), buffers: Vec::new(), library_bytes: 0 }
    }

    /// A new buffer for `[tokens, cols]`; its lifetime grows with the steps that name it.
    pub(crate) fn buffer(&mut self, cols: usize, category: Category, home: Home) -> BufferId {
        self.raw_buffer(self.demands.limits.tokens * cols, category, home)
    }

    fn raw_buffer(&mut self, len: usize, category: Category, home: Home) -> BufferId {
        let buffer =
            Buffer { len, category, birth: usize::MAX, death: 0, place: Place::Arena(usize::MAX) };
        self.buffers.push((buffer, home));
        self.buffers.len() - 1
    }

    /// Changes where a buffer will lie.
    pub(crate) fn rehome(&mut self, buffer: BufferId, home: Home) {
        self.buffers[buffer].1 = home;
    }

    pub(crate) fn home(&self, buffer: BufferId) -> Home {
        self.buffers[buffer].1
    }

    /// A value seen through its buffer.
    pub(crate) fn slot(&self, buffer: BufferId, value: ValueId) -> Slot {
        Slot { buffer, cols: self.graph.cols[value.0] }
    }

    /// A buffer for a value, charged as its operation says.
    pub(crate) fn value_buffer(&mut self, node: usize, output: usize, home: Home) -> BufferId {
        let graph = self.graph;
        let node = &graph.nodes[node];
        let category = match home {
            Home::Kept => Category::Checkpoint,
            _ => node.op.category(output),
        };
        self.buffer(graph.cols[node.outputs[output].0], category, home)
    }

    /// Adds the scratch a node's operation needs.
    pub(crate) fn scratch(&mut self, node: usize) -> Option<BufferId> {
        let Req { scratch, library_bytes } = self.demands.of(&*self.graph.nodes[node].op);
        self.library_bytes = self.library_bytes.max(library_bytes);
        (scratch > 0).then(|| self.raw_buffer(scratch, Category::Scratch, Home::Arena))
    }

    /// Appends a step; every buffer it names lives at least until here.
    pub(crate) fn step(&mut self, action: Action) {
        let now = self.steps.len();
        for buffer in named(&action) {
            let (buffer, _) = &mut self.buffers[buffer];
            buffer.birth = buffer.birth.min(now);
            buffer.death = buffer.death.max(now);
        }
        self.steps.push(action);
    }

    /// Places every buffer.
    pub(crate) fn finish(self) -> Schedule {
        let Self { steps, buffers, library_bytes, .. } = self;
        let arena: Vec<usize> = indices(&buffers, Home::Arena);
        let intervals: Vec<Interval> = arena
            .iter()
            .map(|&i| &buffers[i].0)
            .map(|b| Interval { len: b.len, birth: b.birth, death: b.death })
            .collect();
        let (offsets, extent) = pack(&intervals);
        let mut done: Vec<Buffer> = buffers
            .iter()
            .map(|(buffer, home)| Buffer {
                place: match home {
                    Home::Input => Place::Input,
                    Home::Output => Place::Output,
                    Home::Gradient => Place::Gradient,
                    Home::Arena | Home::Kept => buffer.place,
                },
                ..*buffer
            })
            .collect();
        for (&i, offset) in arena.iter().zip(offsets) {
            done[i].place = Place::Arena(offset);
        }
        let mut kept = 0;
        for i in indices(&buffers, Home::Kept) {
            done[i].place = Place::Kept(kept);
            kept += aligned(done[i].len);
        }
        let live_at_peak = live_at_peak(&done, steps.len());
        Schedule { steps, buffers: done, arena: extent, kept, live_at_peak, library_bytes }
    }
}

fn indices(buffers: &[(Buffer, Home)], home: Home) -> Vec<usize> {
    let used = |(b, h): &(Buffer, Home)| *h == home && b.birth <= b.death;
    (0..buffers.len()).filter(|&i| used(&buffers[i])).collect()
}

fn live_at_peak(buffers: &[Buffer], steps: usize) -> ByCategory {
    let live = |step: usize| {
        let mut live = ByCategory::new();
        for b in buffers.iter().filter(|b| matches!(b.place, Place::Arena(_))) {
            if b.birth <= step && step <= b.death {
                live[b.category] += aligned(b.len) as u64;
            }
        }
        live
    };
    (0..steps).map(live).max_by_key(ByCategory::held).unwrap_or_default()
}

/// The buffers an action names.
fn named(action: &Action) -> Vec<BufferId> {
    match action {
        Action::Forward(operands) | Action::Vjp(operands) => operands.buffers().collect(),
        Action::Zero(slot) => alloc::vec![slot.buffer],
        Action::Copy { from, to } | Action::Add { from, to } => {
            alloc::vec![from.buffer, to.buffer]
        }
    }
}
