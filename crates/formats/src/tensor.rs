//! A tensor as it lies in a file.

use core::fmt;
use core::ops::Range;
use std::io;

use half::bf16;
use lowtide_quant::{Apart, BlockFormat, LineCodes, QMat, QMatError, Scales};

use crate::MappedFile;

/// A tensor of a mapped file: shape, format, packed bytes. Nothing is copied.
#[derive(Clone, Copy)]
pub struct Tensor<'a> {
    /// Row-major shape, slowest axis first, as PyTorch counts: a linear layer is
    /// `[outputs, inputs]`.
    pub shape: &'a [usize],
    /// How rows are packed.
    pub format: &'static dyn BlockFormat,
    /// The packed bytes, of exactly the length that shape and format take; the codes alone where
    /// the scales lie apart.
    pub bytes: &'a [u8],
    /// The scales, where they lie apart from the codes. Such a tensor is a matrix.
    pub apart: Option<Apart<'a>>,
    /// How its lines are coded, where it is of an adapter in eight or four bits. Such a tensor is
    /// no packed matrix.
    pub lines: Option<Lines<'a>>,
}

/// Lines of codes with their scales, of a coded adapter.
#[derive(Clone, Copy, Debug)]
pub struct Lines<'a> {
    pub(crate) codes: LineCodes,
    /// Little-endian bf16 of all lines.
    pub(crate) scales: &'a [u8],
    /// Whether the lines are columns.
    pub(crate) turned: bool,
}

impl Lines<'_> {
    /// The values of a tensor of this shape, row-major.
    fn decode(&self, shape: &[usize], bytes: &[u8]) -> Vec<f32> {
        let (scales, _) = self.scales.as_chunks::<2>();
        let scales: Vec<bf16> = scales.iter().map(|scale| bf16::from_le_bytes(*scale)).collect();
        let (first, last) = (shape[0], shape[shape.len() - 1]);
        let line = if self.turned { first } else { last };
        let lines = bytes.chunks(self.codes.code_bytes(line));
        let lines = lines.zip(scales.chunks(self.codes.scales(line)));
        let mut values = vec![0.0; shape.iter().product()];
        if !self.turned {
            for ((bytes, scales), out) in lines.zip(values.chunks_mut(line)) {
                self.codes.decode(bytes, scales, out);
            }
            return values;
        }
        let mut column = vec![0.0; line];
        for (at, (bytes, scales)) in lines.enumerate() {
            self.codes.decode(bytes, scales, &mut column);
            for (row, value) in column.iter().enumerate() {
                values[row * last + at] = *value;
            }
        }
        values
    }
}

/// Why a tensor of a file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    /// The family needs it and the file has it not.
    #[error("tensor `{name}` is missing; expected shape {expected:?}")]
    Missing {
        /// The tensor, by its name in the file.
        name: String,
        /// The shape it should have.
        expected: Vec<usize>,
    },
    /// It has another shape than the config says.
    #[error("tensor `{name}` has shape {found:?}; expected {expected:?}")]
    Shape {
        /// The tensor, by its name in the file.
        name: String,
        /// The shape it should have.
        expected: Vec<usize>,
        /// The shape it has.
        found: Vec<usize>,
    },
    /// The file has it and the family does not know it: leaving it out would change the result.
    #[error("tensor `{name}` is not part of a `{architecture}` model")]
    Unknown {
        /// The tensor, by its name in the file.
        name: String,
        /// The family.
        architecture: String,
    },
    /// It was asked for as a matrix and is none.
    #[error("a tensor of shape {shape:?} is not a matrix")]
    NotAMatrix {
        /// Its shape.
        shape: Vec<usize>,
    },
    /// It is stored in another type than the way it is packed asks for.
    #[error("tensor `{name}` has dtype {found}; expected {expected}")]
    Dtype {
        /// The tensor.
        name: String,
        /// The type it should have.
        expected: &'static str,
        /// The type it has.
        found: String,
    },
    /// Codes and scales are not those of a matrix of its shape.
    #[error("tensor `{name}`: {reason}")]
    Packed {
        /// The tensor.
        name: String,
        /// What does not fit.
        reason: QMatError,
    },
    /// A map of codes that is not the one of the type it is said to be.
    #[error("tensor `{name}` does not hold the levels of NF4")]
    Levels {
        /// The tensor.
        name: String,
    },
    /// Codes in an order that is not read.
    #[error("tensor `{name}` is {found}; expected [0], codes in the order of rows")]
    Layout {
        /// The tensor.
        name: String,
        /// What it holds.
        found: String,
    },
    /// It holds NaN or an infinite value.
    #[error("tensor `{name}` holds {value} at index {index}; expected finite values")]
    NotFinite {
        /// The tensor.
        name: String,
        /// Index of the first such value, row-major.
        index: usize,
        /// The value, as text.
        value: String,
    },
    /// A head of its own although the config ties it to the embedding.
    #[error(
        "`{name}` differs from the token embedding although `tie_word_embeddings` is true; \
         which of them is meant cannot be told"
    )]
    UntiedHead {
        /// The head's name.
        name: String,
    },
}

impl<'a> Tensor<'a> {
    /// The number of values.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Bytes it takes in its file, scales that lie apart included.
    pub fn stored_bytes(&self) -> usize {
        let scales = match self.apart.map(|apart| apart.scales) {
            None => 0,
            Some(Scales::Rows(scales) | Scales::Blocks(scales)) => size_of_val(scales),
            Some(Scales::Nested(nested)) => {
                let offset = size_of_val(&nested.offset);
                nested.codes.len() + size_of_val(nested.magnitudes) + offset
            }
        };
        self.bytes.len() + scales + self.lines.map_or(0, |lines| lines.scales.len())
    }

