//! Operands for the suites.

use lowtide_quant::{BlockFormat, QMat};

/// Numbers in ±1 without a pattern that a processor could use: the fractional parts of multiples of
/// the golden ratio.
pub(crate) fn numbers(len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i as f64 * 0.618_033_988_749_895).fract() * 2.0 - 1.0) as f32).collect()
}

/// A packed matrix `[rows, cols]` and its bytes.
pub(crate) struct Packed {
    format: &'static dyn BlockFormat,
    rows: usize,
    cols: usize,
    bytes: Vec<u8>,
}

impl Packed {
    pub(crate) fn new(format: &'static dyn BlockFormat, rows: usize, cols: usize) -> Self {
        let row_bytes = format.row_bytes(cols).expect("rows of whole blocks");
        let mut bytes = vec![0; rows * row_bytes];
        let row = numbers(cols);
        for bytes in bytes.chunks_exact_mut(row_bytes) {
            format.encode(&row, bytes);
        }
        Self { format, rows, cols, bytes }
    }

    pub(crate) fn view(&self) -> QMat<'_> {
        QMat::new(self.format, self.rows, self.cols, &self.bytes)
            .expect("the bytes were made for it")
    }
}
