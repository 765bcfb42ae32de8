//! AVX2 with FMA and F16C: eight lanes, 16 registers.

use core::arch::x86_64::{
    __m256, __m256i, _CMP_LT_OQ, _mm_add_ps, _mm_add_ss, _mm_cvtss_f32, _mm_max_ps, _mm_max_ss,
    _mm_movehdup_ps, _mm_movehl_ps, _mm256_add_epi32, _mm256_add_ps, _mm256_blendv_ps,
    _mm256_castps_si256, _mm256_castps256_ps128, _mm256_castsi256_ps, _mm256_cmp_ps,
    _mm256_cmpgt_epi32, _mm256_cvtepi32_ps, _mm256_cvtss_f32, _mm256_div_ps, _mm256_extractf128_ps,
    _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_maskload_ps,
    _mm256_maskstore_ps, _mm256_max_ps, _mm256_min_ps, _mm256_mul_ps, _mm256_mulhrs_epi16,
    _mm256_permute2f128_ps, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setr_epi32,
    _mm256_shuffle_ps, _mm256_slli_epi32, _mm256_sqrt_ps, _mm256_storeu_ps, _mm256_storeu_si256,
    _mm256_sub_ps, _mm256_unpackhi_ps, _mm256_unpacklo_ps,
};

use crate::Isa;
use crate::arch::stamp::stamp;
use crate::arch::stamp_int::stamp_int;
use crate::generic::form::Pairs;
use crate::simd::Simd;

stamp!(Isa::Avx2, Avx2, rows = 6, int = [pairs::FUNCTIONS; 2], features = "avx2,fma,f16c");
stamp_int!(pairs, Avx2, Pairs, rows = [4, 2], features = "avx2,fma,f16c");

/// The functions of this instruction set.
pub(crate) const TABLE: crate::Kernels = STAMPED;

/// The token: this processor has AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// Makes a token.
    ///
    /// # Safety
    /// The processor has AVX2, FMA and F16C.
    #[inline(always)]
    pub(crate) unsafe fn assume() -> Self {
        Self(())
    }

    /// All bits in the first `lanes` lanes.
    #[inline(always)]
    fn first(self, lanes: usize) -> __m256i {
        // SAFETY: the token.
        unsafe {
            let places = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            _mm256_cmpgt_epi32(_mm256_set1_epi32(lanes as i32), places)
        }
    }
}

impl Simd for Avx2 {
    const LANES: usize = 8;

    const WIDE: usize = 2;

    type F = __m256;

    type Mask = __m256;

    type I = __m256i;

    type Narrow = Self;

