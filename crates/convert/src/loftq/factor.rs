//! The leading singular vectors of a matrix whose rows are made as they are needed.
//!
//! Block power iteration with orthogonalisation: `V ← orth(Rᵀ R V)` from random signs, then the
//! small eigenproblem of `(R V)ᵀ (R V)`. The subspace has a few more columns than are asked for, so
//! that singular values that are close to one another do no harm. Sums over rows are taken in
//! ascending order, whatever the threads.

use rayon::prelude::*;

/// Columns of the subspace beyond the rank.
const OVERSAMPLE: usize = 8;
/// How often the subspace is multiplied with `Rᵀ R`.
const POWERS: usize = 3;
/// Columns of `R` that a unit of work takes.
const COLS_AT_ONCE: usize = 64;
/// Most rounds of rotations; every one squares what is left, so that few are needed.
const SWEEPS_MAX: usize = 30;

/// Columns of the subspace for the leading `rank` vectors of `[rows, cols]`.
pub(super) fn width(rank: usize, rows: usize, cols: usize) -> usize {
    (rank + OVERSAMPLE).min(rows).min(cols)
}

/// Where the subspace lies while it is looked for. With `k` columns of the subspace:
pub(super) struct Space<'a> {
    /// Some rows of `R`: `[tile, cols]`.
    pub(super) tile: &'a mut [f32],
    /// `R V`: `[rows, k]`.
    pub(super) left: &'a mut [f32],
    /// `V`: `[cols, k]`. Kept from one call to the next, it is a good start.
    pub(super) right: &'a mut [f32],
    /// As large as `right`.
    pub(super) next: &'a mut [f32],
    /// `[k, k]`, twice.
    pub(super) small: &'a mut [f64],
}

/// Fills a start with signs drawn from a seed.
pub(super) fn start(right: &mut [f32], seed: u64) {
    for (i, value) in right.iter_mut().enumerate() {
        *value = if mixed(seed, i as u64) & 1 == 0 { 1.0 } else { -1.0 };
    }
}

