//! Products with packed matrices, both ways: decode a tile, multiply it with every row, go on.
//!
//! Units are blocks of output columns. A unit walks the contracted width in chunks of at most
//! [`CHAIN`] and keeps its block of the result in scratch until it is complete, because a block of
//! columns of a row-major matrix has gaps that ndarray cannot be given.

use std::ops::Range;

use lowtide_backend::Req;
use lowtide_lanes::{
    ColBlock, ColBlocks, RowBlock, RowBlocks, even_width, row_split, share, share_out,
};
use lowtide_quant::QMat;
use lowtide_tensor::{Mat, MatMut};

use crate::gemm::{CHAIN, Write, gemm, packing_bytes, part, view, view_mut};

/// Columns of a result computed together, unless one block of the format is wider.
const WIDTH: usize = 128;

/// Rows of a result computed together at full width. What a tile costs to decode and pack is spread
/// over this many rows.
const ROWS: usize = 512;

/// The widest block of a format: the specification decodes no wider ones either.
const BLOCK_MAX: usize = 256;

/// Elements of a decoded tile, and of a block of the result.
const TILE: usize = WIDTH * CHAIN;
const BLOCK: usize = WIDTH * ROWS;

/// What [`qmatmul`] needs on `lanes` threads.
pub(crate) fn req(lanes: usize, rows: usize, out_features: usize, in_features: usize) -> Req {
    let width = even_width(out_features, WIDTH, 16, lanes).min(out_features);
    let tile = width * in_features.min(CHAIN);
    Req {
        scratch: lanes * (tile + width * rows.min(ROWS)),
        library_bytes: lanes * packing_bytes(rows, in_features, width),
    }
}

/// What [`qmatmul_t`] needs on `lanes` threads, for any format.
pub(crate) fn req_t(lanes: usize, rows: usize, out_features: usize, in_features: usize) -> Req {
    let width = in_features.min(BLOCK_MAX);
    let tile = TILE.min(width * out_features);
    // Blocks wider than `WIDTH` are multiplied in shorter chunks.
    let narrow = packing_bytes(rows, out_features, in_features.min(WIDTH));
    let wide = packing_bytes(rows, out_features.min(CHAIN / 2), width);
    Req {
        scratch: lanes * (tile + BLOCK.min(width * rows)),
        library_bytes: lanes * narrow.max(wide),
    }
}

/// `y = x Wᵀ`.
pub(crate) fn qmatmul(
    lanes: usize,
    x: Mat<'_, f32>,
    w: QMat<'_>,
    y: MatMut<'_, f32>,
    scratch: &mut [f32],
) {
    let (outputs, inputs) = (w.rows(), w.cols());
    let width = even_width(outputs, WIDTH, 16, lanes);
    let block = block_len(w);
    let depth = CHAIN / block * block;
    let each = req(lanes, x.rows(), outputs, inputs).scratch / lanes;
    let tile_len = width.min(outputs) * inputs.min(CHAIN);
    share(lanes, scratch, each, ColBlocks::new(y, width), |unit, own| {
        let ColBlock { start, cols: y } = unit;
        let w = w.slice_rows(start..start + y.cols());
        let (tile, room) = own.split_at_mut(tile_len);
        let step = rows_at_once(x, y.cols(), depth, room.len());
        for RowBlock { start, rows: mut y } in RowBlocks::new(y, step) {
            let (sum, room) = room.split_at_mut(y.len());
            for (at, write) in chunks(inputs, depth) {
                let tile = decode(w, 0..w.rows(), at.clone(), tile);
                let x = part(x, start..start + y.rows(), at.clone(), room);
                let tile = view(tile, w.rows(), at.len()).reversed_axes();
                gemm(x, tile, write, view_mut(sum, y.rows(), y.cols()));
            }
            y.copy_from(Mat::new(sum, y.rows(), y.cols()));
        }
    });
}

