//! What holds for every block: bounded error on the way there and back, and no panic on anything.

use crate::{decode, encode};
use lowtide_quant::BlockFormat;
use lowtide_quant::formats::{ALL, BF16, F16, F32, Q4_0, Q4_1, Q8_0};
use proptest::collection::vec;
use proptest::num::f32::{ANY, NORMAL, SUBNORMAL, ZERO};
use proptest::prelude::*;

/// By how much rounding to half precision can move `v`: half a unit in the last place, where the
/// smallest unit is 2^−24.
fn half_rounding(v: f32) -> f32 {
    (v.abs() * f32::powi(2.0, -11)).max(f32::powi(2.0, -25))
}

/// A block of 32 finite values of like magnitude, from far below what a half can hold up to
/// nearly the largest scale it can hold, with some exact zeros.
fn block() -> impl Strategy<Value = Vec<f32>> {
    let value = prop_oneof![8 => -1.0f32..1.0, 1 => Just(0.0f32), 1 => Just(1.0f32)];
    (-140..15i32, vec(value, 32)).prop_map(|(exponent, unit)| {
        let scale = f64::powi(2.0, exponent);
        unit.iter().map(|u| (f64::from(*u) * scale) as f32).collect()
    })
}

/// Blocks with anything in them: zeros, subnormals, huge values, infinities and NaN.
fn wild_block() -> impl Strategy<Value = Vec<f32>> {
    prop_oneof![
        vec(ANY, 32),
        vec(SUBNORMAL | ZERO, 32),
        vec(NORMAL, 32),
        (block(), 0usize..32, ANY).prop_map(|(mut x, i, v)| {
            x[i] = v;
            x
        }),
    ]
}

/// Asserts that no value of `x` moves by more than `bound(value)` through `format`.
fn assert_within(format: &dyn BlockFormat, x: &[f32], bound: impl Fn(f32) -> f32) {
    // A few f32 roundings of the arithmetic itself.
    let noise = f32::powi(2.0, -20);
    for (x, y) in x.iter().zip(decode(format, &encode(format, x))) {
        let allowed = bound(*x) * (1.0 + noise) + x.abs() * noise;
        assert!((x - y).abs() <= allowed, "{}: {x:e} became {y:e}", format.name());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn plain_floats_move_by_half_a_unit(x in block()) {
        prop_assert_eq!(&decode(&F32, &encode(&F32, &x)), &x);
        assert_within(&F16, &x, half_rounding);
        let smallest = f32::from_bits(1 << 15);
        assert_within(&BF16, &x, |x| (x.abs() * f32::powi(2.0, -8)).max(smallest));
    }

    #[test]
    fn q8_0_moves_values_by_half_a_scale(x in block()) {
        let d = x.iter().fold(0.0f32, |max, x| max.max(x.abs())) / 127.0;
        assert_within(&Q8_0, &x, |_| d / 2.0 + 127.0 * half_rounding(d));
    }

    #[test]
    fn q4_0_moves_values_by_half_a_scale_or_clips_one_end(x in block()) {
        let widest = x.iter().fold(0.0f32, |max, x| if x.abs() > max.abs() { *x } else { max });
        let d = widest / -8.0;
        assert_within(&Q4_0, &x, |x| {
            // The end opposite to the widest value has no code 16.
            let clipped = if x * d.signum() > 7.5 * d.abs() { 1.0 } else { 0.5 };
            clipped * d.abs() + 8.0 * half_rounding(d)
        });
    }

    #[test]
    fn q4_1_moves_values_by_half_a_scale(x in block()) {
        let (min, max) = x.iter().fold((f32::MAX, f32::MIN), |(a, b), x| (a.min(*x), b.max(*x)));
        let d = (max - min) / 15.0;
        // Beside the minimum small values lose digits of their own.
        let cancelled = (max - min) * f32::powi(2.0, -20);
        let bound = d / 2.0 + 15.0 * half_rounding(d) + half_rounding(min) + cancelled;
        assert_within(&Q4_1, &x, |_| bound);
    }

    #[test]
    fn decoding_takes_any_bytes(bytes in vec(any::<u8>(), 680)) {
        for format in ALL {
            let whole = bytes.len() / format.block_bytes() * format.block_bytes();
            decode(*format, &bytes[..whole]);
        }
    }

    #[test]
    fn encoding_takes_any_values(x in wild_block()) {
        for format in ALL {
            encode(*format, &x);
        }
    }

    #[test]
    fn damage_stays_visible(x in wild_block()) {
        for format in ALL {
            let y = decode(*format, &encode(*format, &x));
            let sound = y.iter().all(|y| y.is_finite());
            let broken = x.iter().any(|x| !x.is_finite());
            prop_assert!(!(broken && sound), "{} hides {:?}", format.name(), x);
        }
    }

    #[test]
    fn blocks_do_not_see_each_other(x in wild_block(), y in wild_block()) {
        for format in ALL {
            let both: Vec<f32> = x.iter().chain(&y).copied().collect();
            let apart = [encode(*format, &x), encode(*format, &y)].concat();
            prop_assert_eq!(encode(*format, &both), apart);
        }
    }
}

#[test]
fn zeros_stay_zeros() {
    for format in ALL {
        assert_eq!(decode(*format, &encode(*format, &[0.0; 64])), [0.0; 64], "{}", format.name());
        assert_eq!(decode(*format, &encode(*format, &[-0.0; 64])), [0.0; 64], "{}", format.name());
    }
}

#[test]
fn a_scale_beyond_half_precision_stays_visible() {
    for format in [&Q4_0 as &dyn BlockFormat, &Q4_1, &Q8_0] {
        for widest in [1e8, -1e8, f32::MAX] {
            let mut x = [1.0; 32];
            x[9] = widest;
            let y = decode(format, &encode(format, &x));
            assert!(y.iter().any(|y| !y.is_finite()), "{} hides {widest:e}", format.name());
        }
    }
}