    #[inline(always)]
    fn narrow(self) -> Self {
        self
    }

    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        // SAFETY: the token.
        unsafe { _mm256_set1_ps(x) }
    }

    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: the token.
        unsafe { _mm256_mul_ps(a, b) }
    }

    #[inline(always)]
    fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: the token.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: the token.
        unsafe { _mm256_add_ps(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: the token.
        unsafe { _mm256_sub_ps(a, b) }
    }

    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: the token.
        unsafe { _mm256_div_ps(a, b) }
    }

    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: the token.
        unsafe { _mm256_max_ps(a, b) }
    }

    #[inline(always)]
    fn min(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: the token.
        unsafe { _mm256_min_ps(a, b) }
    }

    #[inline(always)]
    fn less(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: the token.
        unsafe { _mm256_cmp_ps::<_CMP_LT_OQ>(a, b) }
    }

    #[inline(always)]
    fn select(self, mask: __m256, yes: __m256, no: __m256) -> __m256 {
        // SAFETY: the token.
        unsafe { _mm256_blendv_ps(no, yes, mask) }
    }

    #[inline(always)]
    fn power(self, x: __m256) -> __m256 {
        // SAFETY: the token.
        unsafe {
            let exponent = _mm256_slli_epi32::<23>(_mm256_castps_si256(x));
            let one = _mm256_castps_si256(_mm256_set1_ps(1.0));
            _mm256_castsi256_ps(_mm256_add_epi32(exponent, one))
        }
    }

    #[inline(always)]
    fn sum(self, x: __m256) -> f32 {
        // SAFETY: the token.
        unsafe {
            let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
            let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
        }
    }

    #[inline(always)]
    fn largest(self, x: __m256) -> f32 {
        // SAFETY: the token.
        unsafe {
            let x = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
            let x = _mm_max_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)))
        }
    }

    #[inline(always)]
    fn first(self, x: __m256) -> f32 {
        // SAFETY: the token.
        unsafe { _mm256_cvtss_f32(x) }
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m256 {
        // SAFETY: the token, and the caller vouches for 8 elements.
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, x: __m256) {
        // SAFETY: the token, and the caller vouches for 8 elements.
        unsafe { _mm256_storeu_ps(to, x) }
    }

    #[inline(always)]
    unsafe fn load_part(self, from: *const f32, lanes: usize) -> __m256 {
        // SAFETY: the token; masked lanes are not read, the caller vouches for the others.
        unsafe { _mm256_maskload_ps(from, self.first(lanes)) }
    }

    #[inline(always)]
    unsafe fn store_part(self, to: *mut f32, x: __m256, lanes: usize) {
        // SAFETY: the token; masked lanes are not written, the caller vouches for the others.
        unsafe { _mm256_maskstore_ps(to, self.first(lanes), x) }
    }

    #[inline(always)]
    fn sqrt(self, x: __m256) -> __m256 {
        // SAFETY: the token.
        unsafe { _mm256_sqrt_ps(x) }
    }

    #[inline(always)]
    unsafe fn transpose(
        self,
        from: *const f32,
        from_stride: usize,
        to: *mut f32,
        to_stride: usize,
    ) {
        // SAFETY: the caller vouches for 8 rows of 8 elements.
        let rows = core::array::from_fn(|i| unsafe { self.load(from.add(i * from_stride)) });
        for (i, column) in transposed(self, rows).into_iter().enumerate() {
            // SAFETY: the caller vouches for 8 rows of 8 elements.
            unsafe { self.store(to.add(i * to_stride), column) };
        }
    }

    #[inline(always)]
    fn splat_int(self, x: i32) -> __m256i {
        // SAFETY: the token.
        unsafe { _mm256_set1_epi32(x) }
    }

    #[inline(always)]
    fn bits(self, x: __m256) -> __m256i {
        // SAFETY: the token.
        unsafe { _mm256_castps_si256(x) }
    }

    #[inline(always)]
    fn floats(self, x: __m256i) -> __m256 {
        // SAFETY: the token.
        unsafe { _mm256_cvtepi32_ps(x) }
    }

    #[inline(always)]
    fn dot_pairs(self, sum: __m256i, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: the token.
        unsafe { _mm256_add_epi32(sum, _mm256_madd_epi16(a, b)) }
    }

    #[inline(always)]
    fn scale_short(self, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: the token.
        unsafe { _mm256_mulhrs_epi16(a, b) }
    }

    #[inline(always)]
    unsafe fn load_int(self, from: *const i32) -> __m256i {
        // SAFETY: the token, and the caller vouches for 8 elements.
        unsafe { _mm256_loadu_si256(from.cast()) }
    }

    #[inline(always)]
    unsafe fn store_int(self, to: *mut i32, x: __m256i) {
        // SAFETY: the token, and the caller vouches for 8 elements.
        unsafe { _mm256_storeu_si256(to.cast(), x) }
    }
}

/// Columns of 8 rows: pairs of rows, then fours, then the halves.
#[inline(always)]
fn transposed(_: Avx2, rows: [__m256; 8]) -> [__m256; 8] {
    let mut pairs = rows;
    for i in 0..4 {
        let (a, b) = (rows[2 * i], rows[2 * i + 1]);
        // SAFETY: the token.
        (pairs[2 * i], pairs[2 * i + 1]) =
            unsafe { (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b)) };
    }
    let mut fours = rows;
    for q in 0..2 {
        let [a, b, c, d] = [pairs[4 * q], pairs[4 * q + 1], pairs[4 * q + 2], pairs[4 * q + 3]];
        // SAFETY: the token.
        unsafe {
            fours[4 * q] = _mm256_shuffle_ps::<0b01_00_01_00>(a, c);
            fours[4 * q + 1] = _mm256_shuffle_ps::<0b11_10_11_10>(a, c);
            fours[4 * q + 2] = _mm256_shuffle_ps::<0b01_00_01_00>(b, d);
            fours[4 * q + 3] = _mm256_shuffle_ps::<0b11_10_11_10>(b, d);
        }
    }
    let mut columns = rows;
    for j in 0..4 {
        let (a, b) = (fours[j], fours[4 + j]);
        // SAFETY: the token.
        unsafe {
            columns[j] = _mm256_permute2f128_ps::<0x20>(a, b);
            columns[4 + j] = _mm256_permute2f128_ps::<0x31>(a, b);
        }
    }
    columns
}
