//! The one door to ndarray's matrix product.

use std::ops::Range;

use lowtide_tensor::{Mat, Order};
use ndarray::{ArrayView2, ArrayViewMut2, Axis, ShapeBuilder, Slice, linalg::general_mat_mul};

/// Terms after which matrixmultiply restarts its chain of multiply-adds (its `KC`).
pub(crate) const CHAIN: usize = 256;

/// matrixmultiply's row and column blocking (its `MC` and `NC`).
const BLOCK_ROWS: usize = 64;
const BLOCK_COLS: usize = 1024;

/// The widest micro-kernel matrixmultiply has: packing buffers are rounded up to it.
const KERNEL: usize = 16;

/// Whether a product replaces what it is written over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Write {
    /// `c = a b`, whatever `c` held.
    Replace,
    /// `c += a b`.
    Add,
}

/// `c = a b` or `c += a b`.
///
/// There is no other scaling on purpose: matrixmultiply fuses `alpha` into the last multiply-add
/// except on edges, so only `alpha = 1` with `beta` zero or one gives an element the same bits
/// wherever it lies.
#[allow(clippy::needless_pass_by_value, reason = "views are made for the call and gone after it")]
pub(crate) fn gemm(
    a: ArrayView2<'_, f32>,
    b: ArrayView2<'_, f32>,
    write: Write,
    mut c: ArrayViewMut2<'_, f32>,
) {
    let beta = match write {
        Write::Replace => 0.0,
        Write::Add => 1.0,
    };
    general_mat_mul(1.0, &a, &b, beta, &mut c);
}

/// Bytes matrixmultiply allocates, and frees again, for one product of at most this size.
pub(crate) fn packing_bytes(m: usize, k: usize, n: usize) -> usize {
    if m == 0 || k == 0 || n == 0 {
        return 0;
    }
    let a = m.min(BLOCK_ROWS).next_multiple_of(KERNEL);
    let b = n.min(BLOCK_COLS).next_multiple_of(KERNEL);
    k.min(CHAIN) * (a + b) * size_of::<f32>()
}

/// A row-major slice as `[rows, cols]`; what lies behind the last row is left out.
pub(crate) fn view(data: &[f32], rows: usize, cols: usize) -> ArrayView2<'_, f32> {
    ArrayView2::from_shape((rows, cols), &data[..rows * cols]).expect("the slice has this length")
}

/// A row-major slice as `[rows, cols]`, to write; what lies behind the last row is left out.
pub(crate) fn view_mut(data: &mut [f32], rows: usize, cols: usize) -> ArrayViewMut2<'_, f32> {
    ArrayViewMut2::from_shape((rows, cols), &mut data[..rows * cols])
        .expect("the slice has this length")
}

/// Some rows and columns of `x` as an ndarray view: `x`'s own memory where it, or just these rows,
/// have no gaps, else a copy in `room`, which then must hold them.
pub(crate) fn part<'a>(
    x: Mat<'a, f32>,
    rows: Range<usize>,
    cols: Range<usize>,
    room: &'a mut [f32],
) -> ArrayView2<'a, f32> {
    if let Some(mut part) = whole(x) {
        part.slice_axis_inplace(Axis(0), Slice::from(rows));
        part.slice_axis_inplace(Axis(1), Slice::from(cols));
        return part;
    }
    let x = x.rows_range(rows);
    if let Some(mut part) = whole(x) {
        part.slice_axis_inplace(Axis(1), Slice::from(cols));
        return part;
    }
    let (m, n) = (x.rows(), cols.len());
    let room = &mut room[..m * n];
    copy(x.cols_range(cols), room);
    view(room, m, n)
}

/// Copies a view to a row-major slice of the same number of elements.
pub(crate) fn copy(x: Mat<'_, f32>, out: &mut [f32]) {
    let cols = x.cols();
    if cols == 0 {
        return;
    }
    for (i, row) in out.chunks_exact_mut(cols).enumerate() {
        if x.col_stride() == 1 {
            row.copy_from_slice(x.row(i));
        } else {
            row.iter_mut().enumerate().for_each(|(j, slot)| *slot = x.get(i, j));
        }
    }
}

/// A view without gaps as an ndarray view of the same memory.
fn whole(x: Mat<'_, f32>) -> Option<ArrayView2<'_, f32>> {
    let (data, order) = x.contiguous()?;
    let shape = (x.rows(), x.cols());
    let array = match order {
        Order::RowMajor => ArrayView2::from_shape(shape, data),
        Order::ColMajor => ArrayView2::from_shape(shape.f(), data),
    };
    Some(array.expect("a contiguous view holds rows times columns elements"))
}

#[cfg(test)]
mod tests;
