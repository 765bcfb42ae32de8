//! Root-mean-square normalisation, by blocks of rows.

use lowtide_lanes::{RowBlock, RowBlocks, row_split, share_out};
use lowtide_tensor::{Mat, MatMut};

use crate::exp::dot;

/// `y = x ⊙ rstd ⊙ w`.
pub(crate) fn rmsnorm(
    lanes: usize,
    x: Mat<'_, f32>,
    w: &[f32],
    eps: f32,
    y: MatMut<'_, f32>,
    rstd: &mut [f32],
) {
    let (lanes, step) = row_split(lanes, y.rows(), y.cols());
    let width = x.cols() as f32;
    let units = RowBlocks::new(y, step).zip(rstd.chunks_mut(step));
    share_out(lanes, units, |(RowBlock { start, rows: mut y }, rstd)| {
        for (i, rstd) in rstd.iter_mut().enumerate() {
            let x = x.row(start + i);
            let r = 1.0 / (dot(x, x) / width + eps).sqrt();
            *rstd = r;
            y.row_mut(i).iter_mut().zip(x).zip(w).for_each(|((y, x), w)| *y = x * r * w);
        }
    });
}

/// `dx += g rstd - x mean(g ⊙ x) rstd³` with `g = dy ⊙ w`.
pub(crate) fn rmsnorm_vjp(
    lanes: usize,
    x: Mat<'_, f32>,
    w: &[f32],
    rstd: &[f32],
    dy: Mat<'_, f32>,
    dx: MatMut<'_, f32>,
) {
    let (lanes, step) = row_split(lanes, dx.rows(), dx.cols());
    let width = x.cols() as f32;
    share_out(lanes, RowBlocks::new(dx, step), |RowBlock { start, rows: mut dx }| {
        for i in 0..dx.rows() {
            let (x, dy, r) = (x.row(start + i), dy.row(start + i), rstd[start + i]);
            let pull = dot3(dy, w, x) / width * r * r * r;
            let row = dx.row_mut(i).iter_mut().zip(x).zip(dy).zip(w);
            row.for_each(|(((dx, x), dy), w)| *dx += dy * w * r - x * pull);
        }
    });
}

/// `Σ a b c` in eight interleaved chains.
fn dot3(a: &[f32], b: &[f32], c: &[f32]) -> f32 {
    const CHUNK: usize = 64;
    let mut total = 0.0;
    for ((a, b), c) in a.chunks(CHUNK).zip(b.chunks(CHUNK)).zip(c.chunks(CHUNK)) {
        let mut product = [0.0; CHUNK];
        for ((p, a), b) in product.iter_mut().zip(a).zip(b) {
            *p = a * b;
        }
        total += dot(&product[..c.len()], c);
    }
    total
}
