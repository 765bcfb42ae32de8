//! Tiles of packed matrices, and the two products of a tile: what [`crate::qmatmul`] and
//! [`crate::head`] share.

use std::ops::Range;

use lowtide_kernels::{Kernels, Rhs};
use lowtide_quant::QMat;
use lowtide_tensor::{Mat, MatMut};

/// Columns of a result computed together, unless one block of the format is wider.
pub(crate) const WIDTH: usize = 192;

/// Terms after which a chain restarts, rounded down to whole blocks of the format.
pub(crate) const DEPTH: usize = 256;

/// Scratch of a product whose tile is turned, for at most `width` columns.
pub(crate) fn turned_scratch(kernels: &Kernels, in_features: usize, width: usize) -> usize {
    in_features.min(DEPTH) * (width + kernels.lanes())
}

/// `y = x Wᵀ` for all rows of packed `w`, through a panel in `room`; one row without a panel where
/// the table knows how. The same bits.
pub(crate) fn times_turned(
    kernels: &Kernels,
    x: Mat<'_, f32>,
    w: QMat<'_>,
    mut y: MatMut<'_, f32>,
    room: &mut [f32],
) {
    if w.cols() == 0 {
        y.fill(0.0);
    }
    let depth = chain(w);
    if x.rows() == 1 && depth == DEPTH && kernels.one_row(x.row(0), w, DEPTH, y.row_mut(0)) {
        return;
    }
    for at in chunks(w.cols(), depth) {
        let (panel, rows) = room.split_at_mut(w.rows() * at.len());
        pack_turned(kernels, w, &at, panel, rows);
        let panel = Rhs::packed(panel, at.len(), w.rows(), kernels.group());
        kernels.gemm(1.0, x.cols_range(at.clone()), panel, at.start > 0, y.rb());
    }
}

/// [`times_turned`] with rows that are decoded already; `depth` is the [`chain`] of their format.
/// The same bits.
pub(crate) fn times_turned_rows(
    kernels: &Kernels,
    x: Mat<'_, f32>,
    w: Mat<'_, f32>,
    depth: usize,
    mut y: MatMut<'_, f32>,
    room: &mut [f32],
) {
    if w.cols() == 0 {
        y.fill(0.0);
    }
    for at in chunks(w.cols(), depth) {
        let part = w.cols_range(at.clone());
        for first in (0..w.rows()).step_by(kernels.lanes()) {
            let some = part.rows_range(first..w.rows().min(first + kernels.lanes()));
            kernels.pack_transposed(some, w.rows(), first, room);
        }
        let panel = Rhs::packed(room, at.len(), w.rows(), kernels.group());
        kernels.gemm(1.0, x.cols_range(at.clone()), panel, at.start > 0, y.rb());
    }
}

/// `dx += dy W` for decoded rows, through a panel in `room`; a chain has `depth` terms.
pub(crate) fn times_rows(
    kernels: &Kernels,
    dy: Mat<'_, f32>,
    w: Mat<'_, f32>,
    depth: usize,
    mut dx: MatMut<'_, f32>,
    room: &mut [f32],
) {
    for at in chunks(w.rows(), depth) {
        kernels.pack_rows(w.rows_range(at.clone()), at.len(), 0, room);
        let panel = Rhs::packed(room, at.len(), w.cols(), kernels.group());
        kernels.gemm(1.0, dy.cols_range(at), panel, true, dx.rb());
    }
}

/// Ascending chunks of the contracted width.
pub(crate) fn chunks(total: usize, depth: usize) -> impl Iterator<Item = Range<usize>> {
    (0..total).step_by(depth).map(move |at| at..total.min(at + depth))
}

/// [`DEPTH`], rounded down to whole blocks.
pub(crate) fn chain(w: QMat<'_>) -> usize {
    let block = w.format().block_len();
    DEPTH / block * block
}

/// Decodes columns `at` of every row of `w` into a panel `[at.len(), w.rows()]`, a register's worth
/// of rows at a time.
fn pack_turned(
    kernels: &Kernels,
    w: QMat<'_>,
    at: &Range<usize>,
    panel: &mut [f32],
    rows: &mut [f32],
) {
    for first in (0..w.rows()).step_by(kernels.lanes()) {
        let count = kernels.lanes().min(w.rows() - first);
        let rows = &mut rows[..count * at.len()];
        for (i, row) in rows.chunks_exact_mut(at.len()).enumerate() {
            decode(kernels, w, first + i, at.clone(), row);
        }
        kernels.pack_transposed(Mat::new(rows, count, at.len()), w.rows(), first, panel);
    }
}

/// Decodes columns `at` of a row, which begin and end with a block.
pub(crate) fn decode(
    kernels: &Kernels,
    w: QMat<'_>,
    row: usize,
    at: Range<usize>,
    out: &mut [f32],
) {
    if w.scales_apart().is_some() {
        return w.decode_columns(row, at, out);
    }
    let (len, bytes) = (w.format().block_len(), w.format().block_bytes());
    let blocks = &w.row(row)[at.start / len * bytes..at.end / len * bytes];
    kernels.decode(w.format(), blocks, out);
}
