//! Which words are most similar to each target: found once before a run, kept in a temporary file.

use std::cmp::Ordering;
use std::num::NonZeroUsize;
use std::path::Path;

use lowtide_backend::{Backend, OpShape};
use lowtide_data::{Dataset, NO_LOSS};
use lowtide_formats::ScratchFile;
use lowtide_quant::QMat;
use lowtide_tensor::{Mat, MatMut};

use super::UnionReport;
use super::union::WordSet;
use crate::prepare::Largest;
use crate::{TrainError, place};

/// Words of the head whose similarities are made at once.
const TILE: usize = 1024;

/// Targets looked at in one pass over the head, at most, and the bytes that what they have found so
/// far may take.
const TARGETS_MAX: usize = 64;
const FOUND_BYTES: usize = 2 << 20;

/// The targets of a dataset, each with a list of words.
///
/// Similarity is the dot product of two rows of the head over the length of the second, which ranks
/// words as the cosine does. Among equals the lower id comes first.
#[derive(Debug)]
pub(crate) struct Neighbours {
    /// Words that are a target anywhere, ascending.
    targets: Vec<u32>,
    /// Words in a list, the target not counted unless it is among its own neighbours.
    count: usize,
    vocabulary: usize,
    /// A list for each target, in the order of `targets`; `None` where each would hold all words.
    lists: Option<ScratchFile>,
}

impl Neighbours {
    /// Finds `count` neighbours of each target in `data` among the rows of `head`; the lists go
    /// into `folder`. `tell` hears how many targets are done, of how many.
    ///
    /// # Errors
    /// When the data's temporary file cannot be read, or the lists' one not be written.
    pub(crate) fn find(
        head: QMat<'_>,
        be: &dyn Backend<f32>,
        data: &Dataset,
        count: NonZeroUsize,
        folder: &Path,
        tell: &mut dyn FnMut(usize, usize),
    ) -> Result<Self, TrainError> {
        let vocabulary = head.rows();
        let targets = targets_of(data, vocabulary)?;
        let count = count.get().min(vocabulary);
        if count == vocabulary {
            return Ok(Self { targets, count, vocabulary, lists: None });
        }
        let bytes = (targets.len() * count * size_of::<u32>()) as u64;
        let lists = place::reserve(folder, bytes, "the words of --softmax")?;
        let mut search = Search::new(head, be, count);
        let mut at = 0;
        for (done, some) in targets.chunks(search.group).enumerate() {
            tell(done * search.group, targets.len());
            for list in search.nearest(some) {
                let bytes: &[u8] = bytemuck::cast_slice(list);
                lists.write(at, bytes)?;
                at += bytes.len() as u64;
            }
        }
        tell(targets.len(), targets.len());
        Ok(Self { targets, count, vocabulary, lists: Some(lists) })
    }

    /// Words in a list.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Words there are.
    pub(crate) fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// Bytes on the heap.
    pub(crate) fn heap_bytes(&self) -> u64 {
        (self.targets.capacity() * size_of::<u32>()) as u64
    }

    /// What it and a union with up to `words_max` words come to.
    pub(crate) fn report(&self, words_max: usize, bytes: u64) -> UnionReport {
        UnionReport {
            neighbours: self.count,
            targets: self.targets.len(),
            words_max,
            vocabulary: self.vocabulary,
            bytes,
            file_bytes: self.lists.as_ref().map_or(0, ScratchFile::bytes),
        }
    }

    /// Adds `target` and its neighbours to `words`; `list` has room for [`Neighbours::count`].
    ///
    /// # Errors
    /// When the temporary file cannot be read.
    ///
    /// # Panics
    /// When `target` is none.
    pub(crate) fn add_to(
        &self,
        target: u32,
        words: &mut WordSet,
        list: &mut [u32],
    ) -> Result<(), TrainError> {
        let Some(lists) = &self.lists else {
            words.fill();
            return Ok(());
        };
        let place = self.targets.binary_search(&target).expect("a target of the dataset");
        lists.read((place * size_of_val(list)) as u64, bytemuck::cast_slice_mut(list))?;
        words.insert(target);
        list.iter().for_each(|word| words.insert(*word));
        Ok(())
    }

    /// The most words that a micro-batch of up to `sequences` sequences of `data` can lead to: at
    /// most all, and at most the sum of the largest.
    ///
    /// # Errors
    /// When a temporary file cannot be read.
    pub(crate) fn words_max(&self, data: &Dataset, sequences: usize) -> Result<usize, TrainError> {
        if self.lists.is_none() {
            return Ok(self.vocabulary);
        }
        let mut largest = Largest::new(sequences.min(data.len()));
        let mut words = WordSet::new(self.vocabulary);
        let mut seen = WordSet::new(self.vocabulary);
        let (mut list, mut buffer) = (vec![0; self.count], data.buffer());
        for index in 0..data.len() {
            words.clear();
            seen.clear();
            let sequence = data.sequence(index)?;
            for example in sequence.first..sequence.first + sequence.examples {
                for target in targets(data.read(example, &mut buffer)?.labels) {
                    if seen.is_new(target) {
                        self.add_to(target, &mut words, &mut list)?;
                    }
                }
            }
            largest.push(words.len());
        }
        Ok(largest.sum().min(self.vocabulary))
    }
}

