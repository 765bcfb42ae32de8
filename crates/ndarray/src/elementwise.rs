//! Residuals, biases and dropout: the specification's loops, shared out by blocks of rows.

use lowtide_backend::{DropoutKey, spec};
use lowtide_lanes::{RowBlock, RowBlocks, row_split, share_out};
use lowtide_tensor::{Mat, MatMut};

/// `y = alpha x + beta y`.
pub(crate) fn axpby(lanes: usize, alpha: f32, x: Mat<'_, f32>, beta: f32, y: MatMut<'_, f32>) {
    let (lanes, step) = row_split(lanes, y.rows(), y.cols());
    share_out(lanes, RowBlocks::new(y, step), |RowBlock { start, rows: y }| {
        spec::axpby(alpha, x.rows_range(start..start + y.rows()), beta, y);
    });
}

/// `y[t, o] += bias[o]`.
pub(crate) fn add_bias(lanes: usize, bias: &[f32], y: MatMut<'_, f32>) {
    let (lanes, step) = row_split(lanes, y.rows(), y.cols());
    share_out(lanes, RowBlocks::new(y, step), |block| spec::add_bias(bias, block.rows));
}

/// `y = x ⊙ mask / (1 - p)`.
pub(crate) fn dropout(
    lanes: usize,
    x: Mat<'_, f32>,
    p: f64,
    key: DropoutKey,
    row0: usize,
    y: MatMut<'_, f32>,
) {
    let (lanes, step) = row_split(lanes, y.rows(), y.cols());
    share_out(lanes, RowBlocks::new(y, step), |RowBlock { start, rows: y }| {
        spec::dropout(x.rows_range(start..start + y.rows()), p, key, row0 + start, y);
    });
}