/// A number that looks random, from a seed and a counter (SplitMix64).
fn mixed(seed: u64, counter: u64) -> u64 {
    let mut z = seed.wrapping_add(counter.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Brings the leading singular vectors of `R [rows, cols]` to the front: afterwards `left` has
/// `σ u` in its columns and `right` has `v`, largest first. `row` makes a row of `R`.
pub(super) fn leading(
    rows: usize,
    cols: usize,
    space: &mut Space<'_>,
    row: &(dyn Fn(usize, &mut [f32]) + Sync),
) {
    let k = space.right.len() / cols;
    for _ in 0..POWERS {
        orthogonalise(space.right, k);
        multiply(rows, cols, space, row, true);
        space.right.copy_from_slice(space.next);
    }
    orthogonalise(space.right, k);
    multiply(rows, cols, space, row, false);
    let (gram, vectors) = space.small.split_at_mut(k * k);
    gram_of(space.left, k, gram);
    eigenvectors(gram, vectors, k);
    order(gram, vectors, k);
    rotate(space.left, vectors, k);
    rotate(space.right, vectors, k);
}

/// `left = R V`, and if `back` says so `next = Rᵀ left`.
fn multiply(
    rows: usize,
    cols: usize,
    space: &mut Space<'_>,
    row: &(dyn Fn(usize, &mut [f32]) + Sync),
    back: bool,
) {
    let k = space.right.len() / cols;
    let most = (space.tile.len() / cols).max(1);
    let Space { tile, left, right, next, .. } = space;
    let right = &**right;
    next.fill(0.0);
    for first in (0..rows).step_by(most) {
        let count = most.min(rows - first);
        let tile = &mut tile[..count * cols];
        let left = &mut left[first * k..][..count * k];
        let both = tile.par_chunks_exact_mut(cols).zip(left.par_chunks_exact_mut(k));
        both.enumerate().for_each(|(i, (values, left))| {
            row(first + i, values);
            left.fill(0.0);
            for (value, right) in values.iter().zip(right.chunks_exact(k)) {
                add(left, *value, right);
            }
        });
        if back {
            let (tile, left) = (&*tile, &*left);
            let chunks = next.par_chunks_mut(COLS_AT_ONCE * k).enumerate();
            chunks.for_each(|(chunk, next)| {
                for (values, left) in tile.chunks_exact(cols).zip(left.chunks_exact(k)) {
                    let values = &values[chunk * COLS_AT_ONCE..];
                    for (next, value) in next.chunks_exact_mut(k).zip(values) {
                        add(next, *value, left);
                    }
                }
            });
        }
    }
}

/// `into += factor · from`.
fn add(into: &mut [f32], factor: f32, from: &[f32]) {
    for (into, from) in into.iter_mut().zip(from) {
        *into += factor * from;
    }
}

/// Makes the columns of `matrix [n, k]` orthonormal, twice over for what rounding leaves. A column
/// in the span of those before becomes zero.
fn orthogonalise(matrix: &mut [f32], k: usize) {
    // A column that shrinks by more than this was nothing but rounding.
    const NOTHING: f64 = 1e-6;
    let dot = |matrix: &[f32], a: usize, b: usize| -> f64 {
        matrix.chunks_exact(k).map(|row| f64::from(row[a]) * f64::from(row[b])).sum()
    };
    for column in 0..k {
        let before = dot(matrix, column, column);
        for _ in 0..2 {
            for earlier in 0..column {
                let factor = dot(matrix, earlier, column) as f32;
                matrix.chunks_exact_mut(k).for_each(|row| row[column] -= factor * row[earlier]);
            }
        }
        let after = dot(matrix, column, column);
        let whole = after > before * NOTHING * NOTHING && after > 0.0;
        let factor = if whole { (1.0 / after.sqrt()) as f32 } else { 0.0 };
        matrix.chunks_exact_mut(k).for_each(|row| row[column] *= factor);
    }
}

/// `gram = Yᵀ Y` of `Y [rows, k]`.
fn gram_of(y: &[f32], k: usize, gram: &mut [f64]) {
    gram.fill(0.0);
    for row in y.chunks_exact(k) {
        for (a, gram) in row.iter().zip(gram.chunks_exact_mut(k)) {
            for (b, sum) in row.iter().zip(gram) {
                *sum += f64::from(*a) * f64::from(*b);
            }
        }
    }
}

/// Jacobi rotations: `gram` becomes diagonal, `vectors` holds its eigenvectors in columns.
fn eigenvectors(gram: &mut [f64], vectors: &mut [f64], k: usize) {
    vectors.fill(0.0);
    (0..k).for_each(|i| vectors[i * k + i] = 1.0);
    for _ in 0..SWEEPS_MAX {
        let trace: f64 = (0..k).map(|i| gram[i * k + i]).sum();
        let mut moved = false;
        for p in 0..k {
            for q in p + 1..k {
                let off = gram[p * k + q];
                if off.abs() <= f64::EPSILON * trace {
                    continue;
                }
                moved = true;
                let theta = (gram[q * k + q] - gram[p * k + p]) / (2.0 * off);
                let t = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
                let cos = 1.0 / (t * t + 1.0).sqrt();
                turn(gram, vectors, k, (p, q), (cos, t * cos));
            }
        }
        if !moved {
            return;
        }
    }
}

fn turn(
    gram: &mut [f64],
    vectors: &mut [f64],
    k: usize,
    (p, q): (usize, usize),
    (cos, sin): (f64, f64),
) {
    let pair = |matrix: &mut [f64], a: usize, b: usize| {
        let (x, y) = (matrix[a], matrix[b]);
        (matrix[a], matrix[b]) = (cos * x - sin * y, sin * x + cos * y);
    };
    for i in 0..k {
        pair(gram, i * k + p, i * k + q);
    }
    for i in 0..k {
        pair(gram, p * k + i, q * k + i);
    }
    for i in 0..k {
        pair(vectors, i * k + p, i * k + q);
    }
}

/// Largest eigenvalue first.
fn order(gram: &mut [f64], vectors: &mut [f64], k: usize) {
    for place in 0..k {
        let value = |i: &usize| gram[i * k + i];
        let largest = (place..k).max_by(|a, b| value(a).total_cmp(&value(b))).unwrap_or(place);
        if largest != place {
            gram.swap(place * k + place, largest * k + largest);
            vectors.chunks_exact_mut(k).for_each(|row| row.swap(place, largest));
        }
    }
}

/// `matrix [n, k]` times `vectors [k, k]`, a row at a time in place.
fn rotate(matrix: &mut [f32], vectors: &[f64], k: usize) {
    matrix.par_chunks_exact_mut(k).for_each_init(
        || vec![0.0; k],
        |sums, row| {
            sums.fill(0.0);
            for (value, vectors) in row.iter().zip(vectors.chunks_exact(k)) {
                for (sum, vector) in sums.iter_mut().zip(vectors) {
                    *sum += f64::from(*value) * vector;
                }
            }
            for (value, sum) in row.iter_mut().zip(sums) {
                *value = *sum as f32;
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(seed: u64, len: usize) -> Vec<f32> {
        let unit = |i| (mixed(seed, i) >> 40) as f32 / (1 << 24) as f32 - 0.5;
        (0..len as u64).map(unit).collect()
    }

    struct Found {
        left: Vec<f32>,
        right: Vec<f32>,
        k: usize,
    }

    fn find(matrix: &[f32], rows: usize, cols: usize, rank: usize, tile_rows: usize) -> Found {
        let k = width(rank, rows, cols);
        let (mut left, mut right) = (vec![0.0; rows * k], vec![0.0; cols * k]);
        start(&mut right, 7);
        let mut space = Space {
            tile: &mut vec![0.0; tile_rows * cols],
            left: &mut left,
            right: &mut right,
            next: &mut vec![0.0; cols * k],
            small: &mut vec![0.0; 2 * k * k],
        };
        leading(rows, cols, &mut space, &|row, into| {
            into.copy_from_slice(&matrix[row * cols..][..cols]);
        });
        Found { left, right, k }
    }

    /// What is left of the squares of a matrix without its `rank` leading parts.
    fn rest(matrix: &[f32], cols: usize, found: &Found, rank: usize) -> f64 {
        let Found { left, right, k } = found;
        let rows = matrix.chunks_exact(cols).zip(left.chunks_exact(*k));
        let row = |(row, left): (&[f32], &[f32])| -> f64 {
            let parts = row.iter().zip(right.chunks_exact(*k));
            parts
                .map(|(value, right)| {
                    let part: f32 = (0..rank).map(|i| left[i] * right[i]).sum();
                    f64::from(value - part).powi(2)
                })
                .sum()
        };
        rows.map(row).sum()
    }

    #[test]
    fn a_matrix_of_low_rank_is_found_whole() {
        let (rows, cols, rank) = (37, 70, 3);
        let (a, b) = (noise(1, rows * rank), noise(2, rank * cols));
        let value = |i: usize| -> f32 {
            (0..rank).map(|r| a[i / cols * rank + r] * b[r * cols + i % cols]).sum()
        };
        let matrix: Vec<f32> = (0..rows * cols).map(value).collect();
        let squares: f64 = matrix.iter().map(|v| f64::from(*v).powi(2)).sum();
        let found = find(&matrix, rows, cols, rank, 5);
        assert!(rest(&matrix, cols, &found, rank) < 1e-10 * squares);
        assert!(rest(&matrix, cols, &found, 2) > 1e-3 * squares);
        // Nothing is not a number where the rank is less than the subspace.
        assert!(found.left.iter().chain(&found.right).all(|value| value.is_finite()));
    }

    #[test]
    fn known_singular_values_come_out_in_order() {
        // Rows of a Hadamard matrix are orthogonal; scaled, they are the singular vectors.
        let n = 16;
        let sign =
            |i: usize, j: usize| if (i & j).count_ones().is_multiple_of(2) { 1.0 } else { -1.0 };
        let sigma = |i: usize| 8.0 / (i as f32 + 1.0);
        let matrix: Vec<f32> =
            (0..n * n).map(|at| sigma(at / n) * sign(at / n, at % n) / 4.0).collect();
        let found = find(&matrix, n, n, 4, 16);
        for i in 0..4 {
            let column = found.left.chunks_exact(found.k).map(|row| f64::from(row[i]).powi(2));
            let norm = column.sum::<f64>().sqrt();
            assert!((norm - f64::from(sigma(i))).abs() < 1e-4, "{i}: {norm}");
        }
        let left: f64 = (4..n).map(|i| f64::from(sigma(i)).powi(2)).sum();
        assert!((rest(&matrix, n, &found, 4) - left).abs() < 1e-3 * left);
    }

    #[test]
    fn neither_tiles_nor_threads_change_a_bit() {
        let (rows, cols) = (45, 130);
        let matrix = noise(3, rows * cols);
        let of = |threads: usize, tile: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let found = pool.install(|| find(&matrix, rows, cols, 6, tile));
            (found.left, found.right)
        };
        let first = of(1, 45);
        assert!(first == of(3, 45) && first == of(2, 7));
    }
}
