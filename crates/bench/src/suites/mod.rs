//! The suites: single operations, steps, generation, memory.

mod base;
mod cost;
mod generate;
mod kernels;
mod memory;
mod step;

pub use base::{Base, SHAPES};
pub use generate::generate;
pub use kernels::{check_filter, kernels};
pub use memory::memory;
pub use step::step;
