//! An exponential that a compiler can vectorise, and sums.

use std::f32::consts::LOG2_E;

/// `e^x` to about two units in the last place; exactly zero where the result would be subnormal,
/// `e^88` above 88, NaN for NaN.
///
/// 1. `x = n ln 2 + r` with `|r| <= ln 2 / 2`; adding and subtracting 1.5 * 2^23 rounds to the
///    integer `n`, which then also lies in the low bits of the sum.
/// 2. `e^r = 1 + r + r² p(r)` with a polynomial of degree 4 whose largest relative error is
///    smallest (Remez exchange): 4e-9.
/// 3. `2^n` by shifting `n` into the exponent.
///
/// There is no branch and no call, so a loop over a slice becomes vector code.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const ROUNDER: f32 = 12_582_912.0;
    /// The leading bits of ln 2, so that its product with `n` is exact, and the rest.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    const SMALLEST: f32 = -87.336_54;
    const LARGEST: f32 = 88.0;
    const P: [f32; 5] = [0.001_381_446_7, 0.008_368_781, 0.041_668_393, 0.166_665_2, 0.499_999_94];

    let clamped = if x > LARGEST { LARGEST } else { x };
    let shifted = clamped * LOG2_E + ROUNDER;
    let n = shifted - ROUNDER;
    let r = (clamped - n * LN2_HIGH) - n * LN2_LOW;
    let p = (((P[0] * r + P[1]) * r + P[2]) * r + P[3]) * r + P[4];
    let value = 1.0 + (r + r * r * p);
    // The shift drops the rounder's own bits; below `SMALLEST` what is left means nothing.
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0_f32.to_bits()));
    if x < SMALLEST { 0.0 } else { value * power }
}

/// `1 / (1 + e^-x)`; exactly zero below -88, where it would be subnormal.
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    let value = 1.0 / (1.0 + exp(-x));
    if x < -88.0 { 0.0 } else { value }
}

/// Replaces each `x` by `e^(x - shift)`.
pub(crate) fn exp_all(x: &mut [f32], shift: f32) {
    for x in x {
        *x = exp(*x - shift);
    }
}

/// The sum in eight interleaved chains: zeros in the slice, or behind it, change no bit.
pub(crate) fn sum(x: &[f32]) -> f32 {
    let mut chains = [0.0_f32; 8];
    let (eights, rest) = x.as_chunks::<8>();
    for eight in eights {
        chains.iter_mut().zip(eight).for_each(|(sum, x)| *sum += x);
    }
    chains.iter_mut().zip(rest).for_each(|(sum, x)| *sum += x);
    join(chains)
}

/// The dot product in eight interleaved chains.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut chains = [0.0_f32; 8];
    let (a8, a) = a.as_chunks::<8>();
    let (b8, b) = b.as_chunks::<8>();
    for (a, b) in a8.iter().zip(b8) {
        for i in 0..8 {
            chains[i] += a[i] * b[i];
        }
    }
    chains.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (a, b))| *sum += a * b);
    join(chains)
}

/// The largest element, in eight interleaved chains; minus infinity when there is none.
pub(crate) fn max(x: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut chains = [f32::NEG_INFINITY; 8];
    let (eights, rest) = x.as_chunks::<8>();
    for eight in eights {
        chains.iter_mut().zip(eight).for_each(|(max, &x)| *max = larger(*max, x));
    }
    chains.iter_mut().zip(rest).for_each(|(max, &x)| *max = larger(*max, x));
    chains.into_iter().fold(f32::NEG_INFINITY, larger)
}

fn join([a, b, c, d, e, f, g, h]: [f32; 8]) -> f32 {
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_three_units_in_the_last_place() {
        let mut worst = 0.0_f64;
        for i in 0..400_000 {
            let x = -87.3 + i as f32 * (175.2 / 400_000.0);
            let want = f64::from(x).exp();
            let ulp =
                f64::from(f32::from_bits((want as f32).to_bits() + 1)) - f64::from(want as f32);
            worst = worst.max((f64::from(exp(x)) - want).abs() / ulp);
        }
        assert!(worst < 3.0, "{worst} units in the last place");
    }

    #[test]
    fn exp_keeps_the_special_values() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-90.0), 0.0);
        assert_eq!(exp(f32::MIN), 0.0);
        assert_eq!(exp(f32::INFINITY), exp(88.0));
        assert_eq!(exp(89.0), exp(88.0));
        assert!(exp(f32::NAN).is_nan());
        assert_eq!(sigmoid(-88.1), 0.0);
        assert_eq!(sigmoid(200.0), 1.0);
    }

    #[test]
    fn trailing_zeros_change_no_sum() {
        let x: Vec<f32> = (0..29).map(|i| (i as f32 * 0.37).sin()).collect();
        let mut padded = x.clone();
        padded.resize(64, 0.0);
        assert_eq!(sum(&x).to_bits(), sum(&padded).to_bits());
        let naive: f64 = x.iter().map(|&x| f64::from(x)).sum();
        assert!((f64::from(sum(&x)) - naive).abs() < 1e-6);
        assert_eq!(dot(&x, &x).to_bits(), dot(&padded, &padded).to_bits());
        assert_eq!(max(&x), x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        assert_eq!(max(&[]), f32::NEG_INFINITY);
    }
}
