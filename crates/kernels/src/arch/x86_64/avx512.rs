//! AVX-512 F, BW, DQ and VL: sixteen lanes, 32 registers, masks.

use core::arch::x86_64::{
    __m512, __m512i, __mmask16, _CMP_LT_OQ, _mm_add_ps, _mm_add_ss, _mm_cvtss_f32, _mm_max_ps,
    _mm_max_ss, _mm_movehdup_ps, _mm_movehl_ps, _mm256_add_ps, _mm256_castps256_ps128,
    _mm256_extractf128_ps, _mm256_max_ps, _mm512_add_epi32, _mm512_add_ps, _mm512_castps_si512,
    _mm512_castps512_ps256, _mm512_castsi512_ps, _mm512_cmp_ps_mask, _mm512_cvtepi32_ps,
    _mm512_cvtss_f32, _mm512_div_ps, _mm512_dpwssd_epi32, _mm512_extractf32x8_ps, _mm512_fmadd_ps,
    _mm512_loadu_ps, _mm512_loadu_si512, _mm512_madd_epi16, _mm512_mask_blend_ps,
    _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_max_ps, _mm512_min_ps, _mm512_mul_ps,
    _mm512_mulhrs_epi16, _mm512_set1_epi32, _mm512_set1_ps, _mm512_shuffle_f32x4,
    _mm512_shuffle_ps, _mm512_slli_epi32, _mm512_sqrt_ps, _mm512_storeu_ps, _mm512_storeu_si512,
    _mm512_sub_ps, _mm512_unpackhi_ps, _mm512_unpacklo_ps,
};

use crate::Isa;
use crate::arch::stamp::stamp;
use crate::arch::stamp_int::stamp_int;
use crate::arch::x86_64::avx2::Avx2;
use crate::arch::x86_64::few;
use crate::arch::x86_64::unpack::unpack;
use crate::generic::form::Pairs;
use crate::simd::Simd;
use crate::table::{with_few, with_unpack};

stamp!(
    Isa::Avx512,
    Avx512<false>,
    rows = 8,
    int = [pairs::FUNCTIONS; 2],
    features = "avx512f,avx512bw,avx512dq,avx512vl,fma,f16c"
);
stamp_int!(
    pairs,
    Avx512<false>,
    Pairs,
    rows = [4, 6],
    features = "avx512f,avx512bw,avx512dq,avx512vl,fma,f16c"
);

/// The functions of this instruction set.
pub(crate) const TABLE: crate::Kernels = with_unpack(with_few(STAMPED, few::FLOATS), unpack);

/// The token: this processor has AVX-512 F, BW, DQ and VL, and with `VNNI` dot products of small
/// integers.
#[derive(Clone, Copy)]
pub(crate) struct Avx512<const VNNI: bool>(());

impl<const VNNI: bool> Avx512<VNNI> {
    /// Makes a token.
    ///
    /// # Safety
    /// The processor has AVX-512 F, BW, DQ and VL, and with `VNNI` also that.
    #[inline(always)]
    pub(crate) unsafe fn assume() -> Self {
        Self(())
    }
}

/// The mask of the first `lanes` lanes.
#[inline(always)]
fn first(lanes: usize) -> __mmask16 {
    ((1_u32 << lanes) - 1) as __mmask16
}

impl<const VNNI: bool> Simd for Avx512<VNNI> {
    const LANES: usize = 16;

    const WIDE: usize = 3;

    type F = __m512;

    type Mask = __mmask16;

    type I = __m512i;

    type Narrow = Avx2;

