//! Bases from one kind of file into another: HF folders and GGUF files, quantized on the way.
//!
//! [`convert`] is the whole job. Weights are streamed: a tile of rows is decoded, changed where the
//! two kinds of file differ (the order of rows of q and k, the 1 in Gemma's norms), encoded and
//! written, in parallel over rows. What is held is charged to a ledger and stays within a budget;
//! a tensor is never held as a whole. Rows are independent, so the bytes written do not depend on
//! threads or tiles.
//!
//! A GGUF file gets what llama.cpp and programs built on it read: settings under their names, the
//! vocabulary with its kinds of tokens, the chat template. An HF folder gets `config.json`, the
//! tokenizer's files and `generation_config.json`. Output appears whole or not at all.
//!
//! The crate knows files, never what a model computes.
#![forbid(unsafe_code)]

mod error;
mod gguf_out;
mod hf_out;
mod job;
mod kind;
mod plan;
mod report;
mod rows;
mod vocab;

pub use error::ConvertError;
pub use job::{Settings, convert};
pub use kind::{Kind, KindError};
pub use report::{Event, Report, TypeReport};
