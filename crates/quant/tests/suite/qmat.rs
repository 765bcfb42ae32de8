//! The packed matrix view.

use crate::{decode, encode};
use lowtide_quant::formats::{F16, F32, INT8, NF4, Q4_0, Q8_0};
use lowtide_quant::{BlockFormat, Nested, QMat, QMatError, Scales};
use proptest::prelude::*;

/// A Q8_0 matrix [5, 64] with a different value in each place.
fn bytes_5_64() -> Vec<u8> {
    let x: Vec<f32> = (0..5 * 64).map(|i| i as f32 - 99.0).collect();
    encode(&Q8_0, &x)
}

#[test]
fn shape_and_rows() {
    let bytes = bytes_5_64();
    let q = QMat::new(&Q8_0, 5, 64, &bytes).unwrap();
    assert_eq!((q.rows(), q.cols(), q.row_bytes(), q.size_bytes()), (5, 64, 68, 340));
    assert_eq!((q.format().name(), q.bytes()), ("Q8_0", &bytes[..]));
    assert_eq!(q.row(3), &bytes[3 * 68..4 * 68]);
    assert_eq!(format!("{q:?}"), "QMat(Q8_0 [5, 64])");
}

#[test]
fn decoding_rows_is_decoding_their_bytes() {
    let bytes = bytes_5_64();
    let q = QMat::new(&Q8_0, 5, 64, &bytes).unwrap();
    let dense = decode(&Q8_0, &bytes);
    let mut row = [0.0; 64];
    for i in 0..5 {
        q.decode_row(i, &mut row);
        assert_eq!(row, dense[i * 64..(i + 1) * 64]);
    }
    let mut tile = [0.0; 3 * 64];
    q.decode_rows(1..4, &mut tile);
    assert_eq!(tile, dense[64..4 * 64]);
    q.decode_rows(5..5, &mut []);
}

#[test]
fn slices_share_bytes() {
    let bytes = bytes_5_64();
    let q = QMat::new(&Q8_0, 5, 64, &bytes).unwrap();
    let part = q.slice_rows(2..5);
    assert_eq!((part.rows(), part.cols(), part.size_bytes()), (3, 64, 204));
    assert_eq!(part.row(0), q.row(2));
    assert_eq!(part.slice_rows(1..2).row(0), q.row(3));
    assert!(q.slice_rows(4..4).bytes().is_empty());
}

#[test]
fn bytes_need_no_alignment() {
    for offset in 0..4 {
        let mut file = vec![0xaa; offset];
        file.extend(encode(&F32, &[1.5, -2.5]));
        let q = QMat::new(&F32, 2, 1, &file[offset..]).unwrap();
        let mut out = [0.0; 2];
        q.decode_rows(0..2, &mut out);
        assert_eq!(out, [1.5, -2.5], "offset {offset}");
    }
}

#[test]
fn an_empty_matrix_has_no_bytes() {
    assert_eq!(QMat::new(&Q4_0, 0, 32, &[]).unwrap().size_bytes(), 0);
    let q = QMat::new(&Q4_0, 7, 0, &[]).unwrap();
    assert!(q.row(6).is_empty());
    q.decode_rows(0..7, &mut []);
}

#[test]
fn wrong_shapes_are_errors() {
    assert_eq!(
        QMat::new(&Q8_0, 1, 33, &[0; 34]).unwrap_err(),
        QMatError::PartialBlock { format: "Q8_0", cols: 33, block_len: 32 }
    );
    for got in [0, 339, 341] {
        assert_eq!(
            QMat::new(&Q8_0, 5, 64, &vec![0; got]).unwrap_err(),
            QMatError::Length { format: "Q8_0", rows: 5, cols: 64, expected: 340, got }
        );
    }
    for (rows, cols) in [(usize::MAX, 2), (2, usize::MAX - 1), (usize::MAX / 2, usize::MAX / 2)] {
        assert_eq!(
            QMat::new(&F16, rows, cols, &[]).unwrap_err(),
            QMatError::TooLarge { format: "F16", rows, cols }
        );
    }
    let error = QMat::new(&Q8_0, 5, 64, &[]).unwrap_err();
    assert_eq!(error.to_string(), "a Q8_0 matrix [5, 64] takes 340 bytes, not 0");
}

