//! What holds for every block: bounded error on the way there and back, and no panic on anything.

use crate::{decode, encode};
use lowtide_quant::BlockFormat;
use lowtide_quant::formats::{
    ALL, BF16, F16, F32, INT8, IQ4_NL, NF4, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0,
};
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

/// Values that are whole blocks of every format.
const WIDEST: usize = 256;

/// Eight [`block`]s in a row, each of its own magnitude or all of one.
fn wide_block() -> impl Strategy<Value = Vec<f32>> {
    let one = (-140..15i32, vec(-1.0f32..1.0, WIDEST)).prop_map(|(exponent, unit)| {
        unit.iter().map(|u| (f64::from(*u) * f64::powi(2.0, exponent)) as f32).collect()
    });
    prop_oneof![one, vec(block(), WIDEST / 32).prop_map(|parts| parts.concat())]
}

/// Blocks with anything in them: zeros, subnormals, huge values, infinities and NaN.
fn wild_block() -> impl Strategy<Value = Vec<f32>> {
    prop_oneof![
        vec(ANY, WIDEST),
        vec(SUBNORMAL | ZERO, WIDEST),
        vec(NORMAL, WIDEST),
        (wide_block(), 0..WIDEST, ANY).prop_map(|(mut x, i, v)| {
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

fn largest_magnitude(x: &[f32]) -> f32 {
    x.iter().fold(0.0f32, |max, x| max.max(x.abs()))
}

/// The root mean square of what `format` moves the values of `x` by.
fn rms_error(format: &dyn BlockFormat, x: &[f32]) -> f32 {
    let y = decode(format, &encode(format, x));
    let squares = x.iter().zip(y).map(|(x, y)| (f64::from(*x) - f64::from(y)).powi(2));
    (squares.sum::<f64>() / x.len() as f64).sqrt() as f32
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
    fn q5_0_moves_values_by_half_a_scale_or_clips_one_end(x in block()) {
        let widest = x.iter().fold(0.0f32, |max, x| if x.abs() > max.abs() { *x } else { max });
        let d = widest / -16.0;
        assert_within(&Q5_0, &x, |x| {
            let clipped = if x * d.signum() > 15.5 * d.abs() { 1.0 } else { 0.5 };
            clipped * d.abs() + 16.0 * half_rounding(d)
        });
    }

    #[test]
    fn q5_1_moves_values_by_half_a_scale(x in block()) {
        let (min, max) = x.iter().fold((f32::MAX, f32::MIN), |(a, b), x| (a.min(*x), b.max(*x)));
        let d = (max - min) / 31.0;
        let cancelled = (max - min) * f32::powi(2.0, -20);
        let bound = d / 2.0 + 31.0 * half_rounding(d) + half_rounding(min) + cancelled;
        assert_within(&Q5_1, &x, |_| bound);
    }

    #[test]
    fn searched_scales_are_never_worse_than_even_codes(x in wide_block()) {
        let subs = x.chunks(32).map(|x| {
            x.iter().fold((0.0f32, 0.0f32), |(min, max), x| (min.min(*x), max.max(*x)))
        });
        let widest = subs.fold(0.0f32, |widest, (min, max)| widest.max(max - min));
        let largest = largest_magnitude(&x);
        let least = f32::powi(2.0, -18);
        let bounds: [(&dyn BlockFormat, f32); 3] =
            [(&Q4_K, widest / 29.0), (&Q5_K, widest / 60.0), (&Q6_K, largest / 60.0)];
        for (format, bound) in bounds {
            let (error, bound) = (rms_error(format, &x), bound + least);
            prop_assert!(error <= bound, "{}: {error:e} of {bound:e}", format.name());
        }
        for x in x.chunks(32) {
            let bound = largest_magnitude(x) / 9.0 + least;
            let error = rms_error(&IQ4_NL, x);
            prop_assert!(error <= bound, "IQ4_NL: {error:e} of {bound:e}");
        }
    }

    #[test]
    fn nf4_and_int8_move_values_by_a_share_of_the_largest(x in wide_block()) {
        for x in x.chunks(64) {
            let largest = largest_magnitude(x);
            assert_within(&NF4, x, |_| 0.152 * largest + f32::MIN_POSITIVE);
        }
        for x in x.chunks(32) {
            let largest = largest_magnitude(x);
            assert_within(&INT8, x, |_| largest / 254.0 + f32::MIN_POSITIVE);
        }
    }

    #[test]
    fn decoding_takes_any_bytes(bytes in vec(any::<u8>(), 1360)) {
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
        assert_eq!(
            decode(*format, &encode(*format, &[0.0; WIDEST])),
            [0.0; WIDEST],
            "{}",
            format.name()
        );
        assert_eq!(
            decode(*format, &encode(*format, &[-0.0; WIDEST])),
            [0.0; WIDEST],
            "{}",
            format.name()
        );
    }
}

#[test]
fn a_scale_beyond_half_precision_stays_visible() {
    let with_halves: [&dyn BlockFormat; 9] =
        [&Q4_0, &Q4_1, &Q5_0, &Q5_1, &Q8_0, &Q4_K, &Q5_K, &Q6_K, &IQ4_NL];
    for format in with_halves {
        for widest in [1e9, -1e9, f32::MAX, f32::MIN] {
            let mut x = [1.0; WIDEST];
            x[9] = widest;
            let y = decode(format, &encode(format, &x));
            assert!(y.iter().any(|y| !y.is_finite()), "{} hides {widest:e}", format.name());
        }
    }
}

/// What each format documents that normally distributed values lose, as a share of their standard
/// deviation: not much more, and not much less either.
#[test]
fn normal_values_lose_what_is_documented() {
    // Sums of twelve uniform numbers from a Weyl sequence: nearly normal, deviation 1.
    let mut state = 0u64;
    let mut uniform = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb) >> 40) as f32 / 16_777_216.0
    };
    let x: Vec<f32> = (0..1 << 16).map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0).collect();
    let documented: [(&dyn BlockFormat, f32); 6] = [
        (&Q4_K, 0.07),
        (&Q5_K, 0.034),
        (&Q6_K, 0.017),
        (&IQ4_NL, 0.075),
        (&NF4, 0.09),
        (&INT8, 0.005),
    ];
    for (format, share) in documented {
        let lost = rms_error(format, &x);
        assert!((0.9..1.1).contains(&(lost / share)), "{}: {lost}", format.name());
    }
}
