//! Maxima, exponentials against them, and sums: what a softmax over a row is made of.

use super::exp::exp;
use super::walk::{each, fold};
use crate::simd::Simd;

/// The largest element, whatever is NaN left out; minus infinity when there is none.
#[inline(always)]
pub(crate) fn max<S: Simd>(s: S, x: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if a > b { a } else { b };
    let nothing = f32::NEG_INFINITY;
    if x.len() < S::LANES {
        return x.iter().fold(nothing, |most, &x| larger(x, most));
    }
    let mut most = [s.splat(nothing); 2];
    // The last register overlaps the one before: a maximum may look twice.
    let last = x.len() - S::LANES;
    for at in (0..last).step_by(2 * S::LANES) {
        // SAFETY: both begin at most at the last place a register fits.
        unsafe {
            most[0] = s.max(s.load(x.as_ptr().add(at)), most[0]);
            most[1] = s.max(s.load(x.as_ptr().add(last.min(at + S::LANES))), most[1]);
        }
    }
    // SAFETY: as above.
    most[0] = s.max(unsafe { s.load(x.as_ptr().add(last)) }, most[0]);
    s.largest(s.max(most[0], most[1]))
}

/// `e^x` of one number.
#[inline(always)]
pub(crate) fn exp_one<S: Simd>(s: S, x: f32) -> f32 {
    s.first(exp(s, s.splat(x)))
}

/// Replaces each `x` by `e^(x - shift)` and returns their sum.
#[inline(always)]
pub(crate) fn exp_sum<S: Simd>(s: S, x: &mut [f32], shift: f32) -> f32 {
    let shift = s.splat(shift);
    each(s, [], [x], |[], [x]| [exp(s, s.sub(x, shift))]);
    sum(s, x)
}

/// Replaces each `x` by `scale * e^(x - shift)`.
#[inline(always)]
pub(crate) fn exp_scaled<S: Simd>(s: S, x: &mut [f32], shift: f32, scale: f32) {
    let (shift, scale) = (s.splat(shift), s.splat(scale));
    each(s, [], [x], |[], [x]| [s.mul(scale, exp(s, s.sub(x, shift)))]);
}

/// The sum of all elements.
#[inline(always)]
pub(crate) fn sum<S: Simd>(s: S, x: &[f32]) -> f32 {
    fold(s, [x], |sum, [x]| s.add(sum, x))
}

/// The dot product of two rows.
#[inline(always)]
pub(crate) fn dot<S: Simd>(s: S, a: &[f32], b: &[f32]) -> f32 {
    fold(s, [a, b], |sum, [a, b]| s.fma(a, b, sum))
}
