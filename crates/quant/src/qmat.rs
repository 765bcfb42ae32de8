//! The view of a packed matrix.

use crate::BlockFormat;
use core::{fmt, ops::Range};

/// A packed row-major matrix `[rows, cols]`, borrowed: how every frozen weight is seen.
///
/// Each row is a whole number of blocks; rows follow each other without gaps. The bytes need no
/// alignment, so they can lie anywhere in a mapped file.
#[derive(Clone, Copy)]
pub struct QMat<'a> {
    format: &'static dyn BlockFormat,
    rows: usize,
    cols: usize,
    row_bytes: usize,
    bytes: &'a [u8],
}

/// Why bytes are not a packed matrix of the shape asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QMatError {
    /// A row does not end with a block.
    #[error("a row of {cols} values is not a whole number of {format} blocks of {block_len}")]
    PartialBlock {
        /// The format's name.
        format: &'static str,
        /// Values in a row.
        cols: usize,
        /// Values in a block.
        block_len: usize,
    },
    /// The matrix has more bytes than can be addressed.
    #[error("a {format} matrix [{rows}, {cols}] is too large to address")]
    TooLarge {
        /// The format's name.
        format: &'static str,
        /// Rows asked for.
        rows: usize,
        /// Values in a row.
        cols: usize,
    },
    /// The bytes are too few or too many for the shape.
    #[error("a {format} matrix [{rows}, {cols}] takes {expected} bytes, not {got}")]
    Length {
        /// The format's name.
        format: &'static str,
        /// Rows asked for.
        rows: usize,
        /// Values in a row.
        cols: usize,
        /// Bytes such a matrix takes.
        expected: usize,
        /// Bytes given.
        got: usize,
    },
}

impl<'a> QMat<'a> {
    /// Views `bytes` as a matrix `[rows, cols]` in `format`.
    ///
    /// # Errors
    /// [`QMatError`] if a row is not whole blocks or `bytes` has not exactly the length that the
    /// shape takes.
    pub fn new(
        format: &'static dyn BlockFormat,
        rows: usize,
        cols: usize,
        bytes: &'a [u8],
    ) -> Result<Self, QMatError> {
        let (name, block_len) = (format.name(), format.block_len());
        if !cols.is_multiple_of(block_len) {
            return Err(QMatError::PartialBlock { format: name, cols, block_len });
        }
        let too_large = QMatError::TooLarge { format: name, rows, cols };
        let row_bytes = format.row_bytes(cols).ok_or(too_large)?;
        let expected = row_bytes.checked_mul(rows).ok_or(too_large)?;
        if bytes.len() != expected {
            let got = bytes.len();
            return Err(QMatError::Length { format: name, rows, cols, expected, got });
        }
        Ok(Self { format, rows, cols, row_bytes, bytes })
    }

    /// Rows: the outputs of a linear layer.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Values in a row: the inputs of a linear layer.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The format of every row.
    pub fn format(&self) -> &'static dyn BlockFormat {
        self.format
    }

    /// Bytes in a row.
    pub fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// The packed bytes, row after row.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Bytes in the whole matrix.
    pub fn size_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The packed bytes of row `i`.
    ///
    /// # Panics
    /// If there is no row `i`.
    pub fn row(&self, i: usize) -> &'a [u8] {
        assert!(i < self.rows, "row {i} of a matrix of {} rows", self.rows);
        &self.bytes[i * self.row_bytes..][..self.row_bytes]
    }

    /// The matrix of some consecutive rows, sharing the bytes.
    ///
    /// # Panics
    /// If the range is reversed or reaches past the last row.
    pub fn slice_rows(&self, range: Range<usize>) -> Self {
        let Range { start, end } = range;
        assert!(
            start <= end && end <= self.rows,
            "rows {start}..{end} of a matrix of {} rows",
            self.rows
        );
        let bytes = &self.bytes[start * self.row_bytes..end * self.row_bytes];
        Self { rows: end - start, bytes, ..*self }
    }

    /// Unpacks row `i` into `out` `[cols]`.
    ///
    /// # Panics
    /// If there is no row `i` or `out` has not `cols` values.
    pub fn decode_row(&self, i: usize, out: &mut [f32]) {
        let row = self.row(i);
        assert!(out.len() == self.cols, "{} values for a row of {}", out.len(), self.cols);
        self.format.decode(row, out);
    }

    /// Unpacks some consecutive rows into `out` `[range.len(), cols]`.
    ///
    /// # Panics
    /// If the range is reversed or reaches past the last row, or `out` has another size.
    pub fn decode_rows(&self, range: Range<usize>, out: &mut [f32]) {
        let tile = self.slice_rows(range);
        assert!(
            Some(out.len()) == tile.rows.checked_mul(tile.cols),
            "{} values for {} rows of {}",
            out.len(),
            tile.rows,
            tile.cols
        );
        self.format.decode(tile.bytes, out);
    }
}

/// Shape and format, never the weights themselves.
impl fmt::Debug for QMat<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "QMat({} [{}, {}])", self.format.name(), self.rows, self.cols)
    }
}
