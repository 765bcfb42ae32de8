//! Files on disk: bases in, adapters in and out.
//!
//! - [`Base::open`] maps a GGUF file or an HF folder and describes both alike: neutral
//!   [`Hyperparameters`], tensors under their HF names, tokenizer, chat template.
//! - [`gguf`] is the container itself, reader and writer; [`safe`] the safetensors file; [`hf`] the
//!   folder with its configs.
//! - [`peft`] reads and writes adapter folders, [`gguf_adapter`] adapters as GGUF files, [`mlx`]
//!   reads those of mlx-lm; [`rows`] is the row order in which GGUF files of some families keep the
//!   query and key projections.
//! - [`tensorboard`] writes event files.
//! - [`atomic`] replaces files so that nobody ever sees half of one; [`snapshot`] keeps what must
//!   come back bit for bit; a [`ScratchFile`] is space on disk for what does not fit in memory.
//!
//! Weights stay mapped and packed. Every parser takes any bytes: it answers with a typed
//! [`Error`] that names the file and the field, never panics, and allocates no more than the
//! bytes it was given can justify. A setting that would change the arithmetic and that is not
//! understood is refused by name, never skipped.
//!
//! The crate knows no models and no training.
//!
//! ```no_run
//! use lowtide_formats::Base;
//!
//! let base = Base::open("models/smollm2-135m-instruct.gguf".as_ref())?;
//! let q = base.tensor("model.layers.0.self_attn.q_proj.weight").expect("a llama has queries");
//! assert_eq!(q.shape, [base.hyper().query_size(), base.hyper().hidden_size]);
//! # Ok::<(), lowtide_formats::Error>(())
//! ```
#![deny(unsafe_code)]

pub mod atomic;
pub mod gguf;
pub mod gguf_adapter;
pub mod hf;
pub mod mlx;
pub mod peft;
pub mod rows;
pub mod safe;
pub mod snapshot;
pub mod tensorboard;

mod base;
mod document;
mod error;
mod family;
#[cfg(unix)]
mod fault;
mod fingerprint;
mod hyper;
mod json;
mod map;
mod names;
mod scratch;
mod stretch;
mod tensor;
mod tokenizer;

pub use base::{Base, describe_gguf};
pub use document::DocumentError;
pub use error::Error;
pub use family::{
    GgufSettings, ROPE_FACTORS, gguf_architecture, gguf_tensor_name, hf_config, hf_tensor_name,
};
#[cfg(unix)]
pub use fault::end_at_fault;
pub use fingerprint::{Fingerprint, FingerprintError};
pub use hyper::{Activation, Hyperparameters, LocalAttention, Pairing, Rope, RopeScaling};
pub use map::MappedFile;
pub use scratch::ScratchFile;
pub use stretch::Stretch;
pub use tensor::{Tensor, TensorError};
pub use tokenizer::{GgufTokenizer, SpecialTokens, TokenizerSource};
