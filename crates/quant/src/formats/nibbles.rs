//! What the 4-bit formats share: two codes in a byte, and scales in half precision.

use half::f16;

/// Values in a 4-bit block.
pub(super) const LEN: usize = 32;

/// Bytes of codes in a 4-bit block.
pub(super) const CODES: usize = LEN / 2;

/// The 32 codes of a block: byte `j` holds value `j` in its low half and value `j + 16` in its
/// high half.
#[inline(always)]
pub(super) fn unpack(codes: &[u8; CODES]) -> [u8; LEN] {
    let mut q = [0; LEN];
    for (j, b) in codes.iter().enumerate() {
        q[j] = b & 15;
        q[j + CODES] = b >> 4;
    }
    q
}

/// The inverse of [`unpack`], for codes below 16.
pub(super) fn pack(q: &[u8; LEN]) -> [u8; CODES] {
    core::array::from_fn(|j| q[j] | q[j + CODES] << 4)
}

/// Reads a stored scale, without a branch: a loop over blocks becomes vector code.
///
/// The exponent and fraction of half precision, shifted to where single precision has them, are a
/// number that is 2^112 times too small; also where they are subnormal.
#[inline(always)]
pub(super) fn scale(bytes: [u8; 2]) -> f32 {
    const FACTOR: f32 = f32::from_bits((127 + 112) << 23);
    let bits = u32::from(u16::from_le_bytes(bytes));
    let shifted = (bits & 0x7fff) << 13;
    // All ones in the exponent stay all ones: infinity and NaN.
    let special = if bits & 0x7c00 == 0x7c00 { 0x7f80_0000 } else { 0 };
    let magnitude = (f32::from_bits(shifted) * FACTOR).to_bits();
    f32::from_bits(magnitude | special | (bits & 0x8000) << 16)
}

/// Stores a scale, rounded to nearest even; infinite beyond 65504.
pub(super) fn scale_bytes(d: f32) -> [u8; 2] {
    f16::from_f32(d).to_le_bytes()
}

/// `1 / d`, or zero for a block whose scale is zero.
pub(super) fn reciprocal(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

/// Stores a scale, rounded up; infinite beyond 65504. `d` is not negative.
pub(super) fn scale_bytes_up(d: f32) -> [u8; 2] {
    let rounded = f16::from_f32(d);
    let too_small = rounded.to_f32() < d;
    (rounded.to_bits() + u16::from(too_small)).to_le_bytes()
}

/// Bytes with the highest bits of 5-bit codes.
pub(super) const HIGH: usize = LEN / 8;

/// The 32 codes of 5 bits of a block: bit `j % 8` of byte `j / 8` of `high` goes on top of code
/// `j`.
#[inline(always)]
pub(super) fn unpack_5(high: [u8; HIGH], codes: &[u8; CODES]) -> [u8; LEN] {
    // One copy of bit 7 - j lands at the top of byte j; swapped, that is bit j.
    const SPREAD: u64 = 0x8040_2010_0804_0201;
    const TOPS: u64 = 0x8080_8080_8080_8080;
    let mut q = unpack(codes);
    for (q, bits) in q.as_chunks_mut::<8>().0.iter_mut().zip(high) {
        let tops = u64::from(bits).wrapping_mul(SPREAD) & TOPS;
        for (q, top) in q.iter_mut().zip((tops >> 3).to_be_bytes()) {
            *q |= top;
        }
    }
    q
}

/// The inverse of [`unpack_5`], for codes below 32.
pub(super) fn pack_5(q: &[u8; LEN]) -> ([u8; HIGH], [u8; CODES]) {
    let bits = |i: usize| (0..8).fold(0, |bits, j| bits | q[8 * i + j] >> 4 << j);
    (core::array::from_fn(bits), pack(&q.map(|q| q & 15)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_is_read_exactly() {
        for bits in 0..=u16::MAX {
            let (got, want) = (scale(bits.to_le_bytes()), f16::from_bits(bits).to_f32());
            assert_eq!(got.is_nan(), want.is_nan(), "{bits:#x}");
            assert!(got.is_nan() || got.to_bits() == want.to_bits(), "{bits:#x}: {got} {want}");
        }
    }
}
