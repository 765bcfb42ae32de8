//! Dense products: `c = alpha a b` or `c += alpha a b`.
//!
//! The plain algorithm: each element of `c` is a chain of multiply-adds over ascending `k`, begun
//! at zero, then scaled and added. Departures:
//!
//! 1. A micro-kernel holds `R` rows by `V` registers of `c` at once; a row's element is broadcast
//!    and multiplied with `V` registers of `b`. Which micro-kernel an element falls into changes
//!    nothing about its chain.
//! 2. Rows are the outer loop, so that `R` rows of `a` stay in the first cache while `b` streams
//!    through from the second.
//! 3. A product at most half a register wide goes through registers of half the width, where there
//!    are any: a processor has more of them at work at once.
//! 4. `a` is not packed: its elements are broadcast from where they lie, whatever its strides.

use lowtide_tensor::{Mat, MatMut};

use crate::rhs::Rhs;
use crate::simd::Simd;

/// `c = alpha a b`, or `c += alpha a b` with `add`; micro-kernels of `R` rows.
///
/// # Safety
/// Shapes fit together: `a [m, k]`, `b [k, n]`, `c [m, n]` with adjacent columns.
#[inline(always)]
pub(crate) unsafe fn gemm<S: Simd, const R: usize>(
    s: S,
    alpha: f32,
    a: Mat<'_, f32>,
    b: Rhs<'_>,
    add: bool,
    mut c: MatMut<'_, f32>,
) {
    let call = Call {
        k: a.cols(),
        a: a.as_ptr(),
        a_row: a.row_stride(),
        a_col: a.col_stride(),
        c_row: c.as_ref().row_stride(),
        c: c.as_mut_ptr(),
        alpha,
        add,
    };
    let m = a.rows();
    if S::Narrow::LANES < S::LANES && b.n() <= S::Narrow::LANES {
        // SAFETY: the caller's; all of `b` is one narrow register wide.
        return unsafe { narrow(s.narrow(), &call, m, b) };
    }
    let mut row = 0;
    while row < m {
        let left = m - row;
        // SAFETY: each call covers rows from `row` on, of which there are at least as many as the
        // micro-kernel has.
        unsafe {
            if left >= R {
                row_of_kernels::<S, R>(s, &call, row, b);
                row += R;
            } else if left >= 4 && R > 4 {
                row_of_kernels::<S, 4>(s, &call, row, b);
                row += 4;
            } else if left >= 2 && R > 2 {
                row_of_kernels::<S, 2>(s, &call, row, b);
                row += 2;
            } else {
                row_of_kernels::<S, 1>(s, &call, row, b);
                row += 1;
            }
        }
    }
}

/// What does not change within a product.
struct Call {
    k: usize,
    a: *const f32,
    a_row: usize,
    a_col: usize,
    c: *mut f32,
    c_row: usize,
    alpha: f32,
    add: bool,
}

/// All rows of a product that is at most one register wide: the ranks of adapters.
///
/// # Safety
/// As [`gemm`], and `b` has at most as many columns as a register has lanes.
#[inline(always)]
unsafe fn narrow<S: Simd>(s: S, call: &Call, m: usize, b: Rhs<'_>) {
    let n = b.n();
    // The first group may have more columns than take part.
    let (offset, b_row) = b.part(0, b.group.unwrap_or(n).min(b.stored()));
    let mut row = 0;
    while row < m {
        let eight = m - row >= 8;
        // SAFETY: the group begins there, and there are 8 rows from `row` on, or one.
        unsafe {
            let b = b.as_ptr().add(offset);
            match (eight, n == S::LANES) {
                (true, true) => micro::<S, 8, 1, false>(s, call, row, 0, b, b_row, n),
                (true, false) => micro::<S, 8, 1, true>(s, call, row, 0, b, b_row, n),
                (false, true) => micro::<S, 1, 1, false>(s, call, row, 0, b, b_row, n),
                (false, false) => micro::<S, 1, 1, true>(s, call, row, 0, b, b_row, n),
            }
        }
        row += if eight { 8 } else { 1 };
    }
}

