//! Formats whose values are small integers with a scale.

use crate::BlockFormat;

/// A format whose values are, for each [`GROUP`] neighbours, `scale * code + minimum` with integer
/// codes, so that products with them can be computed in integers.
pub trait Integers: BlockFormat {
    /// Whether minima can be other than zero.
    fn has_minima(&self) -> bool {
        false
    }

    /// Whether every code is from -128 to 127, as those of most formats are.
    fn codes_are_bytes(&self) -> bool {
        true
    }

    /// Unpacks whole blocks: `codes [values]`, `scales` and `minima [values / GROUP]`.
    ///
    /// No code exceeds [`CODE_MAX`] in magnitude. `scale * code + minimum` is the value that
    /// [`decode`](BlockFormat::decode) gives, to within the roundings of that expression.
    ///
    /// # Panics
    /// If the lengths are not those of the same number of whole blocks.
    fn decode_integers(
        &self,
        bytes: &[u8],
        codes: &mut [i16],
        scales: &mut [f32],
        minima: &mut [f32],
    );
}

/// Values that share a scale and a minimum.
pub const GROUP: usize = 32;

/// The largest magnitude of a code.
pub const CODE_MAX: i16 = 4096;

/// Walks blocks of one group each: `block` unpacks one and gives scale and minimum.
#[inline(always)]
pub(crate) fn each<const BYTES: usize>(
    format: &dyn BlockFormat,
    bytes: &[u8],
    codes: &mut [i16],
    scales: &mut [f32],
    minima: &mut [f32],
    block: impl Fn(&[u8; BYTES], &mut [i16; GROUP]) -> (f32, f32),
) {
    check(format, bytes, codes, scales, minima);
    let groups = codes.as_chunks_mut().0.iter_mut().zip(scales).zip(minima);
    for (bytes, ((codes, scale), minimum)) in bytes.as_chunks().0.iter().zip(groups) {
        (*scale, *minimum) = block(bytes, codes);
    }
}

/// Walks blocks of eight groups each: `block` unpacks one and gives scales and minima.
#[inline(always)]
pub(crate) fn each_of_eight<const BYTES: usize>(
    format: &dyn BlockFormat,
    bytes: &[u8],
    codes: &mut [i16],
    scales: &mut [f32],
    minima: &mut [f32],
    block: impl Fn(&[u8; BYTES], &mut [i16; 8 * GROUP]) -> ([f32; 8], [f32; 8]),
) {
    check(format, bytes, codes, scales, minima);
    let parameters = scales.as_chunks_mut().0.iter_mut().zip(minima.as_chunks_mut().0);
    let blocks = codes.as_chunks_mut().0.iter_mut().zip(parameters);
    for (bytes, (codes, (scales, minima))) in bytes.as_chunks().0.iter().zip(blocks) {
        (*scales, *minima) = block(bytes, codes);
    }
}

fn check(format: &dyn BlockFormat, bytes: &[u8], codes: &[i16], scales: &[f32], minima: &[f32]) {
    crate::block_count(format, bytes.len(), codes.len());
    let groups = codes.len() / GROUP;
    assert!(
        scales.len() == groups && minima.len() == groups,
        "{}: {groups} groups take as many scales and minima, not {} and {}",
        format.name(),
        scales.len(),
        minima.len()
    );
}
