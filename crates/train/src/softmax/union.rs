//! The words of a micro-batch's softmax, and their rows of the head side by side.

use lowtide_memory::{ByCategory, Category, Charge, Ledger, LockError, ReserveError, Slab};
use lowtide_quant::formats::F32;
use lowtide_quant::{BlockFormat, QMat};
use lowtide_tape::Batch;

use super::{Neighbours, UnionBytes};
use crate::TrainError;

/// Room for the words of the largest micro-batch, reused for every one.
pub(crate) struct Union<'p, 'w> {
    neighbours: &'p Neighbours,
    head: QMat<'w>,
    /// Rows of the head, packed as it is.
    rows: Slab,
    lists: Charge,
    words: WordSet,
    seen: WordSet,
    /// Words, ascending.
    ids: Vec<u32>,
    /// Where in `ids` each target is.
    targets: Vec<u32>,
    /// The neighbours of one target.
    list: Vec<u32>,
}

impl<'p, 'w> Union<'p, 'w> {
    /// What [`Union::reserve`] and `neighbours` hold.
    pub(crate) fn bytes(
        neighbours: &Neighbours,
        head: QMat<'_>,
        words: usize,
        labelled: usize,
    ) -> UnionBytes {
        let (_, row) = packed(&head);
        // Whole floats, as every slab.
        let rows = (words * row).next_multiple_of(size_of::<f32>());
        let lists = (words + labelled + neighbours.count()) * size_of::<u32>();
        let sets = 2 * WordSet::bytes(neighbours.vocabulary());
        let data = (lists + sets) as u64 + neighbours.heap_bytes();
        UnionBytes { head: rows as u64, data }
    }

    /// Reserves room for `words` rows of `head` and `labelled` targets.
    ///
    /// # Errors
    /// When the ledger or the system refuses; nothing stays reserved then.
    pub(crate) fn reserve(
        neighbours: &'p Neighbours,
        head: QMat<'w>,
        words: usize,
        labelled: usize,
        ledger: &mut Ledger,
    ) -> Result<Self, ReserveError> {
        let bytes = Self::bytes(neighbours, head, words, labelled);
        let rows = Slab::reserve(ledger, ByCategory::of(Category::Head, bytes.head))?;
        let lists = match ledger.charge(ByCategory::of(Category::Data, bytes.data)) {
            Ok(lists) => lists,
            Err(error) => {
                rows.release(ledger);
                return Err(error.into());
            }
        };
        Ok(Self {
            neighbours,
            head,
            rows,
            lists,
            words: WordSet::new(neighbours.vocabulary()),
            seen: WordSet::new(neighbours.vocabulary()),
            ids: Vec::with_capacity(words),
            targets: Vec::with_capacity(labelled),
            list: vec![0; neighbours.count()],
        })
    }

    /// Locks the packed rows in memory.
    pub(crate) fn lock(&self) -> Result<(), LockError> {
        self.rows.lock()
    }

    /// Gives everything back.
    pub(crate) fn release(self, ledger: &mut Ledger) {
        self.rows.release(ledger);
        ledger.release(self.lists);
    }

    /// The same batch with a softmax over the union of its targets' neighbours.
    ///
    /// # Errors
    /// When the neighbours' temporary file cannot be read.
    pub(crate) fn over<'b>(&'b mut self, batch: Batch<'b>) -> Result<Batch<'b>, TrainError> {
        self.words.clear();
        self.seen.clear();
        for &target in batch.targets {
            if self.seen.is_new(target) {
                self.neighbours.add_to(target, &mut self.words, &mut self.list)?;
            }
        }
        self.ids.clear();
        self.ids.extend(self.words.iter());
        let ids = &self.ids;
        let place = |target: &u32| ids.binary_search(target).expect("a target is in its union");
        self.targets.clear();
        self.targets.extend(batch.targets.iter().map(|target| place(target) as u32));
        let words = gather(&self.head, ids, &mut self.rows);
        Ok(Batch { targets: &self.targets, words: Some(words), ..batch })
    }
}

/// How rows are copied, and the bytes of one: as they are, or where their scales lie apart from
/// them, as floats.
fn packed(head: &QMat<'_>) -> (&'static dyn BlockFormat, usize) {
    match head.scales_apart() {
        None => (head.format(), head.row_bytes()),
        Some(_) => (&F32, head.cols() * size_of::<f32>()),
    }
}

/// Copies rows of `head` to the beginning of `room`, one after the other.
fn gather<'r>(head: &QMat<'_>, ids: &[u32], room: &'r mut Slab) -> QMat<'r> {
    let (format, row) = packed(head);
    if head.scales_apart().is_some() {
        let rows = room.get_mut::<f32>().chunks_mut(head.cols());
        ids.iter().zip(rows).for_each(|(id, to)| head.decode_row(*id as usize, to));
    } else {
        let rows = room.get_mut::<u8>().chunks_mut(row);
        ids.iter().zip(rows).for_each(|(id, to)| to.copy_from_slice(head.row(*id as usize)));
    }
    let bytes = &room.get::<u8>()[..ids.len() * row];
    QMat::new(format, ids.len(), head.cols(), bytes).expect("rows of a sound matrix")
}

/// A set of ids below a bound.
#[derive(Debug)]
pub(crate) struct WordSet {
    bits: Vec<u64>,
    vocabulary: usize,
}

impl WordSet {
    /// The empty set.
    pub(super) fn new(vocabulary: usize) -> Self {
        Self { bits: vec![0; vocabulary.div_ceil(64)], vocabulary }
    }

    /// Bytes on the heap.
    pub(super) fn bytes(vocabulary: usize) -> usize {
        vocabulary.div_ceil(64) * size_of::<u64>()
    }

    pub(super) fn clear(&mut self) {
        self.bits.fill(0);
    }

    /// Every id.
    pub(super) fn fill(&mut self) {
        self.bits.fill(u64::MAX);
        let rest = self.vocabulary % 64;
        if let Some(last) = self.bits.last_mut().filter(|_| rest > 0) {
            *last = (1 << rest) - 1;
        }
    }

    pub(super) fn insert(&mut self, id: u32) {
        self.bits[id as usize / 64] |= 1 << (id % 64);
    }

    /// Inserts an id and says whether it was not there.
    pub(super) fn is_new(&mut self, id: u32) -> bool {
        let before = self.bits[id as usize / 64];
        self.insert(id);
        self.bits[id as usize / 64] != before
    }

    pub(super) fn len(&self) -> usize {
        self.bits.iter().map(|bits| bits.count_ones() as usize).sum()
    }

    /// Ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.bits.iter().enumerate().flat_map(|(i, &bits)| {
            let rest = std::iter::successors(Some(bits), |bits| Some(bits & bits.wrapping_sub(1)));
            rest.take_while(|bits| *bits != 0)
                .map(move |bits| i as u32 * 64 + bits.trailing_zeros())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_words_counts_and_lists_them() {
        let mut words = WordSet::new(130);
        for id in [129, 0, 64, 63, 64] {
            words.insert(id);
        }
        assert_eq!((words.len(), words.iter().collect::<Vec<_>>()), (4, vec![0, 63, 64, 129]));
        assert!(words.is_new(1) && !words.is_new(1) && !words.is_new(129));
        words.fill();
        assert_eq!((words.len(), words.iter().last()), (130, Some(129)));
        words.clear();
        assert_eq!((words.len(), words.iter().count()), (0, 0));
        let mut full = WordSet::new(128);
        full.fill();
        assert_eq!(full.len(), 128);
    }
}
