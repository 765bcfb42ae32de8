//! LARS: adapters whose own work hardly grows with the length of a sequence.
//!
//! A sequence is pooled into one vector, `p [I]`; a small network in the space of the rank makes of
//! it one bias, `o [O]`, which is added to every row of the sequence:
//!
//! ```text
//! h  = p Aᵀ                            n  = norm(h)
//! g  = sigmoid(τ1 p Wxᵀ + τ2 n Whᵀ)    h1 = n + g M
//! h2 = dropout(h1)                     h3 = h2 + U2 gelu(U1 h2 + c1) + c2
//! y  = x Wᵀ + b + α h3 Bᵀ
//! ```
//!
//! Backward needs `p` and the column sums of the gradient. It reads neither the input nor the
//! output of the linear; the pooled sum and the added bias are the only work on rows. `B` starts
//! at zero, so training starts from the base's own output.
//!
//! What is pooled is a [`Pool`]. As published it is the mean over all rows plus the last one,
//! which shows every token those after it. [`Pool::Prompt`] pools the prompt alone, so that what
//! is learned can be used to generate: the bias is made once, from the prompt, and kept while
//! decoding. [`Gate`] is an earlier method of the same name: a gate for blocks of the input, token
//! by token.
//!
//! Paper: Tenison et al., "LARS: Low-memory Activation-Rank Subspace" (2026). GELU is its tanh
//! approximation. The paper drops a tenth of `h1`; here that is
//! [`Config::dropout`](lowtide_adapter::Config::dropout), nothing unless asked for.
//!
//! ```
//! use lowtide_adapter::{Adapter, Config};
//! use lowtide_lars::{Pool, Pooled};
//!
//! let config = Config { rank: 8, ..Config::default() };
//! let adapter = Pooled::new(2048, 512, Pool::Prompt, &config)?;
//! let (params, facts) = (Adapter::<f32>::params(&adapter), Adapter::<f32>::facts(&adapter));
//! let count: usize = params.iter().map(|spec| spec.len()).sum();
//! assert_eq!(count, (2 * 2048 + 512) * 8 + 10 * 8 * 8 + 7 * 8 + 3);
//! assert!(!facts.reads_x && !facts.reads_y);
//! # Ok::<(), lowtide_adapter::BadValue>(())
//! ```
#![no_std]
#![forbid(unsafe_code)]

#[cfg(feature = "alloc")]
extern crate alloc;

mod chain;
mod gate;
#[cfg(feature = "alloc")]
mod method;
mod pool;
mod pooled;
mod slab;

pub use gate::{GATE_WIDTH, Gate};
#[cfg(feature = "alloc")]
pub use method::LarsMethod;
pub use pool::{CHUNK, Pool};
pub use pooled::Pooled;

use lowtide_adapter::{BadValue, Config};

/// Name of the method in configurations.
pub const KIND: &str = "lars";

/// The largest rank that is accepted.
pub const RANK_MAX: usize = 1 << 12;

/// Refuses ranks and dropouts that make no sense.
fn check(config: &Config) -> Result<(), BadValue> {
    let bad = |field, value, expected| BadValue { method: KIND, field, value, expected };
    let Config { rank, dropout, .. } = *config;
    if rank == 0 || rank > RANK_MAX {
        return Err(bad("rank", rank as f64, "a whole number from 1 to 4096"));
    }
    if !(0.0..1.0).contains(&dropout) {
        return Err(bad("dropout", dropout, "a number from 0 to below 1"));
    }
    Ok(())
}
