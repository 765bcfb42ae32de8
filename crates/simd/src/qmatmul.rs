//! Products with packed matrices, both ways: decode a tile into a panel, multiply it with every
//! row, go on.
//!
//! Units are blocks of output columns. A unit walks the contracted width in chunks of at most
//! [`DEPTH`]; each chunk is a chain of its own, added to the result in ascending order.

use std::ops::Range;

use lowtide_backend::{Req, contract};
use lowtide_kernels::Rhs;
use lowtide_lanes::{
    ColBlock, ColBlocks, RowBlock, RowBlocks, level_width, row_split, share, share_out,
};
use lowtide_quant::QMat;
use lowtide_tensor::{Mat, MatMut};

use crate::panel::{DEPTH, WIDTH, chunks, decode, times_turned, turned_scratch};
use crate::{Compute, Simd, integers};

/// What [`qmatmul`] needs.
pub(crate) fn req(be: &Simd, rows: usize, out_features: usize, in_features: usize) -> Req {
    let floats = be.threads() * unit_len(be, out_features, in_features);
    let scratch = match be.compute() {
        Compute::F32 => floats,
        _ => floats.max(integers::scratch(be, rows, out_features, in_features)),
    };
    Req { scratch, library_bytes: 0 }
}

/// Scratch of a unit: a panel, and the rows that go into it next.
fn unit_len(be: &Simd, out_features: usize, in_features: usize) -> usize {
    let width = forward_width(be, out_features).min(out_features);
    turned_scratch(be.kernels(), in_features, width)
}

/// What [`qmatmul_t`] needs, for any format.
pub(crate) fn req_t(be: &Simd, rows: usize, out_features: usize, in_features: usize) -> Req {
    let floats = be.threads() * unit_len_t(out_features, in_features);
    let scratch = match be.compute() {
        Compute::F32 => floats,
        _ => floats.max(integers::scratch_t(be, rows, out_features, in_features)),
    };
    Req { scratch, library_bytes: 0 }
}

/// Scratch of a transposed unit: the widest panel that any block length leads to, and one decoded
/// row of it.
fn unit_len_t(out_features: usize, in_features: usize) -> usize {
    in_features.min(contract::BLOCK_LEN_MAX) * (out_features.min(DEPTH) + 1)
}

fn forward_width(be: &Simd, outputs: usize) -> usize {
    level_width(outputs, WIDTH, be.kernels().group(), be.threads())
}

/// `y = x Wᵀ`.
pub(crate) fn qmatmul(
    be: &Simd,
    x: Mat<'_, f32>,
    w: QMat<'_>,
    y: MatMut<'_, f32>,
    scratch: &mut [f32],
) {
    contract::qmatmul(x, w, y.as_ref());
    if let Some(digits) = integers::integers(be, &w) {
        return integers::qmatmul(be, digits, x, w, y, scratch);
    }
    let each = unit_len(be, w.rows(), w.cols());
    let width = forward_width(be, w.rows());
    share(be.threads(), scratch, each, ColBlocks::new(y, width), |unit, own| {
        let ColBlock { start, cols: y } = unit;
        let w = w.slice_rows(start..start + y.cols());
        times_turned(be.kernels(), x, w, y, own);
    });
}

/// `dx += dy W`.
pub(crate) fn qmatmul_t(
    be: &Simd,
    dy: Mat<'_, f32>,
    w: QMat<'_>,
    dx: MatMut<'_, f32>,
    scratch: &mut [f32],
) {
    contract::qmatmul_t(dy, w, dx.as_ref());
    if let Some(digits) = integers::integers(be, &w) {
        return integers::qmatmul_t(be, digits, dy, w, dx, scratch);
    }
    let (kernels, outputs, inputs) = (be.kernels(), w.rows(), w.cols());
    let each = unit_len_t(outputs, inputs);
    let width = transposed_width(be, w);
    share(be.threads(), scratch, each, ColBlocks::new(dx, width), |unit, own| {
        let ColBlock { start, cols: mut dx } = unit;
        let columns = start..start + dx.cols();
        for at in chunks(outputs, DEPTH) {
            let (panel, row) = own.split_at_mut(at.len() * columns.len());
            let row = &mut row[..columns.len()];
            for o in at.clone() {
                decode(kernels, w, o, columns.clone(), row);
                kernels.pack_rows(Mat::new(row, 1, row.len()), at.len(), o - at.start, panel);
            }
            let panel = Rhs::packed(panel, at.len(), columns.len(), kernels.group());
            kernels.gemm(1.0, dy.cols_range(at), panel, true, dx.rb());
        }
    });
}

/// Columns of a unit of [`qmatmul_t`]: whole blocks of the format, and whole groups where that does
/// not make it too wide.
fn transposed_width(be: &Simd, w: QMat<'_>) -> usize {
    let (block, group) = (w.format().block_len(), be.kernels().group());
    let both = block / gcd(block, group) * group;
    let multiple = if both <= WIDTH { both } else { block };
    level_width(w.cols(), WIDTH.max(multiple), multiple, be.threads())
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// `out = W[rows]`, a few rows a unit.
pub(crate) fn qdecode(be: &Simd, w: QMat<'_>, rows: Range<usize>, out: MatMut<'_, f32>) {
    contract::qdecode(w, &rows, out.as_ref());
    let (lanes, step) = row_split(be.threads(), out.rows(), out.cols());
    share_out(lanes, RowBlocks::new(out, step), |RowBlock { start, rows: mut out }| {
        for i in 0..out.rows() {
            decode(be.kernels(), w, rows.start + start + i, 0..w.cols(), out.row_mut(i));
        }
    });
}

/// `out[t] = W[ids[t]]`.
pub(crate) fn qgather(be: &Simd, w: QMat<'_>, ids: &[u32], out: MatMut<'_, f32>) {
    contract::qgather(w, ids, out.as_ref());
    let (lanes, step) = row_split(be.threads(), out.rows(), out.cols());
    share_out(lanes, RowBlocks::new(out, step), |RowBlock { start, rows: mut out }| {
        for i in 0..out.rows() {
            decode(be.kernels(), w, ids[start + i] as usize, 0..w.cols(), out.row_mut(i));
        }
    });
}
