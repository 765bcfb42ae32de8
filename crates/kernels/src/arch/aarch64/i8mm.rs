//! NEON with `smmla`: products of 2 x 8 by 8 x 2 bytes.
//!
//! The two rows on the left are the two digits of the same values, so that one row of activations
//! fills them. The two columns on the right are neighbouring outputs, put side by side on the way
//! from the panel, which is that of `sdot`. One digit would fill half of the instruction: it takes
//! `sdot`.

use core::arch::aarch64::{
    int32x4_t, vld1_s8, vld1q_s16, vreinterpretq_s32_s64, vreinterpretq_s64_s32, vst1_s8,
    vzip1q_s32, vzip1q_s64, vzip2q_s32, vzip2q_s64,
};
use core::arch::asm;

use crate::arch::aarch64::dotprod::{self, digits, join, put, scale_digits};
use crate::arch::aarch64::neon::{self, Neon};
use crate::arch::stamp_int::stamp_int;
use crate::generic::form::{Form, GROUP};
use crate::simd::Simd;
use crate::{Isa, Kernels, table};

/// The functions of this instruction set: in f32, NEON's.
pub(crate) const TABLE: Kernels =
    table::with_int(neon::TABLE, Isa::NeonI8mm, [dotprod::one::FUNCTIONS, two::FUNCTIONS]);

// Three rows: their sums of both digits, and what is put side by side, just fit the registers.
stamp_int!(two, Neon, Eights, rows = [3, 2], features = "neon,dotprod,i8mm");

/// Four codes of a byte to an element; 8 rounded values are 8 bytes, their high digits, then 8
/// more, their low digits.
pub(crate) struct Eights;

impl Form<Neon> for Eights {
    const PER_ELEMENT: usize = 4;

    #[inline(always)]
    fn arrange(_s: Neon, codes: &[i16; GROUP], to: &mut [i16; GROUP]) {
        let mut bytes = [0; 2 * GROUP];
        for (codes, bytes) in codes.as_chunks::<8>().0.iter().zip(bytes.as_chunks_mut::<16>().0) {
            let (high, low) = bytes.split_at_mut(8);
            for ((code, high), low) in codes.iter().zip(high).zip(low) {
                [*high, *low] = digits(*code);
            }
        }
        put(&bytes, to);
    }

    #[inline(always)]
    unsafe fn dots<const R: usize, const V: usize>(
        s: Neon,
        starts: [int32x4_t; V],
        q: *const i16,
        q_row: usize,
        codes: *const f32,
        codes_row: usize,
        load: impl Fn(*const f32, usize) -> <Neon as Simd>::F,
    ) -> [[int32x4_t; V]; R] {
        let mut dots = [starts; R];
        let load = |row: usize, v: usize| {
            // SAFETY: the caller vouches for the rows of codes.
            s.bits(load(unsafe { codes.add(row * codes_row) }, v))
        };
        // SAFETY: the caller vouches for `R` groups of values.
        unsafe {
            match V {
                1 => columns::<R, 1, V>(s, q, q_row, load, 0, &mut dots),
                2 => columns::<R, 2, V>(s, q, q_row, load, 0, &mut dots),
                3 => columns::<R, 3, V>(s, q, q_row, load, 0, &mut dots),
                _ => {
                    columns::<R, 4, V>(s, q, q_row, load, 0, &mut dots);
                    columns::<R, 4, V>(s, q, q_row, load, V - 4, &mut dots);
                }
            }
        }
        dots
    }

    #[inline(always)]
    unsafe fn scale(_s: Neon, q: *const i16, ratios: *const i16, to: *mut i16) {
        let (q, to) = (q.cast::<i8>(), to.cast::<i8>());
        for at in (0..GROUP).step_by(8) {
            // SAFETY: the token, and the caller vouches for 32 values, of two bytes each.
            unsafe {
                let (high, low) = (vld1_s8(q.add(2 * at)), vld1_s8(q.add(2 * at + 8)));
                let (high, low) = scale_digits(high, low, vld1q_s16(ratios.add(at)));
                vst1_s8(to.add(2 * at), high);
                vst1_s8(to.add(2 * at + 8), low);
            }
        }
    }
}

/// The sums of `C` registers of columns from `first` on, as few as leave room for both digits of
/// `R` rows; `load` gives one of a row of codes.
///
/// # Safety
/// As for [`Form::dots`].
#[inline(always)]
unsafe fn columns<const R: usize, const C: usize, const V: usize>(
    s: Neon,
    q: *const i16,
    q_row: usize,
    load: impl Fn(usize, usize) -> int32x4_t,
    first: usize,
    dots: &mut [[int32x4_t; V]; R],
) {
    // For each register of columns two sums: both digits by two columns each.
    let mut sums = [[[s.splat_int(0); 2]; C]; R];
    for eight in 0..GROUP / 8 {
        let mut left = [s.splat_int(0); R];
        for (r, left) in left.iter_mut().enumerate() {
            // SAFETY: 16 bytes of row `r`, which the caller vouches for.
            *left = unsafe { s.load_int(q.add(r * q_row + 8 * eight).cast()) };
        }
        for v in 0..C {
            let (a, b) = (load(2 * eight, first + v), load(2 * eight + 1, first + v));
            // SAFETY: every AArch64 processor has NEON.
            let right = unsafe { [vzip1q_s32(a, b), vzip2q_s32(a, b)] };
            for (sums, &left) in sums.iter_mut().zip(&left) {
                for (sum, right) in sums[v].iter_mut().zip(right) {
                    *sum = smmla(*sum, left, right);
                }
            }
        }
    }
    for (sums, dots) in sums.iter().zip(dots) {
        for (v, &[a, b]) in sums.iter().enumerate() {
            // SAFETY: every AArch64 processor has NEON.
            let (high, low) = unsafe {
                let (a, b) = (vreinterpretq_s64_s32(a), vreinterpretq_s64_s32(b));
                (vreinterpretq_s32_s64(vzip1q_s64(a, b)), vreinterpretq_s32_s64(vzip2q_s64(a, b)))
            };
            dots[first + v] = join(high, low);
        }
    }
}

/// Adds to `sum [2, 2]` the products of `a [2, 8]` and `b [2, 8]`, row by row.
///
/// It is inlined into functions that are compiled for such products, and run only with them.
#[inline(always)]
fn smmla(mut sum: int32x4_t, a: int32x4_t, b: int32x4_t) -> int32x4_t {
    // SAFETY: the instruction changes nothing but `sum`.
    unsafe {
        asm!(
            "smmla {sum:v}.4s, {a:v}.16b, {b:v}.16b",
            sum = inout(vreg) sum,
            a = in(vreg) a,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}
