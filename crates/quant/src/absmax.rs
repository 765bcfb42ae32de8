//! The largest magnitude of a block.

/// The largest magnitude in `x`; zero when there is none, NaN when any value is NaN.
///
/// Without its sign bit a float orders like the integer of the same bits, NaN above infinity. The
/// integer maximum needs no case for NaN and, unlike that of floats, runs many lanes at a time.
pub(crate) fn absmax(x: &[f32]) -> f32 {
    let bits = x.iter().fold(0, |max, x| x.abs().to_bits().cast_signed().max(max));
    f32::from_bits(bits.cast_unsigned())
}