    #[inline(always)]
    fn narrow(self) -> Avx2 {
        // SAFETY: AVX-512 comes with AVX2, FMA and F16C, and detection asks for them.
        unsafe { Avx2::assume() }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        // SAFETY: the token.
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: the token.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token.
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token.
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token.
        unsafe { _mm512_div_ps(a, b) }
    }

    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token.
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token.
        unsafe { _mm512_min_ps(a, b) }
    }

    #[inline(always)]
    fn less(self, a: __m512, b: __m512) -> __mmask16 {
        // SAFETY: the token.
        unsafe { _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b) }
    }

    #[inline(always)]
    fn select(self, mask: __mmask16, yes: __m512, no: __m512) -> __m512 {
        // SAFETY: the token.
        unsafe { _mm512_mask_blend_ps(mask, no, yes) }
    }

    #[inline(always)]
    fn power(self, x: __m512) -> __m512 {
        // SAFETY: the token.
        unsafe {
            let exponent = _mm512_slli_epi32::<23>(_mm512_castps_si512(x));
            let one = _mm512_castps_si512(_mm512_set1_ps(1.0));
            _mm512_castsi512_ps(_mm512_add_epi32(exponent, one))
        }
    }

    #[inline(always)]
    fn sum(self, x: __m512) -> f32 {
        // SAFETY: the token.
        unsafe {
            let (low, high) = (_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x));
            let x = _mm256_add_ps(low, high);
            let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
            let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
        }
    }

    #[inline(always)]
    fn largest(self, x: __m512) -> f32 {
        // SAFETY: the token.
        unsafe {
            let (low, high) = (_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x));
            let x = _mm256_max_ps(low, high);
            let x = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
            let x = _mm_max_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)))
        }
    }

    #[inline(always)]
    fn first(self, x: __m512) -> f32 {
        // SAFETY: the token.
        unsafe { _mm512_cvtss_f32(x) }
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m512 {
        // SAFETY: the token, and the caller vouches for 16 elements.
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, x: __m512) {
        // SAFETY: the token, and the caller vouches for 16 elements.
        unsafe { _mm512_storeu_ps(to, x) }
    }

    #[inline(always)]
    unsafe fn load_part(self, from: *const f32, lanes: usize) -> __m512 {
        // SAFETY: the token; masked lanes are not read, the caller vouches for the others.
        unsafe { _mm512_maskz_loadu_ps(first(lanes), from) }
    }

    #[inline(always)]
    unsafe fn store_part(self, to: *mut f32, x: __m512, lanes: usize) {
        // SAFETY: the token; masked lanes are not written, the caller vouches for the others.
        unsafe { _mm512_mask_storeu_ps(to, first(lanes), x) }
    }

    #[inline(always)]
    fn sqrt(self, x: __m512) -> __m512 {
        // SAFETY: the token.
        unsafe { _mm512_sqrt_ps(x) }
    }

    #[inline(always)]
    unsafe fn transpose(
        self,
        from: *const f32,
        from_stride: usize,
        to: *mut f32,
        to_stride: usize,
    ) {
        // SAFETY: the caller vouches for 16 rows of 16 elements.
        let rows = core::array::from_fn(|i| unsafe { self.load(from.add(i * from_stride)) });
        for (i, column) in transposed(self, rows).into_iter().enumerate() {
            // SAFETY: the caller vouches for 16 rows of 16 elements.
            unsafe { self.store(to.add(i * to_stride), column) };
        }
    }

    #[inline(always)]
    fn splat_int(self, x: i32) -> __m512i {
        // SAFETY: the token.
        unsafe { _mm512_set1_epi32(x) }
    }

    #[inline(always)]
    fn bits(self, x: __m512) -> __m512i {
        // SAFETY: the token.
        unsafe { _mm512_castps_si512(x) }
    }

    #[inline(always)]
    fn floats(self, x: __m512i) -> __m512 {
        // SAFETY: the token.
        unsafe { _mm512_cvtepi32_ps(x) }
    }

    #[inline(always)]
    fn dot_pairs(self, sum: __m512i, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: the token, which says whether there is one instruction for it.
        unsafe {
            if VNNI {
                _mm512_dpwssd_epi32(sum, a, b)
            } else {
                _mm512_add_epi32(sum, _mm512_madd_epi16(a, b))
            }
        }
    }

    #[inline(always)]
    fn scale_short(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: the token.
        unsafe { _mm512_mulhrs_epi16(a, b) }
    }

    #[inline(always)]
    unsafe fn load_int(self, from: *const i32) -> __m512i {
        // SAFETY: the token, and the caller vouches for 16 elements.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline(always)]
    unsafe fn store_int(self, to: *mut i32, x: __m512i) {
        // SAFETY: the token, and the caller vouches for 16 elements.
        unsafe { _mm512_storeu_si512(to.cast(), x) }
    }
}

/// Columns of 16 rows: pairs of rows, then fours, then the 128-bit quarters twice.
#[inline(always)]
fn transposed<const VNNI: bool>(_: Avx512<VNNI>, rows: [__m512; 16]) -> [__m512; 16] {
    let mut pairs = rows;
    for i in 0..8 {
        // SAFETY: the token.
        (pairs[2 * i], pairs[2 * i + 1]) = unsafe {
            let (a, b) = (rows[2 * i], rows[2 * i + 1]);
            (_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b))
        };
    }
    // fours[4 q + j] has, in each quarter, column `4 quarter + j` of rows `4 q .. 4 q + 4`.
    let mut fours = rows;
    for q in 0..4 {
        let [a, b, c, d] = [pairs[4 * q], pairs[4 * q + 1], pairs[4 * q + 2], pairs[4 * q + 3]];
        // SAFETY: the token.
        unsafe {
            fours[4 * q] = _mm512_shuffle_ps::<0b01_00_01_00>(a, c);
            fours[4 * q + 1] = _mm512_shuffle_ps::<0b11_10_11_10>(a, c);
            fours[4 * q + 2] = _mm512_shuffle_ps::<0b01_00_01_00>(b, d);
            fours[4 * q + 3] = _mm512_shuffle_ps::<0b11_10_11_10>(b, d);
        }
    }
    let mut columns = rows;
    for j in 0..4 {
        let [a, b, c, d] = [fours[j], fours[4 + j], fours[8 + j], fours[12 + j]];
        // SAFETY: the token.
        unsafe {
            let (ab_low, ab_high) = (
                _mm512_shuffle_f32x4::<0b10_00_10_00>(a, b),
                _mm512_shuffle_f32x4::<0b11_01_11_01>(a, b),
            );
            let (cd_low, cd_high) = (
                _mm512_shuffle_f32x4::<0b10_00_10_00>(c, d),
                _mm512_shuffle_f32x4::<0b11_01_11_01>(c, d),
            );
            columns[j] = _mm512_shuffle_f32x4::<0b10_00_10_00>(ab_low, cd_low);
            columns[4 + j] = _mm512_shuffle_f32x4::<0b10_00_10_00>(ab_high, cd_high);
            columns[8 + j] = _mm512_shuffle_f32x4::<0b11_01_11_01>(ab_low, cd_low);
            columns[12 + j] = _mm512_shuffle_f32x4::<0b11_01_11_01>(ab_high, cd_high);
        }
    }
    columns
}
