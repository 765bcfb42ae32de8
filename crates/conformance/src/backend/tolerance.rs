//! How far from the double-precision specification a result may be, and why.
//!
//! A tolerance `t` allows `|got - want| <= t (1 + |want|)`. Inputs are uniform in ±1 unless a case
//! says otherwise.

/// Half a unit in the last place of one: what rounding to f32 changes, relatively.
const ROUNDING: f64 = 1.0 / (1 << 24) as f64;

/// A few roundings and no cancellation: residuals, products, updates.
pub(super) const ELEMENT: f64 = 8.0 * ROUNDING;

/// As [`ELEMENT`], with one or two transcendental functions, which platforms compute to within a
/// few units in the last place, and a division.
pub(super) const FUNCTION: f64 = 32.0 * ROUNDING;

/// Moments packed in 8 bits: neighbouring levels are at most 2 % of the largest magnitude apart,
/// and a value on the border of two may fall on either side.
pub(super) const LEVEL: f64 = 0.02;

/// A sum of `terms` products. The worst order of additions errs by `terms` roundings of the sum of
/// magnitudes; as signs are mixed, a few roundings of magnitude one for each term are generous.
pub(super) const fn sum(terms: usize) -> f64 {
    8.0 * ROUNDING * (terms + 8) as f64
}

/// Attention over `keys` keys with heads of `width`: scores are sums over the width, results sums
/// over keys of weights whose exponent carries the score's error.
pub(super) const fn attention(keys: usize, width: usize) -> f64 {
    sum(keys) + sum(width)
}

/// The loss over `vocab_size` words: logits are sums over the hidden width, and their magnitude,
/// which grows with it, multiplies the roundings of the exponentials' arguments.
pub(super) const fn head(vocab_size: usize, hidden_size: usize) -> f64 {
    sum(hidden_size) + 8.0 * ROUNDING * (vocab_size.ilog2() as usize + 8) as f64
}

/// What products in integers round to, as a share of the largest of 32 neighbours, by the name of
/// the arithmetic in [`Caps`](lowtide_backend::Caps): 16,256 or 127 steps. Nothing for arithmetic
/// in floats.
pub(super) fn rounding(compute: &str) -> f64 {
    match compute {
        "int8x2" => 1.0 / 16_256.0,
        "int8" => 1.0 / 127.0,
        _ => 0.0,
    }
}

/// A sum of `terms` products with weights in ±1 whose other factor, in ±1, is rounded: in steps of
/// [`rounding`]. An error is uniform in half a step, so the sum's has a deviation of a sixth of
/// `sqrt(terms)` steps; this is twelve of them, or six where both a value and its product with a
/// scale are rounded, as on the way back.
pub(super) fn rounded_sum(terms: usize) -> f64 {
    2.0 * (terms as f64).sqrt()
}
