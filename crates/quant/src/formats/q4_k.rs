//! Q4_K: 256 codes of 4 bits in eight sub-blocks, each with a scale and a minimum of 6 bits.

use super::affine::{self, LEN, PARAMETERS, Parameters, SUB};
use crate::{BlockFormat, Integers, block_count, integers};

/// 256 values in 144 bytes, 4.5 bits a value: scale `d` (f16) and scale of the minima `e` (f16), a
/// scale `s` and a minimum `m` of 6 bits for each of eight sub-blocks of 32 values (12 bytes), then
/// 128 bytes of codes `q`, where byte `32 c + l` holds value `l` of sub-block `2 c` in its low half
/// and that of sub-block `2 c + 1` in its high half; `x = (d s) q − e m`.
///
/// Encoding searches scales and minima by least squares. No block comes out worse than with evenly
/// spaced codes: the root mean square error is at most `r / 29 + 2⁻¹⁸`, `r` being the widest span
/// of the values of a sub-block and zero. Normally distributed values lose
/// some 7 % of their standard deviation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(non_camel_case_types, reason = "it is the name of the format")]
pub struct Q4_K;

/// The largest code.
const TOP: u8 = 15;
const CODES: usize = LEN / 2;
const BYTES: usize = PARAMETERS + CODES;

impl BlockFormat for Q4_K {
    fn name(&self) -> &'static str {
        "Q4_K"
    }

    fn ggml_type(&self) -> Option<u32> {
        Some(12)
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

impl Integers for Q4_K {
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
        integers::each_of_eight(
            self,
            bytes,
            codes,
            scales,
            minima,
            |block: &[u8; BYTES], codes| {
                let (parameters, q) = block.split_first_chunk().expect("a block begins with them");
                let Parameters { scales, minima } = Parameters::read(parameters);
                let pairs = codes.as_chunks_mut::<{ 2 * SUB }>().0;
                for (q, codes) in q.as_chunks::<SUB>().0.iter().zip(pairs) {
                    let (low, high) = codes.split_at_mut(SUB);
                    for ((low, high), q) in low.iter_mut().zip(high).zip(q) {
                        *low = i16::from(q & 15);
                        *high = i16::from(q >> 4);
                    }
                }
                (scales, minima.map(|m| -m))
            },
        );
    }
}

#[inline(always)]
fn decode_block(block: &[u8; BYTES], out: &mut [f32; LEN]) {
    let (parameters, codes) = block.split_first_chunk().expect("a block begins with them");
    let Parameters { scales, minima } = Parameters::read(parameters);
    let pairs = out.as_chunks_mut::<{ 2 * SUB }>().0;
    for (c, (codes, y)) in codes.as_chunks::<SUB>().0.iter().zip(pairs).enumerate() {
        let (low, high) = y.split_at_mut(SUB);
        let (s, m) = (&scales[2 * c..], &minima[2 * c..]);
        for ((low, high), q) in low.iter_mut().zip(high).zip(codes) {
            *low = s[0] * f32::from(q & 15) - m[0];
            *high = s[1] * f32::from(q >> 4) - m[1];
        }
    }
}

fn encode_block(x: &[f32; LEN]) -> [u8; BYTES] {
    let (parameters, q) = affine::encode(x, TOP);
    let mut block = [0; BYTES];
    block[..PARAMETERS].copy_from_slice(&parameters);
    let pairs = q.as_chunks::<{ 2 * SUB }>().0;
    for (codes, q) in block[PARAMETERS..].as_chunks_mut::<SUB>().0.iter_mut().zip(pairs) {
        *codes = core::array::from_fn(|l| q[l] | q[l + SUB] << 4);
    }
    block
}