/// `dx += dy W`.
pub(crate) fn qmatmul_t(
    lanes: usize,
    dy: Mat<'_, f32>,
    w: QMat<'_>,
    dx: MatMut<'_, f32>,
    scratch: &mut [f32],
) {
    let (outputs, inputs) = (w.rows(), w.cols());
    let block = block_len(w);
    let width = even_width(inputs, WIDTH.max(block), 16_usize.next_multiple_of(block), lanes);
    let depth = if width > WIDTH { CHAIN / 2 } else { CHAIN };
    let each = req_t(lanes, dy.rows(), outputs, inputs).scratch / lanes;
    let tile_len = TILE.min(inputs.min(BLOCK_MAX) * outputs);
    share(lanes, scratch, each, ColBlocks::new(dx, width), |unit, own| {
        let ColBlock { start, cols: dx } = unit;
        let columns = start..start + dx.cols();
        let (tile, room) = own.split_at_mut(tile_len);
        let step = rows_at_once(dy, dx.cols(), depth, room.len());
        for RowBlock { start, rows: mut dx } in RowBlocks::new(dx, step) {
            let (sum, room) = room.split_at_mut(dx.len());
            for (at, write) in chunks(outputs, depth) {
                let tile = decode(w, at.clone(), columns.clone(), tile);
                let dy = part(dy, start..start + dx.rows(), at.clone(), room);
                let tile = view(tile, at.len(), columns.len());
                gemm(dy, tile, write, view_mut(sum, dx.rows(), dx.cols()));
            }
            for (i, sum) in sum.chunks_exact(columns.len()).enumerate() {
                dx.row_mut(i).iter_mut().zip(sum).for_each(|(dx, sum)| *dx += sum);
            }
        }
    });
}

/// `out = W[rows]`, a few rows a unit.
pub(crate) fn qdecode(lanes: usize, w: QMat<'_>, rows: Range<usize>, out: MatMut<'_, f32>) {
    let (lanes, step) = row_split(lanes, out.rows(), out.cols());
    share_out(lanes, RowBlocks::new(out, step), |RowBlock { start, rows: mut out }| {
        for i in 0..out.rows() {
            w.decode_row(rows.start + start + i, out.row_mut(i));
        }
    });
}

/// `out[t] = W[ids[t]]`.
pub(crate) fn qgather(lanes: usize, w: QMat<'_>, ids: &[u32], out: MatMut<'_, f32>) {
    let (lanes, step) = row_split(lanes, out.rows(), out.cols());
    share_out(lanes, RowBlocks::new(out, step), |RowBlock { start, rows: mut out }| {
        for i in 0..out.rows() {
            w.decode_row(ids[start + i] as usize, out.row_mut(i));
        }
    });
}

/// Rows of a result to compute at once: as many as fit next to a copy of their operand where that
/// has gaps. One row has none. The number changes no bit.
fn rows_at_once(x: Mat<'_, f32>, width: usize, depth: usize, room: usize) -> usize {
    let row = if x.contiguous().is_some() { width } else { width + depth };
    (room / row.max(1)).max(1)
}

/// Ascending chunks of the contracted width, and what each does to the sum.
fn chunks(total: usize, depth: usize) -> impl Iterator<Item = (Range<usize>, Write)> {
    (0..total).step_by(depth).map(move |at| {
        let write = if at == 0 { Write::Replace } else { Write::Add };
        (at..total.min(at + depth), write)
    })
}

/// Decodes some rows and columns, which start and end with a block, row-major to the head of `out`.
fn decode<'a>(
    w: QMat<'_>,
    rows: Range<usize>,
    columns: Range<usize>,
    out: &'a mut [f32],
) -> &'a [f32] {
    let out = &mut out[..rows.len() * columns.len()];
    for (row, out) in rows.zip(out.chunks_exact_mut(columns.len())) {
        w.decode_columns(row, columns.clone(), out);
    }
    out
}

fn block_len(w: QMat<'_>) -> usize {
    let block = w.format().block_len();
    assert!(
        block <= BLOCK_MAX,
        "{}: blocks of {block} values, the backend decodes at most {BLOCK_MAX} at once",
        w.format().name()
    );
    block
}
