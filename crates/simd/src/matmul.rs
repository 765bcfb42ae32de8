//! Dense products of strided views: all adapter algebra.
//!
//! `c` is cut into tiles. Each quantum of the contracted length is a chain of its own, scaled and
//! added, so that any cut of the operands gives the same bits. A right-hand side whose columns are
//! not adjacent is packed first, a quantum at a time.

use lowtide_backend::{Req, contract};
use lowtide_kernels::{Kernels, Rhs};
use lowtide_lanes::{Tile, Tiles, level_width, share};
use lowtide_tensor::{Mat, MatMut, QUANTUM};

use crate::Simd;

/// Columns of a tile of `c`.
const WIDTH: usize = 192;

/// Rows of a tile at most, so that a few tiles are there for every thread.
const HEIGHT: usize = 256;

/// Multiply-adds below which a product stays on the calling thread.
const WORTH_SHARING: usize = 128 * 1024;

/// What [`matmul`] needs.
pub(crate) fn req(be: &Simd, m: usize, k: usize, n: usize) -> Req {
    // A packed quantum of the right-hand side, and a row; either operand may be on the right.
    let each = (k.min(QUANTUM) + 1) * m.max(n).min(WIDTH.max(HEIGHT));
    Req { scratch: be.threads() * each, library_bytes: 0 }
}

/// `c = alpha a b + beta c`.
pub(crate) fn matmul(
    be: &Simd,
    alpha: f32,
    a: Mat<'_, f32>,
    b: Mat<'_, f32>,
    beta: f32,
    c: MatMut<'_, f32>,
    scratch: &mut [f32],
) {
    contract::matmul(a, b, c.as_ref());
    let (m, k, n) = (a.rows(), a.cols(), b.cols());
    if !adjacent(c.as_ref()) && adjacent(c.as_ref().t()) {
        return matmul(be, alpha, b.t(), a.t(), beta, c.t(), scratch);
    }
    let kernels = be.kernels();
    let threads = if m * k * n < WORTH_SHARING { 1 } else { be.threads() };
    let each = req(be, m, k, n).scratch / be.threads();
    let height = level_width(m, HEIGHT, 8, threads);
    let width =
        if m < 8 * threads { level_width(n, WIDTH, kernels.group(), threads) } else { WIDTH };
    share(threads, scratch, each, Tiles::new(c, height, width), |tile, own| {
        let Tile { row, col, out: mut c } = tile;
        let a = a.rows_range(row..row + c.rows());
        let b = b.cols_range(col..col + c.cols());
        scale(beta, c.rb());
        for at in (0..k).step_by(QUANTUM) {
            let quantum = at..k.min(at + QUANTUM);
            let (row, room) = own.split_at_mut(c.cols());
            let right = right(kernels, b.rows_range(quantum.clone()), room);
            let (a, add) = (a.cols_range(quantum), at > 0 || beta != 0.0);
            if adjacent(c.as_ref()) {
                kernels.gemm(alpha, a, right, add, c.rb());
            } else {
                gapped(kernels, alpha, a, right, add, c.rb(), row);
            }
        }
    });
}

fn adjacent(x: Mat<'_, f32>) -> bool {
    x.cols() <= 1 || x.col_stride() == 1
}

/// A product whose rows have gaps between elements, row by row through `room`.
fn gapped(
    kernels: &Kernels,
    alpha: f32,
    a: Mat<'_, f32>,
    b: Rhs<'_>,
    add: bool,
    mut c: MatMut<'_, f32>,
    room: &mut [f32],
) {
    for i in 0..c.rows() {
        let mut row = c.rb().rows_range(i..i + 1);
        let mut dense = MatMut::new(room, 1, row.cols());
        dense.copy_from(row.as_ref());
        kernels.gemm(alpha, a.rows_range(i..i + 1), b, add, dense.rb());
        row.copy_from(dense.as_ref());
    }
}

/// `b` as a right-hand side: as it lies where its columns are adjacent, else packed into `room`.
fn right<'a>(kernels: &Kernels, b: Mat<'a, f32>, room: &'a mut [f32]) -> Rhs<'a> {
    let (k, n) = (b.rows(), b.cols());
    if adjacent(b) {
        return Rhs::rows(b);
    }
    let panel = &mut room[..k * n];
    let turned = b.t();
    if adjacent(turned) {
        for first in (0..n).step_by(kernels.lanes()) {
            let some = turned.rows_range(first..n.min(first + kernels.lanes()));
            kernels.pack_transposed(some, n, first, panel);
        }
        return Rhs::packed(panel, k, n, kernels.group());
    }
    for i in 0..k {
        for j in 0..n {
            panel[i * n + j] = b.get(i, j);
        }
    }
    Rhs::rows(Mat::new(panel, k, n))
}

/// `c = beta c`, zero when `beta` is zero.
fn scale(beta: f32, mut c: MatMut<'_, f32>) {
    if beta == 0.0 {
        c.fill(0.0);
    } else if beta != 1.0 {
        for i in 0..c.rows() {
            (0..c.cols()).for_each(|j| *c.at(i, j) *= beta);
        }
    }
}
