//! Who sees whom in one span, and what a tile of it may be multiplied with.

use std::ops::Range;

use lowtide_backend::Span;
use lowtide_kernels::{Kernels, Rhs, Seen};
use lowtide_tensor::{Mat, MatMut, QUANTUM, quanta};

/// Which keys the queries of a span see. Queries are numbered as rows of `q`, keys from the first
/// key of the span.
#[derive(Clone, Copy)]
pub(crate) struct Reach {
    /// Row of `k` and `v` at which keys are counted from.
    key0: usize,
    /// Rows of `k` before the one at which the first row of `q` stands.
    before: usize,
    /// Keys a query sees at most, itself included.
    window: usize,
}

impl Reach {
    /// Queries are the last rows of the keys.
    pub(crate) fn new(span: Span, queries: usize, keys: usize, window: Option<usize>) -> Self {
        let window = window.unwrap_or(usize::MAX);
        Self { key0: span.start, before: keys - queries, window }
    }

    /// The keys that query row `row` sees.
    fn keys(&self, row: usize) -> Range<usize> {
        let end = self.before + row + 1 - self.key0;
        end.saturating_sub(self.window)..end
    }

    /// The keys that at least one of some query rows sees, from the first of a tile on.
    pub(crate) fn seen_by(&self, rows: &Range<usize>) -> Range<usize> {
        self.keys(rows.start).start / QUANTUM * QUANTUM..self.keys(rows.end - 1).end
    }

    /// The tiles of keys that at least one of some query rows sees, the last one cut short.
    pub(crate) fn tiles(&self, rows: &Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
        cut(self.seen_by(rows), QUANTUM)
    }

    /// Cuts those of some query rows that come no earlier than a key where the quanta of all rows
    /// meet.
    pub(crate) fn quanta(
        &self,
        rows: &Range<usize>,
        key: usize,
    ) -> impl Iterator<Item = Range<usize>> + use<> {
        let before = self.before;
        let first = (before + rows.start).max(self.key0 + key);
        quanta(first..before + rows.end).map(move |rows| rows.start - before..rows.end - before)
    }

    /// The rows of `k` and `v` that hold some keys.
    pub(crate) fn rows(&self, keys: &Range<usize>) -> Range<usize> {
        self.key0 + keys.start..self.key0 + keys.end
    }

    /// What the query rows from `row` on see of a tile of keys; with `step` zero, all of its rows
    /// are for that one query.
    pub(crate) fn seen(&self, row: usize, tile: &Range<usize>, step: isize) -> Seen {
        let keys = self.keys(row);
        let start = tile.start as isize;
        // A window that reaches before the first key is as if it began there for the first row, but
        // moves on with the others all the same.
        let first = keys.end as isize - isize::try_from(self.window).unwrap_or(isize::MAX / 2);
        Seen { start: first - start, end: keys.end as isize - start, step }
    }
}

/// Rows or columns of a tile that are cut off together where only a part of them is seen: whole
/// registers and micro-kernels for every instruction set.
const BAND: usize = 16;

/// The rows of `q`, the last `queries` of `keys` rows, that belong to a span.
pub(crate) fn queries_of(span: Span, queries: usize, keys: usize) -> Range<usize> {
    let (rows, before) = (span.queries(queries, keys), keys - queries);
    rows.start - before..rows.end - before
}

/// A range in steps.
pub(crate) fn cut(
    range: Range<usize>,
    step: usize,
) -> impl DoubleEndedIterator<Item = Range<usize>> + Send {
    let end = range.end;
    range.step_by(step).map(move |at| at..end.min(at + step))
}

/// A tile of scores, for products with the rows that its weights stand for.
#[derive(Clone, Copy)]
pub(crate) struct Tile {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) seen: Seen,
}

impl Tile {
    /// Whether every row sees every column.
    pub(crate) fn is_whole(&self) -> bool {
        self.seen.is_whole(self.rows, self.columns)
    }

    /// Whether no row sees any column.
    pub(crate) fn is_empty(&self) -> bool {
        (0..self.rows).all(|i| self.seen.of(i, self.columns).is_empty())
    }

