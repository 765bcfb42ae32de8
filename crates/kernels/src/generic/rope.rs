//! Rotary position embedding: sines and cosines of a row's angles, and the rotations of its heads.

use super::walk::each;
use crate::simd::Simd;

/// Angles reduced together, on the stack.
const PIECE: usize = 64;

/// `cos(pos * inv_freq[i])` and `sin(pos * inv_freq[i])`, each product rounded to f32.
///
/// 1. In f64, the angle less the nearest multiple of π/2, which is subtracted in two parts; adding
///    and subtracting 1.5 * 2^52 rounds to an integer, whose last two bits tell the quadrant.
/// 2. In f32, polynomials over `±π/4` with the coefficients of Moshier's Cephes library, exact to
///    about a unit in the last place.
/// 3. The quadrant swaps the two and turns signs.
///
/// Plain loops without branches, which become vector code; no step is fused, so the bits are the
/// same on every instruction set.
#[inline(always)]
pub(crate) fn turns<S: Simd>(_: S, pos: f32, inv_freq: &[f32], cos: &mut [f32], sin: &mut [f32]) {
    let pieces = inv_freq.chunks(PIECE).zip(cos.chunks_mut(PIECE)).zip(sin.chunks_mut(PIECE));
    for ((inv_freq, cos), sin) in pieces {
        let (mut rest, mut quadrant) = ([0.0_f32; PIECE], [0_u32; PIECE]);
        for ((inv_freq, rest), quadrant) in inv_freq.iter().zip(&mut rest).zip(&mut quadrant) {
            (*rest, *quadrant) = reduced(pos * inv_freq);
        }
        let places = rest.iter().zip(&quadrant).zip(cos).zip(sin);
        for (((rest, quadrant), cos), sin) in places {
            (*cos, *sin) = circle(*rest, *quadrant);
        }
    }
}

/// An angle less a multiple of π/2, within `±π/4`, and that multiple's last bits.
#[inline(always)]
fn reduced(angle: f32) -> (f32, u32) {
    const ROUNDER: f64 = 6_755_399_441_055_744.0;
    /// The leading 33 bits of π/2, so that products with small integers are exact, and the rest.
    const HIGH: f64 = 1.570_796_326_734_125_6;
    const LOW: f64 = 6.077_100_506_506_192e-11;
    let angle = f64::from(angle);
    let shifted = angle * core::f64::consts::FRAC_2_PI + ROUNDER;
    let n = shifted - ROUNDER;
    (((angle - n * HIGH) - n * LOW) as f32, shifted.to_bits() as u32)
}

/// Cosine and sine of `rest` plus so many quarters of a turn.
#[inline(always)]
fn circle(rest: f32, quadrant: u32) -> (f32, f32) {
    const SIN: [f32; 3] = [-1.951_529_6e-4, 8.332_161e-3, -1.666_665_5e-1];
    const COS: [f32; 3] = [2.443_315_7e-5, -1.388_731_6e-3, 4.166_664_6e-2];
    let square = rest * rest;
    let sin = rest + rest * square * ((SIN[0] * square + SIN[1]) * square + SIN[2]);
    let cos = (COS[0] * square + COS[1]) * square + COS[2];
    let cos = (1.0 - 0.5 * square) + square * square * cos;
    let (a, b) = if quadrant & 1 == 0 { (cos, sin) } else { (sin, cos) };
    let sign = |turned: u32| (turned & 2) << 30;
    let turn = |x: f32, turned: u32| f32::from_bits(x.to_bits() ^ sign(turned));
    (turn(a, quadrant.wrapping_add(1)), turn(b, quadrant))
}

/// Rotates the pairs of `first` and `second`.
#[inline(always)]
pub(crate) fn rotate_halves<S: Simd>(
    s: S,
    first: &mut [f32],
    second: &mut [f32],
    cos: &[f32],
    sin: &[f32],
) {
    each(s, [cos, sin], [first, second], |[cos, sin], [a, b]| {
        [s.sub(s.mul(a, cos), s.mul(b, sin)), s.add(s.mul(b, cos), s.mul(a, sin))]
    });
}

/// Rotates adjacent pairs.
#[inline(always)]
pub(crate) fn rotate_adjacent<S: Simd>(_: S, pairs: &mut [f32], cos: &[f32], sin: &[f32]) {
    let turns = cos.iter().zip(sin);
    for ([a, b], (cos, sin)) in pairs.as_chunks_mut::<2>().0.iter_mut().zip(turns) {
        (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
    }
}
