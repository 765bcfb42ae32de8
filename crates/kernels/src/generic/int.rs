//! Products in integers: codes of packed weights with rounded activations or gradients.
//!
//! The plain algorithm: 32 activations become integers with one scale, `x ≈ s q`; 32 weights are
//! integers already, `w = d c + m`. So 32 terms of a product are
//! `s (d Σ q c + m Σ q)`, of which the first sum is exact in 32 bits. Going back, the scale of the
//! weights varies along the contraction; there `g d ≈ s D q'` with `q' = q r`, where `r = d / D` is
//! a fraction of 15 bits and `D` the largest scale of the 32, and again `Σ q' c` is exact.
//! Departures:
//!
//! 1. Integers have 16 bits and go through the pairwise dot product that every instruction set has
//!    in some form, 2 terms a lane: that is as much as two 8-bit digits with 4 terms a lane, and
//!    needs no digits. Where there is only an instruction for bytes, a table has another form
//!    ([`Form`]); sums are exact, so its bits are the same.
//! 2. A micro-kernel holds `R` rows by `V` registers of integer sums; after each 32 terms they are
//!    scaled and added to as many registers of floats, in ascending order.

use core::mem::MaybeUninit;

use lowtide_tensor::{Mat, MatMut};

use crate::generic::form::{Form, GROUP};
use crate::int::{IntRhs, IntRhsT, Rounded};
use crate::simd::Simd;

/// Magnitudes below this are taken for zero: their reciprocal would overflow.
const SMALLEST: f32 = 1e-30;

/// Groups of a contraction at most.
const GROUPS_MAX: usize = IntRhs::K_MAX / GROUP;

/// Rounds 32 values to integers of at most `top` in magnitude; gives their scale and the scaled sum
/// of the integers. Values that are not finite make the scale NaN.
#[inline(always)]
pub(crate) fn round_group(x: &[f32; GROUP], top: f32, codes: &mut [i16; GROUP]) -> (f32, f32) {
    /// Adding it rounds to an integer, which then lies in the low bits.
    const ROUNDER: f32 = 12_582_912.0;
    let mut bits = 0_i32;
    for x in x {
        // As integers, magnitudes compare as floats do, infinity and NaN above all others.
        bits = bits.max((x.to_bits() & 0x7fff_ffff).cast_signed());
    }
    let largest = f32::from_bits(bits.cast_unsigned());
    if largest.is_finite() && largest >= SMALLEST {
        let factor = top / largest;
        let mut sum = 0_i32;
        for (code, x) in codes.iter_mut().zip(x) {
            *code = (x * factor + ROUNDER).to_bits() as i16;
            sum += i32::from(*code);
        }
        let scale = largest / top;
        (scale, scale * sum as f32)
    } else {
        *codes = [0; GROUP];
        let scale = if largest.is_finite() { 0.0 } else { f32::NAN };
        (scale, scale)
    }
}

/// Rounds rows `x [m, k]`; `codes [m, k']`, `scales` and `sums [m, k' / 32]`, where `k'` is `k`
/// rounded up to whole groups, padded with zeros.
#[inline(always)]
pub(crate) fn round_rows<S: Simd, F: Form<S>>(
    s: S,
    x: Mat<'_, f32>,
    top: f32,
    mut codes: MatMut<'_, i16>,
    mut scales: MatMut<'_, f32>,
    mut sums: MatMut<'_, f32>,
) {
    for i in 0..x.rows() {
        let (whole, rest) = x.row(i).as_chunks::<GROUP>();
        let codes = codes.row_mut(i).as_chunks_mut::<GROUP>().0;
        let mut results = scales.row_mut(i).iter_mut().zip(sums.row_mut(i));
        for ((x, codes), (scale, sum)) in whole.iter().zip(&mut *codes).zip(&mut results) {
            let mut some = [0; GROUP];
            (*scale, *sum) = round_group(x, top, &mut some);
            F::arrange(s, &some, codes);
        }
        if let (Some((scale, sum)), false) = (results.next(), rest.is_empty()) {
            let mut padded = [0.0; GROUP];
            padded[..rest.len()].copy_from_slice(rest);
            let mut some = [0; GROUP];
            (*scale, *sum) = round_group(&padded, top, &mut some);
            F::arrange(s, &some, &mut codes[whole.len()]);
        }
    }
}

