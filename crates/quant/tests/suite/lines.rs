//! Codes of lines by hand, and of any bytes.

use half::bf16;
use lowtide_quant::LineCodes::{self, Int4, Int8};
use lowtide_testkit::rng::Rng;
use proptest::prelude::*;

/// The scales of a line and its bytes.
fn encode(codes: LineCodes, line: &[f32]) -> (Vec<bf16>, Vec<u8>) {
    let groups = line.chunks(codes.group().min(line.len()));
    let scales: Vec<bf16> = groups.map(|group| codes.scale(group.iter().copied())).collect();
    let mut bytes = vec![0xee; codes.code_bytes(line.len())];
    codes.encode(line, &scales, &mut bytes);
    (scales, bytes)
}

#[test]
fn bytes_are_those_written_down() {
    let (scales, bytes) = encode(Int8, &[254.0, -3.1, 5.0]);
    assert_eq!((scales, bytes), (vec![bf16::from_f32(2.0)], vec![127, -2_i8 as u8, 2]));
    // The last half byte is empty.
    let (scales, bytes) = encode(Int4, &[7.0, -6.6, 1.4]);
    assert_eq!((scales, bytes), (vec![bf16::ONE], vec![0x1f, 0x89]));
    let (scales, bytes) = encode(Int4, &[[0.5; 64].as_slice(), &[-14.0]].concat());
    assert_eq!((scales.len(), bytes.len()), (2, 33));
    assert_eq!((scales[1].to_f32(), bytes[32]), (2.0, 0x81));
}

#[test]
fn names_are_found() {
    for (name, codes) in LineCodes::NAMES {
        assert_eq!((LineCodes::named(name), codes.name()), (Some(codes), name));
    }
    assert_eq!(LineCodes::named("int3"), None);
    assert!(LineCodes::along_rows([3, 3]) && !LineCodes::along_rows([4, 3]));
}

#[test]
fn extremes_are_finite_and_damage_is_not() {
    for (_, codes) in LineCodes::NAMES {
        for line in [[f32::MAX, -f32::MAX, 1.0], [1e-45, 3e-39, -1e-38], [0.0; 3]] {
            let (scales, bytes) = encode(codes, &line);
            let mut back = [f32::NAN; 3];
            codes.decode(&bytes, &scales, &mut back);
            assert!(back.iter().all(|x| x.is_finite()), "{codes:?}: {back:?}");
            let again = encode(codes, &back);
            assert_eq!(again, (scales, bytes), "{codes:?}");
        }
        assert!(codes.scale([1.0, f32::NEG_INFINITY]).is_nan());
        assert!(codes.round(1.0, bf16::NAN).is_nan());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_decoded_is_what_was_rounded(
        seed in any::<u64>(),
        len in 1..200_usize,
        size in -60..60_i32,
    ) {
        let bound = 2.0_f32.powi(size);
        let line = Rng::new(seed).uniform_vec(len, -bound, bound);
        for (_, codes) in LineCodes::NAMES {
            let (scales, bytes) = encode(codes, &line);
            let mut back = vec![f32::NAN; len];
            codes.decode(&bytes, &scales, &mut back);
            for (at, (&x, &y)) in line.iter().zip(&back).enumerate() {
                let scale = scales[codes.of(at)];
                prop_assert_eq!(codes.round(x, scale), y);
                prop_assert!((x - y).abs() <= 0.5 * scale.to_f32(), "{} became {}", x, y);
            }
            prop_assert_eq!(encode(codes, &back), (scales, bytes));
        }
    }

    #[test]
    fn any_bytes_stand_for_numbers(bytes in prop::collection::vec(any::<u8>(), 1..40)) {
        for (codes, len) in [(Int8, bytes.len()), (Int4, 2 * bytes.len())] {
            let scales = vec![bf16::from_f32(0.25); codes.scales(len)];
            let mut line = vec![f32::NAN; len];
            codes.decode(&bytes, &scales, &mut line);
            prop_assert!(line.iter().all(|x| x.abs() <= 32.0));
        }
    }
}
