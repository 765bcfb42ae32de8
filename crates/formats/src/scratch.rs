//! A temporary file without a name: space for what does not fit in memory.
//!
//! It is made, unlinked, and only then used, so nobody else can open, cut or change it, and the
//! system takes it back however the process ends. Its space is taken beforehand, so that a full
//! disk is found out before anything depends on it. It is read and written by position, never
//! mapped: what cannot be read is an error and not a signal.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::Error;

/// Such a file, of fixed size.
#[derive(Debug)]
pub struct ScratchFile {
    file: File,
    folder: PathBuf,
    bytes: u64,
}

impl ScratchFile {
    /// Makes one of `bytes` bytes in `folder`.
    ///
    /// # Errors
    /// [`Error::Io`], naming the folder, when no file can be made there or the disk has no room for
    /// it.
    pub fn reserve(folder: &Path, bytes: u64) -> Result<Self, Error> {
        let refuse =
            |error: io::Error| Error::io(folder, "make a temporary file in this folder", &error);
        let file = tempfile::tempfile_in(folder).map_err(refuse)?;
        allocate(&file, bytes).map_err(|error| {
            Error::io(folder, "take space for a temporary file in this folder", &error)
        })?;
        Ok(Self { file, folder: folder.to_owned(), bytes })
    }

    /// Its size.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes all of `from` from byte `at` on.
    ///
    /// # Errors
    /// [`Error::Io`], naming the folder.
    ///
    /// # Panics
    /// When that is beyond the file's end.
    pub fn write(&self, at: u64, from: &[u8]) -> Result<(), Error> {
        self.check(at, from.len());
        write_all_at(&self.file, at, from).map_err(|error| {
            Error::io(&self.folder, "write to a temporary file in this folder", &error)
        })
    }

    /// Fills all of `to` from byte `at` on.
    ///
    /// # Errors
    /// [`Error::Io`], naming the folder.
    ///
    /// # Panics
    /// When that is beyond the file's end.
    pub fn read(&self, at: u64, to: &mut [u8]) -> Result<(), Error> {
        self.check(at, to.len());
        read_exact_at(&self.file, at, to).map_err(|error| {
            Error::io(&self.folder, "read from a temporary file in this folder", &error)
        })
    }

    fn check(&self, at: u64, len: usize) {
        let end = at.checked_add(len as u64);
        let size = self.bytes;
        assert!(end.is_some_and(|end| end <= size), "{len} bytes at {at} of a file of {size}");
    }
}

/// Bytes written at a time where the system cannot be asked for space.
const CHUNK: usize = 1 << 20;

/// Takes the space of a file: by asking for it, or where the file system knows no such thing, by
/// writing zeros.
fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{FallocateFlags, fallocate};
        use rustix::io::Errno;
        match fallocate(file, FallocateFlags::empty(), 0, bytes.max(1)) {
            Ok(()) => return Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let (zeros, mut left) = (vec![0; CHUNK], bytes);
    let mut out = file;
    while left > 0 {
        let len = left.min(CHUNK as u64);
        out.write_all(&zeros[..len as usize])?;
        left -= len;
    }
    out.flush()
}

#[cfg(unix)]
use std::os::unix::fs::FileExt;

#[cfg(unix)]
fn read_exact_at(file: &File, at: u64, to: &mut [u8]) -> io::Result<()> {
    file.read_exact_at(to, at)
}

#[cfg(unix)]
fn write_all_at(file: &File, at: u64, from: &[u8]) -> io::Result<()> {
    file.write_all_at(from, at)
}

#[cfg(windows)]
use std::os::windows::fs::FileExt;

#[cfg(windows)]
fn read_exact_at(file: &File, mut at: u64, mut to: &mut [u8]) -> io::Result<()> {
    while !to.is_empty() {
        match file.seek_read(to, at)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                at += read as u64;
                to = &mut to[read..];
            }
        }
    }
    Ok(())
}

#[cfg(windows)]
fn write_all_at(file: &File, mut at: u64, mut from: &[u8]) -> io::Result<()> {
    while !from.is_empty() {
        match file.seek_write(from, at)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => {
                at += written as u64;
                from = &from[written..];
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_by_position() {
        let folder = tempfile::tempdir().unwrap();
        let file = ScratchFile::reserve(folder.path(), 3 * CHUNK as u64 + 5).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "it has no name");
        let end = file.bytes() - 4;
        file.write(end, b"last").unwrap();
        file.write(10, b"first").unwrap();
        let (mut last, mut first, mut nothing) = ([0; 4], [0; 5], [1; 3]);
        file.read(end, &mut last).unwrap();
        file.read(10, &mut first).unwrap();
        file.read(100, &mut nothing).unwrap();
        assert_eq!((&last, &first, nothing), (b"last", b"first", [0; 3]));
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let folder = tempfile::tempdir().unwrap().path().join("gone");
        let error = ScratchFile::reserve(&folder, 1).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{}: cannot make a temporary", folder.display())));
    }

    #[test]
    fn space_that_is_not_there_is_refused_beforehand() {
        let folder = tempfile::tempdir().unwrap();
        let error = ScratchFile::reserve(folder.path(), 1 << 60).unwrap_err().to_string();
        assert!(error.contains("cannot take space for a temporary file in this folder"), "{error}");
    }

    #[test]
    #[should_panic(expected = "2 bytes at 7 of a file of 8")]
    fn beyond_the_end_is_a_broken_contract() {
        let file = ScratchFile::reserve(tempfile::tempdir().unwrap().path(), 8).unwrap();
        let _ = file.write(7, &[0; 2]);
    }
}