    /// Where in `file` its bytes lie, scales that lie apart included.
    pub(crate) fn ranges_in(&self, file: &MappedFile) -> impl Iterator<Item = Range<usize>> {
        let scales = match self.apart.map(|apart| apart.scales) {
            None => [None, None],
            Some(Scales::Rows(scales) | Scales::Blocks(scales)) => [file.range_of(scales), None],
            Some(Scales::Nested(nested)) => {
                [file.range_of(nested.codes), file.range_of(nested.magnitudes)]
            }
        };
        file.range_of(self.bytes).into_iter().chain(scales.into_iter().flatten())
    }

    /// The tensor as a packed matrix.
    ///
    /// # Errors
    /// [`TensorError::NotAMatrix`] unless it has exactly two axes.
    pub fn qmat(&self) -> Result<QMat<'a>, TensorError> {
        let not_a_matrix = || TensorError::NotAMatrix { shape: self.shape.to_vec() };
        let &[rows, cols] = self.shape else { return Err(not_a_matrix()) };
        if self.lines.is_some() {
            return Err(not_a_matrix());
        }
        match self.apart {
            Some(Apart { format, scales }) => QMat::apart(format, rows, cols, self.bytes, scales),
            None => QMat::new(self.format, rows, cols, self.bytes),
        }
        .map_err(|_| not_a_matrix())
    }

    /// All values as f32. Meant for norms, biases and adapters: it allocates all of them.
    pub fn to_f32_vec(&self) -> Vec<f32> {
        if let Some(lines) = self.lines {
            return lines.decode(self.shape, self.bytes);
        }
        let mut values = vec![0.0; self.len()];
        match self.matrix_apart() {
            Some(matrix) => matrix.decode_rows(0..matrix.rows(), &mut values),
            None => self.format.decode(self.bytes, &mut values),
        }
        values
    }

    /// Decodes the values in `ranges`, one range after the other, and hands them on as f32,
    /// little-endian, a piece at a time. A tensor in coded lines is decoded whole, once.
    ///
    /// # Errors
    /// Those of `put`.
    ///
    /// # Panics
    /// If a range is not whole blocks of the tensor, or scales lie apart.
    pub(crate) fn write_f32(
        &self,
        mut ranges: impl Iterator<Item = Range<usize>>,
        put: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let Some(lines) = self.lines else {
            return ranges.try_for_each(|range| self.write_blocks(range, put));
        };
        let values = lines.decode(self.shape, self.bytes);
        ranges.try_for_each(|range| {
            values[range].iter().try_for_each(|value| put(&value.to_le_bytes()))
        })
    }

    /// The same of one range of a tensor without lines.
    fn write_blocks(
        &self,
        range: Range<usize>,
        put: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        const PIECE: usize = 1024;
        assert!(self.apart.is_none(), "scales of a tensor to be written lie apart");
        let (block_len, block_bytes) = (self.format.block_len(), self.format.block_bytes());
        let whole = |at: usize| at.is_multiple_of(block_len);
        assert!(whole(range.start) && whole(range.end), "{range:?} of blocks of {block_len}");
        let bytes = &self.bytes[range.start / block_len * block_bytes..];
        let bytes = &bytes[..range.len() / block_len * block_bytes];
        let (mut values, mut out) = ([0.0; PIECE], [0_u8; PIECE * size_of::<f32>()]);
        for piece in bytes.chunks(PIECE / block_len * block_bytes) {
            let values = &mut values[..piece.len() / block_bytes * block_len];
            self.format.decode(piece, values);
            let out = &mut out[..size_of_val(values)];
            for (value, bytes) in values.iter().zip(out.chunks_exact_mut(size_of::<f32>())) {
                bytes.copy_from_slice(&value.to_le_bytes());
            }
            put(out)?;
        }
        Ok(())
    }

    /// The first value that is NaN or infinite, with its row-major index.
    pub(crate) fn first_non_finite(&self) -> Option<(usize, f32)> {
        self.first_non_finite_times(1.0)
    }

    /// The first value that is NaN or infinite when it is multiplied, with its row-major index.
    pub(crate) fn first_non_finite_times(&self, factor: f32) -> Option<(usize, f32)> {
        const TILE_BLOCKS: usize = 256;
        let first = |values: &[f32]| values.iter().position(|v| !(v * factor).is_finite());
        if let Some(lines) = self.lines {
            let values = lines.decode(self.shape, self.bytes);
            return first(&values).map(|at| (at, values[at] * factor));
        }
        if let Some(matrix) = self.matrix_apart() {
            let mut row = vec![0.0; matrix.cols()];
            return (0..matrix.rows()).find_map(|i| {
                matrix.decode_row(i, &mut row);
                first(&row).map(|at| (i * row.len() + at, row[at] * factor))
            });
        }
        let (block_len, block_bytes) = (self.format.block_len(), self.format.block_bytes());
        let mut tile = vec![0.0; TILE_BLOCKS * block_len];
        for (i, bytes) in self.bytes.chunks(TILE_BLOCKS * block_bytes).enumerate() {
            let values = &mut tile[..bytes.len() / block_bytes * block_len];
            self.format.decode(bytes, values);
            if let Some(at) = first(values) {
                return Some((i * TILE_BLOCKS * block_len + at, values[at] * factor));
            }
        }
        None
    }

    /// The matrix, where scales lie apart; whoever opened the file has checked that it is one.
    fn matrix_apart(&self) -> Option<QMat<'a>> {
        self.apart.and_then(|_| self.qmat().ok())
    }
}

/// Shape and format, never the values.
impl fmt::Debug for Tensor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({} {:?})", self.format.name(), self.shape)
    }
}
