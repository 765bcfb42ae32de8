//! Plain Rust: four lanes that the compiler may or may not put into a register.

use crate::Isa;
use crate::arch::stamp::stamp;
use crate::arch::stamp_int::stamp_int;
use crate::generic::form::Pairs;
use crate::simd::Simd;

stamp!(Isa::Scalar, Scalar, rows = 4, int = [pairs::FUNCTIONS; 2]);
stamp_int!(pairs, Scalar, Pairs, rows = [2, 2]);

/// The functions of this instruction set.
pub(crate) const TABLE: crate::Kernels = STAMPED;

/// The token: every processor runs plain Rust.
#[derive(Clone, Copy)]
struct Scalar;

const LANES: usize = 4;

impl Scalar {
    /// Makes a token.
    ///
    /// # Safety
    /// Nothing is asked for; it is unsafe only to look as the others do.
    unsafe fn assume() -> Self {
        Self
    }
}

impl Simd for Scalar {
    const LANES: usize = LANES;

    const WIDE: usize = 2;

    type F = [f32; LANES];

    type Mask = [bool; LANES];

    type I = [i32; LANES];

    type Narrow = Self;

    #[inline(always)]
    fn narrow(self) -> Self {
        self
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        [x; LANES]
    }

    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        core::array::from_fn(|i| a[i] * b[i])
    }

    /// Rounded twice: without an instruction for it, once takes a call into a library.
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        core::array::from_fn(|i| a[i] * b[i] + c[i])
    }

    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        core::array::from_fn(|i| a[i] + b[i])
    }

    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        core::array::from_fn(|i| a[i] - b[i])
    }

    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        core::array::from_fn(|i| a[i] / b[i])
    }

    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        core::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        core::array::from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    fn less(self, a: Self::F, b: Self::F) -> Self::Mask {
        core::array::from_fn(|i| a[i] < b[i])
    }

    #[inline(always)]
    fn select(self, mask: Self::Mask, yes: Self::F, no: Self::F) -> Self::F {
        core::array::from_fn(|i| if mask[i] { yes[i] } else { no[i] })
    }

    #[inline(always)]
    fn power(self, x: Self::F) -> Self::F {
        x.map(|x| f32::from_bits((x.to_bits() << 23).wrapping_add(1.0_f32.to_bits())))
    }

    #[inline(always)]
    fn sum(self, [a, b, c, d]: Self::F) -> f32 {
        (a + c) + (b + d)
    }

    #[inline(always)]
    fn largest(self, [a, b, c, d]: Self::F) -> f32 {
        let larger = |a: f32, b: f32| if a > b { a } else { b };
        larger(larger(a, c), larger(b, d))
    }

    #[inline(always)]
    fn first(self, x: Self::F) -> f32 {
        x[0]
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Self::F {
        // SAFETY: the caller vouches for `LANES` elements.
        core::array::from_fn(|i| unsafe { *from.add(i) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, x: Self::F) {
        for (i, x) in x.into_iter().enumerate() {
            // SAFETY: the caller vouches for `LANES` elements.
            unsafe { *to.add(i) = x };
        }
    }

    #[inline(always)]
    unsafe fn load_part(self, from: *const f32, lanes: usize) -> Self::F {
        // SAFETY: the caller vouches for `lanes` elements.
        core::array::from_fn(|i| if i < lanes { unsafe { *from.add(i) } } else { 0.0 })
    }

    #[inline(always)]
    unsafe fn store_part(self, to: *mut f32, x: Self::F, lanes: usize) {
        for (i, x) in x.into_iter().take(lanes).enumerate() {
            // SAFETY: the caller vouches for `lanes` elements.
            unsafe { *to.add(i) = x };
        }
    }

    #[inline(always)]
    fn sqrt(self, x: Self::F) -> Self::F {
        x.map(lowtide_tensor::Float::sqrt)
    }

    #[inline(always)]
    unsafe fn transpose(
        self,
        from: *const f32,
        from_stride: usize,
        to: *mut f32,
        to_stride: usize,
    ) {
        for i in 0..LANES {
            for j in 0..LANES {
                // SAFETY: the caller vouches for all rows of both.
                unsafe { *to.add(j * to_stride + i) = *from.add(i * from_stride + j) };
            }
        }
    }

    #[inline(always)]
    fn splat_int(self, x: i32) -> Self::I {
        [x; LANES]
    }

    #[inline(always)]
    fn bits(self, x: Self::F) -> Self::I {
        x.map(|x| x.to_bits().cast_signed())
    }

    #[inline(always)]
    fn floats(self, x: Self::I) -> Self::F {
        x.map(|x| x as f32)
    }

    #[inline(always)]
    fn dot_pairs(self, sum: Self::I, a: Self::I, b: Self::I) -> Self::I {
        core::array::from_fn(|i| {
            let ([a0, a1], [b0, b1]) = (halves(a[i]), halves(b[i]));
            sum[i] + a0 * b0 + a1 * b1
        })
    }

    #[inline(always)]
    fn scale_short(self, a: Self::I, b: Self::I) -> Self::I {
        core::array::from_fn(|i| {
            let ([a0, a1], [b0, b1]) = (halves(a[i]), halves(b[i]));
            let scaled = |a: i32, b: i32| (a * b + (1 << 14)) >> 15;
            scaled(a0, b0) & 0xffff | scaled(a1, b1) << 16
        })
    }

    #[inline(always)]
    unsafe fn load_int(self, from: *const i32) -> Self::I {
        // SAFETY: the caller vouches for `LANES` elements.
        core::array::from_fn(|i| unsafe { from.add(i).read_unaligned() })
    }

    #[inline(always)]
    unsafe fn store_int(self, to: *mut i32, x: Self::I) {
        for (i, x) in x.into_iter().enumerate() {
            // SAFETY: the caller vouches for `LANES` elements.
            unsafe { to.add(i).write_unaligned(x) };
        }
    }
}

/// The two 16-bit halves of a lane.
#[inline(always)]
fn halves(x: i32) -> [i32; 2] {
    [i32::from(x as i16), x >> 16]
}
