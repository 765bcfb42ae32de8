//! The softmax of a tile of scores, with a running maximum and sum (Milakov and Gimelshein 2018),
//! and its gradient.
//!
//! A tile's rows are [`STRIDE`] apart, so that a row is whole registers for every instruction set.
//! A row's sum is a chain for each lane, over ascending columns, and what a row does not see counts
//! as zero: neither where it begins and ends to see, nor how many columns the tile has, changes the
//! chain that an element is added in.

use lowtide_tensor::{Mat, MatMut, QUANTUM};

use crate::Seen;
use crate::generic::exp::exp;
use crate::simd::Simd;

/// Distance between rows of a tile, and its most columns.
pub(crate) const STRIDE: usize = QUANTUM;

/// Turns scores into weights against each row's new maximum, zero where the row does not see;
/// updates maxima and sums, and shrinks the rows of `o` by what was summed before.
///
/// # Safety
/// `scores` is writable for `STRIDE` elements a row, of which the first `columns` are read; there
/// are as many `sums` and rows of `o` (with adjacent columns) as `maxima`.
#[inline(always)]
pub(crate) unsafe fn soften<S: Simd>(
    s: S,
    scores: *mut f32,
    columns: usize,
    seen: Seen,
    maxima: &mut [f32],
    sums: &mut [f32],
    mut o: MatMut<'_, f32>,
) {
    for (i, (maximum, total)) in maxima.iter_mut().zip(sums).enumerate() {
        let seen = seen.of(i, columns);
        // SAFETY: the row is there, and all of its `STRIDE` elements are.
        unsafe {
            let row = scores.add(i * STRIDE);
            if seen.is_empty() {
                fill(row, 0..columns, 0.0);
                continue;
            }
            fill(row, 0..seen.start, f32::NEG_INFINITY);
            fill(row, seen.end..columns.next_multiple_of(S::LANES), f32::NEG_INFINITY);
            let best = largest(s, row, columns);
            let best = if best > *maximum { best } else { *maximum };
            let sum = weights(s, row, columns, best);
            // Most rows have met their maximum after a few tiles, and one times anything is that.
            let fade = if best == *maximum { 1.0 } else { exp_one(s, *maximum - best) };
            if fade == 1.0 {
                *total += sum;
            } else {
                *total = *total * fade + sum;
                scale(s, o.row_mut(i), fade);
            }
            *maximum = best;
        }
    }
}

/// Fills some elements of a row.
///
/// # Safety
/// They are writable.
#[inline(always)]
unsafe fn fill(row: *mut f32, at: core::ops::Range<usize>, value: f32) {
    for j in at {
        // SAFETY: the caller vouches for the range.
        unsafe { *row.add(j) = value };
    }
}

/// The largest of the first `columns` elements, in whole registers.
///
/// # Safety
/// The row is readable for `STRIDE` elements, `columns` at most that.
#[inline(always)]
unsafe fn largest<S: Simd>(s: S, row: *const f32, columns: usize) -> f32 {
    let mut best = s.splat(f32::NEG_INFINITY);
    for at in (0..columns).step_by(S::LANES) {
        // SAFETY: `STRIDE` is a multiple of the lanes.
        best = s.max(unsafe { s.load(row.add(at)) }, best);
    }
    s.largest(best)
}

/// Replaces each score by `e^(score - best)`, in whole registers, and gives their sum.
///
/// # Safety
/// As [`largest`], and the row is writable.
#[inline(always)]
unsafe fn weights<S: Simd>(s: S, row: *mut f32, columns: usize, best: f32) -> f32 {
    let best = s.splat(best);
    let mut sum = s.splat(0.0);
    for at in (0..columns).step_by(S::LANES) {
        // SAFETY: `STRIDE` is a multiple of the lanes.
        unsafe {
            let weight = exp(s, s.sub(s.load(row.add(at)), best));
            s.store(row.add(at), weight);
            sum = s.add(sum, weight);
        }
    }
    s.sum(sum)
}

/// `e^x` of one number.
#[inline(always)]
fn exp_one<S: Simd>(s: S, x: f32) -> f32 {
    s.first(exp(s, s.splat(x)))
}

/// `x *= by`.
#[inline(always)]
fn scale<S: Simd>(s: S, x: &mut [f32], by: f32) {
    let by = s.splat(by);
    let (len, x) = (x.len(), x.as_mut_ptr());
    for at in (0..len).step_by(S::LANES) {
        // SAFETY: a whole register, or the rest of the slice.
        unsafe {
            let x = x.add(at);
            if at + S::LANES <= len {
                s.store(x, s.mul(s.load(x), by));
            } else {
                s.store_part(x, s.mul(s.load_part(x, len - at), by), len - at);
            }
        }
    }
}

