//! The contract between a frozen linear and an adapter method.
//!
//! An [`Adapter`] is around-advice on a frozen [`Linear`]: it is handed the base and calls it
//! itself, so additive methods (LoRA), scaling ones (IA3) and norm-dependent ones (DoRA) all fit.
//! It owns no memory: parameters, gradients, derived values and scratch are lent to it. It never
//! sees a weight format, a model, a file or an optimizer; those work on its [`ParamSpec`]s.
//!
//! Everything is generic over [`Float`](lowtide_tensor::Float) with f32 as the default, so that the
//! code that trains is the code whose gradients are checked in f64.
//!
//! # A method of your own
//!
//! A trained bias, in any crate. It works through [`Linear`] and
//! [`Backend`](lowtide_backend::Backend) only; `lowtide_conformance::adapter` then checks its
//! gradients and manners, and a `Registry` makes it known to a program.
//!
//! ```
//! use lowtide_adapter::{Adapter, Facts, Init, Linear, ParamSpec, Rows};
//! use lowtide_backend::{Backend, Req};
//! use lowtide_tensor::{Float, Mat, MatMut};
//!
//! /// `y = base(x) + shift`.
//! struct Shift([ParamSpec; 1]);
//!
//! impl Shift {
//!     fn new(out_features: usize) -> Self {
//!         let shape = [out_features, 1];
//!         Self([ParamSpec { name: "shift", shape, init: Init::Zeros, output_axis: Some(0) }])
//!     }
//! }
//!
//! impl<F: Float> Adapter<F> for Shift {
//!     fn kind(&self) -> &'static str {
//!         "shift"
//!     }
//!     fn params(&self) -> &[ParamSpec] {
//!         &self.0
//!     }
//!     fn facts(&self) -> Facts {
//!         // Backward needs dy only, so x and y can be freed early.
//!         Facts { reads_x: false, reads_y: false, whole_sequence: false, mergeable: false }
//!     }
//!     fn req(&self, be: &dyn Backend<F>, base: &dyn Linear<F>, rows: usize) -> Req {
//!         base.req(be, rows)
//!     }
//!     fn apply(
//!         &self, be: &dyn Backend<F>, base: &dyn Linear<F>, p: &[F], _derived: &[F],
//!         _rows: Rows<'_>, x: Mat<'_, F>, mut y: MatMut<'_, F>, scratch: &mut [F],
//!     ) {
//!         base.apply(be, x, y.rb(), scratch);
//!         be.add_bias(p, y);
//!     }
//!     fn vjp(
//!         &self, be: &dyn Backend<F>, base: &dyn Linear<F>, _p: &[F], _derived: &[F],
//!         _rows: Rows<'_>, grad: &mut [F], _x: Option<Mat<'_, F>>, _y: Option<Mat<'_, F>>,
//!         dy: Mat<'_, F>, dx: Option<MatMut<'_, F>>, scratch: &mut [F],
//!     ) {
//!         be.sum_rows(dy, grad);
//!         if let Some(dx) = dx {
//!             base.vjp(be, dy, dx, scratch);
//!         }
//!     }
//! }
//! let adapter: &dyn Adapter = &Shift::new(3);
//! assert_eq!(adapter.params()[0].len(), 3);
//! ```
#![no_std]
#![forbid(unsafe_code)]

#[cfg(feature = "alloc")]
extern crate alloc;
#[cfg(test)]
extern crate std;

mod adapter;
mod config;
mod linear;
#[cfg(feature = "alloc")]
mod method;

pub use adapter::{Adapter, Facts, Init, NotMergeable, ParamSpec, Phase, Rows};
pub use config::{BadValue, Config};
pub use linear::{FrozenLinear, Linear};
#[cfg(feature = "alloc")]
pub use method::{BuildError, Method, Registry, SiteInfo};

#[cfg(test)]
mod tests;
