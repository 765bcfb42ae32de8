//! Dropout whose mask is a function of position, so that nothing is stored.
//!
//! The draw of an element is a chain of the finaliser of SplitMix64 (Steele, Lea and Flood 2014)
//! over five words: seed, step, site, row, column. From zero, each link adds (word + 1) times an
//! odd constant to the state and mixes; the top 53 bits of the last state, as a fraction, are the
//! draw.

use lowtide_tensor::{Float, Mat, MatMut};

use crate::contract;
use crate::shapes::DropoutKey;

/// `y = x ⊙ mask / (1 - p)`: element `(t, c)` keeps its value when the counter `(row0 + t, c)` of
/// `key` draws at least `p`; a dropped element is zero whatever it held.
pub fn dropout<F: Float>(
    x: Mat<'_, F>,
    p: f64,
    key: DropoutKey,
    row0: usize,
    mut y: MatMut<'_, F>,
) {
    contract::dropout(x, p, y.as_ref());
    let keep = F::from_f64(1.0 / (1.0 - p));
    for t in 0..x.rows() {
        let row = dropout_row(key, row0 + t);
        for (c, (y, &x)) in y.row_mut(t).iter_mut().zip(x.row(t)).enumerate() {
            *y = if draw(row, c) >= p { x * keep } else { F::ZERO };
        }
    }
}

/// The state of the chain after seed, step, site and `row`: every draw of that row begins with it.
#[must_use]
pub fn dropout_row(key: DropoutKey, row: usize) -> u64 {
    link(link(link(link(0, key.seed), key.step), key.site), row as u64)
}

/// Uniform in `[0, 1)`.
fn draw(row: u64, column: usize) -> f64 {
    (link(row, column as u64) >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
}

/// The state after one more word.
fn link(state: u64, word: u64) -> u64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    mix(state.wrapping_add(word.wrapping_add(1).wrapping_mul(ODD)))
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
