//! The narrow waist: what a backend must be able to compute, over borrowed views.
//!
//! [`Backend`] has one required method, its name. Every other method defaults to the scalar
//! specification in [`spec`], which is generic over the float type, so that gradients can be checked
//! in f64 with the very code that defines the operation. A backend allocates nothing, keeps nothing
//! and starts no gradient: memory is lent to it, scratch included ([`Backend::req`] says how much).
//!
//! # Rules every operation keeps
//!
//! - *Shapes are contracts.* A broken one is a panic; [`Checked`] words it well.
//! - *Accumulation is stated per argument.* Arguments named `d…` receive `+=` unless said otherwise;
//!   all others are overwritten, whatever they held (NaN included).
//! - *Bits do not depend on threads, tiles or batch.* Work is shared out over outputs, never over
//!   reductions. A contraction over tokens, keys or a linear's width accumulates [`QUANTUM`] terms in
//!   ascending order and then adds that partial sum to the result; the loss head merges its
//!   vocabulary [`VOCAB_QUANTUM`] words at a time. Row `t` of a result depends on its own inputs only.
//! - *Views may be strided*; rows of activations have unit column stride.
//!
//! [`QUANTUM`]: lowtide_tensor::QUANTUM
//! [`VOCAB_QUANTUM`]: lowtide_tensor::VOCAB_QUANTUM
#![no_std]
#![forbid(unsafe_code)]

mod backend;
mod checked;
mod counted;
mod shapes;
pub mod spec;

pub use backend::{Backend, Scalar};
pub use checked::Checked;
pub use counted::{Counted, Counts};
pub use shapes::{
    Activation, AdamHyper, AttentionShape, Caps, Direction, DropoutKey, Moments8, OpShape, Pairing,
    Req, SgdHyper, Span, Stats,
};
