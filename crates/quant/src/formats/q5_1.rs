//! Q5_1: 32 codes of 5 bits above a minimum, and a scale.

use super::nibbles::{CODES, HIGH, LEN, pack_5, reciprocal, scale, scale_bytes, unpack_5};
use crate::{BlockFormat, Integers, block_count, integers};

/// 32 values in 24 bytes, 6 bits a value: scale `d` (f16), minimum `m` (f16), then the codes `q` in
/// the order of [`Q5_0`](super::Q5_0); `x = d q + m`.
///
/// Encoding takes `m` = the smallest value, `d` = (largest − smallest) / 31 and
/// `q = min(31, ⌊(x − m) / d + 0.5⌋)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Q5_1;

const BYTES: usize = 4 + HIGH + CODES;

impl BlockFormat for Q5_1 {
    fn name(&self) -> &'static str {
        "Q5_1"
    }

    fn ggml_type(&self) -> Option<u32> {
        Some(7)
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

impl Integers for Q5_1 {
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
            let [d0, d1, m0, m1, h0, h1, h2, h3, q @ ..] = block;
            for (code, q) in codes.iter_mut().zip(unpack_5([*h0, *h1, *h2, *h3], q)) {
                *code = i16::from(q);
            }
            (scale([*d0, *d1]), scale([*m0, *m1]))
        });
    }
}

#[inline(always)]
fn decode_block(block: &[u8; BYTES], out: &mut [f32; LEN]) {
    let [d0, d1, m0, m1, h0, h1, h2, h3, codes @ ..] = block;
    let (d, m) = (scale([*d0, *d1]), scale([*m0, *m1]));
    for (y, q) in out.iter_mut().zip(unpack_5([*h0, *h1, *h2, *h3], codes)) {
        *y = d * f32::from(q) + m;
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
    let d = if nan { f32::NAN } else { (max - min) / 31.0 };
    let inverse = reciprocal(d);
    let q = x.map(|x| (((x - min) * inverse + 0.5) as u8).min(31));
    let (high, codes) = pack_5(&q);
    let mut block = [0; BYTES];
    block[..2].copy_from_slice(&scale_bytes(d));
    block[2..4].copy_from_slice(&scale_bytes(min));
    block[4..8].copy_from_slice(&high);
    block[8..].copy_from_slice(&codes);
    block
}
