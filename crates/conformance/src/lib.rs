//! Suites that anyone's implementation can be run through: ours or a stranger's.
#![forbid(unsafe_code)]

pub mod adapter;
mod close;
mod draw;
mod guarded;
pub mod optimizer;

pub use adapter::{AtInit, adapter, adapter_on};
pub use optimizer::{optimizer, optimizer_at_rest};