/// Divides row `i` of `x [rows, n]` by `by[i]`.
///
/// # Safety
/// `x` has as many rows as `by`, and adjacent columns.
#[inline(always)]
pub(crate) unsafe fn divide_rows<S: Simd>(s: S, mut x: MatMut<'_, f32>, by: &[f32]) {
    for (i, &by) in by.iter().enumerate() {
        let row = x.row_mut(i);
        let (len, row) = (row.len(), row.as_mut_ptr());
        let by = s.splat(by);
        for at in (0..len).step_by(S::LANES) {
            // SAFETY: a whole register, or the rest of the row.
            unsafe {
                let to = row.add(at);
                if at + S::LANES <= len {
                    s.store(to, s.div(s.load(to), by));
                } else {
                    s.store_part(to, s.div(s.load_part(to, len - at), by), len - at);
                }
            }
        }
    }
}

/// Turns scores into probabilities `p = e^(score - lse)`, and `slopes`, the gradients of the
/// probabilities, into those of the unscaled scores, `p (slope - mean) scale`. Zero where a row
/// does not see.
///
/// # Safety
/// `scores` and `slopes` are writable for `STRIDE` elements a row; there are as many `means` as
/// `lse`.
#[inline(always)]
pub(crate) unsafe fn soften_vjp<S: Simd>(
    s: S,
    scores: *mut f32,
    slopes: *mut f32,
    columns: usize,
    seen: Seen,
    scale: f32,
    lse: &[f32],
    means: &[f32],
) {
    let scale = s.splat(scale);
    for (i, (&lse, &mean)) in lse.iter().zip(means).enumerate() {
        let seen = seen.of(i, columns);
        let (lse, mean) = (s.splat(lse), s.splat(mean));
        // SAFETY: the rows are there, and all of their `STRIDE` elements are.
        unsafe {
            let (scores, slopes) = (scores.add(i * STRIDE), slopes.add(i * STRIDE));
            for at in (0..columns).step_by(S::LANES) {
                let p = exp(s, s.sub(s.load(scores.add(at)), lse));
                let slope = s.sub(s.load(slopes.add(at)), mean);
                s.store(scores.add(at), p);
                s.store(slopes.add(at), s.mul(s.mul(p, slope), scale));
            }
            for row in [scores, slopes] {
                fill(row, 0..seen.start, 0.0);
                fill(row, seen.end..columns, 0.0);
            }
        }
    }
}

/// `out[i] = a[i] · b[i]`, a chain for each lane.
///
/// # Safety
/// `a` and `b` have `out.len()` rows, as many columns as each other, and adjacent ones.
#[inline(always)]
pub(crate) unsafe fn dot_rows<S: Simd>(s: S, a: Mat<'_, f32>, b: Mat<'_, f32>, out: &mut [f32]) {
    let n = a.cols();
    for (i, out) in out.iter_mut().enumerate() {
        let (a, b) = (a.row(i).as_ptr(), b.row(i).as_ptr());
        let mut sum = s.splat(0.0);
        for at in (0..n).step_by(S::LANES) {
            // SAFETY: a whole register, or the rest of the rows.
            unsafe {
                let (a, b) = if at + S::LANES <= n {
                    (s.load(a.add(at)), s.load(b.add(at)))
                } else {
                    (s.load_part(a.add(at), n - at), s.load_part(b.add(at), n - at))
                };
                sum = s.fma(a, b, sum);
            }
        }
        *out = s.sum(sum);
    }
}

/// Whether `x`, with adjacent columns, holds neither NaN nor infinities.
#[inline(always)]
pub(crate) fn finite<S: Simd>(s: S, x: Mat<'_, f32>) -> bool {
    let n = x.cols();
    // Zero times anything finite is zero, and zeros sum to zero.
    let mut sum = s.splat(0.0);
    for i in 0..x.rows() {
        let row = x.row(i).as_ptr();
        for at in (0..n).step_by(S::LANES) {
            // SAFETY: a whole register, or the rest of the row.
            let some = unsafe {
                if at + S::LANES <= n {
                    s.load(row.add(at))
                } else {
                    s.load_part(row.add(at), n - at)
                }
            };
            sum = s.fma(some, s.splat(0.0), sum);
        }
    }
    s.sum(sum) == 0.0
}
