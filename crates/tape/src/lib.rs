//! The tape: record operations by shape, plan every byte, reserve once, run without allocating.
//!
//! A [`Graph`] is a straight-line list of [`Op`]s over values of shape `[T, cols]`. Compiled for
//! given [`Limits`], it becomes a [`Segment`] with a schedule for each direction: which buffers are
//! born and die when, at which offset of one arena. Between forward and backward a segment keeps
//! its input only ([`Policy::Block`]), or also what its backward reads ([`Policy::Store`]), or not
//! even its input ([`Policy::Every`], [`Policy::Sqrt`]); under each, the gradients are the same
//! bits, because a recomputed value is the same sum in the same order. A [`Store`] says in which
//! form inputs are kept.
//!
//! A [`Program`] strings an embedding, segments and a loss head together; an [`Executor`] runs it
//! inside the slabs that its [`Plan`] foretold. A [`Decoder`] runs it forward only, over one
//! sequence that grows: an operation that looks back keeps a [`State`] of what was read.
//!
//! ```
//! use lowtide_adapter::Config;
//! use lowtide_backend::{Scalar, Span};
//! use lowtide_lora::Lora;
//! use lowtide_memory::{Budget, Ledger};
//! use lowtide_quant::{QMat, formats::F32};
//! use lowtide_tape::ops::{AdaptedLinear, Add, RmsNorm};
//! use lowtide_tape::{
//!     ApplyNow, Batch, Embedding, Executor, Graph, Limits, LossHead, Plan, Policy, Program,
//!     Segment,
//! };
//!
//! // Four tokens of width two. The table is the head as well, and its first rows a linear.
//! let rows = [1.0_f32, 0.0, 0.0, 1.0, -1.0, 0.0, 0.0, -1.0];
//! let bytes: Vec<u8> = rows.iter().flat_map(|w| w.to_le_bytes()).collect();
//! let table = QMat::new(&F32, 4, 2, &bytes)?;
//!
//! // One segment: x + adapted(norm(x)).
//! let (mut graph, x) = Graph::new(2);
//! let norm = graph.push(RmsNorm { weight: [1.0; 2].into(), eps: 1e-6 }, &[x]);
//! let lora = Lora::new(2, 2, &Config::default())?;
//! let linear = AdaptedLinear::new(table.slice_rows(0..2), None, Some(Box::new(lora)), 0);
//! let y = graph.push(linear, &[norm]);
//! graph.push(Add, &[x, y]);
//! let program: Program<'_, f32> = Program {
//!     embedding: Embedding { table, scale: 1.0 },
//!     segments: vec![Segment::new(graph)],
//!     head: LossHead { norm: [1.0; 2].into(), eps: 1e-6, weight: table },
//! };
//!
//! // Every byte is known before anything is reserved, and nothing is allocated afterwards.
//! let limits = Limits { tokens: 8, sequences: 2, labelled: 8 };
//! let plan = Plan::new(&program, &Scalar, limits, Policy::Block, true);
//! let mut ledger = Ledger::new(Budget::of(plan.bytes().held() + plan.library_bytes()));
//! let mut executor = Executor::reserve(&program, &Scalar, plan, 0, &mut ledger)?;
//!
//! let batch = Batch {
//!     ids: &[0, 1, 2],
//!     positions: &[0, 1, 2],
//!     spans: &[Span { start: 0, prompt_end: 1, end: 3 }],
//!     labelled: &[1, 2],
//!     targets: &[2, 3],
//!     words: None,
//!     counter: 0,
//! };
//! let ranges = program.param_ranges();
//! let mut params: Vec<f32> = (0..program.params()).map(|i| (i as f32).sin() / 2.0).collect();
//! let mut grads = vec![0.0; params.len()];
//! let mut descend = || {
//!     let update = |_, params: &mut [f32], grads: &[f32]| {
//!         params.iter_mut().zip(grads).for_each(|(p, g)| *p -= 0.01 * g);
//!     };
//!     let mut sink = ApplyNow { grads: &mut grads, ranges: &ranges, update };
//!     executor.step(&mut params, &batch, 1.0, &mut sink).map(|sum| sum.mean())
//! };
//! let before = descend()?;
//! let mut after = before;
//! for _ in 0..100 {
//!     after = descend()?;
//! }
//! assert!(after < before / 2.0, "{before} fell to {after}");
//! executor.release(&mut ledger);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod boundary;
mod checkpoints;
mod compiler;
mod decoder;
mod executor;
mod graph;
mod head;
mod kept;
mod limits;
mod loss;
mod observer;
mod op;
mod operands;
pub mod ops;
mod params;
mod plan;
mod policy;
mod program;
mod reserved;
mod schedule;
mod segment;
mod selection;
mod sink;
mod state;
mod weights;
mod work;

pub use decoder::{DecodePlan, Decoder};
pub use executor::{Executor, Pair};
pub use graph::{Graph, ValueId};
pub use head::LossHead;
pub use kept::{CheckpointError, CheckpointFile};
pub use limits::{Batch, Cx, DecodeLimits, Limits};
pub use loss::{HeadGap, LossSum};
pub use observer::{Observer, Stage};
pub use op::{Facts, Forward, GradRule, MAX_INPUTS, MAX_OUTPUTS, Op, Vjp};
pub use params::Params;
pub use plan::Plan;
pub use policy::{Checkpointing, Policy, Store};
pub use program::{Embedding, Program};
pub use segment::Segment;
pub use sink::{Accumulate, ApplyNow, GradSink};
pub use state::State;
pub use weights::{Part, WeightKeeper};
pub use work::Work;
