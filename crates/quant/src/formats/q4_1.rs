//! Q4_1: 32 codes of 4 bits above a minimum, and a scale.

use super::nibbles::{self, CODES, LEN, reciprocal, scale, scale_bytes};
use crate::{BlockFormat, Integers, block_count, integers};

/// 32 values in 20 bytes, 5 bits a value: scale `d` (f16), minimum `m` (f16), then 16 bytes of
/// codes `q` in the order of [`Q4_0`](super::Q4_0); `x = d q + m`.
///
/// Encoding takes `m` = the smallest value, `d` = (largest − smallest) / 15 and
/// `q = min(15, ⌊(x − m) / d + 0.5⌋)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Q4_1;

const BYTES: usize = 4 + CODES;

impl BlockFormat for Q4_1 {
    fn name(&self) -> &'static str {
        "Q4_1"
    }

    fn ggml_type(&self) -> Option<u32> {
        Some(3)
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

    fn has_own_minima(&self) -> bool {
        true
    }

    fn shift_minima(&self, bytes: &mut [u8], shifts: &[f32]) {
        block_count(self, bytes.len(), shifts.len() * LEN);
        let (blocks, _) = bytes.as_chunks_mut::<BYTES>();
        for ([_, _, m0, m1, ..], shift) in blocks.iter_mut().zip(shifts) {
            [*m0, *m1] = scale_bytes(scale([*m0, *m1]) + shift);
        }
    }
}

impl Integers for Q4_1 {
    fn has_minima(&self) -> bool {
        true
    }

    #[inline(always)]
    fn decode_integers(
        &self,
        bytes: &[u8],
        codes: &mut [i16],
        scales: &mut [f32],
        minima: &mut [f32],
    ) {
        integers::each(self, bytes, codes, scales, minima, |block: &[u8; BYTES], codes| {
            let [d0, d1, m0, m1, q @ ..] = block;
            for (code, q) in codes.iter_mut().zip(nibbles::unpack(q)) {
                *code = i16::from(q);
            }
            (scale([*d0, *d1]), scale([*m0, *m1]))
        });
    }
}

#[inline(always)]
fn decode_block(block: &[u8; BYTES], out: &mut [f32; LEN]) {
    let [d0, d1, m0, m1, codes @ ..] = block;
    let (d, m) = (scale([*d0, *d1]), scale([*m0, *m1]));
    // Both halves in one loop over bytes, which is what becomes vector code.
    let (lows, highs) = out.split_at_mut(CODES);
    for ((low, high), q) in lows.iter_mut().zip(highs).zip(codes) {
        *low = d * f32::from(q & 15) + m;
        *high = d * f32::from(q >> 4) + m;
    }
}

fn encode_block(x: &[f32; LEN]) -> [u8; BYTES] {
    let (mut min, mut max) = (x[0], x[0]);
    let mut nan = false;
    for x in x {
        min = min.min(*x);
        max = max.max(*x);
        nan |= x.is_nan();
    }
    let d = if nan { f32::NAN } else { (max - min) / 15.0 };
    let inverse = reciprocal(d);
    let q = x.map(|x| (((x - min) * inverse + 0.5) as u8).min(15));
    let mut block = [0; BYTES];
    block[..2].copy_from_slice(&scale_bytes(d));
    block[2..4].copy_from_slice(&scale_bytes(min));
    block[4..].copy_from_slice(&nibbles::pack(&q));
    block
}
