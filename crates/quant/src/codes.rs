//! Scales that lie apart from the codes they belong to.

use core::fmt;

use crate::BlockFormat;

/// A format whose scales may also lie apart from the codes, as in files of bitsandbytes.
///
/// As a [`BlockFormat`] each block carries its own scale. With the scales apart, blocks are codes
/// alone, and each is unpacked with a scale that is given.
pub trait Codes: BlockFormat {
    /// Bytes of codes in a block; at least 1.
    fn code_bytes(&self) -> usize;

    /// Unpacks blocks of codes, each with its scale, to the values that
    /// [`decode`](BlockFormat::decode) gives for blocks that hold both.
    ///
    /// There are as many blocks of codes and of values as scales.
    fn decode_codes(&self, codes: &[u8], scales: &[f32], out: &mut [f32]);
}

/// Little-endian `f32` as they lie in a file, aligned or not.
pub type Floats<'a> = &'a [[u8; 4]];

/// Where the scales of a matrix lie that are not in its blocks. Blocks count row by row.
#[derive(Clone, Copy, PartialEq)]
pub enum Scales<'a> {
    /// One for each row.
    Rows(Floats<'a>),
    /// One for each block.
    Blocks(Floats<'a>),
    /// One for each block, itself stored as a code ("double quantization").
    Nested(Nested<'a>),
}

/// Scales stored as 8-bit codes: `levels[code] · magnitude + offset`, with one magnitude for each
/// [`Nested::BLOCK`] scales.
#[derive(Clone, Copy, PartialEq)]
pub struct Nested<'a> {
    /// A code for each block.
    pub codes: &'a [u8],
    /// What codes stand for.
    pub levels: &'a [[u8; 4]; 256],
    /// A magnitude for each [`Nested::BLOCK`] codes; the last of them may have fewer.
    pub magnitudes: Floats<'a>,
    /// What is added to each scale.
    pub offset: f32,
}

impl Nested<'_> {
    /// Codes that share a magnitude.
    pub const BLOCK: usize = 256;

    fn scale(&self, block: usize) -> f32 {
        let level = f32::from_le_bytes(self.levels[usize::from(self.codes[block])]);
        level * f32::from_le_bytes(self.magnitudes[block / Self::BLOCK]) + self.offset
    }
}

impl Scales<'_> {
    /// How many scales a matrix of so many rows and blocks needs, and how many there are. `None` if
    /// codes and magnitudes of nested scales contradict each other.
    pub(crate) fn count(&self, rows: usize, blocks: usize) -> Option<(usize, usize)> {
        match self {
            Self::Rows(scales) => Some((rows, scales.len())),
            Self::Blocks(scales) => Some((blocks, scales.len())),
            Self::Nested(nested) => {
                let magnitudes = nested.codes.len().div_ceil(Nested::BLOCK);
                (nested.magnitudes.len() == magnitudes).then_some((blocks, nested.codes.len()))
            }
        }
    }

    /// Scales of consecutive blocks from block `first` on, `row_blocks` of them in each row.
    pub(crate) fn read(&self, first: usize, row_blocks: usize, out: &mut [f32]) {
        for (block, out) in (first..).zip(out) {
            *out = match self {
                Self::Rows(scales) => f32::from_le_bytes(scales[block / row_blocks]),
                Self::Blocks(scales) => f32::from_le_bytes(scales[block]),
                Self::Nested(nested) => nested.scale(block),
            };
        }
    }

    /// Bytes they take.
    pub(crate) fn size_bytes(&self) -> usize {
        match self {
            Self::Rows(scales) | Self::Blocks(scales) => size_of_val(*scales),
            Self::Nested(Nested { codes, levels, magnitudes, .. }) => {
                codes.len() + size_of_val(*levels) + size_of_val(*magnitudes)
            }
        }
    }
}

/// How many, never the values.
impl fmt::Debug for Scales<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rows(scales) => write!(f, "Rows({})", scales.len()),
            Self::Blocks(scales) => write!(f, "Blocks({})", scales.len()),
            Self::Nested(nested) => write!(f, "Nested({})", nested.codes.len()),
        }
    }
}

/// Codes of a matrix and its scales, apart from each other.
#[derive(Clone, Copy, Debug)]
pub struct Apart<'a> {
    /// What the codes mean.
    pub format: &'static dyn Codes,
    /// The scales.
    pub scales: Scales<'a>,
}
