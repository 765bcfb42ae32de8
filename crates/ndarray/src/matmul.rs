//! Dense products of strided views: all adapter algebra.
//!
//! `c` is cut into tiles. For each tile and each quantum of the contracted length, the partial
//! product goes to scratch and is then scaled and added, so that any `alpha` and any cut of the
//! operands give the same bits.

use lowtide_backend::Req;
use lowtide_lanes::{Tile, Tiles, share};
use lowtide_tensor::{Mat, MatMut, QUANTUM};

use crate::gemm::{Write, gemm, packing_bytes, part, view_mut};

/// Rows and columns of a tile of `c`.
const ROWS: usize = 128;
const COLS: usize = 256;

/// Multiply-adds below which a product stays on the calling thread.
const WORTH_SHARING: usize = 128 * 1024;

/// What [`matmul`] needs on `lanes` threads.
pub(crate) fn req(lanes: usize, m: usize, k: usize, n: usize) -> Req {
    let (rows, cols, depth) = (m.min(ROWS), n.min(COLS), k.min(QUANTUM));
    Req {
        scratch: lanes * (rows * cols + depth * (rows + cols)),
        library_bytes: lanes * packing_bytes(rows, depth, cols),
    }
}

/// `c = alpha a b + beta c`.
pub(crate) fn matmul(
    lanes: usize,
    alpha: f32,
    a: Mat<'_, f32>,
    b: Mat<'_, f32>,
    beta: f32,
    c: MatMut<'_, f32>,
    scratch: &mut [f32],
) {
    let (m, k, n) = (a.rows(), a.cols(), b.cols());
    let lanes = if m * k * n < WORTH_SHARING { 1 } else { lanes };
    let each = req(1, m, k, n).scratch;
    share(lanes, scratch, each, Tiles::new(c, ROWS, COLS), |tile, own| {
        let Tile { row, col, out: mut c } = tile;
        let (rows, cols) = (row..row + c.rows(), col..col + c.cols());
        let (partial, room) = own.split_at_mut(c.len());
        let (room_a, room_b) = room.split_at_mut(c.rows() * k.min(QUANTUM));
        scale(beta, c.rb());
        for at in (0..k).step_by(QUANTUM) {
            let quantum = at..k.min(at + QUANTUM);
            let a = part(a, rows.clone(), quantum.clone(), room_a);
            let b = part(b, quantum, cols.clone(), room_b);
            gemm(a, b, Write::Replace, view_mut(partial, c.rows(), c.cols()));
            add_scaled(alpha, partial, c.rb());
        }
    });
}

/// `c = beta c`, zero when `beta` is zero.
fn scale(beta: f32, mut c: MatMut<'_, f32>) {
    if beta == 0.0 {
        c.fill(0.0);
    } else if beta != 1.0 {
        for_each_row(c, |_, row| row.iter_mut().for_each(|c| *c *= beta), |_, _, c| *c *= beta);
    }
}

/// `c += alpha x`, with `x` row-major.
fn add_scaled(alpha: f32, x: &[f32], c: MatMut<'_, f32>) {
    let cols = c.cols();
    for_each_row(
        c,
        |i, row| {
            row.iter_mut().zip(&x[i * cols..]).for_each(|(c, x)| *c += alpha * x);
        },
        |i, j, c| *c += alpha * x[i * cols + j],
    );
}

/// Visits rows as slices where they are, single elements otherwise.
fn for_each_row(
    mut c: MatMut<'_, f32>,
    row: impl Fn(usize, &mut [f32]),
    element: impl Fn(usize, usize, &mut f32),
) {
    let unit = c.as_ref().col_stride() == 1;
    for i in 0..c.rows() {
        if unit {
            row(i, c.row_mut(i));
        } else {
            (0..c.cols()).for_each(|j| element(i, j, c.at(i, j)));
        }
    }
}