#[test]
#[should_panic(expected = "row 5 of a matrix of 5 rows")]
fn no_row_past_the_last() {
    let bytes = bytes_5_64();
    QMat::new(&Q8_0, 5, 64, &bytes).unwrap().row(5);
}

#[test]
#[should_panic(expected = "rows 3..6 of a matrix of 5 rows")]
fn no_slice_past_the_last_row() {
    let bytes = bytes_5_64();
    QMat::new(&Q8_0, 5, 64, &bytes).unwrap().slice_rows(3..6);
}

#[test]
#[should_panic(expected = "128 values for 3 rows of 64")]
fn a_tile_has_its_size() {
    let bytes = bytes_5_64();
    QMat::new(&Q8_0, 5, 64, &bytes).unwrap().decode_rows(0..3, &mut [0.0; 128]);
}

/// A format as a stranger would write it: two values, one of them stored.
#[derive(Debug)]
struct Mirrored;

impl BlockFormat for Mirrored {
    fn name(&self) -> &'static str {
        "MIRRORED"
    }

    fn block_len(&self) -> usize {
        2
    }

    fn block_bytes(&self) -> usize {
        1
    }

    fn decode(&self, bytes: &[u8], out: &mut [f32]) {
        for (b, y) in bytes.iter().zip(out.as_chunks_mut().0) {
            *y = [f32::from(*b), -f32::from(*b)];
        }
    }

    fn encode(&self, x: &[f32], out: &mut [u8]) {
        for ([x, _], b) in x.as_chunks().0.iter().zip(out) {
            *b = *x as u8;
        }
    }
}

#[test]
fn formats_from_elsewhere_are_as_good() {
    let bytes = encode(&Mirrored, &[1.0, -1.0, 2.0, -2.0, 3.0, -3.0, 4.0, -4.0]);
    let q = QMat::new(&Mirrored, 2, 4, &bytes).unwrap();
    let mut row = [0.0; 4];
    q.decode_row(1, &mut row);
    assert_eq!(row, [3.0, -3.0, 4.0, -4.0]);
    assert_eq!(q.format().ggml_type(), None);
}

#[test]
fn columns_are_parts_of_rows() {
    let bytes = bytes_5_64();
    let q = QMat::new(&Q8_0, 5, 64, &bytes).unwrap();
    let dense = decode(&Q8_0, &bytes);
    let mut part = [0.0; 32];
    q.decode_columns(3, 32..64, &mut part);
    assert_eq!(part, dense[3 * 64 + 32..4 * 64]);
    q.decode_columns(3, 32..32, &mut []);
}

#[test]
#[should_panic(expected = "columns 16..48 are not whole blocks of 32")]
fn columns_are_whole_blocks() {
    let bytes = bytes_5_64();
    QMat::new(&Q8_0, 5, 64, &bytes).unwrap().decode_columns(0, 16..48, &mut [0.0; 32]);
}

/// A matrix [5, 128] of INT8 codes, scales for its rows, and its values.
fn int8_apart() -> (Vec<u8>, Vec<[u8; 4]>, Vec<f32>) {
    let codes: Vec<u8> = (0..5 * 128).map(|i| (i * 37 % 256) as u8).collect();
    let scales: Vec<f32> = (1..6).map(|row| 0.3 * row as f32).collect();
    let values = codes
        .iter()
        .enumerate()
        .map(|(i, code)| f32::from(code.cast_signed()) * scales[i / 128] * (1.0 / 127.0));
    let values = values.collect();
    (codes, scales.iter().map(|scale| scale.to_le_bytes()).collect(), values)
}

