//! Products with packed matrices, both ways, and their rows as floats.

use core::ops::Range;

use lowtide_quant::QMat;
use lowtide_tensor::{Float, Mat, MatMut, QUANTUM};

use crate::contract;

use super::lanes::{LANES, add, axpy, dots, panel_len};

/// Values decoded at once, on the stack: a whole number of blocks of any format.
const DECODE: usize = contract::BLOCK_LEN_MAX;

pub(super) fn scratch(in_features: usize) -> usize {
    panel_len(in_features)
}

pub(super) const fn scratch_t() -> usize {
    QUANTUM * DECODE
}

/// `y = x Wᵀ`: `x [T, I]`, packed `w [O, I]`, `y [T, O]`. A panel of 8 rows of `w` is decoded
/// at a time; the contraction over `I` runs in quanta.
pub fn qmatmul<F: Float>(x: Mat<'_, F>, w: QMat<'_>, mut y: MatMut<'_, F>, scratch: &mut [F]) {
    contract::qmatmul(x, w, y.as_ref());
    let panel = &mut scratch[..panel_len(w.cols())];
    for o in (0..w.rows()).step_by(LANES) {
        let width = LANES.min(w.rows() - o);
        panel.fill(F::ZERO);
        for lane in 0..width {
            for_blocks(w, o + lane, 0..w.cols(), |at, values| {
                for (slot, &value) in panel[panel_len(at)..].chunks_mut(LANES).zip(values) {
                    slot[lane] = F::from_f32(value);
                }
            });
        }
        for t in 0..x.rows() {
            let sums = dots(x.row(t), panel);
            y.row_mut(t)[o..o + width].copy_from_slice(&sums[..width]);
        }
    }
}

/// `dx += dy W`: `dy [T, O]`, packed `w [O, I]`, `dx [T, I]`. A tile of a quantum of rows and at
/// most 256 columns is decoded at a time; the contraction over `O` runs in quanta.
pub fn qmatmul_t<F: Float>(dy: Mat<'_, F>, w: QMat<'_>, mut dx: MatMut<'_, F>, scratch: &mut [F]) {
    contract::qmatmul_t(dy, w, dx.as_ref());
    let step = tile_width(w);
    for o in (0..w.rows()).step_by(QUANTUM) {
        let depth = QUANTUM.min(w.rows() - o);
        for i in (0..w.cols()).step_by(step) {
            let columns = i..w.cols().min(i + step);
            let tile = &mut scratch[..depth * columns.len()];
            for (row, out) in tile.chunks_mut(columns.len()).enumerate() {
                decode(w, o + row, columns.clone(), out);
            }
            for t in 0..dy.rows() {
                let mut part = [F::ZERO; DECODE];
                let part = &mut part[..columns.len()];
                for (&dy, row) in dy.row(t)[o..o + depth].iter().zip(tile.chunks(columns.len())) {
                    axpy(dy, row, part);
                }
                add(part, &mut dx.row_mut(t)[columns.clone()]);
            }
        }
    }
}

/// Rows `rows` of a packed matrix as floats: `out [rows.len(), I]`.
pub fn qdecode<F: Float>(w: QMat<'_>, rows: Range<usize>, mut out: MatMut<'_, F>) {
    contract::qdecode(w, &rows, out.as_ref());
    for (i, row) in rows.enumerate() {
        decode(w, row, 0..w.cols(), out.row_mut(i));
    }
}

/// Rows `ids` of a packed matrix as floats: `out [T, D]`.
pub fn qgather<F: Float>(w: QMat<'_>, ids: &[u32], mut out: MatMut<'_, F>) {
    contract::qgather(w, ids, out.as_ref());
    for (t, &id) in ids.iter().enumerate() {
        decode(w, id as usize, 0..w.cols(), out.row_mut(t));
    }
}

/// Columns of a tile: as many whole blocks as fit in the decoding buffer.
fn tile_width(w: QMat<'_>) -> usize {
    let block = w.format().block_len();
    DECODE / block * block
}

/// Columns `columns` of row `row`; the range starts and ends with a block.
fn decode<F: Float>(w: QMat<'_>, row: usize, columns: Range<usize>, out: &mut [F]) {
    for_blocks(w, row, columns, |at, values| {
        for (out, &value) in out[at..].iter_mut().zip(values) {
            *out = F::from_f32(value);
        }
    });
}

/// Decodes some columns of a row piece by piece: `visit(offset from the first column, values)`.
fn for_blocks(
    w: QMat<'_>,
    row: usize,
    columns: Range<usize>,
    mut visit: impl FnMut(usize, &[f32]),
) {
    let step = tile_width(w);
    let mut buffer = [0.0_f32; DECODE];
    for start in columns.clone().step_by(step) {
        let part = start..columns.end.min(start + step);
        let values = &mut buffer[..part.len()];
        w.decode_columns(row, part, values);
        visit(start - columns.start, values);
    }
}
