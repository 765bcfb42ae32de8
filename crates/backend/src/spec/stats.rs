//! What a slice of gradients looks like.

use lowtide_tensor::Float;

use crate::shapes::Stats;

/// Sum of squares, largest magnitude and number of non-finite elements, in f64.
pub fn stats<F: Float>(x: &[F]) -> Stats {
    let mut stats = Stats::default();
    for &x in x {
        if x.is_finite() {
            let x = x.to_f64();
            stats.sum_squares += x * x;
            stats.max_abs = stats.max_abs.max(x.abs());
        } else {
            stats.non_finite += 1;
        }
    }
    stats
}