#[test]
fn scales_apart_belong_to_their_rows_in_every_view() {
    let (codes, scales, dense) = int8_apart();
    let q = QMat::apart(&INT8, 5, 128, &codes, Scales::Rows(&scales)).unwrap();
    assert_eq!((q.row_bytes(), q.size_bytes()), (128, 5 * 128 + 5 * 4));
    assert_eq!(format!("{q:?}"), "QMat(INT8 [5, 128])");
    let mut all = vec![0.0; 5 * 128];
    q.decode_rows(0..5, &mut all);
    assert_eq!(all, dense);
    let tail = q.slice_rows(1..5).slice_rows(2..4);
    let mut row = [0.0; 128];
    tail.decode_row(1, &mut row);
    assert_eq!(row, dense[4 * 128..]);
    tail.decode_rows(0..2, &mut all[..256]);
    assert_eq!(all[..256], dense[3 * 128..]);
    let mut part = [0.0; 64];
    tail.decode_columns(0, 64..128, &mut part);
    assert_eq!(part, dense[3 * 128 + 64..4 * 128]);
}

#[test]
fn scales_apart_belong_to_their_blocks_even_of_long_rows() {
    // 40 blocks in a row: more than are unpacked at once. Two magnitudes of nested scales.
    let (rows, cols) = (8, 40 * 64);
    let blocks = rows * 40;
    let codes: Vec<u8> = (0..rows * cols / 2).map(|i| (i * 31 % 256) as u8).collect();
    let nested: Vec<u8> = (0..blocks).map(|i| (i * 7 % 256) as u8).collect();
    let levels: [[u8; 4]; 256] = core::array::from_fn(|i| (i as f32 / 255.0).to_le_bytes());
    let magnitudes = [2.0f32, 3.0].map(f32::to_le_bytes);
    let scales = nested.iter().enumerate().map(|(block, code)| {
        let magnitude = if block < 256 { 2.0 } else { 3.0 };
        f32::from(*code) / 255.0 * magnitude + 0.25
    });
    let whole: Vec<u8> = scales
        .zip(codes.chunks(32))
        .flat_map(|(scale, codes)| [&scale.to_le_bytes(), codes].concat())
        .collect();
    let dense = decode(&NF4, &whole);
    let scales = Nested { codes: &nested, levels: &levels, magnitudes: &magnitudes, offset: 0.25 };
    let q = QMat::apart(&NF4, rows, cols, &codes, Scales::Nested(scales)).unwrap();
    let mut out = vec![0.0; rows * cols];
    q.decode_rows(0..rows, &mut out);
    assert_eq!(out, dense);
    q.slice_rows(5..8).decode_row(2, &mut out[..cols]);
    assert_eq!(out[..cols], dense[7 * cols..]);
}

#[test]
fn scales_apart_have_the_number_that_the_shape_takes() {
    let (codes, scales, _) = int8_apart();
    let error = |rows, cols, scales| QMat::apart(&INT8, rows, cols, &codes, scales).unwrap_err();
    assert_eq!(
        error(5, 128, Scales::Rows(&scales[1..])),
        QMatError::Scales { format: "INT8", rows: 5, cols: 128, expected: 5, got: 4 }
    );
    assert_eq!(
        error(5, 128, Scales::Blocks(&scales)),
        QMatError::Scales { format: "INT8", rows: 5, cols: 128, expected: 20, got: 5 }
    );
    assert_eq!(
        error(5, 96, Scales::Rows(&scales)),
        QMatError::Length { format: "INT8", rows: 5, cols: 96, expected: 480, got: 640 }
    );
    let levels = [[0; 4]; 256];
    let nested = Nested { codes: &[0; 20], levels: &levels, magnitudes: &[], offset: 0.0 };
    let error = error(5, 128, Scales::Nested(nested));
    assert_eq!(error, QMatError::Nested { codes: 20, magnitudes: 0 });
}

#[test]
#[should_panic(expected = "INT8: 160 bytes are not whole blocks of 36 bytes")]
fn codes_without_scales_are_no_blocks() {
    let (codes, scales, _) = int8_apart();
    let q = QMat::apart(&INT8, 4, 160, &codes, Scales::Rows(&scales[..4])).unwrap();
    q.format().decode(q.row(0), &mut [0.0; 160]);
}

proptest! {
    #[test]
    fn any_shape_is_a_view_or_an_error(rows: usize, cols: usize, len in 0usize..100) {
        let bytes = vec![0; len];
        for format in lowtide_quant::formats::ALL {
            if let Ok(q) = QMat::new(*format, rows, cols, &bytes) {
                prop_assert_eq!(q.row_bytes() * q.rows(), len);
            }
        }
    }
}
