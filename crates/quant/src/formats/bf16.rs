//! BF16: the upper half of an IEEE single.

use crate::{BlockFormat, block_count};
use half::bf16;

/// The upper half of an IEEE single, 2 bytes a value. Encoding rounds to nearest, ties to even.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BF16;

impl BlockFormat for BF16 {
    fn name(&self) -> &'static str {
        "BF16"
    }

    fn ggml_type(&self) -> Option<u32> {
        Some(30)
    }

    fn block_len(&self) -> usize {
        1
    }

    fn block_bytes(&self) -> usize {
        2
    }

    #[inline(always)]
    fn decode(&self, bytes: &[u8], out: &mut [f32]) {
        block_count(self, bytes.len(), out.len());
        for (b, y) in bytes.as_chunks().0.iter().zip(out) {
            *y = bf16::from_le_bytes(*b).to_f32();
        }
    }

    fn encode(&self, x: &[f32], out: &mut [u8]) {
        block_count(self, out.len(), x.len());
        for (x, b) in x.iter().zip(out.as_chunks_mut().0) {
            *b = bf16::from_f32(*x).to_le_bytes();
        }
    }
}
