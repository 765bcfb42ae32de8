//! What the tests of every crate share; a development dependency only, never a normal one.
//!
//! - [`rng`]: numbers as a function of (seed, counter), the same on every machine;
//! - `gguf`, with the feature of that name: folders as GGUF files;
//! - [`golden`]: the reference data under `testdata/golden`, widened to `f32`;
//! - [`mlx`]: adapter folders as mlx-lm writes them;
//! - [`models`]: where the real model lies, and what to run when it is absent;
//! - [`compare`]: closeness with messages that name the element that is off;
//! - [`alloc`]: a global allocator that counts, or refuses, large requests;
//! - [`rss`]: what the operating system says the process holds;
//! - [`text`]: a tokenizer of bytes and a chat template;
//! - [`tiny`]: small Llama folders with deterministic weights.
//!
//! Everything here panics with a clear message instead of returning errors: a test that cannot read
//! its own reference data has nothing sensible to do next.
//!
//! ```
//! use lowtide_testkit::{compare::assert_close, rng::Rng};
//!
//! let a = Rng::new(7).normal_vec(64, 0.02);
//! let b = Rng::new(7).normal_vec(64, 0.02);
//! assert_close("same seed", &a, &b, 0.0, 0.0);
//! ```
#![deny(unsafe_code)]

#[allow(unsafe_code, reason = "implementing GlobalAlloc is unsafe by definition")]
pub mod alloc;
pub mod compare;
#[cfg(feature = "gguf")]
pub mod gguf;
pub mod golden;
pub mod mlx;
pub mod models;
pub mod rng;
pub mod rss;
pub mod text;
pub mod tiny;
