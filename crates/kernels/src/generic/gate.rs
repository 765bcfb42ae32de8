//! Gated activations.

use super::exp::exp;
use super::walk::each;
use crate::Gate;
use crate::simd::Simd;

/// `y = act(gate) ⊙ up`.
#[inline(always)]
pub(crate) fn glu<S: Simd>(s: S, act: Gate, gate: &[f32], up: &[f32], y: &mut [f32]) {
    match act {
        Gate::Silu => each(s, [gate, up], [y], |[g, u], _| [s.mul(silu(s, g).0, u)]),
        Gate::GeluTanh => each(s, [gate, up], [y], |[g, u], _| [s.mul(gelu_tanh(s, g).0, u)]),
    }
}

/// `gate = act(gate) ⊙ up`.
#[inline(always)]
pub(crate) fn glu_in_place<S: Simd>(s: S, act: Gate, gate: &mut [f32], up: &[f32]) {
    match act {
        Gate::Silu => each(s, [up], [gate], |[u], [g]| [s.mul(silu(s, g).0, u)]),
        Gate::GeluTanh => each(s, [up], [gate], |[u], [g]| [s.mul(gelu_tanh(s, g).0, u)]),
    }
}

/// Replaces `gate` by `dy ⊙ up ⊙ act'(gate)` and `up` by `dy ⊙ act(gate)`.
#[inline(always)]
pub(crate) fn glu_vjp<S: Simd>(s: S, act: Gate, dy: &[f32], gate: &mut [f32], up: &mut [f32]) {
    match act {
        Gate::Silu => each(s, [dy], [gate, up], |[dy], [g, u]| back(s, silu(s, g), dy, u)),
        Gate::GeluTanh => each(s, [dy], [gate, up], |[dy], [g, u]| back(s, gelu_tanh(s, g), dy, u)),
    }
}

#[inline(always)]
fn back<S: Simd>(s: S, (value, slope): (S::F, S::F), dy: S::F, up: S::F) -> [S::F; 2] {
    [s.mul(s.mul(dy, up), slope), s.mul(dy, value)]
}

/// `1 / (1 + e^-x)`; exactly zero below -88, where it would be subnormal.
#[inline(always)]
fn sigmoid<S: Simd>(s: S, x: S::F) -> S::F {
    let (one, zero) = (s.splat(1.0), s.splat(0.0));
    let value = s.div(one, s.add(one, exp(s, s.sub(zero, x))));
    s.select(s.less(x, s.splat(-88.0)), zero, value)
}

/// `x σ` and `σ (1 + x (1 - σ))`. Factors of zero meet finite numbers only, so that limits are
/// reached: zero and zero on the left, infinity and one on the right.
#[inline(always)]
fn silu<S: Simd>(s: S, x: S::F) -> (S::F, S::F) {
    let one = s.splat(1.0);
    let sigmoid = sigmoid(s, x);
    let above = s.max(s.splat(f32::MIN), x);
    let value = s.mul(above, sigmoid);
    let inside = s.min(s.splat(f32::MAX), above);
    (value, s.mul(sigmoid, s.fma(inside, s.sub(one, sigmoid), one)))
}

/// `x/2 (1 + tanh u)` and its derivative, with `u = sqrt(2/π) (x + 0.044715 x³)`. As
/// `(1 + tanh u) / 2 = σ(2u)`, neither loses digits where `tanh` is near minus one. Beyond ±16
/// `σ(2u)` is zero or one, as it is there, while squares of large numbers are infinite.
#[inline(always)]
fn gelu_tanh<S: Simd>(s: S, x: S::F) -> (S::F, S::F) {
    const SLOPE: f32 = 2.0 * 0.797_884_6;
    const CUBIC: f32 = 0.044_715;
    let one = s.splat(1.0);
    let inside = s.min(s.splat(16.0), s.max(s.splat(-16.0), x));
    let square = s.mul(inside, inside);
    let bend = s.fma(s.splat(CUBIC), square, one);
    let sigmoid = sigmoid(s, s.mul(s.mul(s.splat(SLOPE), inside), bend));
    let inner = s.mul(s.splat(SLOPE), s.fma(s.splat(3.0 * CUBIC), square, one));
    let value = s.mul(s.max(s.splat(f32::MIN), x), sigmoid);
    let tail = s.mul(s.mul(inside, sigmoid), s.sub(one, sigmoid));
    (value, s.fma(tail, inner, sigmoid))
}