/// `c = x b` or `c += x b`.
///
/// # Safety
/// Shapes fit together; `c` has adjacent columns.
#[inline(always)]
pub(crate) unsafe fn gemm<S: Simd, F: Form<S>, const R: usize>(
    s: S,
    x: Rounded<'_>,
    b: IntRhs<'_>,
    add: bool,
    mut c: MatMut<'_, f32>,
) {
    let (m, n) = (c.rows(), c.cols());
    let groups = b.scales.k();
    let c_row = c.as_ref().row_stride();
    let mut at = 0;
    while at < n {
        let width = b.codes.group.unwrap_or(n).min(n - at);
        let (codes, codes_row) = b.codes.part(at, width);
        let (scales, scales_row) = b.scales.part(at, width);
        let mut done = 0;
        while done < width {
            let lanes = (width - done).min(S::WIDE * S::LANES);
            let call = Call {
                groups,
                x,
                // SAFETY: the group and the columns from `done` on lie inside `b`.
                codes: unsafe { b.codes.as_ptr().add(codes + done) },
                codes_row,
                // SAFETY: as above.
                scales: unsafe { b.scales.as_ptr().add(scales + done) },
                scales_row,
                minima: b.minima.map(|minima| {
                    let (minima_at, _) = minima.part(at, width);
                    // SAFETY: as above; minima lie as scales do.
                    unsafe { minima.as_ptr().add(minima_at + done) }
                }),
                add,
                // SAFETY: `at + done < n` is a column of `c`.
                c: unsafe { c.as_mut_ptr().add(at + done) },
                c_row,
            };
            // SAFETY: `lanes` columns from there on are there; rows are walked within `m`.
            unsafe {
                if S::WIDE == 3 && lanes == 3 * S::LANES {
                    rows::<S, F, R, 3, false>(s, &call, m, 0);
                    done += 3 * S::LANES;
                } else if lanes >= 2 * S::LANES {
                    rows::<S, F, R, 2, false>(s, &call, m, 0);
                    done += 2 * S::LANES;
                } else if lanes >= S::LANES {
                    rows::<S, F, R, 1, false>(s, &call, m, 0);
                    done += S::LANES;
                } else {
                    rows::<S, F, R, 1, true>(s, &call, m, lanes);
                    done = width;
                }
            }
        }
        at += width;
    }
}

/// What does not change within some columns of a product.
struct Call<'a> {
    groups: usize,
    x: Rounded<'a>,
    codes: *const f32,
    codes_row: usize,
    scales: *const f32,
    scales_row: usize,
    minima: Option<*const f32>,
    add: bool,
    c: *mut f32,
    c_row: usize,
}

/// All rows of `V` registers of columns.
///
/// # Safety
/// As [`gemm`], with `V` registers (`lanes` lanes) of columns at the pointers.
#[inline(always)]
unsafe fn rows<S: Simd, F: Form<S>, const R: usize, const V: usize, const PART: bool>(
    s: S,
    call: &Call<'_>,
    m: usize,
    lanes: usize,
) {
    // SAFETY: `V` registers, or `lanes` lanes, are there wherever this is called.
    let load = |from: *const f32, v: usize| unsafe {
        if PART { s.load_part(from, lanes) } else { s.load(from.add(v * S::LANES)) }
    };
    // SAFETY: a group of codes for each of `groups`.
    let starts = unsafe { starts::<S, F, V>(s, call.codes, call.codes_row, call.groups, load) };
    let mut row = 0;
    while row < m {
        let left = m - row;
        // SAFETY: each micro-kernel has at most `left` rows.
        unsafe {
            if left >= R {
                micro_of::<S, F, R, V, PART>(s, call, &starts, row, lanes);
                row += R;
            } else if left >= 2 && R > 2 {
                micro_of::<S, F, 2, V, PART>(s, call, &starts, row, lanes);
                row += 2;
            } else {
                micro_of::<S, F, 1, V, PART>(s, call, &starts, row, lanes);
                row += 1;
            }
        }
    }
}

