//! What operations are given.

use lowtide_backend::{Backend, OpShape};
use lowtide_quant::{BlockFormat, QMat};

/// Numbers in ±1 without a pattern that a processor could use: the fractional parts of multiples of
/// the golden ratio.
pub(crate) fn numbers(len: usize) -> Vec<f32> {
    numbers_from(0, len)
}

/// The same from number `first` on.
fn numbers_from(first: usize, len: usize) -> Vec<f32> {
    let number = |i: usize| (i as f64 * 0.618_033_988_749_895).fract() * 2.0 - 1.0;
    (first..first + len).map(|i| number(i) as f32).collect()
}

/// Scratch that grows to what any backend asks for.
#[derive(Default)]
pub(super) struct Scratch(Vec<f32>);

impl Scratch {
    pub(super) fn lend(&mut self, backend: &dyn Backend, op: OpShape) -> &mut [f32] {
        let need = backend.req(op).scratch;
        if self.0.len() < need {
            self.0.resize(need, 0.0);
        }
        &mut self.0[..need]
    }
}

/// Rows that are encoded; further ones repeat them.
const DISTINCT: usize = 61;

/// A packed matrix `[rows, cols]`, perhaps several times, so that calls in a row read memory and no
/// cache.
#[derive(Debug)]
pub(crate) struct Packed {
    format: &'static dyn BlockFormat,
    rows: usize,
    cols: usize,
    bytes: Vec<u8>,
    next: usize,
}

impl Packed {
    /// Numbers in ±`scale`.
    pub(crate) fn new(
        format: &'static dyn BlockFormat,
        rows: usize,
        cols: usize,
        scale: f32,
    ) -> Self {
        let row_bytes = format.row_bytes(cols).expect("rows of whole blocks");
        let mut bytes = vec![0; rows * row_bytes];
        let pattern = rows.min(DISTINCT) * row_bytes;
        for (index, row) in bytes[..pattern].chunks_exact_mut(row_bytes).enumerate() {
            let mut values = numbers_from(index * cols, cols);
            values.iter_mut().for_each(|value| *value *= scale);
            format.encode(&values, row);
        }
        let (pattern, rest) = bytes.split_at_mut(pattern);
        for chunk in rest.chunks_mut(pattern.len()) {
            chunk.copy_from_slice(&pattern[..chunk.len()]);
        }
        Self { format, rows, cols, bytes, next: 0 }
    }

    /// Zeros: memory that the system gives when it is read.
    pub(crate) fn blank(format: &'static dyn BlockFormat, rows: usize, cols: usize) -> Self {
        Self { format, rows, cols, bytes: vec![0; Self::size(format, rows, cols)], next: 0 }
    }

    /// Bytes of `rows` rows of `cols` numbers.
    pub(super) fn size(format: &dyn BlockFormat, rows: usize, cols: usize) -> usize {
        rows * format.row_bytes(cols).expect("rows of whole blocks")
    }

    /// As many copies as have at least `bytes` together.
    pub(super) fn copied(mut self, bytes: usize) -> Self {
        let copies = bytes.div_ceil(self.bytes.len()).max(1);
        self.bytes = self.bytes.repeat(copies);
        self
    }

    pub(crate) fn view(&self) -> QMat<'_> {
        self.copy(0)
    }

    /// The next copy, after the last the first.
    pub(super) fn next(&mut self) -> QMat<'_> {
        let size = Self::size(self.format, self.rows, self.cols);
        let copy = self.next;
        self.next = (copy + 1) % (self.bytes.len() / size);
        self.copy(copy)
    }

    fn copy(&self, copy: usize) -> QMat<'_> {
        let size = Self::size(self.format, self.rows, self.cols);
        QMat::new(self.format, self.rows, self.cols, &self.bytes[copy * size..][..size])
            .expect("the bytes were made for it")
    }
}

#[cfg(test)]
mod tests {
    use lowtide_quant::formats::Q8_0;

    use super::*;

    #[test]
    fn rows_differ_and_copies_come_in_turns() {
        let mut packed = Packed::new(&Q8_0, 70, 32, 0.5).copied(3 * 70 * 34 - 1);
        let bytes = packed.view().bytes().to_vec();
        assert_ne!(bytes[..34], bytes[34..68]);
        assert_eq!(bytes[..34], bytes[61 * 34..62 * 34]);
        let places: Vec<_> = (0..4).map(|_| packed.next().bytes().as_ptr() as usize).collect();
        assert_eq!([places[1] - places[0], places[2] - places[1]], [bytes.len(); 2]);
        assert_eq!(places[3], places[0]);
        let mut row = [0.0; 32];
        packed.view().decode_row(3, &mut row);
        assert!(row.iter().all(|value| value.abs() <= 0.51), "{row:?}");
    }
}
