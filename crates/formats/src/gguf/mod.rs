//! The GGUF container, versions 2 and 3, little-endian.
//!
//! [`Gguf::open`] maps a file and checks its whole structure; [`parse`] is the same check over any
//! bytes. [`Writer`] makes files, tensor data streamed. What the metadata means for a model is
//! decided elsewhere.
//!
//! Layout: magic, version, two counts; metadata as key, type, value; one record per tensor; data,
//! each tensor at an aligned offset. Axes are stored fastest first; this module turns them round,
//! so shapes read `[outputs, inputs]` as everywhere in Lowtide.

mod contents;
mod error;
mod metadata;
mod parse;
mod reader;
mod types;
mod value;
mod write;

use std::path::Path;

pub use contents::{Contents, TensorInfo};
pub use error::GgufError;
pub use metadata::{Floats, Integers, Metadata, Strings};
pub use parse::parse;
pub use value::{Value, ValueType};
pub use write::{TensorData, Writer};

use crate::{Error, MappedFile, Tensor};

/// Most metadata entries believed.
pub const METADATA_MAX: u64 = 1 << 16;
/// Most tensors believed.
pub const TENSORS_MAX: u64 = 1 << 20;
/// Longest metadata key in bytes, as the format says.
pub const KEY_BYTES_MAX: u64 = u16::MAX as u64;
/// Longest tensor name in bytes that ggml reads.
pub const NAME_BYTES_MAX: u64 = 63;

/// A mapped GGUF file whose structure has been checked.
#[derive(Clone, Debug)]
pub struct Gguf {
    file: MappedFile,
    contents: Contents,
}

impl Gguf {
    /// Maps and checks the file at `path`.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be mapped, [`Error::Gguf`] if it is not a sound GGUF file.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = MappedFile::open(path)?;
        let contents = parse(file.bytes())
            .map_err(|reason| Error::Gguf { path: path.to_path_buf(), reason })?;
        Ok(Self { file, contents })
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Size of the file.
    pub fn file_bytes(&self) -> u64 {
        self.file.len() as u64
    }

    /// The container's version, 2 or 3.
    pub fn version(&self) -> u32 {
        self.contents.version()
    }

    /// The metadata.
    pub fn metadata(&self) -> Metadata<'_> {
        self.contents.metadata(self.file.bytes())
    }

    /// The parsed structure.
    pub fn contents(&self) -> &Contents {
        &self.contents
    }

    /// The bytes of the file.
    pub fn bytes(&self) -> &[u8] {
        self.file.bytes()
    }

    /// Names of all tensors, sorted.
    pub fn tensor_names(&self) -> impl Iterator<Item = &str> {
        self.contents.tensors().keys().map(String::as_str)
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        self.contents.tensor(self.file.bytes(), name)
    }
}
