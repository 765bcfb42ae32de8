//! INT8: signed bytes, and a scale in single precision.

use super::search::nearest;
use crate::{BlockFormat, Codes, Integers, absmax::absmax, block_count, integers};

/// 32 values in 36 bytes, 9 bits a value: the largest magnitude `a` (f32), then 32 codes `q` (i8);
/// `x = (q a) / 127`, the division being a product with the `f32` nearest to 1 / 127.
///
/// Codes and arithmetic are those of the int8 weights of bitsandbytes, whose files keep one
/// magnitude for a whole row apart; such a matrix is viewed as it lies in the file by
/// [`QMat::apart`](crate::QMat::apart). Reference: Dettmers et al., "LLM.int8(): 8-bit Matrix
/// Multiplication for Transformers at Scale" (2022).
///
/// Encoding rounds to nearest: a value moves by at most `a / 254`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct INT8;

const LEN: usize = 32;
const BYTES: usize = 4 + LEN;

impl BlockFormat for INT8 {
    fn name(&self) -> &'static str {
        "INT8"
    }

    fn block_len(&self) -> usize {
        LEN
    }

    fn block_bytes(&self) -> usize {
        BYTES
    }

    #[inline(always)]
    fn integers(&self) -> Option<&dyn Integers> {
        Some(self)
    }

    #[inline(always)]
    fn decode(&self, bytes: &[u8], out: &mut [f32]) {
        block_count(self, bytes.len(), out.len());
        for (block, y) in bytes.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut().0) {
            let [s0, s1, s2, s3, codes @ ..] = block;
            decode_block(codes, f32::from_le_bytes([*s0, *s1, *s2, *s3]), y);
        }
    }

    fn encode(&self, x: &[f32], out: &mut [u8]) {
        block_count(self, out.len(), x.len());
        for (x, block) in x.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
            *block = encode_block(x);
        }
    }
}

impl Integers for INT8 {
    #[inline(always)]
    fn decode_integers(
        &self,
        bytes: &[u8],
        codes: &mut [i16],
        scales: &mut [f32],
        minima: &mut [f32],
    ) {
        integers::each(self, bytes, codes, scales, minima, |block: &[u8; BYTES], codes| {
            let [s0, s1, s2, s3, q @ ..] = block;
            for (code, q) in codes.iter_mut().zip(q) {
                *code = i16::from(q.cast_signed());
            }
            (f32::from_le_bytes([*s0, *s1, *s2, *s3]) * (1.0 / 127.0), 0.0)
        });
    }
}

impl Codes for INT8 {
    fn code_bytes(&self) -> usize {
        LEN
    }

    #[inline(always)]
    fn decode_codes(&self, codes: &[u8], scales: &[f32], out: &mut [f32]) {
        let blocks = codes.as_chunks::<LEN>().0.iter().zip(out.as_chunks_mut().0);
        for ((codes, y), scale) in blocks.zip(scales) {
            decode_block(codes, *scale, y);
        }
    }
}

#[inline(always)]
fn decode_block(codes: &[u8; LEN], scale: f32, out: &mut [f32; LEN]) {
    for (q, y) in codes.iter().zip(out) {
        *y = f32::from(q.cast_signed()) * scale * (1.0 / 127.0);
    }
}

fn encode_block(x: &[f32; LEN]) -> [u8; BYTES] {
    let largest = absmax(x);
    let mut block = [0; BYTES];
    block[..4].copy_from_slice(&largest.to_le_bytes());
    if largest > 0.0 && largest.is_finite() {
        for (b, x) in block[4..].iter_mut().zip(x) {
            // At most 127 in magnitude: the division comes first, as its inverse may overflow.
            *b = (nearest(x / largest * 127.0) as i8).cast_unsigned();
        }
    }
    block
}
