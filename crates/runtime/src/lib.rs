//! Where files meet models: a base on disk opened as a model, adapters read into it, its tokenizer
//! and chat template. [`merge`] folds an adapter into its base on the way into another file.
//!
//! This crate is where formats, data and models come together; it knows nothing of training, no
//! instruction set and nothing of the inside of a block.
#![forbid(unsafe_code)]

mod adapter;
mod base;
mod error;
mod generator;
mod kinds;
mod merge;
mod sampling;
mod session;
mod stream;
mod text;
mod weights;

pub use adapter::{LoadedAdapter, load_adapter, permuted_rows};
pub use base::{OpenBase, registry};
pub use error::{RuntimeError, SamplingError};
pub use generator::{Generation, Generator, GeneratorPlan, Request, Stop};
pub use kinds::{codes_in_training, lora_config, same_tensors};
pub use lowtide_lora::codes::is_coded;
pub use merge::{MergeReport, MergeSettings, merge};
pub use sampling::Sampling;
pub use session::{Prompt, Session, SessionSettings, with_session};
pub use text::BaseText;
pub use weights::{WeightParts, WeightStream};
