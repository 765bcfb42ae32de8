//! Root-mean-square normalisation of a row.

use lowtide_tensor::Float;

use super::reduce::dot;
use super::walk::{each, fold};
use crate::simd::Simd;

/// `y = x ⊙ rstd ⊙ w`; returns `rstd = 1 / sqrt(mean(x²) + eps)`.
#[inline(always)]
pub(crate) fn rmsnorm<S: Simd>(s: S, x: &[f32], w: &[f32], eps: f32, y: &mut [f32]) -> f32 {
    let rstd = 1.0 / Float::sqrt(dot(s, x, x) / x.len() as f32 + eps);
    let r = s.splat(rstd);
    each(s, [x, w], [y], |[x, w], _| [s.mul(s.mul(x, r), w)]);
    rstd
}

/// `dx += g rstd - x mean(g ⊙ x) rstd³` with `g = dy ⊙ w`.
#[inline(always)]
pub(crate) fn rmsnorm_vjp<S: Simd>(
    s: S,
    x: &[f32],
    w: &[f32],
    rstd: f32,
    dy: &[f32],
    dx: &mut [f32],
) {
    let along = fold(s, [dy, w, x], |sum, [dy, w, x]| s.fma(s.mul(dy, w), x, sum));
    let pull = s.splat(-(along / x.len() as f32 * rstd * rstd * rstd));
    let rstd = s.splat(rstd);
    each(s, [x, w, dy], [dx], |[x, w, dy], [dx]| {
        [s.add(dx, s.fma(x, pull, s.mul(s.mul(dy, w), rstd)))]
    });
}
