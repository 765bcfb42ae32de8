//! Blocks worked out by hand from the layouts.

use crate::{decode, encode, values};
use lowtide_quant::formats::{BF16, F16, F32, Q4_0, Q4_1, Q8_0};

/// Bits of 1 in half precision, little-endian, and of −1.
const ONE: [u8; 2] = [0x00, 0x3c];
const MINUS_ONE: [u8; 2] = [0x00, 0xbc];

#[test]
fn f32_is_its_own_bytes() {
    let bytes = encode(&F32, &[1.0, -0.0, f32::MIN_POSITIVE]);
    assert_eq!(bytes, [0, 0, 0x80, 0x3f, 0, 0, 0, 0x80, 0, 0, 0x80, 0]);
    assert_eq!(decode(&F32, &bytes), [1.0, -0.0, f32::MIN_POSITIVE]);
}

#[test]
fn f16_rounds_to_nearest_even() {
    let ulp = f32::powi(2.0, -10);
    for (x, bits) in [
        (1.0 / 3.0, 0x3555),
        (1.0 + 0.5 * ulp, 0x3c00),
        (1.0 + 1.5 * ulp, 0x3c02),
        (-1.0 - 0.75 * ulp, 0xbc01),
        (65519.996, 0x7bff),
        (65520.0, 0x7c00),
        (f32::powi(2.0, -24), 0x0001),
        (f32::powi(2.0, -25), 0x0000),
    ] {
        assert_eq!(encode(&F16, &[x]), u16::to_le_bytes(bits), "{x}");
    }
}

#[test]
fn bf16_rounds_to_nearest_even() {
    let ulp = f32::powi(2.0, -7);
    for (x, bits) in [
        (1.0 + 0.5 * ulp, 0x3f80),
        (1.0 + 1.5 * ulp, 0x3f82),
        (-1.0 - 0.75 * ulp, 0xbf81),
        (f32::MAX, 0x7f80),
        (f32::from_bits(1), 0x0000),
    ] {
        assert_eq!(encode(&BF16, &[x]), u16::to_le_bytes(bits), "{x}");
    }
}

#[test]
fn every_half_survives_the_way_through_f32() {
    for bits in 0..=u16::MAX {
        let bytes = bits.to_le_bytes();
        for (format, x) in [(&F16 as _, decode(&F16, &bytes)), (&BF16 as _, decode(&BF16, &bytes))]
        {
            if !x[0].is_nan() {
                assert_eq!(encode(format, &x), bytes, "{format:?} {bits:#06x}");
            }
        }
    }
}

#[test]
fn q4_0_block() {
    // The widest value, −8, sets the scale to 1. Value j lies in the low half of byte j, value
    // j + 16 in the high half; zero has code 8.
    let x: [f32; 32] = values(&[
        (0, -8.0),
        (16, 7.0),
        (1, 1.0),
        (17, -1.0),
        (2, 8.0),   // code 16 does not exist: 15
        (18, 0.5),  // half way: up
        (3, -0.5),  // half way: up, to zero
        (19, 0.49), // down
    ]);
    let mut block = [0x88; 18];
    block[..2].copy_from_slice(&ONE);
    block[2..6].copy_from_slice(&[0xf0, 0x79, 0x9f, 0x88]);
    assert_eq!(encode(&Q4_0, &x), block);
    let y: [f32; 32] = values(&[(0, -8.0), (16, 7.0), (1, 1.0), (17, -1.0), (2, 7.0), (18, 1.0)]);
    assert_eq!(decode(&Q4_0, &block), y);
}

#[test]
fn q4_0_widest_positive_makes_the_scale_negative() {
    let x: [f32; 32] = values(&[(5, 16.0), (6, -14.0)]);
    let bytes = encode(&Q4_0, &x);
    assert_eq!(bytes[..2], [0x00, 0xc0], "the scale is −2");
    assert_eq!((bytes[7], bytes[8]), (0x80, 0x8f));
    assert_eq!(decode(&Q4_0, &bytes), x);
}

#[test]
fn q4_1_block() {
    // Smallest −1, largest 14: the scale is 1, and zero has code 1.
    let x: [f32; 32] = values(&[
        (0, -1.0),
        (16, 14.0),
        (1, 0.5), // half way: up
        (17, 0.49),
        (2, 6.0),
        (18, 13.4),
    ]);
    let mut block = [0x11; 20];
    block[..2].copy_from_slice(&ONE);
    block[2..4].copy_from_slice(&MINUS_ONE);
    block[4..7].copy_from_slice(&[0xf0, 0x12, 0xe7]);
    assert_eq!(encode(&Q4_1, &x), block);
    let y: [f32; 32] = values(&[(0, -1.0), (16, 14.0), (1, 1.0), (2, 6.0), (18, 13.0)]);
    assert_eq!(decode(&Q4_1, &block), y);
}

#[test]
fn q4_1_keeps_a_constant_block() {
    let bytes = encode(&Q4_1, &[0.75; 32]);
    assert_eq!(bytes[..2], [0, 0], "no scale");
    assert_eq!(decode(&Q4_1, &bytes), [0.75; 32]);
}

#[test]
fn q8_0_block() {
    // The largest magnitude, 127, sets the scale to 1; ties round away from zero.
    let x: [f32; 32] = values(&[
        (0, 127.0),
        (1, -63.5),
        (2, 0.5),
        (3, 0.499_999_97),
        (4, -0.5),
        (5, -126.7),
        (31, -1.4),
    ]);
    let mut block = [0; 34];
    block[..2].copy_from_slice(&ONE);
    block[2..8].copy_from_slice(&[127, 0xc0, 1, 0, 0xff, 0x81]);
    block[33] = 0xff;
    assert_eq!(encode(&Q8_0, &x), block);
    let y: [f32; 32] =
        values(&[(0, 127.0), (1, -64.0), (2, 1.0), (4, -1.0), (5, -127.0), (31, -1.0)]);
    assert_eq!(decode(&Q8_0, &block), y);
}

#[test]
fn q8_0_reads_the_code_that_encoding_never_writes() {
    let mut block = [0; 34];
    block[..2].copy_from_slice(&ONE);
    block[2] = 0x80;
    assert_eq!(decode(&Q8_0, &block)[0], -128.0);
}

#[test]
fn minima_move_alone() {
    use lowtide_quant::BlockFormat;
    use lowtide_quant::formats::{Q4_K, Q5_1};
    let x: [f32; 64] = core::array::from_fn(|i| (i as f32 * 0.37).sin());
    for format in [&Q4_1 as &dyn BlockFormat, &Q5_1] {
        let bytes = encode(format, &x);
        let mut moved = bytes.clone();
        assert!(format.has_own_minima());
        format.shift_minima(&mut moved, &[0.5, -2.0]);
        for (block, shift) in [(0, 0.5), (1, -2.0)] {
            let of = |bytes: &[u8]| {
                bytes[block * format.block_bytes()..][..format.block_bytes()].to_vec()
            };
            let (old, new) = (of(&bytes), of(&moved));
            assert_eq!((&old[..2], &old[4..]), (&new[..2], &new[4..]));
            for (a, b) in decode(format, &old).into_iter().zip(decode(format, &new)) {
                assert!((a + shift - b).abs() <= 1e-3, "{a} and {shift} became {b}");
            }
        }
    }
    // Elsewhere there is none, or it is a part of another number.
    for format in [&Q8_0 as &dyn BlockFormat, &Q4_0, &Q4_K, &F32] {
        assert!(!format.has_own_minima(), "{}", format.name());
    }
}
