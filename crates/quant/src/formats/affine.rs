//! What Q4_K and Q5_K share: the scales and minima of eight sub-blocks, and the search for them.

use super::nibbles::{scale, scale_bytes, scale_bytes_up};
use super::search::{self, Fit, nearest};

/// Values in a block.
pub(super) const LEN: usize = 256;
/// Values in a sub-block.
pub(super) const SUB: usize = 32;
/// Sub-blocks in a block.
const SUBS: usize = LEN / SUB;
/// Bytes that a block begins with: two scales in half precision, and eight pairs of 6 bits.
pub(super) const PARAMETERS: usize = 4 + 12;
/// The largest number of 6 bits.
const SIX: f32 = 63.0;

/// What the values of each sub-block are multiplied by, and what is taken off then.
pub(super) struct Parameters {
    pub(super) scales: [f32; SUBS],
    pub(super) minima: [f32; SUBS],
}

impl Parameters {
    #[inline(always)]
    pub(super) fn read(bytes: &[u8; PARAMETERS]) -> Self {
        let [d0, d1, e0, e1, s @ ..] = bytes;
        let (d, e) = (scale([*d0, *d1]), scale([*e0, *e1]));
        let mut all = Self { scales: [0.0; SUBS], minima: [0.0; SUBS] };
        for j in 0..4 {
            let (scale, min) = (s[j], s[j + 4]);
            // The upper four pairs have their low bits in the last four bytes and their two high
            // bits on top of the lower pairs.
            let upper = s[j + 8];
            all.scales[j] = d * f32::from(scale & 63);
            all.minima[j] = e * f32::from(min & 63);
            all.scales[j + 4] = d * f32::from(upper & 15 | scale >> 6 << 4);
            all.minima[j + 4] = e * f32::from(upper >> 4 | min >> 6 << 4);
        }
        all
    }
}

/// The inverse of [`Parameters::read`]: numbers of 6 bits, and what they are multiplied by.
fn write(d: [u8; 2], e: [u8; 2], scales: &[u8; SUBS], minima: &[u8; SUBS]) -> [u8; PARAMETERS] {
    let mut bytes = [0; PARAMETERS];
    bytes[..2].copy_from_slice(&d);
    bytes[2..4].copy_from_slice(&e);
    for j in 0..4 {
        bytes[4 + j] = scales[j] | scales[j + 4] >> 4 << 6;
        bytes[8 + j] = minima[j] | minima[j + 4] >> 4 << 6;
        bytes[12 + j] = scales[j + 4] & 15 | minima[j + 4] << 4;
    }
    bytes
}

/// Parameters and codes from 0 to `top` for a block.
pub(super) fn encode(x: &[f32; LEN], top: u8) -> ([u8; PARAMETERS], [u8; LEN]) {
    if !x.iter().all(|x| x.is_finite()) {
        let nan = scale_bytes(f32::NAN);
        return (write(nan, nan, &[0; SUBS], &[0; SUBS]), [0; LEN]);
    }
    let top = f32::from(top);
    let subs = x.as_chunks::<SUB>().0;
    let fitted: [_; SUBS] = core::array::from_fn(|j| search::affine(&subs[j], top));
    let (scale_max, offset_max) = largest(&fitted);
    let (d, e) = (scale_bytes(scale_max / SIX), scale_bytes(offset_max / SIX));
    let first = quantize(subs, &fitted, top, d, e);
    // Evenly spaced codes, with room for minima that are rounded down by a step: nothing is cut
    // off, and every value is within half a step of the widest sub-block.
    let spans: [_; SUBS] = core::array::from_fn(|j| search::span(&subs[j]));
    let e = scale_bytes_up(-spans.iter().fold(0.0f32, |deepest, span| deepest.min(span.0)) / SIX);
    let even = spans.map(|(min, max)| ((max - min + scale(e)) / top, -min));
    let d = scale_bytes_up(largest(&even).0 / SIX);
    let second = quantize(subs, &even, top, d, e);
    let best = if second.error < first.error { second } else { first };
    (best.parameters, best.codes)
}

fn largest(wished: &[(f32, f32); SUBS]) -> (f32, f32) {
    wished.iter().fold((0.0, 0.0), |a, b| (a.0.max(b.0), a.1.max(b.1)))
}

struct Block {
    parameters: [u8; PARAMETERS],
    codes: [u8; LEN],
    error: f32,
}

/// Rounds the wished scales and offsets to multiples of `d` and `e`, each pair to the neighbours
/// with the smallest error.
fn quantize(
    subs: &[[f32; SUB]],
    wished: &[(f32, f32); SUBS],
    top: f32,
    d: [u8; 2],
    e: [u8; 2],
) -> Block {
    let (step, min_step) = (scale(d), scale(e));
    let round = |v: f32, step: f32| {
        if step == 0.0 { 0.0 } else { nearest((v / step).clamp(0.0, SIX)) }
    };
    let mut codes = [0; LEN];
    let (mut scales, mut minima) = ([0; SUBS], [0; SUBS]);
    let mut total = 0.0;
    let all = subs.iter().zip(wished).zip(codes.as_chunks_mut::<SUB>().0);
    for (j, ((x, &(scale, offset)), codes)) in all.enumerate() {
        let (s, m) = (round(scale, step), round(offset, min_step));
        let mut best = Fit::NONE;
        for s in [s, s - 1.0, s + 1.0] {
            for m in [m, m - 1.0, m + 1.0] {
                let (s, m) = (s.clamp(0.0, SIX), m.clamp(0.0, SIX));
                let fit = Fit::of(x, step * s, min_step * m, (0.0, top));
                if fit.error < best.error {
                    best = fit;
                    (scales[j], minima[j]) = (s as u8, m as u8);
                }
            }
        }
        *codes = best.codes.map(|q| q as u8);
        total += best.error;
    }
    Block { parameters: write(d, e, &scales, &minima), codes, error: total }
}