/// `R` rows of the product, group after group.
///
/// # Safety
/// As [`gemm`], and there are `R` rows from `row` on.
#[inline(always)]
unsafe fn row_of_kernels<S: Simd, const R: usize>(s: S, call: &Call, row: usize, b: Rhs<'_>) {
    let n = b.n();
    let group = b.group.unwrap_or(S::WIDE * S::LANES);
    let data = b.as_ptr();
    let mut at = 0;
    while at < n {
        let stored = group.min(b.stored() - at);
        let (offset, b_row) = b.part(at, stored);
        let width = stored.min(n - at);
        // SAFETY: the group lies inside `b`, whose rows are `b_row` apart; `at + width <= n`.
        unsafe { group_of_kernels::<S, R>(s, call, row, at, data.add(offset), b_row, width) };
        at += width;
    }
}

/// `R` rows by the columns of one group.
///
/// # Safety
/// As [`row_of_kernels`]; `b` has `call.k` rows of `width` elements, `b_row` apart.
#[inline(always)]
unsafe fn group_of_kernels<S: Simd, const R: usize>(
    s: S,
    call: &Call,
    row: usize,
    at: usize,
    b: *const f32,
    b_row: usize,
    width: usize,
) {
    let mut done = 0;
    while done < width {
        let left = width - done;
        // SAFETY: `done < width`, and each micro-kernel touches at most `left` columns.
        unsafe {
            let b = b.add(done);
            if S::WIDE == 3 && left >= 3 * S::LANES {
                micro::<S, R, 3, false>(s, call, row, at + done, b, b_row, 0);
                done += 3 * S::LANES;
            } else if left >= 2 * S::LANES {
                micro::<S, R, 2, false>(s, call, row, at + done, b, b_row, 0);
                done += 2 * S::LANES;
            } else if left >= S::LANES {
                micro::<S, R, 1, false>(s, call, row, at + done, b, b_row, 0);
                done += S::LANES;
            } else {
                micro::<S, R, 1, true>(s, call, row, at + done, b, b_row, left);
                done = width;
            }
        }
    }
}

/// `R` rows by `V` registers; with `PART`, only `lanes` lanes of the one register.
///
/// # Safety
/// The rows, columns and the part of `b` are there.
#[inline(always)]
unsafe fn micro<S: Simd, const R: usize, const V: usize, const PART: bool>(
    s: S,
    call: &Call,
    row: usize,
    col: usize,
    b: *const f32,
    b_row: usize,
    lanes: usize,
) {
    let mut sums = [[s.splat(0.0); V]; R];
    // SAFETY: row `row` of `a` is there.
    let a = unsafe { call.a.add(row * call.a_row) };
    let mut a_at = 0;
    let mut b_at = b;
    for _ in 0..call.k {
        let mut right = [s.splat(0.0); V];
        for (v, right) in right.iter_mut().enumerate() {
            // SAFETY: `V` registers, or `lanes` lanes, of this row of `b` are there.
            *right = unsafe {
                if PART { s.load_part(b_at, lanes) } else { s.load(b_at.add(v * S::LANES)) }
            };
        }
        for (r, sums) in sums.iter_mut().enumerate() {
            // SAFETY: `R` rows of `a` are there, and `a_at` is a column of it.
            let left = s.splat(unsafe { *a.add(r * call.a_row + a_at) });
            for (sum, right) in sums.iter_mut().zip(right) {
                *sum = s.fma(left, right, *sum);
            }
        }
        a_at += call.a_col;
        b_at = b_at.wrapping_add(b_row);
    }
    let alpha = s.splat(call.alpha);
    for (r, sums) in sums.iter().enumerate() {
        for (v, &sum) in sums.iter().enumerate() {
            // SAFETY: `R` rows and `V` registers, or `lanes` lanes, of `c` are there.
            unsafe {
                let to = call.c.add((row + r) * call.c_row + col + v * S::LANES);
                let sum = if !call.add {
                    s.mul(alpha, sum)
                } else if PART {
                    s.fma(alpha, sum, s.load_part(to, lanes))
                } else {
                    s.fma(alpha, sum, s.load(to))
                };
                if PART { s.store_part(to, sum, lanes) } else { s.store(to, sum) }
            }
        }
    }
}
