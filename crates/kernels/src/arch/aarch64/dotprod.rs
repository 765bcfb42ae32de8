//! NEON with `sdot`: in each lane, the sum of four products of bytes.

use core::arch::aarch64::{
    int8x8_t, int16x8_t, int32x4_t, vaddq_s32, vaddw_s8, vld1_s8, vld1q_s16, vmovl_s8, vmovn_s16,
    vqrdmulhq_s16, vrshrn_n_s16, vshl_n_s8, vshll_n_s8, vshlq_n_s32, vshr_n_s8, vst1_s8,
};
use core::arch::asm;

use crate::arch::aarch64::neon::{self, Neon};
use crate::arch::stamp_int::stamp_int;
use crate::generic::form::{Form, GROUP};
use crate::simd::Simd;
use crate::{Isa, Kernels, table};

/// The functions of this instruction set: in f32, NEON's.
pub(crate) const TABLE: Kernels =
    table::with_int(neon::TABLE, Isa::NeonDotprod, [one::FUNCTIONS, two::FUNCTIONS]);

stamp_int!(one, Neon, Fours<1>, rows = [4, 2], features = "neon,dotprod");
stamp_int!(two, Neon, Fours<2>, rows = [2, 2], features = "neon,dotprod");

/// Four codes of a byte to an element; 32 rounded values are 32 bytes, their high digits, and with
/// two `DIGITS` 32 more, their low digits.
pub(crate) struct Fours<const DIGITS: usize>;

impl<const DIGITS: usize> Form<Neon> for Fours<DIGITS> {
    const PER_ELEMENT: usize = 4;

    #[inline(always)]
    fn arrange(_s: Neon, codes: &[i16; GROUP], to: &mut [i16; GROUP]) {
        let mut bytes = [0; 2 * GROUP];
        let (high, low) = bytes.split_at_mut(GROUP);
        for ((code, high), low) in codes.iter().zip(high).zip(low) {
            [*high, *low] = if DIGITS == 2 { digits(*code) } else { [*code as u8, 0] };
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
                1 => columns::<DIGITS, R, 1, V>(s, q, q_row, load, 0, &mut dots),
                2 => columns::<DIGITS, R, 2, V>(s, q, q_row, load, 0, &mut dots),
                3 => columns::<DIGITS, R, 3, V>(s, q, q_row, load, 0, &mut dots),
                _ => {
                    columns::<DIGITS, R, 4, V>(s, q, q_row, load, 0, &mut dots);
                    columns::<DIGITS, R, 4, V>(s, q, q_row, load, V - 4, &mut dots);
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
                let high = vld1_s8(q.add(at));
                let ratios = vld1q_s16(ratios.add(at));
                if DIGITS == 2 {
                    let (high, low) = scale_digits(high, vld1_s8(q.add(GROUP + at)), ratios);
                    vst1_s8(to.add(at), high);
                    vst1_s8(to.add(GROUP + at), low);
                } else {
                    vst1_s8(to.add(at), vmovn_s16(vqrdmulhq_s16(vmovl_s8(high), ratios)));
                }
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
unsafe fn columns<const DIGITS: usize, const R: usize, const C: usize, const V: usize>(
    s: Neon,
    q: *const i16,
    q_row: usize,
    load: impl Fn(usize, usize) -> int32x4_t,
    first: usize,
    dots: &mut [[int32x4_t; V]; R],
) {
    let mut sums = [[[s.splat_int(0); C]; R]; DIGITS];
    for half in 0..2 {
        let mut left = [[s.splat_int(0); R]; DIGITS];
        for (digit, left) in left.iter_mut().enumerate() {
            for (r, left) in left.iter_mut().enumerate() {
                let at = digit * (GROUP / 2) + half * (GROUP / 4);
                // SAFETY: 16 bytes of row `r`, which the caller vouches for.
                *left = unsafe { s.load_int(q.add(r * q_row + at).cast()) };
            }
        }
        step::<0, DIGITS, R, C>(s, &mut sums, &left, |v| load(4 * half, first + v));
        step::<1, DIGITS, R, C>(s, &mut sums, &left, |v| load(4 * half + 1, first + v));
        step::<2, DIGITS, R, C>(s, &mut sums, &left, |v| load(4 * half + 2, first + v));
        step::<3, DIGITS, R, C>(s, &mut sums, &left, |v| load(4 * half + 3, first + v));
    }
    for (r, dots) in dots.iter_mut().enumerate() {
        for v in 0..C {
            let high = sums[0][r][v];
            dots[first + v] = if DIGITS == 2 { join(high, sums[DIGITS - 1][r][v]) } else { high };
        }
    }
}

/// Adds the products of a row of codes and of lane `LANE` of all digits of all rows.
#[inline(always)]
fn step<const LANE: i32, const DIGITS: usize, const R: usize, const C: usize>(
    s: Neon,
    sums: &mut [[[int32x4_t; C]; R]; DIGITS],
    left: &[[int32x4_t; R]; DIGITS],
    load: impl Fn(usize) -> int32x4_t,
) {
    let mut right = [s.splat_int(0); C];
    for (v, right) in right.iter_mut().enumerate() {
        *right = load(v);
    }
    for (sums, left) in sums.iter_mut().zip(left) {
        for (sums, &left) in sums.iter_mut().zip(left) {
            for (sum, right) in sums.iter_mut().zip(right) {
                *sum = sdot::<LANE>(*sum, right, left);
            }
        }
    }
}

/// In each lane, `sum` and four products of the bytes of `a` with those of lane `LANE` of `b`.
///
/// It is inlined into functions that are compiled for dot products, and run only with them.
#[inline(always)]
fn sdot<const LANE: i32>(mut sum: int32x4_t, a: int32x4_t, b: int32x4_t) -> int32x4_t {
    // SAFETY: the instruction changes nothing but `sum`.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {a:v}.16b, {b:v}.4b[{lane}]",
            sum = inout(vreg) sum,
            a = in(vreg) a,
            b = in(vreg) b,
            lane = const LANE,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

/// `128 high + low`.
#[inline(always)]
pub(super) fn join(high: int32x4_t, low: int32x4_t) -> int32x4_t {
    // SAFETY: every AArch64 processor has NEON.
    unsafe { vaddq_s32(vshlq_n_s32::<7>(high), low) }
}

/// A value as `128 high + low`, `low` from -64 to 63; `high` is at most 127 in magnitude, as values
/// are at most 127 times 128.
#[inline(always)]
pub(super) fn digits(code: i16) -> [u8; 2] {
    let high = (code + 64) >> 7;
    [high as u8, (code - (high << 7)) as u8]
}

/// The digits of eight values times ratios of 15 bits.
#[inline(always)]
pub(super) fn scale_digits(
    high: int8x8_t,
    low: int8x8_t,
    ratios: int16x8_t,
) -> (int8x8_t, int8x8_t) {
    // SAFETY: every AArch64 processor has NEON.
    unsafe {
        let scaled = vqrdmulhq_s16(vaddw_s8(vshll_n_s8::<7>(high), low), ratios);
        // The last seven bits with their sign.
        let low = vshr_n_s8::<1>(vshl_n_s8::<1>(vmovn_s16(scaled)));
        (vrshrn_n_s16::<7>(scaled), low)
    }
}

/// Writes the bytes of a group.
#[inline(always)]
pub(super) fn put(bytes: &[u8; 2 * GROUP], to: &mut [i16; GROUP]) {
    for (code, bytes) in to.iter_mut().zip(bytes.as_chunks().0) {
        *code = i16::from_ne_bytes(*bytes);
    }
}
