//! Block formats to floats.
//!
//! The reference decoders of `lowtide-quant`, compiled for the instruction set: they are loops
//! without branches, which a compiler turns into vector code, and their bits are the reference's.

use core::any::Any;

use lowtide_quant::formats::{
    BF16, F16, F32, INT8, IQ4_NL, NF4, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0,
};
use lowtide_quant::{BlockFormat, Integers};

/// Unpacks whole blocks of a known format. Says whether the format is known.
#[inline(always)]
pub(crate) fn decode(format: &'static dyn BlockFormat, bytes: &[u8], out: &mut [f32]) -> bool {
    let format: &dyn Any = format;
    macro_rules! known {
        ($($name:ident)*) => {$(
            if format.is::<$name>() {
                $name.decode(bytes, out);
                return true;
            }
        )*};
    }
    known!(Q4_1 Q8_0 Q4_0 Q4_K Q6_K Q5_0 Q5_1 Q5_K IQ4_NL NF4 INT8 F16 BF16 F32);
    false
}

/// Unpacks whole blocks of a known format of small integers. Says whether the format is known.
#[inline(always)]
pub(crate) fn decode_integers(
    format: &'static dyn BlockFormat,
    bytes: &[u8],
    codes: &mut [i16],
    scales: &mut [f32],
    minima: &mut [f32],
) -> bool {
    let format: &dyn Any = format;
    macro_rules! known {
        ($($name:ident)*) => {$(
            if format.is::<$name>() {
                $name.decode_integers(bytes, codes, scales, minima);
                return true;
            }
        )*};
    }
    known!(Q4_1 Q8_0 Q4_0 Q4_K Q6_K Q5_0 Q5_1 Q5_K IQ4_NL INT8);
    false
}
