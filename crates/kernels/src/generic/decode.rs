//! Block formats to floats.
//!
//! The reference decoders of `lowtide-quant`, compiled for the instruction set: they are loops
//! without branches, which a compiler turns into vector code, and their bits are the reference's.

use core::any::Any;
use core::slice::from_raw_parts_mut;

use lowtide_quant::formats::{
    BF16, F16, F32, INT8, IQ4_NL, NF4, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0,
};
use lowtide_quant::integers::GROUP;
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

/// Unpacks whole blocks of a format of small integers. Says whether the format is one.
#[inline(always)]
pub(crate) fn decode_integers(
    format: &'static dyn BlockFormat,
    bytes: &[u8],
    codes: &mut [i16],
    scales: &mut [f32],
    minima: &mut [f32],
) -> bool {
    let any: &dyn Any = format;
    macro_rules! known {
        ($($name:ident)*) => {$(
            if any.is::<$name>() {
                $name.decode_integers(bytes, codes, scales, minima);
                return true;
            }
        )*};
    }
    known!(Q4_1 Q8_0 Q4_0 Q4_K Q6_K Q5_0 Q5_1 Q5_K IQ4_NL INT8);
    let Some(format) = format.integers() else { return false };
    format.decode_integers(bytes, codes, scales, minima);
    true
}

/// Values unpacked at once on the way to bytes: the longest block.
const CHUNK: usize = 256;

/// The same to elements of `per` codes, 2 or 4.
#[inline(always)]
pub(crate) fn decode_elements(
    per: usize,
    format: &'static dyn BlockFormat,
    bytes: &[u8],
    codes: &mut [i32],
    scales: &mut [f32],
    minima: &mut [f32],
) -> bool {
    let len = size_of_val(codes);
    if per == 2 {
        // SAFETY: an element is two integers of 16 bits.
        let codes = unsafe { from_raw_parts_mut(codes.as_mut_ptr().cast(), len / 2) };
        return decode_integers(format, bytes, codes, scales, minima);
    }
    // SAFETY: an element is four integers of 8 bits.
    let codes: &mut [i8] = unsafe { from_raw_parts_mut(codes.as_mut_ptr().cast(), len) };
    let Some(integers) = format.integers() else { return false };
    let (block, size) = (format.block_len(), format.block_bytes());
    assert!(
        integers.codes_are_bytes() && block <= CHUNK && bytes.len() * block == len * size,
        "{}: {} bytes to {len} codes of a byte",
        format.name(),
        bytes.len()
    );
    let groups = (scales.len(), minima.len());
    assert!(groups == (len / GROUP, len / GROUP), "{len} codes and {groups:?} groups");
    let step = CHUNK / block;
    let parts = codes.chunks_mut(step * block).zip(bytes.chunks(step * size));
    let parameters = scales.chunks_mut(CHUNK / GROUP).zip(minima.chunks_mut(CHUNK / GROUP));
    let mut some = [0; CHUNK];
    for ((codes, bytes), (scales, minima)) in parts.zip(parameters) {
        let some = &mut some[..codes.len()];
        decode_integers(format, bytes, some, scales, minima);
        for (code, &some) in codes.iter_mut().zip(&*some) {
            *code = some as i8;
        }
    }
    true
}
