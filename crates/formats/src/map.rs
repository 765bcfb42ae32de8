//! Read-only mapping of a file: the only `unsafe` of the crate.
#![allow(unsafe_code, reason = "mapping a file is unsafe: another process may change it")]

use std::fs::File;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;

use crate::Error;

/// A whole file, mapped read-only. Clones share the mapping.
///
/// The bytes are in nobody's heap: the system reads pages when they are touched and may drop them
/// again. Changing or truncating a file while it is mapped is outside what a reader can guard
/// against; the writers of this crate replace files by renaming, which leaves a mapping intact.
#[derive(Clone, Debug)]
pub struct MappedFile {
    path: PathBuf,
    map: Arc<Mmap>,
}

impl MappedFile {
    /// Maps the file at `path`.
    ///
    /// # Errors
    /// [`Error::Io`] if there is no such file, it is not a regular file, or it cannot be mapped.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(|e| Error::io(path, "open", &e))?;
        let facts = file.metadata().map_err(|e| Error::io(path, "open", &e))?;
        if !facts.is_file() {
            return Err(Error::Io {
                path: path.to_path_buf(),
                action: "map",
                kind: std::io::ErrorKind::InvalidInput,
                message: "not a regular file".to_owned(),
            });
        }
        // SAFETY: the mapping is private and read-only and is only ever seen as `&[u8]`, for which
        // every bit pattern is valid. That the file stays as it is while mapped is asked of the
        // user above; no code of ours writes to a file it has mapped.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io(path, "map", &e))?;
        Ok(Self { path: path.to_path_buf(), map: Arc::new(map) })
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All bytes of the file.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes()
    }
}
