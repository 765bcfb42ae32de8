//! The narrow waist: what a backend must be able to compute, over borrowed views.
//!
//! [`Backend`] has one required method, its name. Every other method defaults to the scalar
//! specification in [`spec`], which is generic over the float type, so that gradients can be
//! checked in f64 with the very code that defines the operation. A backend allocates nothing, keeps
//! nothing and starts no gradient: memory is lent to it, scratch included ([`Backend::req`] says
//! how much).
//!
//! # Rules every operation keeps
//!
//! - *Shapes are contracts.* A broken one is a panic. The module [`contract`] words them; the
//!   specification and [`Checked`] call it.
//! - *Accumulation is stated per argument.* Arguments named `d…` receive `+=` unless said
//!   otherwise; all others are overwritten, whatever they held (NaN included).
//! - *Bits do not depend on threads, tiles or batch.* Work is shared out over outputs, never over
//!   reductions. A contraction over tokens, keys or a linear's width accumulates [`QUANTUM`] terms
//!   in ascending order and then adds that partial sum to the result; the loss head merges its
//!   vocabulary [`VOCAB_QUANTUM`] words at a time. Row `t` of a result depends on its own inputs
//!   only.
//! - *Views may be strided.* Rows of activations, gradients among them, have adjacent columns; only
//!   [`matmul`](Backend::matmul), [`axpby`](Backend::axpby) and an `lse [T, H]` take any strides.
//! - *Damage stays visible and local.* Nothing but dropout hides a NaN or an infinity of an
//!   operand, and none spreads to rows that do not read it.
//!
//! A backend compiles with one method and gets faster by one override at a time:
//!
//! ```
//! use lowtide_backend::{Backend, Checked};
//! use lowtide_tensor::{Mat, MatMut};
//!
//! struct Mine;
//!
//! impl Backend for Mine {
//!     fn name(&self) -> &'static str {
//!         "mine"
//!     }
//! }
//!
//! let be = Checked::new(Mine);
//! let mut y = [f32::NAN; 2];
//! be.axpby(2.0, Mat::new(&[1.0, -3.0], 1, 2), 0.0, MatMut::new(&mut y, 1, 2));
//! assert_eq!(y, [2.0, -6.0]);
//! ```
//!
//! [`QUANTUM`]: lowtide_tensor::QUANTUM
//! [`VOCAB_QUANTUM`]: lowtide_tensor::VOCAB_QUANTUM
#![no_std]
#![forbid(unsafe_code)]

mod backend;
mod checked;
pub mod contract;
#[cfg(target_has_atomic = "64")]
mod counted;
mod shapes;
pub mod spec;

pub use backend::{Backend, Scalar};
pub use checked::Checked;
#[cfg(target_has_atomic = "64")]
pub use counted::{Counted, Counts, Op};
pub use shapes::{
    Activation, AdamHyper, AttentionShape, Caps, Direction, DropoutKey, LionHyper, Moments8,
    Momentum8, OpShape, Pairing, Req, SgdHyper, Span, Stats,
};
