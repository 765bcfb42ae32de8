//! What the 4-bit formats share: two codes in a byte, and scales in half precision.

use half::f16;

/// Values in a 4-bit block.
pub(super) const LEN: usize = 32;

/// Bytes of codes in a 4-bit block.
pub(super) const CODES: usize = LEN / 2;

/// The 32 codes of a block: byte `j` holds value `j` in its low half and value `j + 16` in its
/// high half.
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

/// Reads a stored scale.
pub(super) fn scale(bytes: [u8; 2]) -> f32 {
    f16::from_le_bytes(bytes).to_f32()
}

/// Stores a scale, rounded to nearest even; infinite beyond 65504.
pub(super) fn scale_bytes(d: f32) -> [u8; 2] {
    f16::from_f32(d).to_le_bytes()
}

/// `1 / d`, or zero for a block whose scale is zero.
pub(super) fn reciprocal(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}