/// What the sums of every group of some columns begin with.
type Starts<S, const V: usize> = [[<S as Simd>::I; V]; GROUPS_MAX];

/// These, for `groups` groups of codes.
///
/// # Safety
/// As for [`Form::starts`] of each group.
#[inline(always)]
unsafe fn starts<S: Simd, F: Form<S>, const V: usize>(
    s: S,
    codes: *const f32,
    codes_row: usize,
    groups: usize,
    load: impl Fn(*const f32, usize) -> S::F,
) -> Starts<S, V> {
    let mut starts = [[s.splat_int(0); V]; GROUPS_MAX];
    if F::STARTS {
        for (group, starts) in starts.iter_mut().enumerate().take(groups) {
            // SAFETY: the caller vouches for this group.
            *starts = unsafe {
                let codes = codes.add(group * (GROUP / F::PER_ELEMENT) * codes_row);
                F::starts(s, codes, codes_row, &load)
            };
        }
    }
    starts
}

/// Those of one group, which are zeros in most forms.
#[inline(always)]
fn start<S: Simd, F: Form<S>, const V: usize>(
    s: S,
    starts: &Starts<S, V>,
    group: usize,
) -> [S::I; V] {
    if F::STARTS { starts[group % GROUPS_MAX] } else { [s.splat_int(0); V] }
}

/// `R` rows by `V` registers, with minima or without.
///
/// # Safety
/// As [`micro`].
#[inline(always)]
unsafe fn micro_of<S: Simd, F: Form<S>, const R: usize, const V: usize, const PART: bool>(
    s: S,
    call: &Call<'_>,
    starts: &Starts<S, V>,
    row: usize,
    lanes: usize,
) {
    // SAFETY: the caller's.
    unsafe {
        match call.minima {
            Some(minima) => micro::<S, F, R, V, PART>(s, call, starts, Some(minima), row, lanes),
            None => micro::<S, F, R, V, PART>(s, call, starts, None, row, lanes),
        }
    }
}

/// `R` rows by `V` registers; with `PART`, only `lanes` lanes of the one register.
///
/// # Safety
/// The rows and columns are there.
#[inline(always)]
unsafe fn micro<S: Simd, F: Form<S>, const R: usize, const V: usize, const PART: bool>(
    s: S,
    call: &Call<'_>,
    starts: &Starts<S, V>,
    minima: Option<*const f32>,
    row: usize,
    lanes: usize,
) {
    // SAFETY: `V` registers, or `lanes` lanes, are there wherever this is called.
    let load = |from: *const f32, v: usize| unsafe {
        if PART { s.load_part(from, lanes) } else { s.load(from.add(v * S::LANES)) }
    };
    let x = call.x;
    // SAFETY: row `row` is there.
    let (q, scales, sums) = unsafe {
        (
            x.codes.as_ptr().add(row * x.codes.row_stride()),
            x.scales.as_ptr().add(row * x.scales.row_stride()),
            x.sums.as_ptr().add(row * x.sums.row_stride()),
        )
    };
    let q_row = x.codes.row_stride();
    let mut totals = [[s.splat(0.0); V]; R];
    for group in 0..call.groups {
        // SAFETY: a group of codes and of each row's values.
        let dots = unsafe {
            let codes = call.codes.add(group * (GROUP / F::PER_ELEMENT) * call.codes_row);
            let start = start::<S, F, V>(s, starts, group);
            F::dots::<R, V>(s, start, q.add(group * GROUP), q_row, codes, call.codes_row, load)
        };
        for v in 0..V {
            // SAFETY: a scale, and a minimum where there are any, for every group and column.
            let d = load(unsafe { call.scales.add(group * call.scales_row) }, v);
            for (r, (totals, dots)) in totals.iter_mut().zip(&dots).enumerate() {
                // SAFETY: a scale for every row and group.
                let scale = s.splat(unsafe { *scales.add(r * x.scales.row_stride() + group) });
                totals[v] = s.fma(s.mul(s.floats(dots[v]), d), scale, totals[v]);
            }
            if let Some(minima) = minima {
                // SAFETY: as for the scales.
                let minimum = load(unsafe { minima.add(group * call.scales_row) }, v);
                for (r, totals) in totals.iter_mut().enumerate() {
                    // SAFETY: a sum for every row and group.
                    let sum = s.splat(unsafe { *sums.add(r * x.sums.row_stride() + group) });
                    totals[v] = s.fma(minimum, sum, totals[v]);
                }
            }
        }
    }
    // SAFETY: `R` rows and the columns are there.
    unsafe { put::<S, R, V, PART>(s, &totals, call.add, call.c, call.c_row, row, lanes) };
}

