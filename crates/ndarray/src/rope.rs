//! Rotary position embedding, by blocks of rows.
//!
//! The angles of a row are the same for all its heads, so sines and cosines are taken once a row, a
//! few frequencies at a time on the stack.

use lowtide_backend::{Direction, Pairing};
use lowtide_lanes::{RowBlock, RowBlocks, row_split, share_out};
use lowtide_tensor::MatMut;

/// Frequencies rotated together.
const FREQUENCIES: usize = 64;

/// Rotates the first `2 * inv_freq.len()` elements of each head in place.
pub(crate) fn rope(
    lanes: usize,
    x: MatMut<'_, f32>,
    head_dim: usize,
    pos: &[u32],
    inv_freq: &[f32],
    pairing: Pairing,
    direction: Direction,
) {
    let (lanes, step) = row_split(lanes, x.rows(), x.cols());
    let half = inv_freq.len();
    share_out(lanes, RowBlocks::new(x, step), |RowBlock { start, rows: mut x }| {
        for i in 0..x.rows() {
            let row = x.row_mut(i);
            let pos = pos[start + i] as f32;
            for (piece, inv_freq) in inv_freq.chunks(FREQUENCIES).enumerate() {
                let turns = Turns::new(pos, inv_freq, direction);
                let (at, len) = (piece * FREQUENCIES, inv_freq.len());
                for head in row.chunks_exact_mut(head_dim) {
                    match pairing {
                        Pairing::Halves => {
                            let (first, second) = head.split_at_mut(half);
                            turns.halves(&mut first[at..at + len], &mut second[at..at + len]);
                        }
                        Pairing::Adjacent => turns.adjacent(&mut head[2 * at..2 * (at + len)]),
                    }
                }
            }
        }
    });
}

/// The rotations of one row by a few frequencies.
struct Turns {
    cos: [f32; FREQUENCIES],
    sin: [f32; FREQUENCIES],
}

impl Turns {
    fn new(pos: f32, inv_freq: &[f32], direction: Direction) -> Self {
        let mut turns = Self { cos: [0.0; FREQUENCIES], sin: [0.0; FREQUENCIES] };
        for (i, inv_freq) in inv_freq.iter().enumerate() {
            let (sin, cos) = (pos * inv_freq).sin_cos();
            turns.cos[i] = cos;
            turns.sin[i] = match direction {
                Direction::Forward => sin,
                Direction::Backward => -sin,
            };
        }
        turns
    }

    fn halves(&self, first: &mut [f32], second: &mut [f32]) {
        let turns = self.cos.iter().zip(&self.sin);
        for ((a, b), (cos, sin)) in first.iter_mut().zip(second).zip(turns) {
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }

    fn adjacent(&self, pairs: &mut [f32]) {
        let turns = self.cos.iter().zip(&self.sin);
        for ([a, b], (cos, sin)) in pairs.as_chunks_mut::<2>().0.iter_mut().zip(turns) {
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }
}
