//! Updates of parameters. No step is fused: the bits are those of the specification.

use super::walk::each;
use crate::simd::Simd;
use crate::{AdamW, Lion};

/// One AdamW update.
#[inline(always)]
pub(crate) fn adamw<S: Simd>(
    s: S,
    f: &AdamW,
    p: &mut [f32],
    g: &[f32],
    m: &mut [f32],
    v: &mut [f32],
) {
    let (grad_scale, shrink) = (s.splat(f.grad_scale), s.splat(f.shrink));
    let (beta1, fresh1) = (s.splat(f.beta1), s.splat(f.fresh1));
    let (beta2, fresh2) = (s.splat(f.beta2), s.splat(f.fresh2));
    let (root, eps) = (s.splat(f.root_correction2), s.splat(f.eps));
    let step_size = s.splat(f.step_size);
    each(s, [g], [p, m, v], |[g], [p, m, v]| {
        let g = s.mul(grad_scale, g);
        let p = s.mul(p, shrink);
        let m = s.add(s.mul(beta1, m), s.mul(fresh1, g));
        let v = s.add(s.mul(beta2, v), s.mul(s.mul(fresh2, g), g));
        let denominator = s.add(s.div(s.sqrt(v), root), eps);
        [s.sub(p, s.div(s.mul(step_size, m), denominator)), m, v]
    });
}

/// One SGD update: `p -= lr (scale g + decay p)`.
#[inline(always)]
pub(crate) fn sgd<S: Simd>(s: S, [lr, scale, decay]: [f32; 3], p: &mut [f32], g: &[f32]) {
    let (lr, scale, decay) = (s.splat(lr), s.splat(scale), s.splat(decay));
    each(s, [g], [p], |[g], [p]| [s.sub(p, s.mul(lr, s.add(s.mul(scale, g), s.mul(decay, p))))]);
}

/// One SGD update with momentum: `m = momentum m + (scale g + decay p)`, `p -= lr m`.
#[inline(always)]
pub(crate) fn sgd_momentum<S: Simd>(
    s: S,
    [lr, scale, decay, momentum]: [f32; 4],
    p: &mut [f32],
    g: &[f32],
    m: &mut [f32],
) {
    let (lr, momentum) = (s.splat(lr), s.splat(momentum));
    let (scale, decay) = (s.splat(scale), s.splat(decay));
    each(s, [g], [p, m], |[g], [p, m]| {
        let m = s.add(s.mul(momentum, m), s.add(s.mul(scale, g), s.mul(decay, p)));
        [s.sub(p, s.mul(lr, m)), m]
    });
}

/// One Lion update.
#[inline(always)]
pub(crate) fn lion<S: Simd>(s: S, f: &Lion, p: &mut [f32], g: &[f32], m: &mut [f32]) {
    let (grad_scale, shrink) = (s.splat(f.grad_scale), s.splat(f.shrink));
    let (beta1, fresh1) = (s.splat(f.beta1), s.splat(f.fresh1));
    let (beta2, fresh2) = (s.splat(f.beta2), s.splat(f.fresh2));
    let (zero, up, down) = (s.splat(0.0), s.splat(f.lr), s.splat(-f.lr));
    each(s, [g], [p, m], |[g], [p, m]| {
        let g = s.mul(grad_scale, g);
        let direction = s.add(s.mul(beta1, m), s.mul(fresh1, g));
        let falls = s.select(s.less(direction, zero), down, zero);
        let step = s.select(s.less(zero, direction), up, falls);
        let m = s.add(s.mul(beta2, m), s.mul(fresh2, g));
        [s.sub(s.mul(p, shrink), step), m]
    });
}
