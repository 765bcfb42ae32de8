//! Root-mean-square normalisation.

use lowtide_tensor::{Float, Mat, MatMut};

use crate::contract;

use super::lanes::{dot, sum};

/// `y = x ⊙ rstd ⊙ w`, `rstd[t] = 1 / sqrt(mean(x[t]²) + eps)`.
pub fn rmsnorm<F: Float>(x: Mat<'_, F>, w: &[F], eps: F, mut y: MatMut<'_, F>, rstd: &mut [F]) {
    contract::rmsnorm(x, w, y.as_ref(), rstd);
    let width = F::from_f64(x.cols() as f64);
    for (t, rstd) in rstd.iter_mut().enumerate() {
        let x = x.row(t);
        *rstd = F::ONE / (dot(x, x) / width + eps).sqrt();
        for ((y, &x), &w) in y.row_mut(t).iter_mut().zip(x).zip(w) {
            *y = x * *rstd * w;
        }
    }
}

/// `dx += g rstd - x mean(g ⊙ x) rstd³` with `g = dy ⊙ w`.
pub fn rmsnorm_vjp<F: Float>(
    x: Mat<'_, F>,
    w: &[F],
    rstd: &[F],
    dy: Mat<'_, F>,
    mut dx: MatMut<'_, F>,
) {
    contract::rmsnorm_vjp(x, w, rstd, dy, dx.as_ref());
    let width = F::from_f64(x.cols() as f64);
    for (t, &rstd) in rstd.iter().enumerate() {
        let (x, dy) = (x.row(t), dy.row(t));
        let along = sum(x.iter().zip(dy).zip(w).map(|((&x, &dy), &w)| dy * w * x));
        let pull = along / width * rstd * rstd * rstd;
        for (((dx, &x), &dy), &w) in dx.row_mut(t).iter_mut().zip(x).zip(dy).zip(w) {
            *dx += dy * w * rstd - x * pull;
        }
    }
}
