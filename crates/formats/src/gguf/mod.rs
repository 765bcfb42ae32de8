//! The GGUF container, versions 2 and 3, little-endian.
//!
//! [`Gguf::open`] maps a file, or all parts of a split one, and checks the whole structure;
//! [`parse`] is the same check over any bytes. [`Writer`] makes files, tensor data streamed. What
//! the metadata means for a model is decided elsewhere.
//!
//! Layout: magic, version, two counts; metadata as key, type, value; one record per tensor; data,
//! each tensor at an aligned offset. Axes are stored fastest first; this module turns them round,
//! so shapes read `[outputs, inputs]` as everywhere in Lowtide.

mod contents;
mod error;
mod file;
mod metadata;
mod parse;
mod reader;
mod split;
mod types;
mod value;
mod view;
mod write;

pub use contents::{Contents, TensorInfo};
pub use error::GgufError;
pub use file::Gguf;
pub use metadata::{Floats, Integers, Metadata, Strings};
pub use parse::parse;
pub use split::SplitError;
pub use value::{Value, ValueType};
pub(crate) use view::View;
pub use write::{TensorData, Writer};

/// Most metadata entries believed.
pub const METADATA_MAX: u64 = 1 << 16;
/// Most tensors believed.
pub const TENSORS_MAX: u64 = 1 << 20;
/// Longest metadata key in bytes, as the format says.
pub const KEY_BYTES_MAX: u64 = u16::MAX as u64;
/// Longest tensor name in bytes that ggml reads.
pub const NAME_BYTES_MAX: u64 = 63;
