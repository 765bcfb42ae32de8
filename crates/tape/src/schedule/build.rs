//! The half-built schedule that both directions grow.

use alloc::vec::Vec;
use core::ops::Range;

use lowtide_backend::{Backend, Req};
use lowtide_memory::{ByCategory, Category};
use lowtide_tensor::Float;

use super::pack::{Interval, aligned, pack};
use super::{Action, Buffer, BufferId, Place, Schedule, Slot, View};
use crate::graph::{Graph, ValueId};
use crate::{DecodeLimits, Limits, Op, Work};

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
    /// Rows of a tile.
    tile: usize,
    decoding: Option<DecodeLimits>,
}

impl<'b, F: Float> Demands<'b, F> {
    pub(crate) fn training(be: &'b dyn Backend<F>, limits: Limits, tile: usize) -> Self {
        Self { be, limits, tile, decoding: None }
    }

    pub(crate) fn decoding(be: &'b dyn Backend<F>, limits: DecodeLimits) -> Self {
        Self { be, limits: limits.call(), tile: limits.rows, decoding: Some(limits) }
    }

    /// Whether a batch may be cut into more tiles than one.
    pub(crate) fn tiled(&self) -> bool {
        self.tile < self.limits.tokens
    }

    fn of(&self, op: &dyn Op<F>) -> Req {
        match self.decoding {
            Some(limits) => op.decode_req(self.be, limits),
            None => op.req(self.be, self.tile, self.limits),
        }
    }
}

pub(crate) struct Builder<'g, 'w, F: Float> {
    pub(crate) graph: &'g Graph<'w, F>,
    demands: &'g Demands<'g, F>,
    /// Values of which later tiles read all rows.
    histories: Vec<bool>,
    steps: Vec<Action>,
    loops: Vec<Range<usize>>,
    buffers: Vec<(Buffer, Home)>,
    library_bytes: usize,
}

impl<'g, 'w, F: Float> Builder<'g, 'w, F> {
    pub(crate) fn new(graph: &'g Graph<'w, F>, demands: &'g Demands<'g, F>) -> Self {
        let mut histories = alloc::vec![false; graph.cols.len()];
        for node in graph.nodes.iter().filter(|_| demands.tiled()) {
            let facts = node.op.facts();
            let read = node.inputs.iter().enumerate().filter(|(i, _)| facts.looks_back(*i));
            read.for_each(|(_, v)| histories[v.0] = true);
        }
        let (steps, loops, buffers) = (Vec::new(), Vec::new(), Vec::new());
        Self { graph, demands, histories, steps, loops, buffers, library_bytes: 0 }
    }

    /// Whether a batch may be cut into more tiles than one.
    pub(crate) fn tiled(&self) -> bool {
        self.demands.tiled()
    }

    /// Whether later tiles read all rows of a value.
    pub(crate) fn is_history(&self, value: ValueId) -> bool {
        self.histories[value.0]
    }

    /// A new buffer for a tile of `cols` columns, or for all rows where it lies outside the arena;
    /// its lifetime grows with the steps that name it.
    pub(crate) fn buffer(&mut self, cols: usize, category: Category, home: Home) -> BufferId {
        let buffer = self.raw_buffer(self.demands.tile * cols, category, home);
        if home != Home::Arena {
            self.widen(buffer);
        }
        buffer
    }

    fn raw_buffer(&mut self, len: usize, category: Category, home: Home) -> BufferId {
        let (birth, death, place) = (usize::MAX, 0, Place::Arena(usize::MAX));
        let buffer = Buffer { len, whole: false, category, birth, death, place };
        self.buffers.push((buffer, home));
        self.buffers.len() - 1
    }

    /// Makes room for all rows in a buffer of a tile's. Without tiles there is nothing to do.
    pub(crate) fn widen(&mut self, buffer: BufferId) {
        let Demands { tile, limits, .. } = self.demands;
        let (buffer, _) = &mut self.buffers[buffer];
        if *tile < limits.tokens && !buffer.whole {
            buffer.len = buffer.len / tile * limits.tokens;
            buffer.whole = true;
        }
    }

    /// Whether a buffer has room for all rows; without tiles, each has.
    pub(crate) fn is_whole(&self, buffer: BufferId) -> bool {
        !self.tiled() || self.buffers[buffer].0.whole
    }

    /// Changes where a buffer will lie: outside the arena.
    pub(crate) fn rehome(&mut self, buffer: BufferId, home: Home) {
        self.widen(buffer);
        self.buffers[buffer].1 = home;
    }

    /// Ends a loop: the steps since the one before.
    pub(crate) fn end_loop(&mut self) {
        let body = self.loops.last().map_or(0, |body| body.end)..self.steps.len();
        // What holds all rows lives as long as the loop.
        for (buffer, _) in self.buffers.iter_mut().filter(|(b, _)| b.whole) {
            if body.contains(&buffer.birth) {
                buffer.birth = body.start;
            }
            if body.contains(&buffer.death) && buffer.birth <= buffer.death {
                buffer.death = body.end - 1;
            }
        }
        self.loops.push(body);
    }

    pub(crate) fn home(&self, buffer: BufferId) -> Home {
        self.buffers[buffer].1
    }

    /// A value seen through its buffer.
    pub(crate) fn slot(&self, buffer: BufferId, value: ValueId) -> Slot {
        let per_sequence = self.graph.per_sequence[value.0];
        let view = if per_sequence { View::Sequences } else { View::Tile };
        Slot { buffer, cols: self.graph.cols[value.0], view }
    }

    /// A buffer for a value, charged as its operation says.
    pub(crate) fn value_buffer(&mut self, node: usize, output: usize, home: Home) -> BufferId {
        let graph = self.graph;
        let node = &graph.nodes[node];
        let category = match home {
            Home::Kept => Category::Checkpoint,
            _ => node.op.category(output),
        };
        let value = node.outputs[output];
        if graph.per_sequence[value.0] {
            // Its segment has one tile.
            let Demands { tile, limits, .. } = *self.demands;
            return self.raw_buffer(graph.elements(value.0, tile, limits), category, home);
        }
        let buffer = self.buffer(graph.cols[value.0], category, home);
        if self.is_history(value) {
            self.widen(buffer);
        }
        buffer
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
        let Self { steps, loops, buffers, library_bytes, .. } = self;
        let tile = self.demands.tile;
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
        let tokens = self.demands.limits.tokens;
        let tiles = || (1..=tokens.div_ceil(tile.max(1))).map(|n| (n * tile).min(tokens));
        let of = |action: &Action| -> u64 {
            let rows = |keys: usize| keys - (keys - 1) / tile.max(1) * tile;
            tiles().map(|keys| work(self.graph, action, rows(keys), keys)).sum()
        };
        let work = steps.iter().map(of).sum();
        Schedule {
            steps,
            loops,
            tile,
            work,
            buffers: done,
            arena: extent,
            kept,
            live_at_peak,
            library_bytes,
        }
    }
}

/// Work of a step over `rows` rows, the last of `keys`.
fn work<F: Float>(graph: &Graph<'_, F>, action: &Action, rows: usize, keys: usize) -> u64 {
    match action {
        Action::Forward(operands) => graph.work(operands.node, rows, keys).forward,
        Action::Vjp(operands) => graph.work(operands.node, rows, keys).backward,
        Action::Zero(slot) => Work::elementwise(rows * slot.cols).forward,
        Action::Copy { to, .. } | Action::Add { to, .. } => {
            Work::elementwise(2 * rows * to.cols).forward
        }
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