/// The tokens that are predicted: row t predicts token t + 1, so the first is none.
fn targets(labels: &[i32]) -> impl Iterator<Item = u32> + '_ {
    labels.iter().skip(1).filter(|label| **label != NO_LOSS).map(|label| *label as u32)
}

/// Every token that is predicted anywhere, ascending.
fn targets_of(data: &Dataset, vocabulary: usize) -> Result<Vec<u32>, TrainError> {
    let (mut words, mut buffer) = (WordSet::new(vocabulary), data.buffer());
    for example in 0..data.stats().examples {
        targets(data.read(example, &mut buffer)?.labels).for_each(|target| words.insert(target));
    }
    let mut list = Vec::with_capacity(words.len());
    list.extend(words.iter());
    Ok(list)
}

/// A similarity and whose it is.
type Found = (f32, u32);

/// The most similar first, the lower id among equals.
fn rank(a: &Found, b: &Found) -> Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

/// Passes over a head, with memory that does not grow with what is looked for.
struct Search<'s, 'w> {
    head: QMat<'w>,
    be: &'s dyn Backend<f32>,
    count: usize,
    /// Targets of a pass.
    group: usize,
    /// One over the length of each row of the head.
    norms: Vec<f32>,
    /// Rows of the targets.
    rows: Vec<f32>,
    similar: Vec<f32>,
    scratch: Vec<f32>,
    found: Vec<Vec<Found>>,
    lists: Vec<u32>,
}

impl<'s, 'w> Search<'s, 'w> {
    fn new(head: QMat<'w>, be: &'s dyn Backend<f32>, count: usize) -> Self {
        let (vocabulary, hidden) = (head.rows(), head.cols());
        let room = count + TILE;
        let group = (FOUND_BYTES / (room * size_of::<Found>())).clamp(1, TARGETS_MAX);
        let mut row = vec![0.0; hidden];
        let norms = (0..vocabulary).map(|word| {
            head.decode_row(word, &mut row);
            let squares: f32 = row.iter().map(|x| x * x).sum();
            if squares > 0.0 { squares.sqrt().recip() } else { 0.0 }
        });
        Self {
            norms: norms.collect(),
            head,
            be,
            count,
            group,
            rows: vec![0.0; group * hidden],
            similar: vec![0.0; group * TILE],
            scratch: Vec::new(),
            found: (0..group).map(|_| Vec::with_capacity(room)).collect(),
            lists: Vec::with_capacity(group * count),
        }
    }

    /// The neighbours of each of `targets`, at most a group, ascending.
    fn nearest(&mut self, targets: &[u32]) -> impl Iterator<Item = &[u32]> {
        let (n, hidden, count) = (targets.len(), self.head.cols(), self.count);
        let rows = &mut self.rows[..n * hidden];
        self.be.qgather(self.head, targets, MatMut::new(rows, n, hidden));
        let rows = Mat::new(&self.rows[..n * hidden], n, hidden);
        self.found.iter_mut().for_each(Vec::clear);
        for start in (0..self.head.rows()).step_by(TILE) {
            let end = self.head.rows().min(start + TILE);
            let (words, width) = (self.head.slice_rows(start..end), end - start);
            let similar = &mut self.similar[..n * width];
            let y = MatMut::new(similar, n, width);
            let shape = OpShape::Qmatmul { rows: n, out_features: width, in_features: hidden };
            let need = self.be.req(shape).scratch;
            self.scratch.resize(need.max(self.scratch.len()), 0.0);
            self.be.qmatmul(rows, words, y, &mut self.scratch);
            for (found, similar) in self.found.iter_mut().zip(similar.chunks(width)) {
                let norms = &self.norms[start..end];
                // Of equals the lower id was seen before, so later ones have to be better.
                let least = if found.len() < count { None } else { Some(found[count - 1].0) };
                let products = similar.iter().zip(norms).map(|(dot, norm)| dot * norm);
                let better = (start as u32..).zip(products);
                let better = better.filter(|(_, s)| least.is_none_or(|least| *s > least));
                found.extend(better.map(|(word, s)| (s, word)));
                if found.len() >= count {
                    found.select_nth_unstable_by(count - 1, rank);
                    found.truncate(count);
                }
            }
        }
        self.lists.clear();
        for found in &mut self.found[..n] {
            found.sort_unstable_by_key(|(_, word)| *word);
            self.lists.extend(found.iter().map(|(_, word)| word));
        }
        self.lists.chunks(count)
    }
}

#[cfg(test)]
mod tests;
