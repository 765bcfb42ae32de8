//! The one error of everything that opens or writes files.

use std::io;
use std::path::{Path, PathBuf};

use crate::DocumentError;
use crate::gguf::{GgufError, SplitError};
use crate::peft::AdapterError;
use crate::safe::SafeError;
use crate::snapshot::SnapshotError;
use crate::tensor::TensorError;

/// What went wrong with which file.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// The system refused.
    #[error("{}: cannot {action}: {message}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried, such as `open`.
        action: &'static str,
        /// The system's kind of error.
        kind: io::ErrorKind,
        /// The system's words.
        message: String,
    },
    /// Neither a GGUF file nor a folder with an HF model.
    #[error(
        "{} is not a base: expected a .gguf file, or a folder with config.json and \
         model.safetensors (or model.safetensors.index.json)",
        path.display()
    )]
    NotABase {
        /// What was given.
        path: PathBuf,
    },
    /// A file that is read whole is larger than any sound file of its kind.
    #[error("{} has {bytes} bytes; such a file has at most {bytes_max}", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The most that is read.
        bytes_max: u64,
    },
    /// A text file that is not UTF-8.
    #[error("{} is not UTF-8 text: byte {at} starts no character", path.display())]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// Offset of the first bad byte.
        at: usize,
    },
    /// A file that became shorter while it was in use.
    #[error(
        "{}: it has {bytes} bytes, and had {mapped} when it was opened: it was cut while in use; \
         expected a file that nobody writes to",
        path.display()
    )]
    Cut {
        /// The file.
        path: PathBuf,
        /// Its size now.
        bytes: u64,
        /// Its size then.
        mapped: u64,
    },
    /// A GGUF container that cannot be read.
    #[error("{}: {reason}", path.display())]
    Gguf {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        reason: GgufError,
    },
    /// A part of a model in several GGUF files that does not fit the others.
    #[error("{}: {reason}", path.display())]
    Split {
        /// The part.
        path: PathBuf,
        /// What is wrong with it.
        reason: Box<SplitError>,
    },
    /// A safetensors file that cannot be read.
    #[error("{}: {reason}", path.display())]
    Safe {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        reason: SafeError,
    },
    /// A field of a config or of metadata.
    #[error("{}: {reason}", path.display())]
    Document {
        /// The file.
        path: PathBuf,
        /// Which field, and what is wrong with it.
        reason: DocumentError,
    },
    /// A tensor of a base.
    #[error("{}: {reason}", path.display())]
    Tensor {
        /// The file or folder.
        path: PathBuf,
        /// Which tensor, and what is wrong with it.
        reason: TensorError,
    },
    /// A tensor of an adapter.
    #[error("{}: {reason}", path.display())]
    Adapter {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        reason: AdapterError,
    },
    /// A snapshot that is not whole.
    #[error("{}: {reason}", path.display())]
    Snapshot {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        reason: SnapshotError,
    },
}

impl Error {
    pub(crate) fn io(path: &Path, action: &'static str, error: &io::Error) -> Self {
        let path = path.to_path_buf();
        Self::Io { path, action, kind: error.kind(), message: error.to_string() }
    }

    pub(crate) fn document(path: &Path, reason: DocumentError) -> Self {
        Self::Document { path: path.to_path_buf(), reason }
    }

    pub(crate) fn tensor(path: &Path, reason: TensorError) -> Self {
        Self::Tensor { path: path.to_path_buf(), reason }
    }
}
