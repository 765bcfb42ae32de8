//! Blocks of 32 values to floats.
//!
//! The plain algorithm is the reference's, a value at a time. Departures:
//!
//! 1. A register holds 16 values of a block: codes are widened to a lane each.
//! 2. A code of 4 bits becomes its float by a permutation of the block's 16 possible values, which
//!    looks at four bits of an index only.
//!
//! Bits are the reference's: products and sums are rounded one by one.

use core::any::Any;
use core::arch::x86_64::{
    __m128i, __m512, _mm_cvtph_ps, _mm_cvtsi32_si128, _mm_loadu_si128, _mm_movehdup_ps,
    _mm512_add_ps, _mm512_broadcastss_ps, _mm512_cvtepi8_epi32, _mm512_cvtepi32_ps,
    _mm512_cvtepu8_epi32, _mm512_mul_ps, _mm512_permutexvar_ps, _mm512_set1_ps, _mm512_setr_ps,
    _mm512_srli_epi32, _mm512_storeu_ps, _mm512_sub_ps,
};

use lowtide_quant::BlockFormat;
use lowtide_quant::formats::{Q4_0, Q4_1, Q8_0};

/// Values of a block, two registers of them.
const LEN: usize = 32;

/// Values in a register.
const LANES: usize = LEN / 2;

/// Unpacks whole blocks. Says whether it knows the format, and the lengths fit it.
///
/// # Safety
/// AVX-512 F, BW, DQ, VL and F16C are there.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
pub(crate) unsafe fn unpack(
    format: &'static dyn BlockFormat,
    bytes: &[u8],
    out: &mut [f32],
) -> bool {
    let any: &dyn Any = format;
    let (blocks, rest) = out.as_chunks_mut::<LEN>();
    let whole = rest.is_empty() && bytes.len() == blocks.len() * format.block_bytes();
    if !whole {
        return false;
    }
    if any.is::<Q4_1>() {
        for ([d0, d1, m0, m1, codes @ ..], y) in bytes.as_chunks::<20>().0.iter().zip(blocks) {
            let both = _mm_cvtph_ps(_mm_cvtsi32_si128(i32::from_le_bytes([*d0, *d1, *m0, *m1])));
            let (d, m) =
                (_mm512_broadcastss_ps(both), _mm512_broadcastss_ps(_mm_movehdup_ps(both)));
            nibbles(codes, _mm512_add_ps(_mm512_mul_ps(d, ascending()), m), y);
        }
    } else if any.is::<Q4_0>() {
        for ([d0, d1, codes @ ..], y) in bytes.as_chunks::<18>().0.iter().zip(blocks) {
            let centred = _mm512_sub_ps(ascending(), _mm512_set1_ps(8.0));
            nibbles(codes, _mm512_mul_ps(scale([*d0, *d1]), centred), y);
        }
    } else if any.is::<Q8_0>() {
        for ([d0, d1, codes @ ..], y) in bytes.as_chunks::<34>().0.iter().zip(blocks) {
            let d = scale([*d0, *d1]);
            for (codes, y) in codes.as_chunks::<LANES>().0.iter().zip(y.as_chunks_mut().0) {
                let codes: &[u8; LANES] = codes;
                put(_mm512_mul_ps(d, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load(codes)))), y);
            }
        }
    } else {
        return false;
    }
    true
}

/// Values of 32 codes, where code `c` stands for lane `c` of `values`.
#[target_feature(enable = "avx512f")]
fn nibbles(codes: &[u8; LANES], values: __m512, out: &mut [f32; LEN]) {
    let index = _mm512_cvtepu8_epi32(load(codes));
    let (low, high) = out.split_at_mut(LANES);
    let (low, high) = (low.first_chunk_mut(), high.first_chunk_mut());
    put(_mm512_permutexvar_ps(index, values), low.expect("half of the values"));
    let index = _mm512_srli_epi32::<4>(index);
    put(_mm512_permutexvar_ps(index, values), high.expect("half of the values"));
}

/// 0, 1, 2, …
#[target_feature(enable = "avx512f")]
fn ascending() -> __m512 {
    _mm512_setr_ps(
        0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0,
    )
}

/// A stored scale in every lane.
#[target_feature(enable = "avx512f,f16c")]
fn scale([d0, d1]: [u8; 2]) -> __m512 {
    let half = _mm_cvtsi32_si128(i32::from(u16::from_le_bytes([d0, d1])));
    _mm512_broadcastss_ps(_mm_cvtph_ps(half))
}

#[target_feature(enable = "avx512f")]
fn load(codes: &[u8; LANES]) -> __m128i {
    // SAFETY: 16 bytes are there to read, at any address.
    unsafe { _mm_loadu_si128(codes.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f")]
fn put(values: __m512, out: &mut [f32; LANES]) {
    // SAFETY: 16 values' room is there to write, at any address.
    unsafe { _mm512_storeu_ps(out.as_mut_ptr(), values) }
}
