//! Operands of products in integers.

use lowtide_quant::integers::GROUP;
use lowtide_tensor::Mat;

use crate::Rhs;

/// How many digits of 8 bits floats are rounded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Digits {
    /// One: quick, and visibly rounded.
    One,
    /// Two, of which the lower one is from -64 to 63.
    Two,
}

impl Digits {
    /// The largest integer.
    #[must_use]
    pub const fn top(self) -> f32 {
        match self {
            Self::One => 127.0,
            Self::Two => 127.0 * 128.0,
        }
    }
}

/// Rows of floats rounded to integers, with a scale for each 32: `x ≈ scale * code`. Where a table
/// puts the integers of 32 values within their codes is its own affair.
#[derive(Clone, Copy, Debug)]
pub struct Rounded<'a> {
    pub(crate) digits: Digits,
    pub(crate) codes: Mat<'a, i16>,
    pub(crate) scales: Mat<'a, f32>,
    pub(crate) sums: Mat<'a, f32>,
}

impl<'a> Rounded<'a> {
    /// What [`Kernels::round_rows`](crate::Kernels::round_rows) of the same table wrote, or some
    /// groups of its columns: `codes [m, k]`, `scales` and `sums [m, k / 32]`, all with adjacent
    /// columns.
    ///
    /// # Panics
    /// When the shapes do not fit.
    #[must_use]
    pub fn new(
        digits: Digits,
        codes: Mat<'a, i16>,
        scales: Mat<'a, f32>,
        sums: Mat<'a, f32>,
    ) -> Self {
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
        Self { digits, codes, scales, sums }
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
    /// The longest contraction of one call.
    pub const K_MAX: usize = 256;

    /// `codes [k / e, n]`: `e` codes of neighbouring rows in each element's bits, where `e` is
    /// [`Kernels::codes_per_element`](crate::Kernels::codes_per_element); `scales` and
    /// `minima [k / 32, n]`. All packed by
    /// [`Kernels::pack_transposed`](crate::Kernels::pack_transposed), with all of their columns.
    ///
    /// # Panics
    /// When the shapes do not fit.
    #[must_use]
    pub fn new(codes: Rhs<'a>, scales: Rhs<'a>, minima: Option<Rhs<'a>>) -> Self {
        let (elements, groups, n) = (codes.k(), scales.k(), codes.n());
        let whole = |x: &Rhs<'_>| x.n() == n && x.stored() == n && x.group == codes.group;
        let alike = |x: &Rhs<'_>| x.k() == groups && whole(x);
        let fits = whole(&codes)
            && alike(&scales)
            && minima.as_ref().is_none_or(alike)
            && groups * GROUP <= Self::K_MAX;
        assert!(
            fits && codes.group.is_some() && (groups == 0 || elements.is_multiple_of(groups)),
            "integer weights: {elements} elements and {groups} groups by {n} columns"
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
    pub const K_MAX: usize = IntRhs::K_MAX;

    /// `codes [n / 32, k / e, 32]`: for each 32 columns, `e` codes of neighbouring rows in each
    /// element's bits ([`Kernels::weave_rows`](crate::Kernels::weave_rows));
    /// `ratios [n / 32, k]`: the scale of the row as a fraction of the largest of its 32 rows, in
    /// 15 bits; `largest [k / 32, n / 32]`: that largest scale.
    ///
    /// # Panics
    /// When the shapes do not fit.
    #[must_use]
    pub fn new(codes: &'a [f32], ratios: &'a [i16], largest: Mat<'a, f32>) -> Self {
        let (k, n) = (largest.rows() * GROUP, largest.cols() * GROUP);
        assert!(
            (n * k == 0 || codes.len().is_multiple_of(n * k / GROUP))
                && ratios.len() == n / GROUP * k
                && k <= Self::K_MAX
                && adjacent(largest),
            "integer weights transposed: {} elements and {} ratios for [{k}, {n}]",
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
