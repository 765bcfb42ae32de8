//! The right-hand side of a product, as kernels read it.

use core::ops::Range;

use lowtide_tensor::Mat;

/// A matrix `[k, n]` whose rows are read a few registers at a time.
///
/// Either plain rows, or *packed*: columns cut into groups of [`Kernels::group`] (the last may be
/// narrower), each group stored as `[k, its width]` without gaps, one group after the other. A
/// micro-kernel then reads straight through memory.
///
/// [`Kernels::group`]: crate::Kernels::group
#[derive(Clone, Copy, Debug)]
pub struct Rhs<'a> {
    data: Mat<'a, f32>,
    /// Rows of the whole packed matrix, and which of them is the first here.
    rows: usize,
    first: usize,
    k: usize,
    /// Columns that take part, the first of those there are.
    n: usize,
    /// The width of groups, where packed.
    pub(crate) group: Option<usize>,
}

impl<'a> Rhs<'a> {
    /// Plain rows `[k, n]`.
    ///
    /// # Panics
    /// When columns are not adjacent.
    #[must_use]
    pub fn rows(data: Mat<'a, f32>) -> Self {
        let adjacent = data.cols() <= 1 || data.col_stride() == 1;
        assert!(adjacent, "the right-hand side's columns have stride {}", data.col_stride());
        Self { data, rows: data.rows(), first: 0, k: data.rows(), n: data.cols(), group: None }
    }

    /// A packed matrix `[k, n]`: the first `k * n` elements of `panel`, in groups of `group`
    /// columns.
    ///
    /// # Panics
    /// When the panel is shorter, or `group` is zero.
    #[must_use]
    pub fn packed(panel: &'a [f32], k: usize, n: usize, group: usize) -> Self {
        assert!(group > 0, "groups of no columns");
        Self { data: Mat::new(&panel[..k * n], k, n), rows: k, first: 0, k, n, group: Some(group) }
    }

    /// Some consecutive rows.
    ///
    /// # Panics
    /// When the range is reversed or reaches past the last row.
    #[must_use]
    pub fn rows_range(self, range: Range<usize>) -> Self {
        let Range { start, end } = range;
        assert!(start <= end && end <= self.k, "rows {start}..{end} of {}", self.k);
        Self { first: self.first + start, k: end - start, ..self }
    }

    /// Only the first `n` columns.
    ///
    /// # Panics
    /// When there are fewer.
    #[must_use]
    pub fn first_columns(self, n: usize) -> Self {
        assert!(n <= self.n, "{n} columns of {}", self.n);
        Self { n, ..self }
    }

    /// Rows: the contracted length.
    #[must_use]
    pub fn k(&self) -> usize {
        self.k
    }

    /// Columns of the product.
    #[must_use]
    pub fn n(&self) -> usize {
        self.n
    }

    /// Columns there are, some of which may not take part.
    pub(crate) fn stored(&self) -> usize {
        self.data.cols()
    }

    /// Where it begins in memory.
    pub(crate) fn as_ptr(&self) -> *const f32 {
        self.data.as_ptr()
    }

    /// Offset of the first row of the group that begins at column `at` and is `width` wide, and the
    /// distance between its rows.
    pub(crate) fn part(&self, at: usize, width: usize) -> (usize, usize) {
        match self.group {
            Some(_) => (at * self.rows + self.first * width, width),
            None => {
                let stride = self.data.row_stride();
                (at + self.first * stride, stride)
            }
        }
    }
}
