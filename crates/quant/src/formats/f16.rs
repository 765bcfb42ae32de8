//! F16: IEEE half precision.

use crate::{BlockFormat, block_count};
use half::f16;

/// IEEE half precision, 2 bytes a value. Encoding rounds to nearest, ties to even; beyond 65504 it
/// gives infinity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct F16;

impl BlockFormat for F16 {
    fn name(&self) -> &'static str {
        "F16"
    }

    fn ggml_type(&self) -> Option<u32> {
        Some(1)
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
            *y = f16::from_le_bytes(*b).to_f32();
        }
    }

    fn encode(&self, x: &[f32], out: &mut [u8]) {
        block_count(self, out.len(), x.len());
        for (x, b) in x.iter().zip(out.as_chunks_mut().0) {
            *b = f16::from_f32(*x).to_le_bytes();
        }
    }
}
