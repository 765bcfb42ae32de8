//! AVX-512 with VNNI: as AVX-512, with an instruction for integer dot products.

use core::arch::x86_64::{
    _mm512_add_epi32, _mm512_dpbusd_epi32, _mm512_reduce_add_epi32, _mm512_set1_epi8,
    _mm512_set1_epi32, _mm512_setzero_si512,
};
use core::hint::black_box;

use crate::Isa;
use crate::arch::stamp::stamp;
use crate::arch::stamp_int::stamp_int;
use crate::arch::x86_64::avx512::Avx512;
use crate::arch::x86_64::bytes::Bytes;
use crate::arch::x86_64::few;
use crate::arch::x86_64::unpack::unpack;
use crate::generic::form::Pairs;
use crate::table::{with_few, with_int8_peak, with_unpack};

stamp!(
    Isa::Avx512Vnni,
    Avx512<true>,
    rows = 8,
    int = [bytes::FUNCTIONS, pairs::FUNCTIONS],
    features = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c"
);
stamp_int!(
    bytes,
    Avx512<true>,
    Bytes,
    rows = [4, 6],
    features = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c"
);
stamp_int!(
    pairs,
    Avx512<true>,
    Pairs,
    rows = [4, 6],
    features = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c"
);

/// The functions of this instruction set.
pub(crate) const TABLE: crate::Kernels =
    with_unpack(with_int8_peak(with_few(STAMPED, few::INTEGERS), int8_peak), unpack);

/// `rounds` dot products of bytes on each of 24 registers: see `generic::peak`.
///
/// # Safety
/// AVX-512 F and VNNI are there.
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn int8_peak(rounds: usize) -> (u64, i32) {
    const CHAINS: usize = 24;
    /// Products that one instruction adds up.
    const PRODUCTS: usize = 64;
    let (a, b) = (_mm512_set1_epi8(black_box(3)), _mm512_set1_epi8(black_box(-1)));
    let mut chains = [_mm512_setzero_si512(); CHAINS];
    for (i, chain) in chains.iter_mut().enumerate() {
        *chain = _mm512_set1_epi32(i as i32);
    }
    for _ in 0..rounds {
        for chain in &mut chains {
            *chain = _mm512_dpbusd_epi32(*chain, a, b);
        }
    }
    let mut sum = _mm512_setzero_si512();
    for chain in chains {
        sum = _mm512_add_epi32(sum, chain);
    }
    (2 * (CHAINS * PRODUCTS * rounds) as u64, _mm512_reduce_add_epi32(sum))
}
