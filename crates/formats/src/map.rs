//! Read-only mapping of a file.
#![allow(unsafe_code, reason = "mapping a file is unsafe: another process may change it")]

use std::fs::File;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;

use crate::Error;

/// A whole file, mapped read-only. Clones share the mapping.
///
/// The bytes are in nobody's heap: the system reads pages when they are touched and may drop them
/// again. Changing or truncating a file while it is mapped is outside what a reader can guard
/// against, though a program may ask for last words (`end_at_fault`); the writers of this crate
/// replace files by renaming, which leaves a mapping intact.
#[derive(Clone, Debug)]
pub struct MappedFile {
    path: PathBuf,
    mapping: Arc<Mapping>,
}

#[derive(Debug)]
struct Mapping {
    map: Mmap,
    /// To give the system advice about what it caches of the file.
    file: File,
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
        Self::of(path, file)
    }

    /// Maps a file that is open, by the name that errors call it.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be mapped.
    pub(crate) fn of(path: &Path, file: File) -> Result<Self, Error> {
        // SAFETY: the mapping is private and read-only and is only ever seen as `&[u8]`, for which
        // every bit pattern is valid. That the file stays as it is while mapped is asked of the
        // user above; no code of ours writes to a file it has mapped.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io(path, "map", &e))?;
        Ok(Self { path: path.to_path_buf(), mapping: Arc::new(Mapping { map, file }) })
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All bytes of the file.
    pub fn bytes(&self) -> &[u8] {
        &self.mapping.map
    }

    /// Whether the file still has all the bytes that are mapped. Reading those that it has not
    /// ends the process.
    ///
    /// # Errors
    /// [`Error::Cut`] if it is shorter; [`Error::Io`] if the system does not say.
    pub(crate) fn check_whole(&self) -> Result<(), Error> {
        let Mapping { map, file } = &*self.mapping;
        let facts = file.metadata().map_err(|e| Error::io(&self.path, "look at", &e))?;
        let (bytes, mapped) = (facts.len(), map.len() as u64);
        match bytes < mapped {
            true => Err(Error::Cut { path: self.path.clone(), bytes, mapped }),
            false => Ok(()),
        }
    }

    /// Where in the file `slice` lies, if it is a part of the mapping.
    pub(crate) fn range_of<T>(&self, slice: &[T]) -> Option<Range<usize>> {
        let start = slice.as_ptr().addr().checked_sub(self.bytes().as_ptr().addr())?;
        let end = start.checked_add(size_of_val(slice))?;
        (end <= self.bytes().len()).then_some(start..end)
    }

    /// Asks the system to read a range soon. Does not wait for it, and does nothing where the
    /// system takes no such advice.
    ///
    /// # Panics
    /// When the range reaches beyond the file.
    pub(crate) fn will_need(&self, range: Range<usize>) {
        self.check(&range);
        advice::will_need(&self.mapping, range);
    }

    /// Tells the system that a range will not be read for a while, so that the memory it takes can
    /// go to others: the pages of this process, and those the system caches unless another process
    /// has them mapped. Reading it all the same brings it back. Does nothing where the system takes
    /// no such advice.
    ///
    /// # Panics
    /// When the range reaches beyond the file.
    pub(crate) fn let_go(&self, range: Range<usize>) {
        self.check(&range);
        advice::let_go(&self.mapping, range);
    }

    fn check(&self, range: &Range<usize>) {
        let len = self.bytes().len();
        assert!(range.start <= range.end && range.end <= len, "{range:?} of a file of {len} bytes");
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes()
    }
}

#[cfg(target_os = "linux")]
mod advice {
    use std::num::NonZeroU64;
    use std::ops::Range;

    use memmap2::UncheckedAdvice;
    use rustix::fs::{Advice, fadvise};

    use super::Mapping;

    /// Of a longer range only the beginning may be read: the system reads no more at a time than
    /// the read-ahead window of the disk, which is rarely smaller than this.
    const PIECE: usize = 128 << 10;

    pub(super) fn will_need(Mapping { file, .. }: &Mapping, range: Range<usize>) {
        for at in range.clone().step_by(PIECE) {
            let len = NonZeroU64::new(PIECE.min(range.end - at) as u64);
            // Advice that is not taken costs time and nothing else.
            let _ = fadvise(file, at as u64, len, Advice::WillNeed);
        }
    }

    pub(super) fn let_go(Mapping { map, file }: &Mapping, range: Range<usize>) {
        // What shares a page with something else stays: only whole pages go.
        let page = rustix::param::page_size();
        let (start, end) = (range.start.next_multiple_of(page), range.end / page * page);
        let Some(len) = end.checked_sub(start).and_then(|len| NonZeroU64::new(len as u64)) else {
            return;
        };
        // The system caches on what any process has mapped, so the mapping has to go first.
        // SAFETY: the mapping is read-only and of a file, so no page of it holds anything that the
        // file does not: a page that is read again comes back with the same bytes.
        let gone =
            unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, start, end - start) };
        if gone.is_ok() {
            let _ = fadvise(file, start as u64, Some(len), Advice::DontNeed);
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod advice {
    use std::ops::Range;

    use super::Mapping;

    pub(super) fn will_need(_: &Mapping, _: Range<usize>) {}

    pub(super) fn let_go(Mapping { file: _, .. }: &Mapping, _: Range<usize>) {}
}
