//! Several examples in one sequence.
//!
//! A batch counts sequences, and examples are of all lengths. Packing lays examples into bins of a
//! given size, so that a batch of one sequence is about as many tokens each time. Nothing of the
//! arithmetic changes: the examples of a bin stay documents of their own, each with its own
//! positions and attention.
//!
//! Best fit decreasing, in windows: examples are taken in a shuffled order that the seed decides,
//! [`WINDOW`] at a time; those of a window are laid, longest first, each into the fullest bin that
//! still has room for it. So the memory it takes is that of a window, sorted files give no sorted
//! bins, and the bins are the same in every epoch, for any batch size, and on any machine.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::path::Path;

use bytemuck::{Pod, Zeroable};

use super::store::{Store, StoreWriter};
use super::{Dataset, Entry, Sequence};
use crate::error::DataError;
use crate::order::permutation;

/// How many examples are looked at together.
const WINDOW: usize = 4096;

/// Sets the order in which examples are packed apart from the orders in which they are held out
/// and trained on, which use the same seed.
const PACK_EPOCH: u64 = u64::MAX - 1;

/// What packing came to, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packing {
    /// Bins.
    pub bins: usize,
    /// Tokens that a bin has room for.
    pub capacity: usize,
    /// Tokens of the fullest bin.
    pub longest: usize,
    /// Examples of the bin that has most.
    pub examples_max: usize,
}

impl Packing {
    /// Tokens in the bins, as a share of their room.
    #[must_use]
    pub fn fill(&self, tokens: u64) -> f64 {
        tokens as f64 / (self.bins as f64 * self.capacity as f64)
    }

    fn count(&mut self, bin: &Bin) {
        self.bins += 1;
        self.longest = self.longest.max(bin.tokens as usize);
        self.examples_max = self.examples_max.max(bin.examples as usize);
    }
}

/// One bin in its file: examples that follow each other in the index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
struct Bin {
    first: u64,
    examples: u32,
    tokens: u32,
    labelled: u32,
    unused: u32,
}

/// The bins of a packed dataset.
#[derive(Debug)]
pub(super) struct Bins {
    store: Store,
    pub(super) packing: Packing,
}

impl Bins {
    pub(super) fn read(&self, index: usize) -> Result<Sequence, DataError> {
        let mut bin = Bin::default();
        let at = index as u64 * size_of::<Bin>() as u64;
        self.store.read(at, bytemuck::bytes_of_mut(&mut bin))?;
        Ok(Sequence {
            first: bin.first as usize,
            examples: bin.examples as usize,
            tokens: bin.tokens as usize,
            labelled: bin.labelled as usize,
        })
    }

    pub(super) fn bytes(&self) -> u64 {
        self.store.bytes()
    }
}

impl Dataset {
    /// The same examples in sequences of up to `capacity` tokens; an example longer than that is
    /// alone in its sequence. Examples keep their numbers only within a sequence. The bins lie in a
    /// temporary file; while they are made, a few hundred kilobytes are held.
    ///
    /// # Errors
    /// When the temporary files cannot be read or written.
    pub fn pack(&self, capacity: usize, seed: u64) -> Result<Dataset, DataError> {
        let examples = self.stats.examples;
        let order = permutation(examples, seed, PACK_EPOCH);
        let mut packer = Packer::new(self.data.folder(), capacity)?;
        let mut window = Vec::with_capacity(examples.min(WINDOW));
        for start in (0..examples).step_by(WINDOW) {
            window.clear();
            for position in start..examples.min(start + WINDOW) {
                window.push(self.entry(order.at(position))?);
            }
            packer.pack(&mut window)?;
        }
        let (index, bins) = packer.finish()?;
        Ok(Dataset { data: self.data.clone(), index, bins: Some(bins), stats: self.stats })
    }
}

/// The files of a packed dataset being written.
struct Packer {
    index: StoreWriter,
    bins: StoreWriter,
    packing: Packing,
    /// Examples written.
    written: u64,
}

