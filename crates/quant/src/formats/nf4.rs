//! NF4: 64 codes of 4 bits for levels that split a normal distribution evenly, and a scale.

use crate::{BlockFormat, Codes, absmax::absmax, block_count};

/// 64 values in 36 bytes, 4.5 bits a value: the largest magnitude `a` (f32), then 32 bytes of
/// codes, where byte `j` holds value `2 j` in its high half and value `2 j + 1` in its low half;
/// `x = a L[q]`, `L` being [`NF4::LEVELS`].
///
/// The levels, the codes and their order are those of bitsandbytes, whose files keep the magnitudes
/// apart; such a matrix is viewed as it lies in the file by [`QMat::apart`](crate::QMat::apart).
/// Reference: Dettmers et al., "QLoRA: Efficient Finetuning of Quantized LLMs" (2023).
///
/// Encoding takes the nearest level, the lower one of two that are equally near: a value moves by
/// at most `0.152 a`, half of the widest gap. Normally distributed values lose some 9 % of their
/// standard deviation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NF4;

const LEN: usize = 64;
const CODES: usize = LEN / 2;
const BYTES: usize = 4 + CODES;

impl NF4 {
    /// The levels of the codes, as shares of the largest magnitude.
    pub const LEVELS: [f32; 16] = [
        -1.0,
        -0.696_192_8,
        -0.525_073_05,
        -0.394_917_5,
        -0.284_441_38,
        -0.184_773_43,
        -0.091_050_036,
        0.0,
        0.079_580_3,
        0.160_930_2,
        0.246_112_3,
        0.337_915_24,
        0.440_709_83,
        0.562_617,
        0.722_956_84,
        1.0,
    ];
}

/// The two values of each byte: one look instead of two, and no shifts.
static PAIRS: [[f32; 2]; 256] = pairs();

const fn pairs() -> [[f32; 2]; 256] {
    let mut pairs = [[0.0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        pairs[byte] = [NF4::LEVELS[byte >> 4], NF4::LEVELS[byte & 15]];
        byte += 1;
    }
    pairs
}

impl BlockFormat for NF4 {
    fn name(&self) -> &'static str {
        "NF4"
    }

    fn block_len(&self) -> usize {
        LEN
    }

    fn block_bytes(&self) -> usize {
        BYTES
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

impl Codes for NF4 {
    fn code_bytes(&self) -> usize {
        CODES
    }

    #[inline(always)]
    fn decode_codes(&self, codes: &[u8], scales: &[f32], out: &mut [f32]) {
        let blocks = codes.as_chunks::<CODES>().0.iter().zip(out.as_chunks_mut().0);
        for ((codes, y), scale) in blocks.zip(scales) {
            decode_block(codes, *scale, y);
        }
    }
}

#[inline(always)]
fn decode_block(codes: &[u8; CODES], scale: f32, out: &mut [f32; LEN]) {
    for (byte, y) in codes.iter().zip(out.as_chunks_mut().0) {
        *y = PAIRS[usize::from(*byte)].map(|level| level * scale);
    }
}

fn encode_block(x: &[f32; LEN]) -> [u8; BYTES] {
    let largest = absmax(x);
    let inverse = if largest == 0.0 { 0.0 } else { 1.0 / largest };
    let mut block = [0; BYTES];
    block[..4].copy_from_slice(&largest.to_le_bytes());
    for (byte, x) in block[4..].iter_mut().zip(x.as_chunks::<2>().0) {
        let [high, low] =
            x.map(|x| code(if inverse.is_finite() { x * inverse } else { x / largest }));
        *byte = high << 4 | low;
    }
    block
}

/// The code of the level nearest to `v`.
fn code(v: f32) -> u8 {
    NF4::LEVELS.array_windows().map(|[low, high]| u8::from((low + high) / 2.0 < v)).sum()
}
