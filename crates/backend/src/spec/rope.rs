//! Rotary position embedding.

use lowtide_tensor::{Float, MatMut};

use crate::contract;
use crate::shapes::{Direction, Pairing};

/// Rotates the first `2 * inv_freq.len()` elements of each head of `x [T, H * d]` in place, by the
/// angle `pos[t] * inv_freq[i]`, which is rounded to `F` once.
pub fn rope<F: Float>(
    mut x: MatMut<'_, F>,
    head_dim: usize,
    pos: &[u32],
    inv_freq: &[F],
    pairing: Pairing,
    direction: Direction,
) {
    contract::rope(x.as_ref(), head_dim, pos, inv_freq);
    let half = inv_freq.len();
    for (t, &pos) in pos.iter().enumerate() {
        let row = x.row_mut(t);
        let pos = F::from_f64(f64::from(pos));
        for (i, &inv_freq) in inv_freq.iter().enumerate() {
            let (first, second) = match pairing {
                Pairing::Halves => (i, i + half),
                Pairing::Adjacent => (2 * i, 2 * i + 1),
            };
            let angle = pos * inv_freq;
            let cos = angle.cos();
            let sin = match direction {
                Direction::Forward => angle.sin(),
                Direction::Backward => -angle.sin(),
            };
            for head in row.chunks_mut(head_dim) {
                let (a, b) = (head[first], head[second]);
                head[first] = a * cos - b * sin;
                head[second] = b * cos + a * sin;
            }
        }
    }
}
