//! The suites: single operations, steps, generation, memory, gradients, published tables, levers,
//! adapter methods, small tasks.

mod base;
mod cost;
mod generate;
mod gradients;
mod kernels;
mod lars;
mod memory;
mod methods;
mod papers;
mod step;
mod tasks;
mod tradeoff;

pub use base::{Base, SHAPES};
pub use generate::generate;
pub use gradients::gradients;
pub use kernels::{check_filter, kernels};
pub use lars::lars;
pub use memory::memory;
pub use methods::{MethodTrial, Runner, method_trials, methods};
pub use papers::papers;
pub use step::step;
pub use tasks::{Asker, Draw, Task, tasks};
pub use tradeoff::{Trial, tradeoff, trials};
