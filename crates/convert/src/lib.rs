//! Bases and adapters from one kind of file into another.
//!
//! [`convert`] is the whole job for a base: HF folders and GGUF files, quantized on the way.
//! Weights are streamed: a tile of rows is decoded, changed where the two kinds of file differ (the
//! order of rows of q and k, the 1 in Gemma's norms), encoded and written, in parallel over rows.
//! What is held is charged to a ledger and stays within a budget; a tensor is never held as a
//! whole. Rows are independent, so the bytes written do not depend on threads or tiles.
//!
//! A GGUF file gets what llama.cpp and programs built on it read: settings under their names, the
//! vocabulary with its kinds of tokens, the chat template. An HF folder gets `config.json`, the
//! tokenizer's files and `generation_config.json`. Output appears whole or not at all.
//!
//! [`convert_adapter`] does the same between PEFT folders and GGUF adapters, and from folders of
//! mlx-lm into both, value for value:
//! LoRA's rows of q and k go to the order in which the base's GGUF file has them, and back.
//!
//! [`convert_changed`] lets its caller change tensors while they pass, rows at a time, and says how
//! much of each change the type that is written could hold. Merging an adapter is that, with the
//! adapter's arithmetic in the hands of a crate above.
//!
//! [`loftq`] packs a base together with an adapter that makes up for a part of what packing loses.
//!
//! The crate knows files, never what a model computes.
#![forbid(unsafe_code)]

mod adapter;
mod changes;
mod error;
mod gguf_out;
mod hf_out;
mod job;
mod kind;
mod loftq;
mod plan;
mod report;
mod rows;
mod vocab;

pub use adapter::{AdapterReport, AdapterSettings, convert_adapter, is_coded, named_base};
pub use changes::{ChangeReport, Changes, Kept};
pub use error::ConvertError;
pub use job::{Settings, convert, convert_changed};
pub use kind::{Kind, KindError};
pub use loftq::{LoftqReport, LoftqSettings, MatrixReport, loftq};
pub use report::{Event, Report, TypeReport};
pub use vocab::vocab_of;

/// Whether what is written under this name is a GGUF file.
#[must_use]
pub fn is_gguf(path: &std::path::Path) -> bool {
    path.extension().is_some_and(|end| end.eq_ignore_ascii_case("gguf"))
}
