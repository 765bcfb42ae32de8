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
//! use lowtide_adapter::{Adapter, Cx, Facts, Forward, Init, Linear, ParamSpec, Vjp};
//! use lowtide_backend::{Backend, Req};
//! use lowtide_tensor::Float;
//!
//! /// `y = base(x) + shift`.
//! struct Shift([ParamSpec; 1]);
//!
//! impl Shift {
//!     fn new(out_features: usize) -> Self {
//!         let (shape, init) = ([out_features, 1], Init::Zeros);
//!         let (output_axis, rank_axis) = (Some(0), None);
//!         Self([ParamSpec { name: "shift", shape, init, output_axis, rank_axis }])
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
//!     fn apply(&self, cx: &Cx<'_, F>, Forward { x, mut y, scratch, .. }: Forward<'_, F>) {
//!         cx.base.apply(cx.be, x, y.rb(), scratch);
//!         cx.be.add_bias(cx.p, y);
//!     }
//!     fn vjp(&self, cx: &Cx<'_, F>, Vjp { dy, dx, grad, scratch, .. }: Vjp<'_, F>) {
//!         cx.be.sum_rows(dy, grad);
//!         if let Some(dx) = dx {
//!             cx.base.vjp(cx.be, dy, dx, scratch);
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

pub use adapter::{
    Adapter, Cx, Facts, Forward, Init, Keeps, NotMergeable, ParamSpec, Phase, Rows, State, Vjp,
};
pub use config::{BadValue, Config, Place};
pub use linear::{FrozenLinear, Identity, Linear};
#[cfg(feature = "alloc")]
pub use method::{BuildError, Built, Method, Registry, SiteInfo, check_options};

#[cfg(test)]
mod tests;
