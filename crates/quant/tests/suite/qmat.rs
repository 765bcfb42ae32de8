//! The packed matrix view.

use crate::{decode, encode};
use lowtide_quant::formats::{F16, F32, Q4_0, Q8_0};
use lowtide_quant::{BlockFormat, QMat, QMatError};
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
