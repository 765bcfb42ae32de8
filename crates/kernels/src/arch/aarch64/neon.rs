//! NEON: four lanes, 32 registers. Every AArch64 processor has it.

use core::arch::aarch64::{
    float32x4_t, int16x4_t, int32x4_t, uint32x4_t, vaddq_f32, vaddq_u32, vbslq_f32, vcgtq_f32,
    vcltq_f32, vcvtq_f32_s32, vdivq_f32, vdupq_n_f32, vdupq_n_s32, vfmaq_f32, vgetq_lane_f32,
    vld1q_f32, vld1q_s32, vmlal_s16, vmovn_s32, vmulq_f32, vqrdmulhq_s16, vreinterpretq_f32_f64,
    vreinterpretq_f32_u32, vreinterpretq_f64_f32, vreinterpretq_s16_s32, vreinterpretq_s32_f32,
    vreinterpretq_s32_s16, vreinterpretq_u32_f32, vshlq_n_u32, vshrn_n_s32, vsqrtq_f32, vst1q_f32,
    vst1q_s32, vsubq_f32, vtrn1q_f32, vtrn1q_f64, vtrn2q_f32, vtrn2q_f64,
};

use crate::Isa;
use crate::arch::stamp::stamp;
use crate::arch::stamp_int::stamp_int;
use crate::generic::form::Pairs;
use crate::simd::Simd;

stamp!(Isa::Neon, Neon, rows = 8, int = [pairs::FUNCTIONS; 2], features = "neon");
stamp_int!(pairs, Neon, Pairs, rows = [4, 2], features = "neon");

/// The functions of this instruction set.
pub(crate) const TABLE: crate::Kernels = STAMPED;

/// The token: this processor has NEON.
#[derive(Clone, Copy)]
pub(crate) struct Neon(());

impl Neon {
    /// Makes a token.
    ///
    /// # Safety
    /// The processor has NEON.
    #[inline(always)]
    pub(crate) unsafe fn assume() -> Self {
        Self(())
    }

    /// The low and the high 16 bits of each lane.
    #[inline(always)]
    fn halves(self, x: int32x4_t) -> (int16x4_t, int16x4_t) {
        // SAFETY: the token.
        unsafe { (vmovn_s32(x), vshrn_n_s32::<16>(x)) }
    }

    /// Pairs of rows are interleaved by elements, then by halves.
    #[inline(always)]
    fn transposed(self, [a, b, c, d]: [float32x4_t; 4]) -> [float32x4_t; 4] {
        // SAFETY: the token.
        unsafe {
            let even = [vtrn1q_f32(a, b), vtrn1q_f32(c, d)].map(|x| vreinterpretq_f64_f32(x));
            let odd = [vtrn2q_f32(a, b), vtrn2q_f32(c, d)].map(|x| vreinterpretq_f64_f32(x));
            [
                vtrn1q_f64(even[0], even[1]),
                vtrn1q_f64(odd[0], odd[1]),
                vtrn2q_f64(even[0], even[1]),
                vtrn2q_f64(odd[0], odd[1]),
            ]
            .map(|x| vreinterpretq_f32_f64(x))
        }
    }
}

impl Simd for Neon {
    const LANES: usize = 4;

    const WIDE: usize = 3;

    type F = float32x4_t;

    type Mask = uint32x4_t;

    type I = int32x4_t;

    type Narrow = Self;

    #[inline(always)]
    fn narrow(self) -> Self {
        self
    }

    #[inline(always)]
    fn splat(self, x: f32) -> float32x4_t {
        // SAFETY: the token.
        unsafe { vdupq_n_f32(x) }
    }

    #[inline(always)]
    fn mul(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: the token.
        unsafe { vmulq_f32(a, b) }
    }

    #[inline(always)]
    fn fma(self, a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        // SAFETY: the token.
        unsafe { vfmaq_f32(c, a, b) }
    }

