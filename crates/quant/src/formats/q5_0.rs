//! Q5_0: 32 codes of 5 bits around zero, and a scale.

use super::nibbles::{CODES, HIGH, LEN, pack_5, reciprocal, scale, scale_bytes, unpack_5};
use crate::{BlockFormat, Integers, block_count, integers};

/// 32 values in 22 bytes, 5.5 bits a value: scale `d` (f16), 4 bytes with the highest bits of the
/// codes `q` (bit `j` belongs to value `j`), then 16 bytes with their lower bits in the order of
/// [`Q4_0`](super::Q4_0); `x = d (q − 16)`.
///
/// Encoding takes `d` = the value of largest magnitude (the first of equals) / −16, so that this
/// value has code 0, and `q = min(31, ⌊x / d + 16.5⌋)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Q5_0;

const BYTES: usize = 2 + HIGH + CODES;

impl BlockFormat for Q5_0 {
    fn name(&self) -> &'static str {
        "Q5_0"
    }

    fn ggml_type(&self) -> Option<u32> {
        Some(6)
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
        for (block, y) in bytes.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
            decode_block(block, y);
        }
    }

    fn encode(&self, x: &[f32], out: &mut [u8]) {
        block_count(self, out.len(), x.len());
        for (x, block) in x.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
            *block = encode_block(x);
        }
    }
}

impl Integers for Q5_0 {
    #[inline(always)]
    fn decode_integers(
        &self,
        bytes: &[u8],
        codes: &mut [i16],
        scales: &mut [f32],
        minima: &mut [f32],
    ) {
        integers::each(self, bytes, codes, scales, minima, |block: &[u8; BYTES], codes| {
            let [d0, d1, h0, h1, h2, h3, q @ ..] = block;
            for (code, q) in codes.iter_mut().zip(unpack_5([*h0, *h1, *h2, *h3], q)) {
                *code = i16::from(q) - 16;
            }
            (scale([*d0, *d1]), 0.0)
        });
    }
}

#[inline(always)]
fn decode_block(block: &[u8; BYTES], out: &mut [f32; LEN]) {
    let [d0, d1, h0, h1, h2, h3, codes @ ..] = block;
    let d = scale([*d0, *d1]);
    for (y, q) in out.iter_mut().zip(unpack_5([*h0, *h1, *h2, *h3], codes)) {
        *y = d * f32::from(q.cast_signed() - 16);
    }
}

fn encode_block(x: &[f32; LEN]) -> [u8; BYTES] {
    let mut widest = 0.0f32;
    let mut nan = false;
    for x in x {
        if x.abs() > widest.abs() {
            widest = *x;
        }
        nan |= x.is_nan();
    }
    let d = if nan { f32::NAN } else { widest / -16.0 };
    let inverse = reciprocal(d);
    let q = x.map(|x| ((x * inverse + 16.5) as u8).min(31));
    let (high, codes) = pack_5(&q);
    let mut block = [0; BYTES];
    block[..2].copy_from_slice(&scale_bytes(d));
    block[2..6].copy_from_slice(&high);
    block[6..].copy_from_slice(&codes);
    block
}
