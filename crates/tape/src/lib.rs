//! The tape: record operations by shape, plan every byte, reserve once, run without allocating.
//!
//! A [`Graph`] is a straight-line list of [`Op`]s over values of shape `[T, cols]`. Compiled for given
//! [`Limits`], it becomes a [`Segment`] with a schedule for each direction: which buffers are born and
//! die when, at which offset of one arena. Between forward and backward a segment keeps its input
//! only ([`Policy::Block`]) or also what its backward reads ([`Policy::Store`]); under either, the
//! gradients are the same bits, because a recomputed value is the same sum in the same order.
//!
//! A [`Program`] strings an embedding, segments and a loss head together; an [`Executor`] runs it
//! inside the slabs that its [`Plan`] foretold.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod executor;
mod graph;
mod head;
mod limits;
mod op;
mod operands;
pub mod ops;
mod plan;
mod program;
mod schedule;
mod segment;
mod sink;

pub use executor::{Executor, LossSum};
pub use graph::{Graph, ValueId};
pub use head::LossHead;
pub use limits::{Batch, Cx, Limits, Policy};
pub use op::{Facts, Forward, GradRule, MAX_INPUTS, MAX_OUTPUTS, Op, Vjp};
pub use plan::{Moment, Plan};
pub use program::{Embedding, Program};
pub use segment::Segment;
pub use sink::{Accumulate, ApplyNow, GradSink};
