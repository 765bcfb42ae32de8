//! The view of a packed matrix.

use crate::{Apart, BlockFormat, Codes, Scales};
use core::{fmt, ops::Range};

/// Blocks whose scales are read at once where they lie apart from the codes.
const SCALES: usize = 32;

/// A packed row-major matrix `[rows, cols]`, borrowed: how every frozen weight is seen.
///
/// Each row is a whole number of blocks; rows follow each other without gaps. The bytes need no
/// alignment, so they can lie anywhere in a mapped file.
///
/// The scales may lie [apart](Self::apart) from the codes. What [`bytes`](Self::bytes) and
/// [`row`](Self::row) give are the codes alone then, which [`BlockFormat::decode`] refuses; the
/// `decode` functions here unpack either kind.
#[derive(Clone, Copy)]
pub struct QMat<'a> {
    format: &'static dyn BlockFormat,
    rows: usize,
    cols: usize,
    row_bytes: usize,
    bytes: &'a [u8],
    apart: Option<Apart<'a>>,
    /// The row of the scales that is row 0 here.
    first_row: usize,
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
    /// The scales that lie apart are too few or too many for the shape.
    #[error("a {format} matrix [{rows}, {cols}] takes {expected} scales, not {got}")]
    Scales {
        /// The format's name.
        format: &'static str,
        /// Rows asked for.
        rows: usize,
        /// Values in a row.
        cols: usize,
        /// Scales such a matrix takes.
        expected: usize,
        /// Scales given.
        got: usize,
    },
    /// Nested scales whose codes and magnitudes do not belong to each other.
    #[error("{codes} nested scales do not take {magnitudes} magnitudes")]
    Nested {
        /// Codes given.
        codes: usize,
        /// Magnitudes given.
        magnitudes: usize,
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
        Self::checked(format, format.block_bytes(), rows, cols, bytes)
    }

    /// Views `codes` as a matrix `[rows, cols]` whose scales lie elsewhere: each block is
    /// [`Codes::code_bytes`] long and unpacked with the scale that belongs to it.
    ///
    /// # Errors
    /// [`QMatError`] if a row is not whole blocks, or codes or scales have not exactly the number
    /// that the shape takes.
    pub fn apart(
        format: &'static dyn Codes,
        rows: usize,
        cols: usize,
        codes: &'a [u8],
        scales: Scales<'a>,
    ) -> Result<Self, QMatError> {
        let view = Self::checked(format, format.code_bytes(), rows, cols, codes)?;
        let blocks = rows * (cols / format.block_len());
        match (scales.count(rows, blocks), &scales) {
            (Some((expected, got)), _) if expected != got => {
                Err(QMatError::Scales { format: format.name(), rows, cols, expected, got })
            }
            (None, Scales::Nested(nested)) => Err(QMatError::Nested {
                codes: nested.codes.len(),
                magnitudes: nested.magnitudes.len(),
            }),
            _ => Ok(Self { apart: Some(Apart { format, scales }), ..view }),
        }
    }

    fn checked(
        format: &'static dyn BlockFormat,
        block_bytes: usize,
        rows: usize,
        cols: usize,
        bytes: &'a [u8],
    ) -> Result<Self, QMatError> {
        let (name, block_len) = (format.name(), format.block_len());
        if !cols.is_multiple_of(block_len) {
            return Err(QMatError::PartialBlock { format: name, cols, block_len });
        }
        let too_large = QMatError::TooLarge { format: name, rows, cols };
        let row_bytes = (cols / block_len).checked_mul(block_bytes).ok_or(too_large)?;
        let expected = row_bytes.checked_mul(rows).ok_or(too_large)?;
        if bytes.len() != expected {
            let got = bytes.len();
            return Err(QMatError::Length { format: name, rows, cols, expected, got });
        }
        Ok(Self { format, rows, cols, row_bytes, bytes, apart: None, first_row: 0 })
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

    /// Format and scales, where the scales lie apart from the codes.
    ///
    /// They are those of the whole matrix, even where this is a slice of it.
    pub fn scales_apart(&self) -> Option<Apart<'a>> {
        self.apart
    }

    /// Bytes in a row, without scales that lie apart.
    pub fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// The packed bytes, row after row, without scales that lie apart.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Bytes in the whole matrix, with all scales that lie apart.
    pub fn size_bytes(&self) -> usize {
        self.bytes.len() + self.apart.map_or(0, |apart| apart.scales.size_bytes())
    }

    /// The packed bytes of row `i`, without scales that lie apart.
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
        Self { rows: end - start, bytes, first_row: self.first_row + start, ..*self }
    }

    /// Unpacks row `i` into `out` `[cols]`.
    ///
    /// # Panics
    /// If there is no row `i` or `out` has not `cols` values.
    pub fn decode_row(&self, i: usize, out: &mut [f32]) {
        let row = self.row(i);
        assert!(out.len() == self.cols, "{} values for a row of {}", out.len(), self.cols);
        self.decode_blocks(i, 0, row, out);
    }

    /// Unpacks columns `columns` of row `i`, which begin and end with a block, into `out`
    /// `[columns.len()]`.
    ///
    /// # Panics
    /// If there is no row `i`, the columns reach past the last or are not whole blocks, or `out`
    /// has another size.
    pub fn decode_columns(&self, i: usize, columns: Range<usize>, out: &mut [f32]) {
        let block = self.format.block_len();
        let Range { start, end } = columns;
        assert!(
            start <= end && end <= self.cols,
            "columns {start}..{end} of a matrix of {} columns",
            self.cols
        );
        assert!(
            start.is_multiple_of(block) && end.is_multiple_of(block),
            "columns {start}..{end} are not whole blocks of {block}"
        );
        assert!(out.len() == end - start, "{} values for {} columns", out.len(), end - start);
        let size = self.block_bytes();
        let bytes = &self.row(i)[start / block * size..end / block * size];
        self.decode_blocks(i, start / block, bytes, out);
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
        tile.decode_blocks(0, 0, tile.bytes, out);
    }

    /// Bytes in a block, without a scale that lies apart.
    fn block_bytes(&self) -> usize {
        self.apart.map_or_else(|| self.format.block_bytes(), |apart| apart.format.code_bytes())
    }

    /// Unpacks `bytes`, which are consecutive blocks from block `block` of row `row` on.
    fn decode_blocks(&self, row: usize, block: usize, bytes: &[u8], out: &mut [f32]) {
        let Some(Apart { format, scales }) = &self.apart else {
            return self.format.decode(bytes, out);
        };
        let (size, len) = (format.code_bytes(), format.block_len());
        let row_blocks = self.cols / len;
        let first = (self.first_row + row) * row_blocks + block;
        let mut room = [0.0; SCALES];
        let parts = bytes.chunks(SCALES * size).zip(out.chunks_mut(SCALES * len));
        for (part, (codes, out)) in parts.enumerate() {
            let some = &mut room[..codes.len() / size];
            scales.read(first + part * SCALES, row_blocks, some);
            format.decode_codes(codes, some, out);
        }
    }
}

/// Shape and format, never the weights themselves.
impl fmt::Debug for QMat<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "QMat({} [{}, {}])", self.format.name(), self.rows, self.cols)
    }
}
