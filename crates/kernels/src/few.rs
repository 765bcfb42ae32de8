//! One row times packed weights: what a table may have for it beyond panels.

use lowtide_quant::QMat;
use lowtide_quant::integers::GROUP;

use crate::{Kernels, Rounded};

/// Functions of one instruction set that unpack weights in registers, for some formats. Each says
/// whether it knows the format, and asks that the processor has its instruction set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Few {
    /// Inputs `[cols]`, weights `[rows, cols]`, the length of a chain, outputs `[rows]`.
    pub(crate) floats: unsafe fn(&[f32], QMat<'_>, usize, &mut [f32]) -> bool,
    /// The same with rounded inputs `[1, cols]`.
    pub(crate) integers: Option<Integers>,
}

/// Rounded inputs, weights, the length of a chain, outputs.
type Integers = unsafe fn(Rounded<'_>, QMat<'_>, usize, &mut [f32]) -> bool;

impl Kernels {
    /// `y = W x` for one row, unpacking weights in registers where this table can: `x [cols]`,
    /// `w [rows, cols]`, `y [rows]`. The chain of multiply-adds restarts every `chain` inputs; the
    /// bits are those of [`Kernels::gemm`] on decoded panels of that depth. Says whether it did.
    ///
    /// # Panics
    /// When the shapes do not fit, or `chain` is no multiple of 32.
    pub fn one_row(&self, x: &[f32], w: QMat<'_>, chain: usize, y: &mut [f32]) -> bool {
        check_one_row(x.len(), w, chain, y.len());
        // SAFETY: the instruction set was detected; the shapes were just compared.
        self.few.is_some_and(|few| unsafe { (few.floats)(x, w, chain, y) })
    }

    /// The same with rounded inputs `x [1, cols]`; the bits are those of [`Kernels::int_gemm`].
    ///
    /// # Panics
    /// As [`Kernels::one_row`].
    pub fn one_row_int(&self, x: Rounded<'_>, w: QMat<'_>, chain: usize, y: &mut [f32]) -> bool {
        assert!(x.m() == 1, "one row of {}", x.m());
        check_one_row(x.k(), w, chain, y.len());
        let integers = self.few.and_then(|few| few.integers);
        // SAFETY: the instruction set was detected; the shapes were just compared.
        integers.is_some_and(|integers| unsafe { integers(x, w, chain, y) })
    }
}

fn check_one_row(x: usize, w: QMat<'_>, chain: usize, y: usize) {
    let (rows, cols) = (w.rows(), w.cols());
    assert!(x == cols && y == rows, "one row of {x} by [{rows}, {cols}] to {y}");
    assert!(chain > 0 && chain.is_multiple_of(GROUP), "chains of {chain}");
}
