//! One digit with VNNI: in each lane, the sum of four products of bytes.
//!
//! The instruction multiplies bytes without a sign by bytes with one. Codes of weights have a sign;
//! rounded values get an offset, and sums begin with what it will have added.

use core::arch::x86_64::{
    __m512, __m512i, _mm256_loadu_si256, _mm256_set1_epi8, _mm256_storeu_si256, _mm256_xor_si256,
    _mm512_cvtepi8_epi16, _mm512_cvtepi16_epi8, _mm512_dpbusd_epi32, _mm512_loadu_si512,
    _mm512_mulhrs_epi16, _mm512_set1_epi8, _mm512_setzero_si512, _mm512_sub_epi32,
};
use core::hint::black_box;

use crate::arch::x86_64::avx512::Avx512;
use crate::generic::form::{Form, GROUP};
use crate::simd::Simd;

/// Four codes of a byte to an element; 32 rounded values are 32 bytes above an offset, and again
/// 32 bytes with their sign.
pub(crate) struct Bytes;

/// Adding it makes a byte with a sign one without; so does flipping its bit.
const OFFSET: i8 = i8::MIN;

impl Bytes {
    /// The values of a group that [`Form::arrange`] arranged.
    #[inline(always)]
    pub(crate) fn signed(codes: &[i16; GROUP]) -> [i8; GROUP] {
        let mut signed = [0; GROUP];
        let pairs = codes[GROUP / 2..].iter().zip(signed.as_chunks_mut::<2>().0);
        for (pair, signed) in pairs {
            *signed = pair.to_ne_bytes().map(u8::cast_signed);
        }
        signed
    }
}

impl Form<Avx512<true>> for Bytes {
    const PER_ELEMENT: usize = 4;

    const STARTS: bool = true;

    #[inline(always)]
    fn arrange(_s: Avx512<true>, codes: &[i16; GROUP], to: &mut [i16; GROUP]) {
        // SAFETY: the token; 32 integers of two bytes are one register, or two of bytes.
        unsafe {
            let signed = _mm512_cvtepi16_epi8(_mm512_loadu_si512(codes.as_ptr().cast()));
            let above = _mm256_xor_si256(signed, _mm256_set1_epi8(OFFSET));
            _mm256_storeu_si256(to.as_mut_ptr().cast(), above);
            _mm256_storeu_si256(to.as_mut_ptr().cast::<i8>().add(GROUP).cast(), signed);
        }
    }

    #[inline(always)]
    unsafe fn starts<const V: usize>(
        s: Avx512<true>,
        codes: *const f32,
        codes_row: usize,
        load: impl Fn(*const f32, usize) -> __m512,
    ) -> [__m512i; V] {
        // SAFETY: the token.
        let (offset, zero) = unsafe { (_mm512_set1_epi8(OFFSET), _mm512_setzero_si512()) };
        let mut starts = [zero; V];
        for (v, start) in starts.iter_mut().enumerate() {
            let mut sum = zero;
            for four in 0..GROUP / 4 {
                // SAFETY: the token, and the caller vouches for the rows of codes.
                sum = unsafe {
                    let codes = s.bits(load(codes.add(four * codes_row), v));
                    _mm512_dpbusd_epi32(sum, offset, codes)
                };
            }
            // SAFETY: the token.
            *start = unsafe { _mm512_sub_epi32(zero, sum) };
        }
        starts
    }

    #[inline(always)]
    unsafe fn dots<const R: usize, const V: usize>(
        s: Avx512<true>,
        starts: [__m512i; V],
        q: *const i16,
        q_row: usize,
        codes: *const f32,
        codes_row: usize,
        load: impl Fn(*const f32, usize) -> __m512,
    ) -> [[__m512i; V]; R] {
        let mut dots = [starts; R];
        // A loop, and no chain of instructions that a compiler would put into an order for which
        // there are too few registers.
        for four in 0..black_box(GROUP / 4) {
            // SAFETY: the caller vouches for a row of codes for every four.
            let b = unsafe { codes.add(four * codes_row) };
            let mut right = starts;
            for (v, right) in right.iter_mut().enumerate() {
                *right = s.bits(load(b, v));
            }
            for (r, dots) in dots.iter_mut().enumerate() {
                // SAFETY: the caller vouches for `R` groups of 32 values, of two bytes each.
                let left = s.splat_int(unsafe {
                    q.add(r * q_row + 2 * four).cast::<i32>().read_unaligned()
                });
                for (dot, right) in dots.iter_mut().zip(right) {
                    // SAFETY: the token.
                    *dot = unsafe { _mm512_dpbusd_epi32(*dot, left, right) };
                }
            }
        }
        dots
    }

    #[inline(always)]
    unsafe fn scale(_s: Avx512<true>, q: *const i16, ratios: *const i16, to: *mut i16) {
        // SAFETY: the token, and the caller vouches for 32 values, of two bytes each. Scaled values
        // are no larger than they were: bytes.
        unsafe {
            let signed = _mm256_loadu_si256(q.add(GROUP / 2).cast());
            let ratios = _mm512_loadu_si512(ratios.cast());
            let scaled = _mm512_mulhrs_epi16(_mm512_cvtepi8_epi16(signed), ratios);
            let above = _mm256_xor_si256(_mm512_cvtepi16_epi8(scaled), _mm256_set1_epi8(OFFSET));
            _mm256_storeu_si256(to.cast(), above);
        }
    }
}
