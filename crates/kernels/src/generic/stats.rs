//! What a slice of gradients looks like.

use crate::Summary;
use crate::simd::Simd;

/// Chains that an element may belong to, by its place.
const CHAINS: usize = 16;

/// Sum of squares in f64, largest magnitude and number of non-finite elements.
#[inline(always)]
pub(crate) fn stats<S: Simd>(_: S, x: &[f32]) -> Summary {
    let mut squares = [0.0_f64; CHAINS];
    let mut most = [0.0_f32; CHAINS];
    let mut bad = [0_u32; CHAINS];
    let (whole, rest) = x.as_chunks::<CHAINS>();
    let mut last = [0.0; CHAINS];
    last[..rest.len()].copy_from_slice(rest);
    for x in whole.iter().chain([&last]) {
        for i in 0..CHAINS {
            let magnitude = x[i].abs();
            let finite = magnitude < f32::INFINITY;
            let magnitude = if finite { magnitude } else { 0.0 };
            squares[i] += f64::from(magnitude) * f64::from(magnitude);
            most[i] = if magnitude > most[i] { magnitude } else { most[i] };
            bad[i] += u32::from(!finite);
        }
    }
    Summary {
        sum_squares: squares.into_iter().sum(),
        max_abs: most.into_iter().fold(0.0, f32::max),
        non_finite: bad.into_iter().map(|n| n as usize).sum(),
    }
}
