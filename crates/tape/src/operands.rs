//! Lending: the disjoint views one step works on, cut out of the segment's memory without `unsafe`.

use core::ops::Range;

use lowtide_tensor::{Float, Mat, MatMut};

use crate::schedule::{Buffer, BufferId, Place, Slot, View};

/// The most buffers one step names: attention's backward has eleven.
const MAX_LENT: usize = 16;

/// The memory a segment runs in.
pub(crate) struct Memory<'m, F> {
    pub(crate) arena: &'m mut [F],
    pub(crate) kept: &'m mut [F],
    pub(crate) input: &'m [F],
    pub(crate) output: &'m mut [F],
    pub(crate) gradient: &'m mut [F],
}

enum Piece<'m, F> {
    Mine(&'m mut [F]),
    Shared(&'m [F]),
    Taken,
}

/// Buffers of one step, each lent once to write or any number of times to read.
pub(crate) struct Lent<'m, F> {
    ids: [BufferId; MAX_LENT],
    pieces: [Piece<'m, F>; MAX_LENT],
    /// Whether the buffer holds all rows of the batch, not only those of the tile.
    whole: [bool; MAX_LENT],
    count: usize,
    rows: Range<usize>,
    sequences: usize,
}

impl<'m, F: Float> Lent<'m, F> {
    /// Cuts the buffers `ids` (each named once or more) out of `memory`, for the tile `rows` of the
    /// rows of a batch of so many sequences.
    pub(crate) fn new(
        memory: &'m mut Memory<'_, F>,
        buffers: &[Buffer],
        ids: impl Iterator<Item = BufferId>,
        (rows, sequences): (Range<usize>, usize),
    ) -> Self {
        let mut lent = Self {
            ids: [0; MAX_LENT],
            pieces: [const { Piece::Taken }; MAX_LENT],
            whole: [false; MAX_LENT],
            count: 0,
            rows,
            sequences,
        };
        for id in ids {
            if !lent.ids[..lent.count].contains(&id) {
                lent.ids[lent.count] = id;
                lent.count += 1;
            }
        }
        // Ascending places let each region be cut from front to back; an empty buffer comes before
        // the one that starts where it does.
        lent.ids[..lent.count].sort_unstable_by_key(|&id| match buffers[id].place {
            Place::Arena(at) | Place::Kept(at) => (at, buffers[id].len),
            Place::Input | Place::Output | Place::Gradient => (0, 0),
        });
        let (mut arena, mut arena_at) = (&mut *memory.arena, 0);
        let (mut kept, mut kept_at) = (&mut *memory.kept, 0);
        let mut output = Some(&mut *memory.output);
        let mut gradient = Some(&mut *memory.gradient);
        let ids = lent.ids[..lent.count].iter();
        for ((id, piece), all) in ids.zip(&mut lent.pieces).zip(&mut lent.whole) {
            let Buffer { len, place, whole: holds_all, .. } = buffers[*id];
            *all = holds_all;
            let whole = "a buffer outside the arena is lent once";
            *piece = match place {
                Place::Arena(at) => Piece::Mine(cut(&mut arena, &mut arena_at, at, len)),
                Place::Kept(at) => Piece::Mine(cut(&mut kept, &mut kept_at, at, len)),
                Place::Input => Piece::Shared(memory.input),
                Place::Output => Piece::Mine(output.take().expect(whole)),
                Place::Gradient => Piece::Mine(gradient.take().expect(whole)),
            };
        }
        lent
    }

    fn position(&self, id: BufferId) -> usize {
        let found = self.ids[..self.count].iter().position(|&other| other == id);
        found.expect("a step uses the buffers it names")
    }

    /// Where in its buffer a value lies, and how many rows of it.
    fn span(&self, i: usize, slot: Slot) -> (Range<usize>, usize) {
        let Range { start, end } = self.rows;
        let rows = match (self.whole[i], slot.view) {
            (_, View::Sequences) => 0..self.sequences,
            (true, View::Tile) => start..end,
            (true, View::UpTo) => 0..end,
            (false, View::Tile | View::UpTo) => 0..end - start,
        };
        (rows.start * slot.cols..rows.end * slot.cols, rows.len())
    }

    /// A buffer to write, whole.
    pub(crate) fn take_all(&mut self, id: BufferId) -> &'m mut [F] {
        let i = self.position(id);
        match core::mem::replace(&mut self.pieces[i], Piece::Taken) {
            Piece::Mine(memory) => memory,
            Piece::Shared(_) | Piece::Taken => panic!("a buffer is written through one operand"),
        }
    }

    /// A value to write.
    pub(crate) fn take(&mut self, slot: Slot) -> MatMut<'m, F> {
        let (span, rows) = self.span(self.position(slot.buffer), slot);
        MatMut::new(&mut self.take_all(slot.buffer)[span], rows, slot.cols)
    }

    /// A value to read; lend what is written first.
    pub(crate) fn read(&mut self, slot: Slot) -> Mat<'m, F> {
        let i = self.position(slot.buffer);
        let memory: &'m [F] = match core::mem::replace(&mut self.pieces[i], Piece::Taken) {
            Piece::Mine(memory) => memory,
            Piece::Shared(memory) => memory,
            Piece::Taken => panic!("a buffer is read or written, not both"),
        };
        self.pieces[i] = Piece::Shared(memory);
        let (span, rows) = self.span(i, slot);
        Mat::new(&memory[span], rows, slot.cols)
    }
}

/// Cuts `at..at + len` off the front of what remains of a region.
fn cut<'m, F>(rest: &mut &'m mut [F], rest_at: &mut usize, at: usize, len: usize) -> &'m mut [F] {
    let (_, from) = core::mem::take(rest).split_at_mut(at - *rest_at);
    let (piece, after) = from.split_at_mut(len);
    *rest = after;
    *rest_at = at + len;
    piece
}
