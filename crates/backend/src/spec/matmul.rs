//! Dense products of strided views: all adapter algebra.

use lowtide_tensor::{Float, Mat, MatMut, QUANTUM};

use crate::contract;

use super::lanes::{LANES, panel_len, partial};

/// `c = alpha a b + beta c`: `a [M, K]`, `b [K, N]`, `c [M, N]`.
///
/// First `c` is scaled by `beta` (zeroed when `beta` is zero); then for each ascending quantum of
/// `K` the partial sum from zero is multiplied by `alpha` and added. Cutting `K` at a multiple of
/// [`QUANTUM`] and continuing with `beta` one therefore gives the same bits.
pub fn matmul<F: Float>(
    alpha: F,
    a: Mat<'_, F>,
    b: Mat<'_, F>,
    beta: F,
    mut c: MatMut<'_, F>,
    _scratch: &mut [F],
) {
    contract::matmul(a, b, c.as_ref());
    let (inner, columns) = (b.rows(), b.cols());
    scale(beta, c.rb());
    for k in (0..inner).step_by(QUANTUM) {
        let depth = QUANTUM.min(inner - k);
        for j in (0..columns).step_by(LANES) {
            let width = LANES.min(columns - j);
            let panel = pack(b.rows_range(k..k + depth).cols_range(j..j + width));
            for i in 0..a.rows() {
                let row = gather(a, i, k, depth);
                let part = partial(&row[..depth], &panel);
                for (lane, part) in part[..width].iter().enumerate() {
                    *c.at(i, j + lane) += alpha * *part;
                }
            }
        }
    }
}

/// `c = beta c`, zero when `beta` is zero.
fn scale<F: Float>(beta: F, mut c: MatMut<'_, F>) {
    if beta == F::ZERO {
        c.fill(F::ZERO);
    } else if beta != F::ONE {
        for i in 0..c.rows() {
            for j in 0..c.cols() {
                *c.at(i, j) *= beta;
            }
        }
    }
}

/// At most a quantum of rows of at most [`LANES`] columns, padded with zero columns.
fn pack<F: Float>(tile: Mat<'_, F>) -> [F; panel_len(QUANTUM)] {
    let mut panel = [F::ZERO; panel_len(QUANTUM)];
    for (k, lanes) in panel.chunks_mut(LANES).take(tile.rows()).enumerate() {
        for (j, slot) in lanes.iter_mut().take(tile.cols()).enumerate() {
            *slot = tile.get(k, j);
        }
    }
    panel
}

/// Elements `k..k + depth` of row `i`.
fn gather<F: Float>(a: Mat<'_, F>, i: usize, k: usize, depth: usize) -> [F; QUANTUM] {
    let mut row = [F::ZERO; QUANTUM];
    if a.col_stride() == 1 {
        row[..depth].copy_from_slice(&a.row(i)[k..k + depth]);
    } else {
        for (at, slot) in row[..depth].iter_mut().enumerate() {
            *slot = a.get(i, k + at);
        }
    }
    row
}
