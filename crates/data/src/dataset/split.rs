//! A dataset in two parts, one of them held out.

use std::path::Path;
use std::sync::Arc;

use super::store::StoreWriter;
use super::{Dataset, Entry, Stats};
use crate::error::DataError;
use crate::order::permutation;

/// Sets the order by which examples are held out apart from the order in which they are trained
/// on, which uses the same seed.
const SPLIT_EPOCH: u64 = u64::MAX;

impl Dataset {
    /// Divides the examples into a part to train on and a part to hold out, the same for the same
    /// seed. The held-out part has `fraction` of the examples, rounded, but at least one; both
    /// parts keep their examples' order and share this dataset's file. Parts are not packed,
    /// whether this dataset is or not.
    ///
    /// # Errors
    /// When one part would be empty, or the temporary files cannot be read or written.
    pub fn split(&self, fraction: f64, seed: u64) -> Result<(Dataset, Dataset), DataError> {
        let examples = self.stats.examples;
        let held_out = ((fraction * examples as f64).round() as usize).max(1);
        if !(fraction > 0.0 && fraction < 1.0 && held_out < examples) {
            return Err(DataError::Split { fraction, examples });
        }
        let order = permutation(examples, seed, SPLIT_EPOCH);
        let folder = self.data.folder();
        let (mut train, mut valid) = (Part::new(folder)?, Part::new(folder)?);
        for index in 0..examples {
            let part = if order.position_of(index) < held_out { &mut valid } else { &mut train };
            part.push(&self.entry(index)?)?;
        }
        Ok((train.finish(self)?, valid.finish(self)?))
    }
}

/// The index of one part being written.
struct Part {
    index: StoreWriter,
    stats: Stats,
}

impl Part {
    fn new(folder: &Path) -> Result<Self, DataError> {
        Ok(Self { index: StoreWriter::create(folder)?, stats: Stats::default() })
    }

    fn push(&mut self, entry: &Entry) -> Result<(), DataError> {
        self.stats.count(entry);
        self.index.append(bytemuck::bytes_of(entry))
    }

    fn finish(self, whole: &Dataset) -> Result<Dataset, DataError> {
        let (data, index) = (Arc::clone(&whole.data), self.index.finish()?);
        Ok(Dataset { data, index, bins: None, stats: self.stats })
    }
}