    #[inline(always)]
    fn add(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: the token.
        unsafe { vaddq_f32(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: the token.
        unsafe { vsubq_f32(a, b) }
    }

    #[inline(always)]
    fn div(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: the token.
        unsafe { vdivq_f32(a, b) }
    }

    #[inline(always)]
    fn max(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: the token.
        unsafe { vbslq_f32(vcgtq_f32(a, b), a, b) }
    }

    #[inline(always)]
    fn min(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: the token.
        unsafe { vbslq_f32(vcltq_f32(a, b), a, b) }
    }

    #[inline(always)]
    fn less(self, a: float32x4_t, b: float32x4_t) -> uint32x4_t {
        // SAFETY: the token.
        unsafe { vcltq_f32(a, b) }
    }

    #[inline(always)]
    fn select(self, mask: uint32x4_t, yes: float32x4_t, no: float32x4_t) -> float32x4_t {
        // SAFETY: the token.
        unsafe { vbslq_f32(mask, yes, no) }
    }

    #[inline(always)]
    fn power(self, x: float32x4_t) -> float32x4_t {
        // SAFETY: the token.
        unsafe {
            let exponent = vshlq_n_u32::<23>(vreinterpretq_u32_f32(x));
            let one = vreinterpretq_u32_f32(vdupq_n_f32(1.0));
            vreinterpretq_f32_u32(vaddq_u32(exponent, one))
        }
    }

    #[inline(always)]
    fn sum(self, x: float32x4_t) -> f32 {
        let [a, b, c, d] = lanes(self, x);
        (a + c) + (b + d)
    }

    #[inline(always)]
    fn largest(self, x: float32x4_t) -> f32 {
        let [a, b, c, d] = lanes(self, x);
        let larger = |a: f32, b: f32| if a > b { a } else { b };
        larger(larger(a, c), larger(b, d))
    }

    #[inline(always)]
    fn first(self, x: float32x4_t) -> f32 {
        // SAFETY: the token.
        unsafe { vgetq_lane_f32::<0>(x) }
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> float32x4_t {
        // SAFETY: the token, and the caller vouches for 4 elements.
        unsafe { vld1q_f32(from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, x: float32x4_t) {
        // SAFETY: the token, and the caller vouches for 4 elements.
        unsafe { vst1q_f32(to, x) }
    }

    #[inline(always)]
    unsafe fn load_part(self, from: *const f32, lanes: usize) -> float32x4_t {
        let mut all = [0.0; 4];
        for (i, x) in all.iter_mut().take(lanes).enumerate() {
            // SAFETY: the caller vouches for `lanes` elements.
            *x = unsafe { *from.add(i) };
        }
        // SAFETY: `all` has 4 elements.
        unsafe { self.load(all.as_ptr()) }
    }

    #[inline(always)]
    unsafe fn store_part(self, to: *mut f32, x: float32x4_t, lanes: usize) {
        let mut all = [0.0; 4];
        // SAFETY: `all` has 4 elements.
        unsafe { self.store(all.as_mut_ptr(), x) };
        for (i, x) in all.into_iter().take(lanes).enumerate() {
            // SAFETY: the caller vouches for `lanes` elements.
            unsafe { *to.add(i) = x };
        }
    }

    #[inline(always)]
    fn sqrt(self, x: float32x4_t) -> float32x4_t {
        // SAFETY: the token.
        unsafe { vsqrtq_f32(x) }
    }

    #[inline(always)]
    unsafe fn transpose(
        self,
        from: *const f32,
        from_stride: usize,
        to: *mut f32,
        to_stride: usize,
    ) {
        // SAFETY: the caller vouches for 4 rows of 4 elements.
        let rows = core::array::from_fn(|i| unsafe { self.load(from.add(i * from_stride)) });
        for (i, row) in self.transposed(rows).into_iter().enumerate() {
            // SAFETY: the caller vouches for 4 rows of 4 elements.
            unsafe { self.store(to.add(i * to_stride), row) };
        }
    }

    #[inline(always)]
    fn splat_int(self, x: i32) -> int32x4_t {
        // SAFETY: the token.
        unsafe { vdupq_n_s32(x) }
    }

    #[inline(always)]
    fn bits(self, x: float32x4_t) -> int32x4_t {
        // SAFETY: the token.
        unsafe { vreinterpretq_s32_f32(x) }
    }

    #[inline(always)]
    fn floats(self, x: int32x4_t) -> float32x4_t {
        // SAFETY: the token.
        unsafe { vcvtq_f32_s32(x) }
    }

    /// NEON has no such instruction for 16 bits. Two widening multiply-adds do it, of the even and
    /// of the odd halves; the compiler takes an operand apart once for all products it is in.
    #[inline(always)]
    fn dot_pairs(self, sum: int32x4_t, a: int32x4_t, b: int32x4_t) -> int32x4_t {
        let ((a0, a1), (b0, b1)) = (self.halves(a), self.halves(b));
        // SAFETY: the token.
        unsafe { vmlal_s16(vmlal_s16(sum, a0, b0), a1, b1) }
    }

    #[inline(always)]
    fn scale_short(self, a: int32x4_t, b: int32x4_t) -> int32x4_t {
        // SAFETY: the token.
        unsafe {
            let (a, b) = (vreinterpretq_s16_s32(a), vreinterpretq_s16_s32(b));
            vreinterpretq_s32_s16(vqrdmulhq_s16(a, b))
        }
    }

    #[inline(always)]
    unsafe fn load_int(self, from: *const i32) -> int32x4_t {
        // SAFETY: the token, and the caller vouches for 4 elements.
        unsafe { vld1q_s32(from) }
    }

    #[inline(always)]
    unsafe fn store_int(self, to: *mut i32, x: int32x4_t) {
        // SAFETY: the token, and the caller vouches for 4 elements.
        unsafe { vst1q_s32(to, x) }
    }
}

/// The lanes of a register.
#[inline(always)]
fn lanes(s: Neon, x: float32x4_t) -> [f32; 4] {
    let mut all = [0.0; 4];
    // SAFETY: `all` has 4 elements.
    unsafe { s.store(all.as_mut_ptr(), x) };
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Neon {
        // SAFETY: every AArch64 processor has NEON.
        unsafe { Neon::assume() }
    }

    fn shorts(pairs: [[i16; 2]; 4]) -> int32x4_t {
        let bits = pairs.map(|[low, high]| i32::from(low.cast_unsigned()) | i32::from(high) << 16);
        // SAFETY: `bits` has 4 elements.
        unsafe { token().load_int(bits.as_ptr()) }
    }

    fn integers(x: int32x4_t) -> [i32; 4] {
        let mut all = [0; 4];
        // SAFETY: `all` has 4 elements.
        unsafe { token().store_int(all.as_mut_ptr(), x) };
        all
    }

    #[test]
    fn pairs_are_multiplied_and_added() {
        let a = [[1, 2], [-3, 4], [-32_768, 32_767], [127, -128]];
        let b = [[5, 7], [11, -13], [32_767, -32_768], [-4_095, 4_095]];
        let sum = token().splat_int(10);
        let expected: [i32; 4] = core::array::from_fn(|i| {
            let product = |half: usize| i32::from(a[i][half]) * i32::from(b[i][half]);
            10_i32.wrapping_add(product(0)).wrapping_add(product(1))
        });
        assert_eq!(integers(token().dot_pairs(sum, shorts(a), shorts(b))), expected);
    }

    #[test]
    fn shorts_are_scaled_to_the_nearest() {
        let a = [[16_383, -16_383], [1, -1], [3, -3], [0, 32_767]];
        let b = [[32_767, 32_767], [16_384, 16_384], [16_384, 16_384], [32_767, 1]];
        let expected = [0, 1, 2, 3].map(|i: usize| {
            [0, 1].map(|half: usize| {
                let product = i32::from(a[i][half]) * i32::from(b[i][half]);
                ((product + (1 << 14)) >> 15) as i16
            })
        });
        let scaled = token().scale_short(shorts(a), shorts(b));
        assert_eq!(integers(scaled), integers(shorts(expected)));
    }

    #[test]
    fn squares_are_transposed_and_parts_left_alone() {
        let from: [f32; 20] = core::array::from_fn(|i| i as f32);
        let mut to = [-1.0_f32; 24];
        // SAFETY: rows of 4 at strides of 5 and 6 lie in 20 and 24 elements.
        unsafe { token().transpose(from.as_ptr(), 5, to.as_mut_ptr(), 6) };
        for (at, x) in to.into_iter().enumerate() {
            let (i, j) = (at / 6, at % 6);
            assert_eq!(x, if j < 4 { from[j * 5 + i] } else { -1.0 });
        }
        for count in 0..=4 {
            let mut part = [-1.0_f32; 4];
            // SAFETY: both have 4 elements.
            unsafe {
                let x = token().load_part(from[1..].as_ptr(), count);
                token().store_part(part.as_mut_ptr(), x, 4);
            }
            let expected = core::array::from_fn(|i| if i < count { from[i + 1] } else { 0.0 });
            assert_eq!(part, expected);
            part = [-1.0; 4];
            // SAFETY: both have 4 elements.
            unsafe { token().store_part(part.as_mut_ptr(), token().load(from.as_ptr()), count) };
            assert_eq!(part, core::array::from_fn(|i| if i < count { from[i] } else { -1.0 }));
        }
    }
}
