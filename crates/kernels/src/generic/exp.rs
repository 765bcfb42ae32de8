//! The exponential.

use core::f32::consts::LOG2_E;

use crate::simd::Simd;

/// `e^x` to about two units in the last place; exactly zero where the result would be subnormal,
/// `e^88` above 88, NaN for NaN.
///
/// 1. `x = n ln 2 + r` with `|r| <= ln 2 / 2`; adding and subtracting 1.5 * 2^23 rounds to the
///    integer `n`, which then also lies in the low bits of the sum.
/// 2. `e^r = 1 + r + r² p(r)` with a polynomial of degree 4 whose largest relative error is
///    smallest (Remez exchange): 4e-9.
/// 3. `2^n` by shifting `n` into the exponent.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::F) -> S::F {
    const ROUNDER: f32 = 12_582_912.0;
    /// The leading bits of ln 2, so that its product with `n` is exact, and the rest.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    const SMALLEST: f32 = -87.336_54;
    const LARGEST: f32 = 88.0;
    const P: [f32; 5] = [0.001_381_446_7, 0.008_368_781, 0.041_668_393, 0.166_665_2, 0.499_999_94];

    let clamped = s.min(s.splat(LARGEST), x);
    let shifted = s.fma(clamped, s.splat(LOG2_E), s.splat(ROUNDER));
    let n = s.sub(shifted, s.splat(ROUNDER));
    let r = s.fma(n, s.splat(-LN2_HIGH), clamped);
    let r = s.fma(n, s.splat(-LN2_LOW), r);
    let mut p = s.splat(P[0]);
    for coefficient in &P[1..] {
        p = s.fma(p, r, s.splat(*coefficient));
    }
    let value = s.add(s.fma(s.mul(r, r), p, r), s.splat(1.0));
    // The shift drops the rounder's own bits; below `SMALLEST` what is left means nothing.
    let value = s.mul(value, s.power(shifted));
    s.select(s.less(x, s.splat(SMALLEST)), s.splat(0.0), value)
}
