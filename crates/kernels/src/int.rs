//! Operands of products in integers.

use lowtide_quant::integers::GROUP;
use lowtide_tensor::Mat;

use crate::Rhs;

/// Rows of floats rounded to integers, with a scale for each 32: `x ≈ scale * code`.
#[derive(Clone, Copy, Debug)]
pub struct Rounded<'a> {
    pub(crate) codes: Mat<'a, i16>,
    pub(crate) scales: Mat<'a, f32>,
    pub(crate) sums: Mat<'a, f32>,
}

impl<'a> Rounded<'a> {
    /// What [`Kernels::round_rows`](crate::Kernels::round_rows) wrote, or some columns of it:
    /// `codes [m, k]`, `scales` and `sums [m, k / 32]`, all with adjacent columns.
    ///
    /// # Panics
    /// When the shapes do not fit.
    #[must_use]
    pub fn new(codes: Mat<'a, i16>, scales: Mat<'a, f32>, sums: Mat<'a, f32>) -> Self {
        let (m, k) = (codes.rows(), codes.cols());
        let whole = k.is_multiple_of(GROUP);
        let fits = |x: Mat<'_, f32>| x.rows() == m && x.cols() == k / GROUP && adjacent(x);
        assert!(
            whole && adjacent(codes) && fits(scales) && fits(sums),
            "rounded rows: codes [{m}, {k}], scales [{}, {}], sums [{}, {}]",
            scales.rows(),
            scales.cols(),
            sums.rows(),
            sums.cols()
        );
        Self { codes, scales, sums }
    }

    /// Rows.
    #[must_use]
    pub fn m(&self) -> usize {
        self.codes.rows()
    }

    /// The contracted length: whole groups of 32.
    #[must_use]
    pub fn k(&self) -> usize {
        self.codes.cols()
    }
}

pub(crate) fn adjacent<T: Copy>(x: Mat<'_, T>) -> bool {
    x.cols() <= 1 || x.col_stride() == 1
}

/// Packed weights `[k, n]` to multiply rows with: column `j` is output `j`, its values
/// `scale * code + minimum` with a scale and a minimum for each 32 rows.
#[derive(Clone, Copy, Debug)]
pub struct IntRhs<'a> {
    pub(crate) codes: Rhs<'a>,
    pub(crate) scales: Rhs<'a>,
    pub(crate) minima: Option<Rhs<'a>>,
}

impl<'a> IntRhs<'a> {
    /// `codes [k / 2, n]`: two 16-bit codes, of rows `2 i` and `2 i + 1`, in each element's bits;
    /// `scales` and `minima [k / 32, n]`. All packed by
    /// [`Kernels::pack_transposed`](crate::Kernels::pack_transposed).
    ///
    /// # Panics
    /// When the shapes do not fit.
    #[must_use]
    pub fn new(codes: Rhs<'a>, scales: Rhs<'a>, minima: Option<Rhs<'a>>) -> Self {
        let (pairs, groups, n) = (codes.k(), scales.k(), codes.n());
        let alike = |x: &Rhs<'_>| x.k() == groups && x.n() == n && x.group == codes.group;
        let fits = alike(&scales) && minima.as_ref().is_none_or(alike);
        assert!(
            fits && codes.group.is_some() && pairs == groups * GROUP / 2,
            "integer weights: {pairs} pairs and {groups} groups by {n} columns"
        );
        Self { codes, scales, minima }
    }
}

/// Packed weights `[k, n]` to multiply gradients with: row `i` is output `i`, and the scale of 32
/// neighbouring columns differs from row to row.
#[derive(Clone, Copy, Debug)]
pub struct IntRhsT<'a> {
    pub(crate) codes: &'a [f32],
    pub(crate) ratios: &'a [i16],
    pub(crate) largest: Mat<'a, f32>,
}

impl<'a> IntRhsT<'a> {
    /// The longest contraction of one call.
    pub const K_MAX: usize = 256;

    /// `codes [n / 32, k / 2, 32]`: for each 32 columns, pairs of codes of rows `2 i` and
    /// `2 i + 1` in each element's bits ([`Kernels::pair_rows`](crate::Kernels::pair_rows));
    /// `ratios [n / 32, k]`: the scale of the row as a fraction of the largest of its 32 rows, in
    /// 15 bits; `largest [k / 32, n / 32]`: that largest scale.
    ///
    /// # Panics
    /// When the shapes do not fit.
    #[must_use]
    pub fn new(codes: &'a [f32], ratios: &'a [i16], largest: Mat<'a, f32>) -> Self {
        let (k, n) = (largest.rows() * GROUP, largest.cols() * GROUP);
        assert!(
            codes.len() == n * k / 2
                && ratios.len() == n / GROUP * k
                && k <= Self::K_MAX
                && adjacent(largest),
            "integer weights transposed: {} pairs and {} ratios for [{k}, {n}]",
            codes.len(),
            ratios.len()
        );
        Self { codes, ratios, largest }
    }

    /// The contracted length.
    #[must_use]
    pub fn k(&self) -> usize {
        self.largest.rows() * GROUP
    }

    /// Columns of the product.
    #[must_use]
    pub fn n(&self) -> usize {
        self.largest.cols() * GROUP
    }
}
