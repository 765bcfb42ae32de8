//! A temporary file without a name, written once and then read by position.
//!
//! It is made, unlinked and only then filled, so nobody else can open, cut or change it, and the
//! system takes it back when the last handle goes, however the process ends. Numbers lie in it as
//! in memory: it never leaves the machine.

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use bytemuck::{Pod, Zeroable};

use crate::error::{DataError, IoAction};

/// Size and place of one example.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Entry {
    /// Where its ids begin in the data file, in bytes; its labels follow them.
    pub(super) offset: u64,
    /// Tokens.
    pub tokens: u32,
    /// Tokens before the first response.
    pub prompt_len: u32,
    /// Tokens that carry loss.
    pub labelled: u32,
    /// Tokens cut off its end.
    pub cut: u32,
}

/// A file being written.
#[derive(Debug)]
pub(super) struct StoreWriter {
    file: BufWriter<File>,
    folder: PathBuf,
    bytes: u64,
}

impl StoreWriter {
    pub(super) fn create(folder: &Path) -> Result<Self, DataError> {
        let file = tempfile::tempfile_in(folder)
            .map_err(|error| DataError::io(folder, IoAction::Create, &error))?;
        Ok(Self { file: BufWriter::new(file), folder: folder.to_owned(), bytes: 0 })
    }

    /// Where the next byte will lie.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<(), DataError> {
        self.bytes += bytes.len() as u64;
        self.file
            .write_all(bytes)
            .map_err(|error| DataError::io(&self.folder, IoAction::Write, &error))
    }

    pub(super) fn finish(self) -> Result<Store, DataError> {
        let Self { file, folder, bytes } = self;
        match file.into_inner() {
            Ok(file) => Ok(Store { file, folder, bytes }),
            Err(error) => Err(DataError::io(&folder, IoAction::Write, error.error())),
        }
    }
}

/// A finished file.
#[derive(Debug)]
pub(super) struct Store {
    file: File,
    folder: PathBuf,
    bytes: u64,
}

impl Store {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The folder it was made in.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Fills `out` from byte `at` on.
    pub(super) fn read(&self, at: u64, out: &mut [u8]) -> Result<(), DataError> {
        read_exact_at(&self.file, at, out)
            .map_err(|error| DataError::io(&self.folder, IoAction::Read, &error))
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, at: u64, out: &mut [u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, at)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut at: u64, mut out: &mut [u8]) -> io::Result<()> {
    while !out.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, out, at)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                at += read as u64;
                out = &mut out[read..];
            }
        }
    }
    Ok(())
}
