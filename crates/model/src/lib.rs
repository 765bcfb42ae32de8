//! Decoder families as programs: a [`Config`] and [`Weights`] in, a [`Model`] out.
//!
//! A model is a [`lowtide_tape::Program`] (embedding, one segment a block, loss head) and the list
//! of [`Site`]s, the linears that adapters were attached to. The crate knows how a block is wired
//! and what its linears are called; where the bytes come from, which method adapts a site and how
//! it is trained are other crates' business.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod block;
mod build;
mod config;
mod error;
mod family;
mod patterns;
mod rope;
mod targets;
mod weights;

pub use build::{Adaptation, Model, Site, SiteValues, build};
pub use config::{Config, LocalAttention, Rope, RopeScaling};
pub use error::ModelError;
pub use family::Family;
pub use patterns::{SitePatterns, TensorPatterns};
pub use targets::{Layers, TargetModules, TargetsError};
pub use weights::Weights;
