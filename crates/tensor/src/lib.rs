//! Floats and strided matrix views that own nothing.
//!
//! The bottom of Lowtide's numeric stack: a [`Float`] trait so that one scalar specification serves
//! f32 (the product) and f64 (gradient checks), and [`Mat`] / [`MatMut`], two-dimensional views
//! with explicit strides over memory that somebody else owns. A view can be cut into disjoint
//! mutable parts along either axis; that is the only `unsafe` code in the crate and it sits in one
//! file.
//!
//! ```
//! use lowtide_tensor::{Mat, MatMut};
//! let mut data = [0.0_f32; 6];
//! let (mut left, mut right) = MatMut::new(&mut data, 2, 3).split_cols(1);
//! left.fill(1.0);
//! right.row_mut(1)[0] = 2.0;
//! assert_eq!(data, [1.0, 0.0, 0.0, 1.0, 2.0, 0.0]);
//! assert_eq!(Mat::new(&data, 2, 3).t().get(1, 1), 2.0);
//! ```
#![no_std]
#![deny(unsafe_code)]

#[cfg(test)]
extern crate std;

mod float;
mod quanta;
mod view;

pub use float::Float;
pub use quanta::quanta;
pub use view::{Mat, MatMut, Order};

/// Rows over which every contraction over tokens, keys or a linear's width accumulates before the
/// partial sum is added to the result: a fixed quantum in ascending order, so that splitting the
/// contraction at multiples of it changes no bit.
pub const QUANTUM: usize = 64;

/// Vocabulary entries over which the loss head accumulates before partial results are merged.
pub const VOCAB_QUANTUM: usize = 1024;
