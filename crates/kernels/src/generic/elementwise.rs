//! Residuals, biases, column sums, dropout.

use lowtide_tensor::{Mat, QUANTUM};

use super::walk::each;
use crate::Draws;
use crate::simd::Simd;

/// `y = alpha x + beta y`; with `beta` zero, whatever `y` holds is not read.
#[inline(always)]
pub(crate) fn axpby<S: Simd>(s: S, alpha: f32, x: &[f32], beta: f32, y: &mut [f32]) {
    let (a, b) = (s.splat(alpha), s.splat(beta));
    if beta == 0.0 {
        each(s, [x], [y], |[x], _| [s.mul(a, x)]);
    } else if beta == 1.0 {
        each(s, [x], [y], |[x], [y]| [s.fma(a, x, y)]);
    } else {
        each(s, [x], [y], |[x], [y]| [s.fma(a, x, s.mul(b, y))]);
    }
}

/// `y += x`.
#[inline(always)]
pub(crate) fn add<S: Simd>(s: S, x: &[f32], y: &mut [f32]) {
    each(s, [x], [y], |[x], [y]| [s.add(x, y)]);
}

/// `y *= x`.
#[inline(always)]
pub(crate) fn mul<S: Simd>(s: S, x: &[f32], y: &mut [f32]) {
    each(s, [x], [y], |[x], [y]| [s.mul(x, y)]);
}

/// `dsum[c] += Σ_t x[t, c]`: rows of a quantum are summed from zero on, then added.
#[inline(always)]
pub(crate) fn sum_rows<S: Simd>(s: S, x: Mat<'_, f32>, dsum: &mut [f32]) {
    const COLUMNS: usize = 256;
    for (piece, dsum) in dsum.chunks_mut(COLUMNS).enumerate() {
        let columns = piece * COLUMNS..piece * COLUMNS + dsum.len();
        for first in (0..x.rows()).step_by(QUANTUM) {
            let mut part = [0.0; COLUMNS];
            let part = &mut part[..dsum.len()];
            for t in first..x.rows().min(first + QUANTUM) {
                add(s, &x.row(t)[columns.clone()], part);
            }
            add(s, part, dsum);
        }
    }
}

/// `y = x ⊙ mask * keep`: an element is zero where its draw is below the threshold.
#[inline(always)]
pub(crate) fn dropout<S: Simd>(_: S, draws: Draws, keep: f32, x: &[f32], y: &mut [f32]) {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut state = draws.state;
    for (x, y) in x.iter().zip(y) {
        state = state.wrapping_add(ODD);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        *y = if z >> 11 >= draws.threshold { x * keep } else { 0.0 };
    }
}
