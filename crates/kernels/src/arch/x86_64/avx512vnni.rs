//! AVX-512 with VNNI: as AVX-512, with an instruction for integer dot products.

use crate::Isa;
use crate::arch::stamp::stamp;
use crate::arch::x86_64::avx512::Avx512;

stamp!(
    Isa::Avx512Vnni,
    Avx512<true>,
    rows = 8,
    int_rows = [4, 6],
    features = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c"
);
