//! Optimizers over flat slabs, learning-rate schedules, gradient clipping, the directions of
//! zeroth-order methods, and rounding by chance.
//!
//! An [`Optimizer`] never learns what a parameter means. It sees three slabs of f32 words,
//! parameters, gradients and its own state, and the lengths of the tensors that lie one after
//! another in the first two. The arithmetic is the backend's, fused over the stored form of the
//! state: 8-bit moments are unpacked, updated and packed again one block at a time.
//!
//! | optimizer | state, bytes a parameter | per tensor in addition |
//! |---|---|---|
//! | [`AdamW`] | 8 | |
//! | [`AdamW8`] | 2 | 8 for each block of 256 begun, rounded up to whole words |
//! | [`Lion`] | 4 | |
//! | [`Lion8`] | 1 | 4 for each block of 256 begun, rounded up to whole words |
//! | [`Sgd`] | 0, or 4 with momentum | |
//! | [`SparseTop`] of one of them | for each chosen entry, 4 and the rule's | |
//! | [`SparseThreshold`] of one of them | the rule's for a tensor of 1, and 2 where it has any | |
//!
//! The state of a tensor depends on that tensor's length alone, and the states of several tensors
//! lie one after another. So the slab of a model is the concatenation of its segments' slabs, and
//! updating segment by segment gives the bits of updating everything at once.
//!
//! ```
//! use lowtide_backend::Scalar;
//! use lowtide_optim::{AdamW, Optimizer, Schedule, ScheduleKind, StepHyper, clip_factor};
//!
//! let optimizer = AdamW { weight_decay: 0.01, ..AdamW::default() };
//! let schedule = Schedule { warmup_steps: 2, ..Schedule::new(ScheduleKind::Cosine, 2e-4, 10) };
//!
//! // Two tensors, of 3 parameters and of 1.
//! let tensors = [3, 1];
//! let mut p = [0.5_f32, -0.5, 0.25, 1.0];
//! let mut state = vec![0.0; optimizer.state_words(&tensors)];
//! optimizer.init(&tensors, &mut state);
//!
//! for update in 0..10 {
//!     let g = p; // the gradient of half the sum of squares
//!     let sum_squares = g.iter().map(|g| f64::from(g * g)).sum();
//!     let hyper = StepHyper {
//!         lr: schedule.lr(update, 10),
//!         step: update + 1,
//!         grad_scale: clip_factor(sum_squares, 1.0),
//!     };
//!     optimizer.update(&Scalar, &tensors, &mut p, &g, &mut state, &hyper);
//! }
//! assert!(p[0] < 0.5 && p[1] > -0.5);
//! ```
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

mod adamw;
mod clip;
mod lion;
mod noise;
mod optimizer;
mod rounding;
mod schedule;
mod sgd;
mod slabs;
mod sparse;

pub use adamw::{AdamW, AdamW8};
pub use clip::clip_factor;
pub use lion::{Lion, Lion8};
pub use noise::Noise;
pub use optimizer::{Optimizer, StepHyper};
pub use rounding::StochasticRounding;
pub use schedule::{Schedule, ScheduleKind};
pub use sgd::Sgd;
pub use sparse::{SparseThreshold, SparseTop};
