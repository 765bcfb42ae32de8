//! Tokenized examples in a file of their own, read back by number.
//!
//! A [`DatasetBuilder`] appends examples to two temporary files that have no name: one holds ids
//! and labels, the other one fixed-size [`Entry`] an example. Both are file-backed on purpose: the
//! system keeps what it likes in its page cache, and the heap holds nothing that grows with the
//! data. Reading is by position into a [`SampleBuf`], from any number of threads at once.
//!
//! What a batch counts is a [`Sequence`]: one example, or several where a dataset is
//! [packed](Dataset::pack).

mod builder;
mod pack;
mod split;
mod store;
mod text;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use builder::{DatasetBuilder, DatasetOptions};
pub(crate) use builder::{Kind, LINE_BYTES_MAX};
pub use pack::Packing;
pub use store::Entry;

use sha2::{Digest, Sha256};

use crate::error::DataError;
use crate::sample::{Sample, SampleBuf};
use pack::Bins;
use store::Store;

/// What a dataset holds, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Examples.
    pub examples: usize,
    /// Tokens of all examples.
    pub tokens: u64,
    /// Tokens that carry loss.
    pub labelled: u64,
    /// Examples that were cut to the maximum length.
    pub truncated: usize,
    /// Tokens cut from them.
    pub tokens_cut: u64,
    /// Examples left out because the cut took all their labelled tokens.
    pub dropped: u64,
    /// Tokens of the longest example.
    pub longest: usize,
    /// Labelled tokens of the example that has most.
    pub labelled_max: usize,
}

impl Stats {
    fn count(&mut self, entry: &Entry) {
        self.examples += 1;
        self.tokens += u64::from(entry.tokens);
        self.labelled += u64::from(entry.labelled);
        self.truncated += usize::from(entry.cut > 0);
        self.tokens_cut += u64::from(entry.cut);
        self.longest = self.longest.max(entry.tokens as usize);
        self.labelled_max = self.labelled_max.max(entry.labelled as usize);
    }
}

/// What a batch counts: one example, or the examples of a bin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// Number of its first example; the others follow.
    pub first: usize,
    /// How many examples it has.
    pub examples: usize,
    /// Their tokens.
    pub tokens: usize,
    /// Those that carry loss.
    pub labelled: usize,
}

/// Tokenized examples, at least one, by number.
#[derive(Debug)]
pub struct Dataset {
    /// Ids, then labels, of one example after the other; shared by the parts of a split.
    data: Arc<Store>,
    /// One [`Entry`] an example; those of a bin lie together.
    index: Store,
    /// Where the dataset is packed.
    bins: Option<Bins>,
    stats: Stats,
}

impl Dataset {
    /// Number of sequences, at least 1: that of the examples, or of the bins of a packed dataset.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "an empty dataset is an error, not a value")]
    pub fn len(&self) -> usize {
        self.packing().map_or(self.stats.examples, |packing| packing.bins)
    }

    /// What packing came to; nothing where every example is a sequence.
    #[must_use]
    pub fn packing(&self) -> Option<Packing> {
        self.bins.as_ref().map(|bins| bins.packing)
    }

    /// The examples of sequence `index`, and how much they are together.
    ///
    /// # Errors
    /// When the temporary file cannot be read.
    ///
    /// # Panics
    /// When `index` is not below [`len`](Self::len).
    pub fn sequence(&self, index: usize) -> Result<Sequence, DataError> {
        let len = self.len();
        assert!(index < len, "sequence {index} of a dataset of {len}");
        match &self.bins {
            Some(bins) => bins.read(index),
            None => self.entry(index).map(|entry| Sequence {
                first: index,
                examples: 1,
                tokens: entry.tokens as usize,
                labelled: entry.labelled as usize,
            }),
        }
    }

