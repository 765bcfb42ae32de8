//! F32: IEEE single precision, stored as it is.

use crate::{BlockFormat, block_count};

/// IEEE single precision, 4 bytes a value. Exact both ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct F32;

impl BlockFormat for F32 {
    fn name(&self) -> &'static str {
        "F32"
    }

    fn ggml_type(&self) -> Option<u32> {
        Some(0)
    }

    fn block_len(&self) -> usize {
        1
    }

    fn block_bytes(&self) -> usize {
        4
    }

    #[inline(always)]
    fn decode(&self, bytes: &[u8], out: &mut [f32]) {
        block_count(self, bytes.len(), out.len());
        for (b, y) in bytes.as_chunks().0.iter().zip(out) {
            *y = f32::from_le_bytes(*b);
        }
    }

    fn encode(&self, x: &[f32], out: &mut [u8]) {
        block_count(self, out.len(), x.len());
        for (x, b) in x.iter().zip(out.as_chunks_mut().0) {
            *b = x.to_le_bytes();
        }
    }
}
