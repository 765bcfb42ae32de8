//! Formats as integers with scales.

use lowtide_quant::formats::ALL;
use lowtide_quant::integers::{CODE_MAX, GROUP};
use proptest::collection::vec;
use proptest::prelude::*;

/// Values that are whole blocks of every format.
const VALUES: usize = 512;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any bytes at all decode to the same values both ways, up to the roundings of the scales.
    #[test]
    fn scale_times_code_plus_minimum_is_the_value(noise in vec(any::<u8>(), 4 * VALUES)) {
        for format in ALL {
            let Some(integers) = format.integers() else { continue };
            let bytes = &noise[..format.row_bytes(VALUES).expect("whole blocks")];
            let (mut codes, mut values) = ([0; VALUES], [0.0; VALUES]);
            let (mut scales, mut minima) = ([0.0; VALUES / GROUP], [0.0; VALUES / GROUP]);
            integers.decode_integers(bytes, &mut codes, &mut scales, &mut minima);
            format.decode(bytes, &mut values);
            for (i, (code, value)) in codes.iter().zip(values).enumerate() {
                prop_assert!(code.abs() <= CODE_MAX, "{}: code {code}", format.name());
                let (scale, minimum) = (scales[i / GROUP], minima[i / GROUP]);
                let part = scale * f32::from(*code);
                let got = part + minimum;
                if value.is_finite() && got.is_finite() {
                    let slack = (part.abs() + minimum.abs()) * 4e-7 + 1e-36;
                    prop_assert!(
                        (got - value).abs() <= slack,
                        "{}: {scale} * {code} + {minimum} for {value}", format.name()
                    );
                    prop_assert!(integers.has_minima() || minimum == 0.0);
                } else {
                    // Damage stays: the group's parameters are not finite, or overflow.
                    let damaged = !scale.is_finite() || !minimum.is_finite();
                    prop_assert!(damaged || got.abs() > 1e37 || value.abs() > 1e37,
                        "{}: {scale} * {code} + {minimum} for {value}", format.name());
                }
            }
        }
    }
}

#[test]
fn these_formats_are_integers() {
    let names: Vec<_> = ALL.iter().filter(|f| f.integers().is_some()).map(|f| f.name()).collect();
    let want = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "INT8"];
    assert_eq!(names, want);
}
