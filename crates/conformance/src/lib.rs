//! Suites that anyone's implementation can be run through: ours or a stranger's.
//!
//! A suite is a function. It takes an implementation, returns nothing, and panics at the first
//! promise that is not kept, in words that name the implementation, the operation and the shape.
//! Nothing here knows any concrete backend, method, format or optimizer; the scalar specification
//! is what results are compared with.
//!
//! | to check | call |
//! |---|---|
//! | a backend | [`backend`], and [`threads`] if it starts any |
//! | the same in other arithmetic of packed weights | [`packed_weights`] |
//! | an adapter method | [`adapter()`] |
//! | an optimizer | [`optimizer()`], and [`optimizer_at_rest`] |
//! | a block format | [`block_format`] |
//!
//! ```no_run
//! // A backend that overrides nothing is the specification itself.
//! struct Mine;
//!
//! impl lowtide_backend::Backend for Mine {
//!     fn name(&self) -> &'static str {
//!         "mine"
//!     }
//! }
//!
//! lowtide_conformance::backend(&Mine);
//! ```
//!
//! The suites do real arithmetic: run them with optimisation.
#![forbid(unsafe_code)]

pub mod adapter;
mod backend;
mod block_format;
mod close;
mod draw;
mod guarded;
pub mod optimizer;

pub use adapter::{AtInit, adapter};
pub use backend::{backend, packed_weights, threads};
pub use block_format::block_format;
pub use optimizer::{optimizer, optimizer_at_rest};
