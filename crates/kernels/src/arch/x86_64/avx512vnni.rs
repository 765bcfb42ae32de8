//! AVX-512 with VNNI: as AVX-512, with an instruction for integer dot products.

use crate::Isa;
use crate::arch::stamp::stamp;
use crate::arch::stamp_int::stamp_int;
use crate::arch::x86_64::avx512::Avx512;
use crate::arch::x86_64::few;
use crate::generic::form::Pairs;
use crate::table::with_few;

stamp!(
    Isa::Avx512Vnni,
    Avx512<true>,
    rows = 8,
    int = [pairs::FUNCTIONS; 2],
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
pub(crate) const TABLE: crate::Kernels = with_few(STAMPED, few::INTEGERS);
