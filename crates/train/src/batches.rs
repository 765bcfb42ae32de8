//! Which sequences an update takes: a function of the seed and the update's number.

use std::cmp::Reverse;
use std::ops::Range;

use lowtide_data::order::permutation;
use lowtide_data::{DataError, Dataset};

/// Updates among whose sequences those of about one length are looked for.
const WINDOW: usize = 50;

/// What the order of updates within a window is drawn by, besides the seed.
const DRAWING: u64 = 0x6c65_6e67_7468;

/// The sequences of one update after another.
pub(crate) struct Batches<'d> {
    data: &'d Dataset,
    seed: u64,
    per_update: usize,
    by_length: bool,
    /// Of the update asked for last, or of all in its window.
    sequences: Vec<usize>,
    /// Lengths of those of a window with their places in it, while they are sorted.
    lengths: Vec<(u32, u32, usize)>,
    /// Epoch and number of the window that is there.
    window: Option<(u64, usize)>,
}

impl<'d> Batches<'d> {
    /// Updates of `per_update` sequences of `data`, of about one length each if `by_length` says
    /// so.
    pub(crate) fn new(data: &'d Dataset, seed: u64, per_update: usize, by_length: bool) -> Self {
        let [sequences, sorted] = Self::room(data.len(), per_update, by_length);
        let (sequences, lengths) = (Vec::with_capacity(sequences), Vec::with_capacity(sorted));
        Self { data, seed, per_update, by_length, sequences, lengths, window: None }
    }

    /// Sequences held at once, and those of them that are sorted.
    fn room(all: usize, per_update: usize, by_length: bool) -> [usize; 2] {
        let of = |updates: usize| per_update.saturating_mul(updates).min(all);
        if by_length { [of(WINDOW), of(WINDOW)] } else { [of(1), 0] }
    }

    /// Bytes held for updates of `per_update` out of `all` sequences.
    pub(crate) fn bytes(all: usize, per_update: usize, by_length: bool) -> u64 {
        let [sequences, sorted] = Self::room(all, per_update, by_length);
        (sequences * size_of::<usize>() + sorted * size_of::<(u32, u32, usize)>()) as u64
    }

    /// Updates of one pass over the data.
    fn per_epoch(&self) -> usize {
        self.data.len().div_ceil(self.per_update)
    }

    /// The sequences of update `step`, counted from 1.
    ///
    /// # Errors
    /// When the data's temporary file cannot be read.
    pub(crate) fn of(&mut self, step: u64) -> Result<&[usize], DataError> {
        let per_epoch = self.per_epoch() as u64;
        let (epoch, within) = ((step - 1) / per_epoch, ((step - 1) % per_epoch) as usize);
        if !self.by_length {
            self.take(epoch, within..within + 1);
            return Ok(&self.sequences);
        }
        let window = (epoch, within / WINDOW);
        let first = window.1 * WINDOW;
        let updates = WINDOW.min(self.per_epoch() - first);
        if self.window != Some(window) {
            self.take(epoch, first..first + updates);
            self.sort()?;
            self.window = Some(window);
        }
        // Else lengths would rise over every window.
        let drawn = epoch.wrapping_mul(per_epoch).wrapping_add(first as u64);
        let turn = permutation(updates, self.seed ^ DRAWING, drawn).at(within - first);
        let start = turn * self.per_update;
        Ok(&self.sequences[start..(start + self.per_update).min(self.sequences.len())])
    }

    /// Takes the sequences of some updates of an epoch, as they are shuffled.
    fn take(&mut self, epoch: u64, updates: Range<usize>) {
        let order = permutation(self.data.len(), self.seed, epoch);
        let end = (updates.end * self.per_update).min(self.data.len());
        self.sequences.clear();
        self.sequences
            .extend((updates.start * self.per_update..end).map(|position| order.at(position)));
    }

    /// Brings those of one length together, longest first.
    fn sort(&mut self) -> Result<(), DataError> {
        let Self { data, sequences, lengths, .. } = self;
        lengths.clear();
        for (place, &sequence) in (0..).zip(&*sequences) {
            lengths.push((data.sequence(sequence)?.tokens as u32, place, sequence));
        }
        // Of equal ones in the order in which they were drawn; a stable sort would want room.
        lengths.sort_unstable_by_key(|&(tokens, place, _)| (Reverse(tokens), place));
        sequences.clear();
        sequences.extend(lengths.iter().map(|&(.., sequence)| sequence));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use lowtide_data::{DatasetBuilder, DatasetOptions};

    use super::*;

    /// Examples of these numbers of tokens.
    fn data(lengths: impl Iterator<Item = usize>) -> Dataset {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data.jsonl");
        let lines = lengths
            .map(|tokens| format!("{}\n", serde_json::json!({ "input_ids": vec![1; tokens] })));
        std::fs::write(&path, lines.collect::<String>()).unwrap();
        let mut builder = DatasetBuilder::new(&DatasetOptions::default(), None, None).unwrap();
        builder.add_file(&path).unwrap();
        builder.finish().unwrap()
    }

    fn all(batches: &mut Batches<'_>, steps: Range<u64>) -> Vec<Vec<usize>> {
        steps.map(|step| batches.of(step).unwrap().to_vec()).collect()
    }

    #[test]
    fn every_pass_takes_every_sequence_once() {
        let data = data((0..407).map(|i| 2 + i * 31 % 97));
        for by_length in [false, true] {
            let mut batches = Batches::new(&data, 5, 4, by_length);
            let epochs = [1..103, 103..205].map(|steps| all(&mut batches, steps));
            for epoch in &epochs {
                let seen: BTreeSet<usize> = epoch.iter().flatten().copied().collect();
                assert_eq!(epoch.iter().map(Vec::len).sum::<usize>(), 407);
                assert_eq!(seen.len(), 407);
                assert_eq!(epoch.iter().filter(|update| update.len() == 4).count(), 101);
            }
            assert_ne!(epochs[0], epochs[1]);
            // Whoever begins in the middle has the same updates.
            let mut later = Batches::new(&data, 5, 4, by_length);
            assert_eq!(all(&mut later, 70..120)[..33], epochs[0][69..]);
        }
    }

    #[test]
    fn sequences_of_about_one_length_come_together() {
        let data = data((0..400).map(|i| 2 + i * 31 % 97));
        let spread = |by_length| {
            let mut batches = Batches::new(&data, 5, 4, by_length);
            let lengths = |update: Vec<usize>| {
                let tokens = |index: usize| data.sequence(index).unwrap().tokens;
                let all = || update.iter().map(|index| tokens(*index));
                all().max().unwrap() - all().min().unwrap()
            };
            let spreads: Vec<usize> = all(&mut batches, 1..101).into_iter().map(lengths).collect();
            spreads.iter().sum::<usize>() / spreads.len()
        };
        let (mixed, grouped) = (spread(false), spread(true));
        assert!(mixed > 40 && grouped < 4, "{mixed} and {grouped} tokens");
        // Updates of long sequences are strewn among those of short ones.
        let mut batches = Batches::new(&data, 5, 4, true);
        let firsts = all(&mut batches, 1..51).into_iter().map(|update| update[0]);
        let lengths: Vec<usize> = firsts.map(|i| data.sequence(i).unwrap().tokens).collect();
        let rises = lengths.windows(2).filter(|pair| pair[0] < pair[1]).count();
        assert!((15..35).contains(&rises), "{rises}");
    }
}