impl Packer {
    fn new(folder: &Path, capacity: usize) -> Result<Self, DataError> {
        let (index, bins) = (StoreWriter::create(folder)?, StoreWriter::create(folder)?);
        let packing = Packing { capacity, ..Packing::default() };
        Ok(Self { index, bins, packing, written: 0 })
    }

    /// Packs the examples of a window and writes its bins.
    fn pack(&mut self, window: &mut [Entry]) -> Result<(), DataError> {
        // The sort is stable: equals stay shuffled.
        window.sort_by_key(|entry| Reverse(entry.tokens));
        let lengths = window.iter().map(|entry| entry.tokens as usize);
        let mut places: Vec<(usize, usize)> =
            best_fit(lengths, self.packing.capacity).into_iter().zip(0..).collect();
        places.sort_unstable();
        for bin in places.chunk_by(|a, b| a.0 == b.0) {
            let mut sums = Bin { first: self.written, ..Bin::default() };
            for &(_, place) in bin {
                let entry = &window[place];
                self.index.append(bytemuck::bytes_of(entry))?;
                sums.examples += 1;
                sums.tokens += entry.tokens;
                sums.labelled += entry.labelled;
            }
            self.written += u64::from(sums.examples);
            self.bins.append(bytemuck::bytes_of(&sums))?;
            self.packing.count(&sums);
        }
        Ok(())
    }

    fn finish(self) -> Result<(Store, Bins), DataError> {
        let (store, packing) = (self.bins.finish()?, self.packing);
        Ok((self.index.finish()?, Bins { store, packing }))
    }
}

/// The bin of each length: the fullest with room for it, the first of equals, or else a new one.
fn best_fit(lengths: impl Iterator<Item = usize>, capacity: usize) -> Vec<usize> {
    let mut room: BTreeSet<(usize, usize)> = BTreeSet::new();
    let mut bins = 0;
    let place = |length: usize| {
        let found = room.range((length, 0)..).next().copied();
        let (left, bin) = found.unwrap_or_else(|| {
            bins += 1;
            (capacity.max(length), bins - 1)
        });
        room.remove(&(left, bin));
        if left > length {
            room.insert((left - length, bin));
        }
        bin
    };
    lengths.map(place).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bins(lengths: &[usize], capacity: usize) -> Vec<Vec<usize>> {
        let mut bins: Vec<Vec<usize>> = Vec::new();
        for (&length, bin) in lengths.iter().zip(best_fit(lengths.iter().copied(), capacity)) {
            bins.resize(bins.len().max(bin + 1), Vec::new());
            bins[bin].push(length);
        }
        bins
    }

    #[test]
    fn each_goes_where_least_room_is_left_over() {
        assert_eq!(bins(&[7, 6, 4, 3, 2, 2], 10), [vec![7, 3], vec![6, 4], vec![2, 2]]);
        assert_eq!(bins(&[8, 7, 3, 2, 1], 10), [vec![8, 2], vec![7, 3], vec![1]]);
        assert_eq!(bins(&[15, 10, 5, 5], 10), [vec![15], vec![10], vec![5, 5]]);
        assert_eq!(bins(&[], 10), [[0_usize; 0]; 0]);
    }

    proptest! {
        #[test]
        fn no_bin_overflows_and_no_two_would_fit_one(
            mut lengths in prop::collection::vec(1_usize..60, 0..200),
        ) {
            lengths.sort_unstable_by_key(|&length| Reverse(length));
            let bins = bins(&lengths, 64);
            let sums: Vec<usize> = bins.iter().map(|bin| bin.iter().sum()).collect();
            prop_assert!(sums.iter().all(|&sum| 0 < sum && sum <= 64));
            prop_assert_eq!(bins.iter().map(Vec::len).sum::<usize>(), lengths.len());
            // A bin was only begun because no other had room for its first example.
            for (at, bin) in bins.iter().enumerate() {
                prop_assert!(sums[..at].iter().all(|sum| sum + bin[0] > 64));
            }
        }
    }
}
