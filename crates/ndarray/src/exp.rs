//! An exponential that a compiler can vectorise.

/// `e^x` to about two units in the last place; exactly zero where the result would be subnormal,
/// infinite above f32's range, NaN for NaN.
///
/// 1. `x = n ln 2 + r` with `|r| <= ln 2 / 2`; adding and subtracting 1.5 * 2^23 rounds to the
///    integer `n`, which then also lies in the low bits of the sum.
/// 2. `e^r` by its Taylor series up to `r^7 / 7!`: the rest is below 6e-9.
/// 3. `2^n` by writing `n` into the exponent, in two halves because 2^128 does not fit in one.
///
/// There is no branch and no call, so a loop over a slice becomes vector code.
#[inline(always)]
#[allow(clippy::excessive_precision, reason = "the splitting of ln 2 is meant to the bit")]
pub(crate) fn exp(x: f32) -> f32 {
    const ROUNDER: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_375;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    const SMALLEST: f32 = -87.336_54;
    const LARGEST: f32 = 88.722_84;

    let low = if x < SMALLEST { SMALLEST } else { x };
    let clamped = if low > LARGEST { LARGEST } else { low };
    let shifted = clamped * core::f32::consts::LOG2_E + ROUNDER;
    let n = shifted - ROUNDER;
    let r = (clamped - n * LN2_HIGH) - n * LN2_LOW;

    let mut series = 1.0 / 5040.0;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        series = series * r + coefficient;
    }

    let whole = shifted.to_bits().wrapping_sub(ROUNDER.to_bits()).cast_signed();
    let half = whole >> 1;
    let value = series * power_of_two(half) * power_of_two(whole - half);

    let value = if x < SMALLEST { 0.0 } else { value };
    if x > LARGEST { f32::INFINITY } else { value }
}

/// `2^n` for exponents of normal numbers.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits(n.wrapping_add(127).cast_unsigned() << 23)
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
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
            let x = -87.3 + i as f32 * (176.0 / 400_000.0);
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
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp(89.0), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
        assert_eq!(sigmoid(-200.0), 0.0);
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
