//! From a graph to a straight line of steps over buffers with offsets.
//!
//! One schedule is one direction of one segment under one policy. Building it takes three passes:
//! decide which operations run and which values they need ([`needs`]), walk them once to give every
//! value and gradient a buffer ([`forward`], [`backward`]), then place the buffers by lifetime
//! ([`pack`]).
//!
//! A schedule may work on *tiles* of a batch's rows. Its steps then form loops, each of which is
//! run for one tile after the other, and most buffers hold a tile. Those that carry something from
//! one tile to the next, or from one loop to the next, hold all rows: histories, which later rows
//! read (keys and values), their gradients, which later rows add to, and what waits for these.

mod backward;
mod build;
mod forward;
mod keep;
mod needs;
mod pack;
#[cfg(test)]
mod tests;

use alloc::vec::Vec;
use core::ops::Range;

use lowtide_memory::{ByCategory, Category};
use lowtide_tensor::Float;

pub(crate) use backward::backward;
pub(crate) use build::Demands;
pub(crate) use forward::forward;
pub(crate) use keep::Keep;
pub(crate) use needs::{Needs, making};
pub(crate) use pack::aligned;

/// A buffer of a [`Schedule`].
pub(crate) type BufferId = usize;

/// Where a buffer lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// At an offset of the arena, in elements.
    Arena(usize),
    /// At an offset of the segment's kept region, in elements.
    Kept(usize),
    /// The segment's input.
    Input,
    /// The segment's output.
    Output,
    /// The gradient that comes in as the output's and leaves as the input's.
    Gradient,
}

/// Memory with one lifetime: a value, a gradient, several of them in turn, or scratch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Buffer {
    /// Elements, for the largest batch.
    pub(crate) len: usize,
    /// Whether it holds all rows of the batch, not only those of a tile.
    pub(crate) whole: bool,
    pub(crate) category: Category,
    /// First and last step that touch it; those of a loop, where it lives from tile to tile.
    pub(crate) birth: usize,
    pub(crate) death: usize,
    pub(crate) place: Place,
}

/// Which rows of a buffer a step works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum View {
    /// Those of the tile.
    Tile,
    /// All from the first up to the last of the tile.
    UpTo,
    /// One a sequence.
    Sequences,
}

/// Rows of a buffer, seen as `[rows, cols]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) buffer: BufferId,
    pub(crate) cols: usize,
    pub(crate) view: View,
}

impl Slot {
    /// The same, of a history.
    fn up_to(self) -> Self {
        Self { view: View::UpTo, ..self }
    }
}

/// Operands of one operation, in the order of its inputs and outputs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Operands {
    pub(crate) node: usize,
    pub(crate) x: Vec<Option<Slot>>,
    pub(crate) y: Vec<Option<Slot>>,
    pub(crate) dy: Option<Slot>,
    pub(crate) dx: Vec<Option<Slot>>,
    pub(crate) scratch: Option<BufferId>,
}

impl Operands {
    /// The buffers they lie in; one that is read twice comes twice.
    pub(crate) fn buffers(&self) -> impl Iterator<Item = BufferId> + '_ {
        let Self { x, y, dy, dx, scratch, .. } = self;
        let slots = x.iter().chain(y).chain([dy]).chain(dx).flatten().map(|slot| slot.buffer);
        slots.chain(*scratch)
    }
}

/// What one step does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Forward(Operands),
    Vjp(Operands),
    Zero(Slot),
    Copy { from: Slot, to: Slot },
    Add { from: Slot, to: Slot },
}

/// One direction of one segment, ready to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Schedule {
    pub(crate) steps: Vec<Action>,
    /// The steps that are run for one tile after the other; together they are all.
    pub(crate) loops: Vec<Range<usize>>,
    /// Rows of a tile.
    pub(crate) tile: usize,
    pub(crate) buffers: Vec<Buffer>,
    /// Elements of the arena.
    pub(crate) arena: usize,
    /// Elements of the kept region.
    pub(crate) kept: usize,
    /// The most elements alive in the arena at once, by category, and their sum.
    pub(crate) live_at_peak: ByCategory,
    /// Bytes libraries allocate during one operation.
    pub(crate) library_bytes: usize,
    /// Work of a run over the largest batch, roughly.
    pub(crate) work: u64,
}

impl Schedule {
    /// The tiles of so many rows, ascending.
    pub(crate) fn tiles(&self, rows: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let tile = self.tile.max(1);
        (0..rows).step_by(tile).map(move |start| start..rows.min(start + tile))
    }

    /// Fills what nobody reads after `step` with NaN; `last` says whether the tile is the last.
    pub(crate) fn poison_after<F: Float>(&self, step: usize, last: bool, arena: &mut [F]) {
        for b in self.buffers.iter().filter(|b| b.death == step && (last || !b.whole)) {
            if let Place::Arena(at) = b.place {
                arena[at..at + b.len].fill(F::NAN);
            }
        }
    }
}