    /// What it holds, in numbers.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Bytes on the heap that grow with the number of examples: none.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        0
    }

    /// Bytes in the temporary files.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.data.bytes() + self.index.bytes() + self.bins.as_ref().map_or(0, Bins::bytes)
    }

    /// Size and place of example `index`.
    ///
    /// # Errors
    /// When the temporary file cannot be read.
    ///
    /// # Panics
    /// When there are no more than `index` examples.
    pub fn entry(&self, index: usize) -> Result<Entry, DataError> {
        let examples = self.stats.examples;
        assert!(index < examples, "example {index} of a dataset of {examples}");
        let mut entry = Entry::default();
        let at = index as u64 * size_of::<Entry>() as u64;
        self.index.read(at, bytemuck::bytes_of_mut(&mut entry))?;
        Ok(entry)
    }

    /// Reads example `index` into a buffer. Allocates nothing once the buffer has held an example
    /// as long; [`buffer`](Self::buffer) makes one that is large enough from the start.
    ///
    /// # Errors
    /// When the temporary file cannot be read.
    ///
    /// # Panics
    /// When there are no more than `index` examples.
    pub fn read<'b>(&self, index: usize, buf: &'b mut SampleBuf) -> Result<Sample<'b>, DataError> {
        let entry = self.entry(index)?;
        let bytes = buf.bytes_mut(entry.tokens as usize, entry.prompt_len as usize);
        self.data.read(entry.offset, bytes)?;
        Ok(buf.sample())
    }

    /// SHA-256 over all it holds and the order in which it lies: what another dataset is told apart
    /// by.
    ///
    /// # Errors
    /// When the temporary file cannot be read.
    pub fn digest(&self) -> Result<[u8; 32], DataError> {
        let (mut hash, mut buffer) = (Sha256::new(), self.buffer());
        for index in 0..self.len() {
            let Sequence { first, examples, .. } = self.sequence(index)?;
            hash.update((examples as u64).to_le_bytes());
            for example in first..first + examples {
                let entry = self.entry(example)?;
                hash.update(entry.tokens.to_le_bytes());
                hash.update(entry.prompt_len.to_le_bytes());
                let sample = self.read(example, &mut buffer)?;
                sample.ids.iter().for_each(|id| hash.update(id.to_le_bytes()));
                sample.labels.iter().for_each(|label| hash.update(label.to_le_bytes()));
            }
        }
        Ok(hash.finalize().into())
    }

    /// A buffer that every example fits.
    #[must_use]
    pub fn buffer(&self) -> SampleBuf {
        SampleBuf::with_capacity(self.stats.longest)
    }

    /// Tokens of each example, in order; the list is the caller's to account for.
    ///
    /// # Errors
    /// When the temporary file cannot be read.
    pub fn lengths(&self) -> Result<Vec<u32>, DataError> {
        let entries = (0..self.stats.examples).map(|index| self.entry(index));
        entries.map(|entry| entry.map(|entry| entry.tokens)).collect()
    }
}

/// The files of a data set: one for training, perhaps others to measure on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DataFiles {
    /// What is trained on.
    pub train: PathBuf,
    /// What the held-out loss is measured on while training.
    pub valid: Option<PathBuf>,
    /// What is kept for the end.
    pub test: Option<PathBuf>,
}

impl DataFiles {
    /// Finds the files behind a path: a folder stands for the `train.jsonl` in it, with
    /// `valid.jsonl` and `test.jsonl` where they exist; a file `name.jsonl` (or `.txt`) for itself,
    /// with `name.valid.jsonl` and `name.test.jsonl` beside it where they exist.
    ///
    /// # Errors
    /// When it is neither.
    pub fn find(path: &Path) -> Result<Self, DataError> {
        if !path.is_dir() {
            Kind::of(path)?;
            let beside = |part: &str| {
                let extension = path.extension().and_then(|extension| extension.to_str())?;
                let sibling = path.with_extension(format!("{part}.{extension}"));
                Some(sibling).filter(|file| file.is_file())
            };
            let (valid, test) = (beside("valid"), beside("test"));
            return Ok(Self { train: path.to_owned(), valid, test });
        }
        let file = |name| Some(path.join(name)).filter(|file| file.is_file());
        let unknown = || DataError::UnknownFile { path: path.to_owned() };
        let train = file("train.jsonl").ok_or_else(unknown)?;
        Ok(Self { train, valid: file("valid.jsonl"), test: file("test.jsonl") })
    }
}
