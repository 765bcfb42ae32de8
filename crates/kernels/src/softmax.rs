//! The softmax of attention: a table's functions for it, and their safe face.

use lowtide_tensor::{Mat, MatMut};

use crate::generic::softmax::STRIDE;
use crate::{Kernels, Seen};

/// What is compiled once for each instruction set. Every function asks that the processor has it,
/// and for what its algorithm in `generic` asks.
#[derive(Debug)]
pub(crate) struct Softmax {
    pub(crate) soften: Soften,
    pub(crate) soften_vjp: SoftenVjp,
    pub(crate) divide_rows: unsafe fn(MatMut<'_, f32>, &[f32]),
    pub(crate) dot_rows: unsafe fn(Mat<'_, f32>, Mat<'_, f32>, &mut [f32]),
    pub(crate) finite: unsafe fn(Mat<'_, f32>) -> bool,
}

type Soften = unsafe fn(*mut f32, usize, Seen, &mut [f32], &mut [f32], MatMut<'_, f32>);
type SoftenVjp = unsafe fn(*mut f32, *mut f32, usize, Seen, f32, &[f32], &[f32]);

impl Kernels {
    /// Distance between the rows of a tile of scores, and its most columns: a quantum.
    pub const SCORES: usize = STRIDE;

    /// One step of the online softmax, over `columns` keys.
    ///
    /// `scores` has a row of [`Kernels::SCORES`] for each of `maxima`, of which the first `columns`
    /// count. They become weights `e^(score - maximum)` against the row's new maximum, zero where
    /// the row does not see; `sums` gains them. Where a maximum grows, what was summed before
    /// shrinks: `sums`, and the rows of `o`. A row that sees nothing keeps all it had.
    ///
    /// # Panics
    /// When the shapes do not fit.
    pub fn soften(
        &self,
        scores: &mut [f32],
        columns: usize,
        seen: Seen,
        maxima: &mut [f32],
        sums: &mut [f32],
        o: MatMut<'_, f32>,
    ) {
        let rows = maxima.len();
        assert!(columns <= STRIDE, "soften: {columns} columns");
        assert!(sums.len() == rows && o.rows() == rows, "soften: operands of different heights");
        assert!(o.cols() <= 1 || o.as_ref().col_stride() == 1, "soften: columns with gaps");
        let scores = &mut scores[..rows * STRIDE];
        // SAFETY: the instruction set was detected; the shapes were just checked.
        unsafe {
            (self.softmax.soften)(scores.as_mut_ptr(), columns, seen, maxima, sums, o);
        }
    }

    /// Turns scores into probabilities `p = e^(score - lse)`, and `slopes`, the gradients of the
    /// probabilities, into those of the scores before they were scaled: `p (slope - mean) scale`.
    /// Both are tiles like those of [`Kernels::soften`], and zero where a row does not see.
    ///
    /// # Panics
    /// When the shapes do not fit.
    pub fn soften_vjp(
        &self,
        scores: &mut [f32],
        slopes: &mut [f32],
        columns: usize,
        seen: Seen,
        scale: f32,
        lse: &[f32],
        means: &[f32],
    ) {
        assert!(columns <= STRIDE, "soften_vjp: {columns} columns");
        assert_eq!(lse.len(), means.len(), "soften_vjp: operands of different heights");
        let len = lse.len() * STRIDE;
        let (scores, slopes) = (scores[..len].as_mut_ptr(), slopes[..len].as_mut_ptr());
        // SAFETY: the instruction set was detected; the shapes were just checked.
        unsafe { (self.softmax.soften_vjp)(scores, slopes, columns, seen, scale, lse, means) }
    }

    /// Divides row `i` of `x`, with adjacent columns, by `by[i]`.
    ///
    /// # Panics
    /// When the shapes do not fit.
    pub fn divide_rows(&self, x: MatMut<'_, f32>, by: &[f32]) {
        assert_eq!(x.rows(), by.len(), "divide_rows: operands of different heights");
        assert!(x.cols() <= 1 || x.as_ref().col_stride() == 1, "divide_rows: columns with gaps");
        // SAFETY: the instruction set was detected; the shapes were just checked.
        unsafe { (self.softmax.divide_rows)(x, by) }
    }

    /// `out[i] = a[i] · b[i]`, for two matrices of one shape with adjacent columns.
    ///
    /// # Panics
    /// When the shapes do not fit.
    pub fn dot_rows(&self, a: Mat<'_, f32>, b: Mat<'_, f32>, out: &mut [f32]) {
        let one = (a.rows(), a.cols()) == (b.rows(), b.cols()) && a.rows() == out.len();
        assert!(one, "dot_rows: operands of different shapes");
        let adjacent = a.cols() <= 1 || (a.col_stride() == 1 && b.col_stride() == 1);
        assert!(adjacent, "dot_rows: columns with gaps");
        // SAFETY: the instruction set was detected; the shapes were just checked.
        unsafe { (self.softmax.dot_rows)(a, b, out) }
    }

    /// Whether `x`, with adjacent columns, holds neither NaN nor infinities.
    ///
    /// # Panics
    /// When columns have gaps.
    #[must_use]
    pub fn finite(&self, x: Mat<'_, f32>) -> bool {
        assert!(x.cols() <= 1 || x.col_stride() == 1, "finite: columns with gaps");
        // SAFETY: the instruction set was detected.
        unsafe { (self.softmax.finite)(x) }
    }
}