    /// Bands of rows, and the columns that they see at least, in whole bands: products with the
    /// others would only add zeros.
    pub(crate) fn bands(self) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
        let step = if self.is_whole() { self.rows.max(1) } else { BAND };
        cut(0..self.rows, step).map(move |rows| {
            let first = self.seen.of(rows.start, self.columns).start;
            let end = self.seen.of(rows.end - 1, self.columns).end;
            (rows, first / BAND * BAND..end.next_multiple_of(BAND).min(self.columns).max(first))
        })
    }

    /// Bands of columns, and the rows that see them at least.
    fn bands_of_columns(self) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
        let step = if self.is_whole() { self.columns.max(1) } else { BAND };
        cut(0..self.columns, step).map(move |columns| {
            let seen = |&row: &usize| self.seen.of(row, self.columns);
            let first = (0..self.rows).find(|row| seen(row).end > columns.start);
            let first = first.unwrap_or(self.rows);
            let after = (first..self.rows).find(|row| seen(row).start >= columns.end);
            (columns, first..after.unwrap_or(self.rows))
        })
    }

    /// `out += weights x`, where `x [columns, d]` is finite.
    pub(crate) fn forth(
        self,
        kernels: &Kernels,
        weights: Mat<'_, f32>,
        x: Rhs<'_>,
        mut out: MatMut<'_, f32>,
    ) {
        for (rows, columns) in self.bands() {
            let weights = weights.rows_range(rows.clone()).cols_range(columns.clone());
            let out = out.rb().rows_range(rows);
            kernels.gemm(1.0, weights, x.rows_range(columns), true, out);
        }
    }

    /// `out += weightsᵀ x`, where `x [rows, d]` is finite.
    pub(crate) fn back(
        self,
        kernels: &Kernels,
        weights: Mat<'_, f32>,
        x: Rhs<'_>,
        mut out: MatMut<'_, f32>,
    ) {
        for (columns, rows) in self.bands_of_columns() {
            let weights = weights.rows_range(rows.clone()).cols_range(columns.clone()).t();
            let out = out.rb().rows_range(columns);
            kernels.gemm(1.0, weights, x.rows_range(rows), true, out);
        }
    }

    /// `out += weights x`, where `x [columns, d]` may hold NaN or infinities: only what a row sees
    /// takes part, as zero times those is not zero. The bits are those of one product if it does
    /// not.
    pub(crate) fn gather(
        &self,
        kernels: &Kernels,
        weights: Mat<'_, f32>,
        x: Mat<'_, f32>,
        mut out: MatMut<'_, f32>,
    ) {
        for i in 0..self.rows {
            let seen = self.seen.of(i, self.columns);
            let weights = weights.rows_range(i..i + 1).cols_range(seen.clone());
            let out = out.rb().rows_range(i..i + 1);
            kernels.gemm(1.0, weights, Rhs::rows(x.rows_range(seen)), true, out);
        }
    }

    /// `out += weightsᵀ x`, where `x [rows, d]` may hold NaN or infinities.
    pub(crate) fn scatter(
        &self,
        kernels: &Kernels,
        weights: Mat<'_, f32>,
        x: Mat<'_, f32>,
        mut out: MatMut<'_, f32>,
    ) {
        for j in 0..self.columns {
            let sees = |&i: &usize| self.seen.of(i, self.columns).contains(&j);
            // The rows that see a column follow each other.
            let first = (0..self.rows).find(sees).unwrap_or(self.rows);
            let seen = first..first + (first..self.rows).take_while(sees).count();
            let weights = weights.cols_range(j..j + 1).rows_range(seen.clone()).t();
            let out = out.rb().rows_range(j..j + 1);
            kernels.gemm(1.0, weights, Rhs::rows(x.rows_range(seen)), true, out);
        }
    }
}

/// Rows `x [n, d]` as a right-hand side `[d, n]`.
pub(crate) fn turned<'a>(kernels: &Kernels, x: Mat<'_, f32>, room: &'a mut [f32]) -> Rhs<'a> {
    let (n, d) = (x.rows(), x.cols());
    for first in (0..n).step_by(kernels.lanes()) {
        let some = x.rows_range(first..n.min(first + kernels.lanes()));
        kernels.pack_transposed(some, n, first, room);
    }
    Rhs::packed(room, d, n, kernels.group())
}

/// Rows `x [n, d]` as a right-hand side `[n, d]` without gaps.
pub(crate) fn packed<'a>(kernels: &Kernels, x: Mat<'_, f32>, room: &'a mut [f32]) -> Rhs<'a> {
    let (n, d) = (x.rows(), x.cols());
    kernels.pack_rows(x, n, 0, room);
    Rhs::packed(room, n, d, kernels.group())
}

/// A tile of scores as a matrix.
pub(crate) fn whole(tile: &mut [f32]) -> MatMut<'_, f32> {
    let rows = tile.len() / Kernels::SCORES;
    MatMut::new(tile, rows, Kernels::SCORES)
}
