//! Q4_0: 32 codes of 4 bits around zero, and a scale.

use super::nibbles::{self, CODES, LEN, reciprocal, scale, scale_bytes};
use crate::{BlockFormat, Integers, block_count, integers};

/// 32 values in 18 bytes, 4.5 bits a value: scale `d` (f16), then 16 bytes of codes `q`, where byte
/// `j` holds value `j` in its low half and value `j + 16` in its high half; `x = d (q − 8)`.
///
/// Encoding takes `d` = the value of largest magnitude (the first of equals) / −8, so that this
/// value has code 0, and `q = min(15, ⌊x / d + 8.5⌋)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Q4_0;

const BYTES: usize = 2 + CODES;

impl BlockFormat for Q4_0 {
    fn name(&self) -> &'static str {
        "Q4_0"
    }

    fn ggml_type(&self) -> Option<u32> {
        Some(2)
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

impl Integers for Q4_0 {
    #[inline(always)]
    fn decode_integers(
        &self,
        bytes: &[u8],
        codes: &mut [i16],
        scales: &mut [f32],
        minima: &mut [f32],
    ) {
        integers::each(self, bytes, codes, scales, minima, |block: &[u8; BYTES], codes| {
            let [d0, d1, q @ ..] = block;
            for (code, q) in codes.iter_mut().zip(nibbles::unpack(q)) {
                *code = i16::from(q) - 8;
            }
            (scale([*d0, *d1]), 0.0)
        });
    }
}

#[inline(always)]
fn decode_block(block: &[u8; BYTES], out: &mut [f32; LEN]) {
    let [d0, d1, codes @ ..] = block;
    let d = scale([*d0, *d1]);
    // Both halves in one loop over bytes, which is what becomes vector code.
    let (lows, highs) = out.split_at_mut(CODES);
    for ((low, high), q) in lows.iter_mut().zip(highs).zip(codes) {
        *low = d * f32::from((q & 15).cast_signed() - 8);
        *high = d * f32::from((q >> 4).cast_signed() - 8);
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
    let d = if nan { f32::NAN } else { widest / -8.0 };
    let inverse = reciprocal(d);
    let q = x.map(|x| ((x * inverse + 8.5) as u8).min(15));
    let mut block = [0; BYTES];
    block[..2].copy_from_slice(&scale_bytes(d));
    block[2..].copy_from_slice(&nibbles::pack(&q));
    block
}
