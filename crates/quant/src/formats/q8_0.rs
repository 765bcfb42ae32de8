//! Q8_0: 32 signed bytes and a scale.

use super::nibbles::{reciprocal, scale, scale_bytes};
use crate::{BlockFormat, Integers, absmax::absmax, block_count, integers};

/// 32 values in 34 bytes, 8.5 bits a value: scale `d` (f16), then 32 codes `q` (i8); `x = d q`.
///
/// Encoding takes `d` = largest magnitude / 127 and rounds to nearest, ties away from zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Q8_0;

const LEN: usize = 32;
const BYTES: usize = 2 + LEN;

impl BlockFormat for Q8_0 {
    fn name(&self) -> &'static str {
        "Q8_0"
    }

    fn ggml_type(&self) -> Option<u32> {
        Some(8)
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

impl Integers for Q8_0 {
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
            for (code, q) in codes.iter_mut().zip(q) {
                *code = i16::from(q.cast_signed());
            }
            (scale([*d0, *d1]), 0.0)
        });
    }
}

#[inline(always)]
fn decode_block(block: &[u8; BYTES], out: &mut [f32; LEN]) {
    let [d0, d1, codes @ ..] = block;
    let d = scale([*d0, *d1]);
    for (y, q) in out.iter_mut().zip(codes) {
        *y = d * f32::from(q.cast_signed());
    }
}

fn encode_block(x: &[f32; LEN]) -> [u8; BYTES] {
    let d = absmax(x) / 127.0;
    let inverse = reciprocal(d);
    let mut block = [0; BYTES];
    block[..2].copy_from_slice(&scale_bytes(d));
    for (b, x) in block[2..].iter_mut().zip(x) {
        *b = round(x * inverse).cast_unsigned();
    }
    block
}

/// To the nearest integer, ties away from zero; the halves are found by an exact subtraction, as
/// adding a half first would round 0.49999997 up.
fn round(v: f32) -> i8 {
    let whole = v as i8;
    let rest = v - f32::from(whole);
    whole.saturating_add(i8::from(rest >= 0.5) - i8::from(rest <= -0.5))
}
