//! What other packages packed and unpacked: gguf, and bitsandbytes.

use crate::{decode, encode};
use lowtide_quant::formats::{INT8, NF4, by_name};
use lowtide_quant::{BlockFormat, Codes, Nested, QMat, Scales};
use lowtide_testkit::golden;

#[test]
fn bytes_and_values_are_those_of_the_gguf_package() {
    let path = golden::golden_dir().join("quant/blocks.safetensors");
    let file = golden::load_safetensors(&path);
    for name in ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"] {
        let format = by_name(name).unwrap();
        let bytes = golden::load_raw(&path, &format!("{name}.bytes"));
        assert_eq!(encode(format, &file["rows"].data), bytes, "{name}");
        let decoded = &file[&format!("{name}.decoded")].data;
        assert_eq!(&decode(format, &bytes), decoded, "{name}");
    }
}

#[test]
fn blocks_that_the_gguf_package_only_reads_decode_to_its_values() {
    let path = golden::golden_dir().join("quant/blocks.safetensors");
    let file = golden::load_safetensors(&path);
    for name in ["Q4_K", "Q5_K", "Q6_K", "IQ4_NL"] {
        let format = by_name(name).unwrap();
        let bytes = golden::load_raw(&path, &format!("{name}.bytes"));
        assert_eq!(bytes.len(), 4 * format.block_bytes());
        let expected = file[&format!("{name}.decoded")].data.iter().map(|x| x.to_bits());
        assert!(decode(format, &bytes).iter().map(|x| x.to_bits()).eq(expected), "{name}");
    }
}

/// How many of the values that bitsandbytes unpacked are what the codes mean: see the README there.
const SOUND: usize = 128;

/// Codes, magnitudes and values of a matrix that bitsandbytes packed.
struct Bnb {
    x: Vec<f32>,
    codes: Vec<u8>,
    magnitudes: Vec<u8>,
    decoded: Vec<f32>,
}

fn bnb_nf4() -> Bnb {
    let path = golden::golden_dir().join("bnb/bnb.safetensors");
    let mut file = golden::load_safetensors(&path);
    Bnb {
        x: file.remove("nf4_in").unwrap().data,
        codes: golden::load_raw(&path, "nf4_packed"),
        magnitudes: golden::load_raw(&path, "nf4_absmax"),
        decoded: file.remove("nf4_dequant").unwrap().data,
    }
}

#[test]
fn nf4_levels_are_those_of_bitsandbytes_to_the_bit() {
    let file = golden::load_safetensors(&golden::golden_dir().join("bnb/bnb.safetensors"));
    assert_eq!(file["nf4_code"].data, NF4::LEVELS);
}

#[test]
fn nf4_codes_and_values_are_those_of_bitsandbytes() {
    let Bnb { x, codes, magnitudes, decoded } = bnb_nf4();
    let bytes = encode(&NF4, &x);
    let parts = codes.chunks(32).zip(magnitudes.chunks(4));
    let expected: Vec<u8> = parts.flat_map(|(codes, a)| [a, codes].concat()).collect();
    assert_eq!(bytes, expected);
    let values = decode(&NF4, &bytes);
    assert_eq!(values[..SOUND], decoded[..SOUND]);
    let scales = Scales::Blocks(magnitudes.as_chunks().0);
    let apart = QMat::apart(&NF4, 2, 320, &codes, scales).unwrap();
    let mut joined = vec![f32::NAN; 640];
    apart.decode_rows(0..2, &mut joined);
    assert_eq!(joined, values);
}

#[test]
fn doubly_quantized_nf4_gives_the_values_of_bitsandbytes() {
    let path = golden::golden_dir().join("bnb/bnb.safetensors");
    let file = golden::load_safetensors(&path);
    let (codes, nested) =
        (golden::load_raw(&path, "nf4_packed"), golden::load_raw(&path, "nf4_dq_absmax_codes"));
    let levels = golden::load_raw(&path, "dynamic_signed");
    let magnitudes = golden::load_raw(&path, "nf4_dq_absmax2");
    let scales = Scales::Nested(Nested {
        codes: &nested,
        levels: levels.as_chunks().0.try_into().unwrap(),
        magnitudes: magnitudes.as_chunks().0,
        offset: file["nf4_dq_offset"].data[0],
    });
    let apart = QMat::apart(&NF4, 10, 64, &codes, scales).unwrap();
    let mut values = vec![f32::NAN; 640];
    apart.decode_rows(0..10, &mut values);
    assert_eq!(values[..SOUND], file["nf4_dq_dequant"].data[..SOUND]);
    let plain = bnb_nf4().decoded;
    for (x, y) in values[..SOUND].iter().zip(&plain) {
        assert!((x - y).abs() <= 2e-3 * y.abs(), "{y} became {x}");
    }
}

#[test]
fn int8_is_its_formula() {
    let codes: Vec<u8> = (0..=255).collect();
    let scale = 0.731_f32;
    let mut values = vec![f32::NAN; 256];
    INT8.decode_codes(&codes, &[scale; 8], &mut values);
    for (code, value) in codes.iter().zip(&values) {
        let exact = f64::from(code.cast_signed()) * f64::from(scale) / 127.0;
        assert!((f64::from(*value) - exact).abs() <= exact.abs() * 2e-7, "{code}: {value}");
    }
    let x: Vec<f32> = values.iter().map(|x| x * 0.9).collect();
    let bytes = encode(&INT8, &x);
    assert_eq!(bytes.len(), 8 * INT8.block_bytes());
    let largest = x[128].abs();
    for (x, y) in x.iter().zip(decode(&INT8, &bytes)) {
        assert!((x - y).abs() <= largest / 253.9, "{x} became {y}");
    }
}
