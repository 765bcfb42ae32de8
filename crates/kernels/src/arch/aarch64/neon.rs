//! NEON: four lanes, 32 registers. Every AArch64 processor has it.

use core::arch::aarch64::{float32x4_t, vdupq_n_f32, vfmaq_f32, vld1q_f32, vmulq_f32, vst1q_f32};

use crate::Isa;
use crate::arch::stamp::stamp;
use crate::simd::Simd;

stamp!(Isa::Neon, Neon, rows = 8, int_rows = [2, 2], features = "neon");

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
}

impl Simd for Neon {
    const LANES: usize = 4;

    type F = float32x4_t;

    type I = int32x4_t;

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
    unsafe fn transpose(
        self,
        from: *const f32,
        from_stride: usize,
        to: *mut f32,
        to_stride: usize,
    ) {
        for i in 0..4 {
            for j in 0..4 {
                // SAFETY: the caller vouches for all rows of both.
                unsafe { *to.add(j * to_stride + i) = *from.add(i * from_stride + j) };
            }
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

    #[inline(always)]
    fn dot_pairs(self, sum: int32x4_t, a: int32x4_t, b: int32x4_t) -> int32x4_t {
        // SAFETY: the token.
        unsafe {
            let (a, b) = (vreinterpretq_s16_s32(a), vreinterpretq_s16_s32(b));
            let low = vmull_s16(vget_low_s16(a), vget_low_s16(b));
            vaddq_s32(sum, vpaddq_s32(low, vmull_high_s16(a, b)))
        }
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
