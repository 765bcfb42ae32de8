//! Packed matrices made for a case.

use lowtide_quant::{BlockFormat, QMat};

use crate::draw::Draw;

/// The bytes of a matrix `[rows, cols]`.
pub(super) struct Packed {
    format: &'static dyn BlockFormat,
    rows: usize,
    cols: usize,
    bytes: Vec<u8>,
}

impl Packed {
    /// Packs values, uniform in `±bound`.
    pub(super) fn new(
        format: &'static dyn BlockFormat,
        rows: usize,
        cols: usize,
        seed: u64,
        bound: f32,
    ) -> Self {
        Self::from_values(format, rows, cols, &Draw::new(seed).vec(rows * cols, bound))
    }

    pub(super) fn from_values(
        format: &'static dyn BlockFormat,
        rows: usize,
        cols: usize,
        values: &[f32],
    ) -> Self {
        let row = format.row_bytes(cols).expect("rows of whole blocks");
        let mut bytes = vec![0; rows * row];
        format.encode(values, &mut bytes);
        Self { format, rows, cols, bytes }
    }

    pub(super) fn view(&self) -> QMat<'_> {
        QMat::new(self.format, self.rows, self.cols, &self.bytes)
            .expect("the bytes were made for it")
    }
}
