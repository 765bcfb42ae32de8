//! From a graph to a straight line of steps over buffers with offsets.
//!
//! One schedule is one direction of one segment under one policy. Building it takes three passes:
//! decide which operations run and which values they need ([`needs`]), walk them once to give every
//! value and gradient a buffer ([`forward`], [`backward`]), then place the buffers by lifetime
//! ([`pack`]).

mod backward;
mod build;
mod forward;
mod needs;
mod pack;
#[cfg(test)]
mod tests;

use alloc::vec::Vec;

use lowtide_memory::{ByCategory, Category};
use lowtide_tensor::Float;

pub(crate) use backward::backward;
pub(crate) use build::Demands;
pub(crate) use forward::forward;
pub(crate) use needs::Needs;
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
    pub(crate) category: Category,
    /// First and last step that touch it.
    pub(crate) birth: usize,
    pub(crate) death: usize,
    pub(crate) place: Place,
}

/// A buffer seen as `[T, cols]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) buffer: BufferId,
    pub(crate) cols: usize,
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
    pub(crate) buffers: Vec<Buffer>,
    /// Elements of the arena.
    pub(crate) arena: usize,
    /// Elements of the kept region.
    pub(crate) kept: usize,
    /// The most elements alive in the arena at once, by category, and their sum.
    pub(crate) live_at_peak: ByCategory,
    /// Bytes libraries allocate during one operation.
    pub(crate) library_bytes: usize,
}

impl Schedule {
    /// Fills what nobody reads after `step` with NaN.
    pub(crate) fn poison_after<F: Float>(&self, step: usize, arena: &mut [F]) {
        for (at, len) in self.freed_after(step) {
            arena[at..at + len].fill(F::NAN);
        }
    }

    /// Buffers of the arena whose last use is `step`.
    pub(crate) fn freed_after(&self, step: usize) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.buffers.iter().filter_map(move |b| match b.place {
            Place::Arena(at) if b.death == step => Some((at, b.len)),
            _ => None,
        })
    }
}
