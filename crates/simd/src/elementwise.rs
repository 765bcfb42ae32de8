//! Residuals, biases, column sums, dropout and statistics.

use lowtide_backend::{DropoutKey, Stats, contract, spec};
use lowtide_kernels::{Draws, Summary};
use lowtide_lanes::{RowBlock, RowBlocks, row_split, share_out};
use lowtide_tensor::{Mat, MatMut};

use crate::Simd;

/// Columns that one thread sums: enough of a row to read memory in long stretches.
const SUM_COLUMNS: usize = 256;

/// Elements that statistics are taken of at once: fixed, because sums restart there.
const STATS_CHUNK: usize = 32 * 1024;

/// Chunks of statistics whose results are kept before they are merged.
const STATS_BATCH: usize = 64;

/// `y = alpha x + beta y`.
pub(crate) fn axpby(be: &Simd, alpha: f32, x: Mat<'_, f32>, beta: f32, y: MatMut<'_, f32>) {
    contract::axpby(x, y.as_ref());
    let (lanes, step) = row_split(be.threads(), y.rows(), y.cols());
    let unit = x.cols() <= 1 || (x.col_stride() == 1 && y.as_ref().col_stride() == 1);
    share_out(lanes, RowBlocks::new(y, step), |RowBlock { start, rows: mut y }| {
        if !unit {
            return spec::axpby(alpha, x.rows_range(start..start + y.rows()), beta, y);
        }
        for i in 0..y.rows() {
            be.kernels().axpby(alpha, x.row(start + i), beta, y.row_mut(i));
        }
    });
}

/// `y[t, o] += bias[o]`.
pub(crate) fn add_bias(be: &Simd, bias: &[f32], y: MatMut<'_, f32>) {
    contract::add_bias(bias, y.as_ref());
    let (lanes, step) = row_split(be.threads(), y.rows(), y.cols());
    share_out(lanes, RowBlocks::new(y, step), |RowBlock { rows: mut y, .. }| {
        (0..y.rows()).for_each(|i| be.kernels().add(bias, y.row_mut(i)));
    });
}

/// `dsum[c] += Σ_t x[t, c]`, in quanta of rows; threads share columns.
pub(crate) fn sum_rows(be: &Simd, x: Mat<'_, f32>, dsum: &mut [f32]) {
    contract::sum_rows(x, dsum);
    let (lanes, _) = row_split(be.threads(), x.rows(), x.cols());
    share_out(lanes, dsum.chunks_mut(SUM_COLUMNS).enumerate(), |(unit, dsum)| {
        let start = unit * SUM_COLUMNS;
        be.kernels().sum_rows(x.cols_range(start..start + dsum.len()), dsum);
    });
}

/// `y = x ⊙ mask / (1 - p)`, with the draws of [`spec::dropout`].
pub(crate) fn dropout(
    be: &Simd,
    x: Mat<'_, f32>,
    p: f64,
    key: DropoutKey,
    row0: usize,
    y: MatMut<'_, f32>,
) {
    contract::dropout(x, p, y.as_ref());
    let keep = (1.0 / (1.0 - p)) as f32;
    // A draw is a whole number of 2^-53, so it is below `p` when that number is below this one.
    let threshold = (p * (1_u64 << 53) as f64).ceil() as u64;
    let (lanes, step) = row_split(be.threads(), y.rows(), y.cols());
    share_out(lanes, RowBlocks::new(y, step), |RowBlock { start, rows: mut y }| {
        for i in 0..y.rows() {
            let state = spec::dropout_row(key, row0 + start + i);
            let draws = Draws { state, threshold };
            be.kernels().dropout(draws, keep, x.row(start + i), y.row_mut(i));
        }
    });
}

/// Sum of squares, largest magnitude and number of non-finite elements: chunks of a fixed length,
/// merged in ascending order.
pub(crate) fn stats(be: &Simd, x: &[f32]) -> Stats {
    let mut stats = Stats::default();
    for batch in x.chunks(STATS_CHUNK * STATS_BATCH) {
        let mut found = [Summary::default(); STATS_BATCH];
        let units = batch.chunks(STATS_CHUNK).zip(&mut found);
        let lanes = if batch.len() > STATS_CHUNK { be.threads() } else { 1 };
        share_out(lanes, units, |(x, found)| *found = be.kernels().stats(x));
        for found in found {
            stats.sum_squares += found.sum_squares;
            stats.max_abs = stats.max_abs.max(f64::from(found.max_abs));
            stats.non_finite += found.non_finite;
        }
    }
    stats
}
