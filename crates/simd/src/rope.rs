//! Rotary position embedding, by blocks of rows.
//!
//! The angles of a row are the same for all its heads, so sines and cosines are taken once a row, a
//! few frequencies at a time on the stack.

use lowtide_backend::{Direction, Pairing, contract};
use lowtide_lanes::{RowBlock, RowBlocks, row_split, share_out};
use lowtide_tensor::MatMut;

use crate::Simd;

/// Frequencies rotated together.
const FREQUENCIES: usize = 128;

/// Rotates the first `2 * inv_freq.len()` elements of each head in place.
pub(crate) fn rope(
    be: &Simd,
    x: MatMut<'_, f32>,
    head_dim: usize,
    pos: &[u32],
    inv_freq: &[f32],
    pairing: Pairing,
    direction: Direction,
) {
    contract::rope(x.as_ref(), head_dim, pos, inv_freq);
    let (kernels, half) = (be.kernels(), inv_freq.len());
    let (lanes, step) = row_split(be.threads(), x.rows(), x.cols());
    share_out(lanes, RowBlocks::new(x, step), |RowBlock { start, rows: mut x }| {
        let (mut cos, mut sin) = ([0.0; FREQUENCIES], [0.0; FREQUENCIES]);
        for i in 0..x.rows() {
            let pos = pos[start + i] as f32;
            // A turn back is one by the negative angle.
            let pos = if direction == Direction::Forward { pos } else { -pos };
            for (piece, inv_freq) in inv_freq.chunks(FREQUENCIES).enumerate() {
                let (at, len) = (piece * FREQUENCIES, inv_freq.len());
                let (cos, sin) = (&mut cos[..len], &mut sin[..len]);
                kernels.turns(pos, inv_freq, cos, sin);
                for head in x.row_mut(i).chunks_exact_mut(head_dim) {
                    match pairing {
                        Pairing::Halves => {
                            let (first, second) = head.split_at_mut(half);
                            let (first, second) = (&mut first[at..], &mut second[at..]);
                            kernels.rotate_halves(&mut first[..len], &mut second[..len], cos, sin);
                        }
                        Pairing::Adjacent => {
                            kernels.rotate_adjacent(&mut head[2 * at..2 * (at + len)], cos, sin);
                        }
                    }
                }
            }
        }
    });
}
