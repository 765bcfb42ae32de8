//! Packing rows into the groups that micro-kernels read.

use lowtide_tensor::Mat;

use crate::simd::Simd;

/// Writes rows `x [k, n]` with adjacent columns as rows `row..row + k` of a packed matrix
/// `[rows, n]`.
///
/// # Safety
/// `row + k <= rows`, and `panel` is writable for `rows * n` elements.
#[inline(always)]
pub(crate) unsafe fn pack_rows<S: Simd>(
    s: S,
    x: Mat<'_, f32>,
    rows: usize,
    row: usize,
    group: usize,
    panel: *mut f32,
) {
    let n = x.cols();
    let mut at = 0;
    while at < n {
        let width = group.min(n - at);
        for i in 0..x.rows() {
            // SAFETY: row `i` of `x` has `n` columns; the group begins at `at * rows` and its row
            // `row + i` at that many times its width.
            unsafe {
                let from = x.as_ptr().add(i * x.row_stride() + at);
                let to = panel.add(at * rows + (row + i) * width);
                copy(s, from, to, width);
            }
        }
        at += width;
    }
}

/// Copies `n` elements.
///
/// # Safety
/// `from` is readable and `to` writable for `n` elements.
#[inline(always)]
unsafe fn copy<S: Simd>(s: S, from: *const f32, to: *mut f32, n: usize) {
    let mut at = 0;
    // SAFETY: `at + LANES <= n`, then at most the rest.
    unsafe {
        while at + S::LANES <= n {
            s.store(to.add(at), s.load(from.add(at)));
            at += S::LANES;
        }
        if at < n {
            s.store_part(to.add(at), s.load_part(from.add(at), n - at), n - at);
        }
    }
}

/// Writes rows `x [n, k]` with adjacent columns as columns `col..col + n` of a packed matrix
/// `[k, total]`; they lie within one group.
///
/// # Safety
/// `panel` is writable for `k * total` elements, and `col..col + n` lies in one group of it.
#[inline(always)]
pub(crate) unsafe fn pack_transposed<S: Simd>(
    s: S,
    x: Mat<'_, f32>,
    total: usize,
    col: usize,
    group: usize,
    panel: *mut f32,
) {
    let (n, k) = (x.rows(), x.cols());
    let begin = col / group * group;
    let width = group.min(total - begin);
    let stride = x.row_stride();
    // SAFETY: the group begins at `begin * k`; column `col` lies in it.
    let to = unsafe { panel.add(begin * k + (col - begin)) };
    let lanes = S::Narrow::LANES;
    let (wide, half) = (n == S::LANES, n == lanes);
    let side = if wide { S::LANES } else { lanes };
    let blocks = if wide || half { k / side } else { 0 };
    for block in 0..blocks {
        let at = block * side;
        // SAFETY: as many rows and columns from `at` on are there, and as many in the panel.
        unsafe {
            let (from, to) = (x.as_ptr().add(at), to.add(at * width));
            if wide {
                s.transpose(from, stride, to, width);
            } else {
                s.narrow().transpose(from, stride, to, width);
            }
        }
    }
    for p in blocks * side..k {
        for j in 0..n {
            // SAFETY: element (j, p) of `x`, and its place in the group.
            unsafe { *to.add(p * width + j) = *x.as_ptr().add(j * stride + p) };
        }
    }
}
