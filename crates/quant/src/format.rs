//! What a block format is.

use core::any::Any;
use core::fmt::Debug;

use crate::Integers;

/// One way to store a row of numbers as whole blocks of bytes.
///
/// A block holds [`block_len`](Self::block_len) consecutive values of one row in
/// [`block_bytes`](Self::block_bytes) bytes; blocks follow each other without gaps and never span
/// two rows. Bytes are little-endian and need no alignment.
///
/// The trait is open: a format of your own works wherever the ones in [`formats`](crate::formats)
/// do. Implement it on a unit struct and pass `&MyFormat`.
pub trait BlockFormat: Any + Sync + Debug {
    /// The name the format goes by, such as `"Q4_1"`.
    fn name(&self) -> &'static str;

    /// The number of this type in GGUF files, if it has one.
    fn ggml_type(&self) -> Option<u32> {
        None
    }

    /// Values in a block; at least 1.
    fn block_len(&self) -> usize;

    /// Bytes in a block; at least 1.
    fn block_bytes(&self) -> usize;

    /// Unpacks any number of whole blocks. Every bit pattern decodes to something.
    ///
    /// # Panics
    /// If `bytes` and `out` are not the same number of whole blocks ([`block_count`]).
    fn decode(&self, bytes: &[u8], out: &mut [f32]);

    /// Packs any number of whole blocks.
    ///
    /// A block that the format cannot hold, because a value is NaN or infinite or because a scale
    /// exceeds its type, must decode to at least one value that is not finite: damage stays
    /// visible.
    ///
    /// # Panics
    /// If `x` and `out` are not the same number of whole blocks ([`block_count`]).
    fn encode(&self, x: &[f32], out: &mut [u8]);

    /// The same format as integers with scales, where it is one.
    #[inline(always)]
    fn integers(&self) -> Option<&dyn Integers> {
        None
    }

    /// Whether each block has a minimum that stands for itself, which
    /// [`shift_minima`](Self::shift_minima) moves.
    fn has_own_minima(&self) -> bool {
        false
    }

    /// Adds to all values of each block by moving the block's minimum, and leaves scales and codes
    /// as they are: `shifts` has one number a block. Minima are rounded to their type.
    ///
    /// # Panics
    /// If there is not one number for each whole block, or the format has no
    /// [minima of their own](Self::has_own_minima).
    fn shift_minima(&self, _bytes: &mut [u8], _shifts: &[f32]) {
        panic!("blocks of {} have no minimum that stands for itself", self.name());
    }

    /// Bytes in a row of `cols` values; `None` when `cols` is not a multiple of the block or the
    /// size does not fit in `usize`.
    fn row_bytes(&self, cols: usize) -> Option<usize> {
        if cols.checked_rem(self.block_len())? != 0 {
            return None;
        }
        (cols / self.block_len()).checked_mul(self.block_bytes())
    }
}

/// How many blocks of `format` lie in `bytes` bytes holding `values` values.
///
/// The check at the door of every [`BlockFormat::decode`] and [`BlockFormat::encode`].
///
/// # Panics
/// If either is not a whole number of blocks, or the two numbers differ.
pub fn block_count(format: &dyn BlockFormat, bytes: usize, values: usize) -> usize {
    let (name, len, size) = (format.name(), format.block_len(), format.block_bytes());
    assert!(
        values.is_multiple_of(len),
        "{name}: {values} values are not whole blocks of {len} values"
    );
    assert!(
        bytes.is_multiple_of(size),
        "{name}: {bytes} bytes are not whole blocks of {size} bytes"
    );
    let blocks = values / len;
    assert!(
        blocks == bytes / size,
        "{name}: {values} values are {blocks} blocks, but {bytes} bytes are {}",
        bytes / size
    );
    blocks
}
