//! The inner loops of the fast backend: one table of functions for each instruction set.
//!
//! A [`Kernels`] value is a table. There is one for plain Rust and one for each instruction set
//! that was written for; [`Kernels::available`] gives those that run on this processor, so holding
//! a table is the proof that it may be called. Methods are safe and check their shapes once; what
//! is below them walks raw memory. Nothing here starts a thread, allocates, or knows what a model
//! is.
//!
//! # How a kernel is written
//!
//! - `simd` has one trait, `Simd`: a register of f32 lanes and what can be done with it. A value of
//!   a type that implements it is a token: whoever holds one runs on such a processor.
//! - `generic` has each algorithm once, over that trait.
//! - `arch` has one file for each instruction set: the token, and the stamp that compiles every
//!   algorithm for it. Kernels that need more than lanes (integer dot products) are written there.
//!
//! # Bits
//!
//! Every sum has a fixed order, which does not depend on how many rows or columns a call has. One
//! table gives one result; another table may differ in the last bits, because lanes are more or
//! fewer and because plain Rust has no fused multiply-add everywhere.
//!
//! ```
//! use lowtide_kernels::{Isa, Kernels, Rhs};
//! use lowtide_tensor::{Mat, MatMut};
//!
//! assert!(Kernels::available().any(|kernels| kernels.isa() == Isa::Scalar));
//! let kernels = Kernels::best();
//! let (a, b) = ([1.0, 2.0, 3.0, 4.0], [1.0, 0.0, 0.0, 10.0]);
//! let mut c = [f32::NAN; 4];
//! let b = Rhs::rows(Mat::new(&b, 2, 2));
//! kernels.gemm(1.0, Mat::new(&a, 2, 2), b, false, MatMut::new(&mut c, 2, 2));
//! assert_eq!(c, [1.0, 20.0, 3.0, 40.0]);
//! ```
#![cfg_attr(not(any(test, feature = "std")), no_std)]
#![allow(unsafe_code, reason = "kernels are intrinsics, and walks over raw memory")]
#![allow(
    clippy::multiple_unsafe_ops_per_block,
    reason = "a kernel's steps share one proof: the token, and the bounds of a loop"
)]

mod arch;
mod few;
mod generic;
mod int;
mod integers;
mod isa;
mod peak;
mod rhs;
mod rows;
mod seen;
mod simd;
mod softmax;
mod table;

pub use int::{Digits, IntRhs, IntRhsT, Rounded};
pub use isa::Isa;
pub use rhs::Rhs;
pub use rows::{AdamW, Draws, Gate, Lion, Summary};
pub use seen::Seen;
pub use table::Kernels;
