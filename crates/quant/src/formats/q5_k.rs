//! Q5_K: 256 codes of 5 bits in eight sub-blocks, each with a scale and a minimum of 6 bits.

use super::affine::{self, LEN, PARAMETERS, Parameters, SUB};
use crate::{BlockFormat, Integers, block_count, integers};

/// 256 values in 176 bytes, 5.5 bits a value: scales and minima as in [`Q4_K`](super::Q4_K), then
/// 32 bytes with the highest bits of the codes `q`, where bit `b` of byte `l` belongs to value `l`
/// of sub-block `b`, then 128 bytes with their lower bits in the order of `Q4_K`;
/// `x = (d s) q − e m`.
///
/// Encoding searches scales and minima by least squares. No block comes out worse than with evenly
/// spaced codes: the root mean square error is at most `r / 60 + 2⁻¹⁸`, `r` being the widest span
/// of the values of a sub-block and zero. Normally distributed values lose
/// some 3.4 % of their standard deviation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(non_camel_case_types, reason = "it is the name of the format")]
pub struct Q5_K;

/// The largest code.
const TOP: u8 = 31;
const CODES: usize = LEN / 2;
const BYTES: usize = PARAMETERS + SUB + CODES;

impl BlockFormat for Q5_K {
    fn name(&self) -> &'static str {
        "Q5_K"
    }

    fn ggml_type(&self) -> Option<u32> {
        Some(13)
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

impl Integers for Q5_K {
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
                let (parameters, rest) =
                    block.split_first_chunk().expect("a block begins with them");
                let (bits, q) = rest.split_first_chunk::<SUB>().expect("the highest bits follow");
                let Parameters { scales, minima } = Parameters::read(parameters);
                let pairs = codes.as_chunks_mut::<{ 2 * SUB }>().0;
                for (c, (q, codes)) in q.as_chunks::<SUB>().0.iter().zip(pairs).enumerate() {
                    let (low, high) = codes.split_at_mut(SUB);
                    for (((low, high), q), bits) in low.iter_mut().zip(high).zip(q).zip(bits) {
                        let bits = bits >> (2 * c);
                        *low = i16::from(q & 15 | bits << 4 & 16);
                        *high = i16::from(q >> 4 | bits << 3 & 16);
                    }
                }
                (scales, minima.map(|m| -m))
            },
        );
    }
}

#[inline(always)]
fn decode_block(block: &[u8; BYTES], out: &mut [f32; LEN]) {
    let (parameters, rest) = block.split_first_chunk().expect("a block begins with them");
    let (bits, codes) = rest.split_first_chunk::<SUB>().expect("the highest bits follow");
    let Parameters { scales, minima } = Parameters::read(parameters);
    let pairs = out.as_chunks_mut::<{ 2 * SUB }>().0;
    for (c, (codes, y)) in codes.as_chunks::<SUB>().0.iter().zip(pairs).enumerate() {
        let (low, high) = y.split_at_mut(SUB);
        let (s, m) = (&scales[2 * c..], &minima[2 * c..]);
        for (((low, high), q), bits) in low.iter_mut().zip(high).zip(codes).zip(bits) {
            let bits = bits >> (2 * c);
            *low = s[0] * f32::from(q & 15 | bits << 4 & 16) - m[0];
            *high = s[1] * f32::from(q >> 4 | bits << 3 & 16) - m[1];
        }
    }
}

fn encode_block(x: &[f32; LEN]) -> [u8; BYTES] {
    let (parameters, q) = affine::encode(x, TOP);
    let mut block = [0; BYTES];
    block[..PARAMETERS].copy_from_slice(&parameters);
    let (bits, codes) = block[PARAMETERS..].split_at_mut(SUB);
    let pairs = q.as_chunks::<{ 2 * SUB }>().0;
    for (c, (codes, q)) in codes.as_chunks_mut::<SUB>().0.iter_mut().zip(pairs).enumerate() {
        for l in 0..SUB {
            codes[l] = q[l] & 15 | q[l + SUB] << 4;
            bits[l] |= (q[l] >> 4 | q[l + SUB] >> 4 << 1) << (2 * c);
        }
    }
    block
}
