//! The 8-bit dynamic maps against bitsandbytes, and what holds for every block.

use lowtide_quant::dynamic8::{BLOCK, Map, SIGNED, UNSIGNED, blocks, decode_block, encode_block};
use lowtide_testkit::golden;
use proptest::collection::vec;
use proptest::num::f32::{ANY, NEGATIVE, NORMAL, POSITIVE, SUBNORMAL, ZERO};
use proptest::prelude::*;

static MAPS: [(&str, &Map); 2] = [("signed", &SIGNED), ("unsigned", &UNSIGNED)];

#[test]
fn maps_are_those_of_bitsandbytes_to_the_bit() {
    let file = golden::load_safetensors(&golden::golden_dir().join("bnb/bnb.safetensors"));
    for (name, map) in MAPS {
        assert_eq!(&file[&format!("dynamic_{name}")].data[..], map.levels, "{name}");
        assert!(map.levels.is_sorted(), "{name}");
    }
    let (signed, unsigned) = (SIGNED.levels, UNSIGNED.levels);
    assert_eq!([signed[127], signed[255], unsigned[0], unsigned[255]], [0.0, 1.0, 0.0, 1.0]);
}

#[test]
fn codes_and_values_are_those_of_nearest_rounding() {
    let path = golden::golden_dir().join("bnb/bnb.safetensors");
    let file = golden::load_safetensors(&path);
    for (name, map) in MAPS {
        let x = &file[&format!("q8_{name}_in")].data;
        let codes = golden::load_raw(&path, &format!("q8_{name}_codes_nearest"));
        let absmax = &file[&format!("q8_{name}_absmax")].data;
        let decoded = &file[&format!("q8_{name}_dequant_nearest")].data;
        assert_eq!(absmax.len(), blocks(x.len()));
        for (i, x) in x.chunks(BLOCK).enumerate() {
            let at = i * BLOCK..i * BLOCK + x.len();
            let mut got = vec![0; x.len()];
            assert_eq!(encode_block(x, map, &mut got), absmax[i], "{name} block {i}");
            assert_eq!(got, codes[at.clone()], "{name} block {i}");
            let mut y = vec![0.0; x.len()];
            decode_block(&got, absmax[i], map, &mut y);
            assert_eq!(y, decoded[at], "{name} block {i}");
        }
    }
}

#[test]
fn blocks_round_up() {
    assert_eq!([0, 1, 256, 257, 1000].map(blocks), [0, 1, 1, 2, 4]);
}

#[test]
fn every_level_has_its_own_code() {
    for (name, map) in MAPS {
        let mut codes = [0; 256];
        assert_eq!(encode_block(&map.levels, map, &mut codes), 1.0);
        assert_eq!(codes, core::array::from_fn(|i| i as u8), "{name}");
    }
}

#[test]
fn a_midpoint_gets_the_lower_code() {
    for (name, map) in MAPS {
        for i in 0..255usize {
            let midpoint = (map.levels[i] + map.levels[i + 1]) / 2.0;
            let mut codes = [0; 3];
            encode_block(&[1.0, midpoint, midpoint.next_up()], map, &mut codes);
            assert_eq!(codes, [255, i as u8, i as u8 + 1], "{name}");
        }
    }
}

/// The upper halves of all floats up to one, with lower halves that are least, most and in between.
#[test]
fn the_code_is_the_number_of_midpoints_below() {
    for (name, map) in MAPS {
        let midpoints: Vec<f32> = map.levels.windows(2).map(|l| (l[0] + l[1]) / 2.0).collect();
        let halves = (0..=1.0_f32.to_bits() >> 16).flat_map(|half| {
            [0, 1, 0x1234, 0x8000, 0xffff].map(|low| f32::from_bits(half << 16 | low).min(1.0))
        });
        for v in halves.flat_map(|v| [v, -v]) {
            let below = midpoints.partition_point(|midpoint| *midpoint < v);
            let mut codes = [0; 2];
            encode_block(&[1.0, v], map, &mut codes);
            assert_eq!(usize::from(codes[1]), below, "{name} {v:e}");
        }
    }
}

#[test]
fn zeros_are_exact() {
    for (_, map) in MAPS {
        let mut codes = [7; 5];
        let absmax = encode_block(&[0.0, -0.0, 0.0, 0.0, 0.0], map, &mut codes);
        assert_eq!((absmax.to_bits(), codes), (0, [0; 5]));
        let mut y = [f32::NAN; 5];
        decode_block(&codes, absmax, map, &mut y);
        assert_eq!(y.map(f32::to_bits), [0; 5]);
    }
}

#[test]
fn an_empty_block_is_a_block() {
    assert_eq!(encode_block(&[], &SIGNED, &mut []), 0.0);
    decode_block(&[], 1.0, &SIGNED, &mut []);
}

#[test]
#[should_panic(expected = "3 values for 2 codes")]
fn encode_refuses_unequal_lengths() {
    encode_block(&[0.0; 3], &SIGNED, &mut [0; 2]);
}

#[test]
#[should_panic(expected = "3 codes for 2 values")]
fn decode_refuses_unequal_lengths() {
    decode_block(&[0; 3], 1.0, &SIGNED, &mut [0.0; 2]);
}

/// A block of finite values, not all of them zero.
fn finite_block() -> impl Strategy<Value = Vec<f32>> {
    let close = (-20..20i32, vec(-1.0f32..1.0, 1..=BLOCK)).prop_map(|(exponent, mut x)| {
        x.push(1.0);
        x.iter().map(|x| x * f32::powi(2.0, exponent)).collect()
    });
    let spread = vec(NORMAL | SUBNORMAL | ZERO | POSITIVE | NEGATIVE, 1..=BLOCK);
    prop_oneof![close, spread.prop_filter("zeros", |x: &Vec<f32>| x.iter().any(|x| *x != 0.0))]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_code_is_the_nearest(x in finite_block()) {
        for (name, map) in MAPS {
            let x: Vec<f32> =
                if name == "signed" { x.clone() } else { x.iter().map(|x| x.abs()).collect() };
            let mut codes = vec![0; x.len()];
            let absmax = encode_block(&x, map, &mut codes);
            prop_assert_eq!(absmax, x.iter().fold(0.0f32, |max, x| max.max(x.abs())));
            for (x, code) in x.iter().zip(codes) {
                let v = f64::from(*x / absmax);
                let distance = |level: &f32| (v - f64::from(*level)).abs();
                let nearest = map.levels.iter().map(distance).fold(f64::INFINITY, f64::min);
                // Midpoints are rounded to f32, which can favour a level farther by an ulp.
                let slack = f64::from(f32::EPSILON) * v.abs();
                let taken = distance(&map.levels[usize::from(code)]);
                prop_assert!(taken <= nearest + slack, "{} {}", name, x);
            }
        }
    }

    #[test]
    fn encoding_takes_anything_and_hides_no_damage(x in vec(ANY, 1..=BLOCK)) {
        for (name, map) in MAPS {
            let mut codes = vec![0; x.len()];
            let absmax = encode_block(&x, map, &mut codes);
            prop_assert_eq!(absmax.is_finite(), x.iter().all(|x| x.is_finite()), "{}", name);
            let mut y = vec![0.0; x.len()];
            decode_block(&codes, absmax, map, &mut y);
            if !absmax.is_finite() {
                prop_assert!(y.iter().all(|y| !y.is_finite()), "{}", name);
            }
        }
    }
}
