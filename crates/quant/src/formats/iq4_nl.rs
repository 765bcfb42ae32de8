//! IQ4_NL: 32 codes of 4 bits for levels that lie closer together near zero, and a scale.

use super::nibbles::{self, CODES, LEN, scale, scale_bytes};
use crate::{BlockFormat, Integers, absmax::absmax, block_count, integers};

/// 32 values in 18 bytes, 4.5 bits a value: scale `d` (f16), then 16 bytes of codes `q` in the
/// order of [`Q4_0`](super::Q4_0); `x = d T[q]`, `T` being the levels −127, −104,
/// −83, −65, −49, −35, −22, −10, 1, 13, 25, 38, 53, 69, 89 and 113.
///
/// Encoding searches the scale by least squares. No block comes out worse than with the value of
/// largest magnitude put on level −127: the root mean square error is at most `a / 9 + 2⁻¹⁸`, `a`
/// being the largest magnitude. Normally distributed values lose some 7.5 % of their standard
/// deviation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(non_camel_case_types, reason = "it is the name of the format")]
pub struct IQ4_NL;

/// The levels of the codes, in steps of the scale.
const LEVELS: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Scales tried beside the first: so many steps of the widest level in either direction.
const TRIALS: i8 = 7;
const BYTES: usize = 2 + CODES;

impl BlockFormat for IQ4_NL {
    fn name(&self) -> &'static str {
        "IQ4_NL"
    }

    fn ggml_type(&self) -> Option<u32> {
        Some(20)
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

impl Integers for IQ4_NL {
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
                *code = i16::from(LEVELS[usize::from(q & 15)]);
            }
            (scale([*d0, *d1]), 0.0)
        });
    }
}

#[inline(always)]
fn decode_block(block: &[u8; BYTES], out: &mut [f32; LEN]) {
    let [d0, d1, codes @ ..] = block;
    let d = scale([*d0, *d1]);
    for (y, q) in out.iter_mut().zip(nibbles::unpack(codes)) {
        *y = d * f32::from(LEVELS[usize::from(q & 15)]);
    }
}

fn encode_block(x: &[f32; LEN]) -> [u8; BYTES] {
    let amax = absmax(x);
    if !amax.is_finite() || amax == 0.0 {
        // Code 8 is the level next to zero; the scale alone tells zeros from damage.
        return pack(scale_bytes(amax * 0.0), &[8; LEN]);
    }
    let widest = x.iter().copied().find(|x| x.abs() == amax).unwrap_or(amax);
    let plain = widest / -127.0;
    let mut best = (f32::NEG_INFINITY, plain);
    for trial in -TRIALS..=TRIALS {
        let inverse = (f32::from(trial) - 127.0) / widest;
        let (mut xq, mut qq) = (0.0, 0.0);
        for x in x {
            let level = f32::from(LEVELS[usize::from(code(x * inverse))]);
            xq += level * x;
            qq += level * level;
        }
        // The scale `xq / qq` takes away `xq² / qq` of the sum of squares.
        if xq * xq / qq > best.0 {
            best = (xq * xq / qq, xq / qq);
        }
    }
    let (first, second) = (quantize(x, scale_bytes(best.1)), quantize(x, scale_bytes(plain)));
    let (d, codes, _) = if second.2 < first.2 { second } else { first };
    pack(d, &codes)
}

/// Codes for a stored scale, and the sum of squares that they are off by.
fn quantize(x: &[f32; LEN], d: [u8; 2]) -> ([u8; 2], [u8; LEN], f32) {
    let step = scale(d);
    let inverse = nibbles::reciprocal(step);
    let codes = x.map(|x| code(x * inverse));
    let off = |(x, q): (&f32, &u8)| x - step * f32::from(LEVELS[usize::from(*q)]);
    let error = x.iter().zip(&codes).map(off).map(|off| off * off).sum();
    (d, codes, error)
}

/// The code of the level nearest to `v`.
fn code(v: f32) -> u8 {
    let below = |pair: &[i8; 2]| {
        let middle = (f32::from(pair[0]) + f32::from(pair[1])) / 2.0;
        u8::from(middle < v)
    };
    LEVELS.array_windows().map(below).sum()
}

fn pack(d: [u8; 2], codes: &[u8; LEN]) -> [u8; BYTES] {
    let mut block = [0; BYTES];
    block[..2].copy_from_slice(&d);
    block[2..].copy_from_slice(&nibbles::pack(codes));
    block
}
