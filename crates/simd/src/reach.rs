//! Who sees whom in one span, and what a tile of it may be multiplied with.

use std::ops::Range;

use lowtide_backend::Span;
use lowtide_kernels::{Kernels, Rhs, Seen};
use lowtide_tensor::{Mat, MatMut, QUANTUM};

/// Which keys the queries of a span see. Queries are numbered as rows of `q`, keys from the first
/// key of the span.
#[derive(Clone, Copy)]
pub(crate) struct Reach {
    /// Row of `k` and `v` at which keys are counted from.
    key0: usize,
    /// Row of `q` that stands at key `offset`.
    query0: usize,
    offset: usize,
    /// Keys a query sees at most, itself included.
    window: usize,
}

impl Reach {
    /// With as many queries as keys a span attends within itself; with more keys, the queries are
    /// the last of them.
    pub(crate) fn new(span: Span, queries: usize, keys: usize, window: Option<usize>) -> Self {
        let window = window.unwrap_or(usize::MAX);
        if queries == keys {
            Self { key0: span.start, query0: span.start, offset: 0, window }
        } else {
            Self { key0: 0, query0: 0, offset: keys - queries, window }
        }
    }

    /// The keys that query row `row` sees.
    fn keys(&self, row: usize) -> Range<usize> {
        let end = self.offset + row - self.query0 + 1;
        end.saturating_sub(self.window)..end
    }

    /// The tiles of keys that at least one of some query rows sees, the last one cut short.
    pub(crate) fn tiles(&self, rows: &Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
        let first = self.keys(rows.start).start / QUANTUM * QUANTUM;
        let end = self.keys(rows.end - 1).end;
        (first..end).step_by(QUANTUM).map(move |at| at..end.min(at + QUANTUM))
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