/// Writes `R` rows of `V` registers, or adds them to what is there.
///
/// # Safety
/// The rows and columns are there.
#[inline(always)]
unsafe fn put<S: Simd, const R: usize, const V: usize, const PART: bool>(
    s: S,
    totals: &[[S::F; V]; R],
    add: bool,
    c: *mut f32,
    c_row: usize,
    row: usize,
    lanes: usize,
) {
    let one = s.splat(1.0);
    for (r, totals) in totals.iter().enumerate() {
        for (v, &total) in totals.iter().enumerate() {
            // SAFETY: the caller vouches for row and column.
            unsafe {
                let to = c.add((row + r) * c_row + v * S::LANES);
                match (add, PART) {
                    (false, false) => s.store(to, total),
                    (false, true) => s.store_part(to, total, lanes),
                    (true, false) => s.store(to, s.fma(one, total, s.load(to))),
                    (true, true) => {
                        s.store_part(to, s.fma(one, total, s.load_part(to, lanes)), lanes);
                    }
                }
            }
        }
    }
}

/// Writes the codes of `per` neighbouring rows `[per, n]`, 2 or 4, as row `row` of
/// `panel [n / 32, rows, 32]`: one of each in an element.
#[inline(always)]
pub(crate) fn weave_rows(per: usize, codes: &[i16], rows: usize, row: usize, panel: &mut [i32]) {
    let (a, b) = codes.split_at(codes.len() / 2);
    if per == 2 {
        return weave(rows, row, panel, [a, b], |[a, b]| {
            i32::from(a.cast_unsigned()) | i32::from(b) << 16
        });
    }
    let ((a, b), (c, d)) = (a.split_at(a.len() / 2), b.split_at(b.len() / 2));
    weave(rows, row, panel, [a, b, c, d], |codes| i32::from_ne_bytes(codes.map(|code| code as u8)));
}

#[inline(always)]
fn weave<const PER: usize>(
    rows: usize,
    row: usize,
    panel: &mut [i32],
    codes: [&[i16]; PER],
    element: impl Fn([i16; PER]) -> i32,
) {
    let codes = codes.map(|codes| codes.as_chunks::<GROUP>().0);
    let panels = panel.as_chunks_mut::<GROUP>().0.chunks_exact_mut(rows);
    for (column, panel) in panels.enumerate() {
        let codes = codes.map(|codes| &codes[column]);
        for (i, to) in panel[row].iter_mut().enumerate() {
            *to = element(codes.map(|codes| codes[i]));
        }
    }
}

/// Rows of gradients scaled at once: their integers stay in the first cache.
const ROWS: usize = 2;

/// `c += g b`, where the scale of `b` varies along the contraction; micro-kernels have [`ROWS`]
/// rows by the 32 columns that share scales.
///
/// # Safety
/// Shapes fit together; `c` has adjacent columns. `V` registers hold 32 lanes. The contraction is
/// at most [`IntRhsT::K_MAX`] long.
#[inline(always)]
pub(crate) unsafe fn gemm_t<S: Simd, F: Form<S>, const R: usize, const V: usize>(
    s: S,
    g: Rounded<'_>,
    b: IntRhsT<'_>,
    base: Mat<'_, f32>,
    mut c: MatMut<'_, f32>,
) {
    let (m, columns) = (c.rows(), c.cols() / GROUP);
    let (groups, elements) = (g.k() / GROUP, g.k() / F::PER_ELEMENT * GROUP);
    // SAFETY: `V` registers are there wherever this is called.
    let load = |from: *const f32, v: usize| unsafe { s.load(from.add(v * S::LANES)) };
    for column in 0..columns {
        // SAFETY: the codes of group `column` of the columns.
        let starts = unsafe {
            starts::<S, F, V>(s, b.codes.as_ptr().add(column * elements), GROUP, groups, load)
        };
        let mut row = 0;
        while row < m {
            let left = m - row;
            // SAFETY: `column` is one of the groups of columns, and there are `left` rows.
            unsafe {
                if left >= R {
                    micro_t::<S, F, R, V>(s, g, b, &starts, base, &mut c, row, column);
                    row += R;
                } else if left >= ROWS && R > ROWS {
                    micro_t::<S, F, ROWS, V>(s, g, b, &starts, base, &mut c, row, column);
                    row += ROWS;
                } else {
                    micro_t::<S, F, 1, V>(s, g, b, &starts, base, &mut c, row, column);
                    row += 1;
                }
            }
        }
    }
}

