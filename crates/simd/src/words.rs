//! Products of rows with a head's words, both ways, a tile of words at a time: in floats, where a
//! word is decoded once for both, or in integers, where rows are rounded once for all words.

use lowtide_kernels::Digits;
use lowtide_lanes::{ColBlock, ColBlocks, RowBlock, RowBlocks, level_width, share};
use lowtide_quant::QMat;
use lowtide_tensor::{Mat, MatMut};

use crate::integers::{self, Parts};
use crate::panel::{
    DEPTH, WIDTH, chain, decode, times_rows, times_turned, times_turned_rows, turned_scratch,
};
use crate::{Compute, Simd};

/// Rows worked on together. No result depends on it.
const ROWS: usize = 512;

/// Elements that these rows may take in scratch, for each thread.
const ROOM: usize = 320 * 1024;

/// Rows worked on together, of so many, where `kept` elements are kept of each.
pub(crate) fn at_once(be: &Simd, rows: usize, kept: usize, hidden_size: usize) -> usize {
    let each = kept + room(be, 1, hidden_size);
    let rows = rows.min(ROWS).min((be.threads() * ROOM / each.max(1)).max(1));
    match be.compute() {
        Compute::F32 => rows,
        _ => integers::at_once(be, rows, hidden_size),
    }
}

/// Scratch of so many [`Rows`].
pub(crate) fn room(be: &Simd, rows: usize, hidden_size: usize) -> usize {
    match be.compute() {
        Compute::F32 => 0,
        _ => integers::rounded(be, rows, hidden_size),
    }
}

/// Scratch of [`Rows::times`] with at most a width of `words`.
pub(crate) fn each(be: &Simd, words: usize, hidden_size: usize) -> usize {
    let words = words.min(WIDTH);
    let floats = turned_scratch(be.kernels(), hidden_size, words);
    match be.compute() {
        Compute::F32 => floats,
        _ => floats.max(integers::panel(be, words, hidden_size)),
    }
}

/// Scratch of a [`Tile`] of `words` and of its products with `rows`.
pub(crate) fn tile(be: &Simd, rows: usize, words: usize, hidden_size: usize) -> usize {
    let each = each(be, words, hidden_size).max(words.min(DEPTH) * hidden_size.min(WIDTH));
    let floats = words * hidden_size + be.threads() * each;
    match be.compute() {
        Compute::F32 => floats,
        _ => floats.max(integers::scratch_t(be, rows, words, hidden_size)),
    }
}

/// Rows to be multiplied with words.
pub(crate) struct Rows<'a> {
    be: &'a Simd,
    rows: Mat<'a, f32>,
    /// The same, where products with these words are computed in integers.
    rounded: Option<Parts<'a>>,
}

impl<'a> Rows<'a> {
    /// Rows for words of `w`, and the scratch that is left.
    pub(crate) fn new<'s: 'a>(
        be: &'a Simd,
        rows: Mat<'a, f32>,
        w: &QMat<'_>,
        scratch: &'s mut [f32],
    ) -> (Self, &'s mut [f32]) {
        let Some(digits) = integers::integers(be, w) else {
            return (Self { be, rows, rounded: None }, scratch);
        };
        let (room, scratch) = scratch.split_at_mut(room(be, rows.rows(), rows.cols()));
        let rounded = integers::round(be, digits, rows, room);
        (Self { be, rows, rounded: Some(rounded) }, scratch)
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.rows.rows()
    }

    /// Logits of at most a width of words, through a panel in `own`.
    pub(crate) fn times(&self, words: QMat<'_>, logits: MatMut<'_, f32>, own: &mut [f32]) {
        match self.rounded {
            None => times_turned(self.be.kernels(), self.rows, words, logits, own),
            Some(rows) => integers::times(self.be, rows, words, logits, own),
        }
    }

    /// A tile of words and its logits, made by all threads; `then` is given some columns of them
    /// and told the first one's word, counted from the tile's first.
    pub(crate) fn tile<'t>(
        &self,
        words: QMat<'t>,
        mut logits: MatMut<'_, f32>,
        scratch: &'t mut [f32],
        then: impl Fn(usize, MatMut<'_, f32>) + Sync,
    ) -> Tile<'t> {
        let (be, kernels) = (self.be, self.be.kernels());
        let (count, inputs) = (words.rows(), words.cols());
        let width = level_width(count, WIDTH, kernels.group(), be.threads());
        let each = each(be, width.min(count), inputs);
        if let Some(rows) = self.rounded {
            let units = ColBlocks::new(logits, width);
            share(be.threads(), scratch, each, units, |ColBlock { start, mut cols }, own| {
                let words = words.slice_rows(start..start + cols.cols());
                integers::times(be, rows, words, cols.rb(), own);
                then(start, cols);
            });
            return Tile { words, read: Read::Integers(rows.digits), scratch };
        }
        let (decoded, scratch) = scratch.split_at_mut(count * inputs);
        let mut decoded = MatMut::new(decoded, count, inputs);
        let units = RowBlocks::new(decoded.rb(), width).zip(ColBlocks::new(logits.rb(), width));
        share(be.threads(), scratch, each, units, |(block, ColBlock { mut cols, .. }), own| {
            let RowBlock { start, rows: mut part } = block;
            for i in 0..part.rows() {
                decode(kernels, words, start + i, 0..inputs, part.row_mut(i));
            }
            times_turned_rows(kernels, self.rows, part.into_ref(), chain(words), cols.rb(), own);
            then(start, cols);
        });
        Tile { words, read: Read::Floats(decoded.into_ref()), scratch }
    }
}

/// Some words that logits were made of.
pub(crate) struct Tile<'a> {
    words: QMat<'a>,
    read: Read<'a>,
    scratch: &'a mut [f32],
}

/// How words are multiplied with: decoded, or in integers with slopes rounded to so many digits.
enum Read<'a> {
    Floats(Mat<'a, f32>),
    Integers(Digits),
}

impl Tile<'_> {
    /// `dx += slopes W` with these words; in floats a chain has `depth` terms.
    pub(crate) fn back(self, be: &Simd, slopes: Mat<'_, f32>, depth: usize, dx: MatMut<'_, f32>) {
        let words = match self.read {
            Read::Floats(words) => words,
            Read::Integers(digits) => {
                return integers::qmatmul_t(be, digits, slopes, self.words, dx, self.scratch);
            }
        };
        let width = level_width(dx.cols(), WIDTH, be.kernels().group(), be.threads());
        let each = words.rows().min(depth) * width.min(dx.cols());
        share(be.threads(), self.scratch, each, ColBlocks::new(dx, width), |unit, own| {
            let ColBlock { start, cols } = unit;
            let words = words.cols_range(start..start + cols.cols());
            times_rows(be.kernels(), slopes, words, depth, cols, own);
        });
    }
}
