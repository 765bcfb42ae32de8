//! Root-mean-square normalisation, by blocks of rows.

use lowtide_backend::contract;
use lowtide_lanes::{RowBlock, RowBlocks, row_split, share_out};
use lowtide_tensor::{Mat, MatMut};

use crate::Simd;

/// `y = x ⊙ rstd ⊙ w`.
pub(crate) fn rmsnorm(
    be: &Simd,
    x: Mat<'_, f32>,
    w: &[f32],
    eps: f32,
    y: MatMut<'_, f32>,
    rstd: &mut [f32],
) {
    contract::rmsnorm(x, w, y.as_ref(), rstd);
    let (lanes, step) = row_split(be.threads(), y.rows(), y.cols());
    let units = RowBlocks::new(y, step).zip(rstd.chunks_mut(step));
    share_out(lanes, units, |(RowBlock { start, rows: mut y }, rstd)| {
        for (i, rstd) in rstd.iter_mut().enumerate() {
            *rstd = be.kernels().rmsnorm(x.row(start + i), w, eps, y.row_mut(i));
        }
    });
}

/// `dx += g rstd - x mean(g ⊙ x) rstd³` with `g = dy ⊙ w`.
pub(crate) fn rmsnorm_vjp(
    be: &Simd,
    x: Mat<'_, f32>,
    w: &[f32],
    rstd: &[f32],
    dy: Mat<'_, f32>,
    dx: MatMut<'_, f32>,
) {
    contract::rmsnorm_vjp(x, w, rstd, dy, dx.as_ref());
    let (lanes, step) = row_split(be.threads(), dx.rows(), dx.cols());
    share_out(lanes, RowBlocks::new(dx, step), |RowBlock { start, rows: mut dx }| {
        for i in 0..dx.rows() {
            let (x, dy, rstd) = (x.row(start + i), dy.row(start + i), rstd[start + i]);
            be.kernels().rmsnorm_vjp(x, w, rstd, dy, dx.row_mut(i));
        }
    });
}