/// `R` rows by one group of columns.
///
/// # Safety
/// The rows and columns are there.
#[inline(always)]
unsafe fn micro_t<S: Simd, F: Form<S>, const R: usize, const V: usize>(
    s: S,
    g: Rounded<'_>,
    b: IntRhsT<'_>,
    starts: &Starts<S, V>,
    base: Mat<'_, f32>,
    c: &mut MatMut<'_, f32>,
    row: usize,
    column: usize,
) {
    let (k, groups) = (g.codes.cols(), g.scales.cols());
    let elements = k / F::PER_ELEMENT * GROUP;
    // SAFETY: ratios and codes of group `column` of the columns, of which there are `k` and
    // `elements`.
    let (ratios, codes) =
        unsafe { (b.ratios.as_ptr().add(column * k), b.codes.as_ptr().add(column * elements)) };
    let mut scaled = [[const { MaybeUninit::<i16>::uninit() }; IntRhsT::K_MAX]; R];
    for (r, scaled) in scaled.iter_mut().enumerate() {
        for at in (0..k).step_by(GROUP) {
            // SAFETY: `k` is whole groups; a row of `scaled` is at least as long.
            unsafe {
                let q = g.codes.as_ptr().add((row + r) * g.codes.row_stride() + at);
                F::scale(s, q, ratios.add(at), scaled.as_mut_ptr().add(at).cast());
            }
        }
    }
    let scaled: *const i16 = scaled.as_ptr().cast();
    // SAFETY: `V` registers are there wherever this is called.
    let load = |from: *const f32, v: usize| unsafe { s.load(from.add(v * S::LANES)) };
    let mut totals = [[s.splat(0.0); V]; R];
    for (r, totals) in totals.iter_mut().enumerate() {
        // SAFETY: a base for every row and group of columns.
        let base = unsafe { *base.as_ptr().add((row + r) * base.row_stride() + column) };
        *totals = [s.splat(base); V];
    }
    for group in 0..groups {
        // SAFETY: a group of codes and of each row's values, all of which were written above.
        let dots = unsafe {
            let codes = codes.add(group * (GROUP / F::PER_ELEMENT) * GROUP);
            let start = start::<S, F, V>(s, starts, group);
            F::dots::<R, V>(s, start, scaled.add(group * GROUP), IntRhsT::K_MAX, codes, GROUP, load)
        };
        // SAFETY: a largest scale for every group of rows and of columns.
        let largest = unsafe { *b.largest.as_ptr().add(group * b.largest.row_stride() + column) };
        for (r, (totals, dots)) in totals.iter_mut().zip(&dots).enumerate() {
            // SAFETY: a scale for every row and group.
            let scale =
                unsafe { *g.scales.as_ptr().add((row + r) * g.scales.row_stride() + group) };
            let scale = s.splat(scale * largest);
            for (total, &dot) in totals.iter_mut().zip(dots) {
                *total = s.fma(s.floats(dot), scale, *total);
            }
        }
    }
    // SAFETY: `R` rows and 32 columns are there.
    unsafe {
        let c_row = c.as_ref().row_stride();
        let to = c.as_mut_ptr().add(column * GROUP);
        put::<S, R, V, false>(s, &totals, true, to, c_row, row, 0);
    }
}
