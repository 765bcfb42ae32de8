//! Strided two-dimensional views: [`Mat`] to read, [`MatMut`] to write.
//!
//! A view is a pointer, two lengths and two strides. Both kinds hold a pointer instead of a slice,
//! because the elements of a column block are interleaved with its neighbour's: two `&mut [T]` over
//! them would overlap, two views do not. Every access is bounds-checked against the view's own
//! shape.
//!
//! The invariant all `unsafe` blocks rest on, established by the constructors and kept by every
//! method that narrows a view: for all `i < rows`, `j < cols`, the element at
//! `ptr + i * row_stride + j * col_stride` lies inside the borrowed slice; and the elements of two
//! live `MatMut` (or of a `MatMut` and a `Mat`) made from one slice are disjoint.
#![allow(
    unsafe_code,
    reason = "splitting a strided view into disjoint mutable parts has no safe form"
)]

use core::marker::PhantomData;
use core::ops::Range;
use core::ptr::NonNull;

/// How the elements of a contiguous view follow each other in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Row after row.
    RowMajor,
    /// Column after column: the transpose of a row-major matrix.
    ColMajor,
}

#[derive(Clone, Copy, Debug)]
struct Layout {
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl Layout {
    /// Elements from the first to one past the last, or `None` on overflow.
    fn extent(self) -> Option<usize> {
        if self.rows == 0 || self.cols == 0 {
            return Some(0);
        }
        let down = (self.rows - 1).checked_mul(self.row_stride)?;
        let across = (self.cols - 1).checked_mul(self.col_stride)?;
        down.checked_add(across)?.checked_add(1)
    }

    fn offset(self, i: usize, j: usize) -> usize {
        assert!(
            i < self.rows && j < self.cols,
            "element ({i}, {j}) of a {} x {} view",
            self.rows,
            self.cols
        );
        i * self.row_stride + j * self.col_stride
    }

    fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
        }
    }

    fn order(self) -> Option<Order> {
        let row_major = (self.cols <= 1 || self.col_stride == 1)
            && (self.rows <= 1 || self.row_stride == self.cols);
        let col_major = (self.rows <= 1 || self.row_stride == 1)
            && (self.cols <= 1 || self.col_stride == self.rows);
        match (row_major, col_major) {
            (true, _) => Some(Order::RowMajor),
            (false, true) => Some(Order::ColMajor),
            (false, false) => None,
        }
    }

    /// Checks a row block and gives the offset of its first element.
    fn row_block(self, range: &Range<usize>) -> usize {
        assert!(
            range.start <= range.end && range.end <= self.rows,
            "rows {}..{} of a view with {} rows",
            range.start,
            range.end,
            self.rows
        );
        if range.is_empty() || self.cols == 0 { 0 } else { range.start * self.row_stride }
    }

    /// Checks a column block and gives the offset of its first element.
    fn col_block(self, range: &Range<usize>) -> usize {
        assert!(
            range.start <= range.end && range.end <= self.cols,
            "columns {}..{} of a view with {} columns",
            range.start,
            range.end,
            self.cols
        );
        if range.is_empty() || self.rows == 0 { 0 } else { range.start * self.col_stride }
    }

    fn assert_unit_rows(self) {
        assert!(
            self.cols <= 1 || self.col_stride == 1,
            "a row as a slice needs column stride 1, this view has {}",
            self.col_stride
        );
    }
}

/// A read-only strided view of shape `[rows, cols]`.
#[derive(Debug)]
pub struct Mat<'a, T> {
    ptr: NonNull<T>,
    layout: Layout,
    marker: PhantomData<&'a [T]>,
}

impl<T> Clone for Mat<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Mat<'_, T> {}

// SAFETY: a `Mat` is a shared borrow of its elements, which is `Send` when `T: Sync`.
unsafe impl<T: Sync> Send for Mat<'_, T> {}
// SAFETY: as above; sharing a shared borrow gives no more than the borrow itself.
unsafe impl<T: Sync> Sync for Mat<'_, T> {}

impl<'a, T: Copy> Mat<'a, T> {
    /// Views a row-major slice as `[rows, cols]`.
    ///
    /// # Panics
    /// When `data` does not hold exactly `rows * cols` elements.
    #[must_use]
    pub fn new(data: &'a [T], rows: usize, cols: usize) -> Self {
        assert!(
            rows.checked_mul(cols) == Some(data.len()),
            "a {rows} x {cols} view over {} elements",
            data.len()
        );
        Self::strided(data, rows, cols, cols, 1)
    }

    /// Views a slice with explicit strides, in elements.
    ///
    /// # Panics
    /// When the last element would lie outside `data`.
    #[must_use]
    pub fn strided(
        data: &'a [T],
        rows: usize,
        cols: usize,
        row_stride: usize,
        col_stride: usize,
    ) -> Self {
        let layout = Layout { rows, cols, row_stride, col_stride };
        assert!(
            layout.extent().is_some_and(|n| n <= data.len()),
            "a {rows} x {cols} view with strides {row_stride}, {col_stride} over {} elements",
            data.len()
        );
        Self { ptr: NonNull::from(data).cast(), layout, marker: PhantomData }
    }

    /// Number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.layout.rows
    }

    /// Number of columns.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.layout.cols
    }

    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.layout.rows * self.layout.cols
    }

    /// Whether the view has no element.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Elements between the starts of two rows.
    #[must_use]
    pub fn row_stride(&self) -> usize {
        self.layout.row_stride
    }

    /// Elements between two neighbours of a row.
    #[must_use]
    pub fn col_stride(&self) -> usize {
        self.layout.col_stride
    }

    /// Where the element at (0, 0) lies; element (i, j) lies `i * row_stride + j * col_stride`
    /// elements further. For kernels, which walk a view without a check at every element.
    #[must_use]
    pub fn as_ptr(&self) -> *const T {
        self.ptr.as_ptr()
    }

    /// The element at row `i`, column `j`.
    ///
    /// # Panics
    /// When out of bounds.
    #[must_use]
    pub fn get(&self, i: usize, j: usize) -> T {
        let at = self.layout.offset(i, j);
        // SAFETY: `offset` checked the bounds, so by the module's invariant the element is inside.
        let p = unsafe { self.ptr.add(at) };
        // SAFETY: `p` points to an initialised element that this view borrows.
        unsafe { p.read() }
    }

    /// Row `i` as a slice.
    ///
    /// # Panics
    /// When out of bounds, or when the columns are not adjacent in memory.
    #[must_use]
    pub fn row(&self, i: usize) -> &'a [T] {
        if self.layout.cols == 0 {
            assert!(i < self.layout.rows, "row {i} of a view with {} rows", self.layout.rows);
            return &[];
        }
        self.layout.assert_unit_rows();
        let at = self.layout.offset(i, 0);
        // SAFETY: `offset` checked the bounds of the row's first element.
        let p = unsafe { self.ptr.add(at) };
        // SAFETY: the row's `cols` adjacent elements are elements of this view, all
        // borrowed for 'a.
        unsafe { core::slice::from_raw_parts(p.as_ptr(), self.layout.cols) }
    }

    /// The transposed view.
    #[must_use]
    pub fn t(self) -> Self {
        Self { layout: self.layout.t(), ..self }
    }

    /// The rows of `range`.
    ///
    /// # Panics
    /// When out of bounds.
    #[must_use]
    pub fn rows_range(self, range: Range<usize>) -> Self {
        let at = self.layout.row_block(&range);
        // SAFETY: `row_block` gives the offset of an element of this view, or 0.
        let ptr = unsafe { self.ptr.add(at) };
        Self { ptr, layout: Layout { rows: range.len(), ..self.layout }, ..self }
    }

    /// The columns of `range`.
    ///
    /// # Panics
    /// When out of bounds.
    #[must_use]
    pub fn cols_range(self, range: Range<usize>) -> Self {
        let at = self.layout.col_block(&range);
        // SAFETY: `col_block` gives the offset of an element of this view, or 0.
        let ptr = unsafe { self.ptr.add(at) };
        Self { ptr, layout: Layout { cols: range.len(), ..self.layout }, ..self }
    }

    /// The elements as one slice and their order, when nothing lies between them.
    #[must_use]
    pub fn contiguous(&self) -> Option<(&'a [T], Order)> {
        if self.is_empty() {
            return Some((&[], Order::RowMajor));
        }
        let order = self.layout.order()?;
        // SAFETY: without gaps the view's elements are exactly the `len` elements after `ptr`.
        let all = unsafe { core::slice::from_raw_parts(self.ptr.as_ptr(), self.len()) };
        Some((all, order))
    }
}

/// A mutable strided view of shape `[rows, cols]`.
#[derive(Debug)]
pub struct MatMut<'a, T> {
    ptr: NonNull<T>,
    layout: Layout,
    marker: PhantomData<&'a mut [T]>,
}

// SAFETY: a `MatMut` is an exclusive borrow of its elements, which is `Send` when `T: Send`.
unsafe impl<T: Send> Send for MatMut<'_, T> {}
// SAFETY: through `&MatMut` elements can only be read, which `T: Sync` allows.
unsafe impl<T: Sync> Sync for MatMut<'_, T> {}

impl<'a, T: Copy> MatMut<'a, T> {
    /// Views a row-major slice as `[rows, cols]`.
    ///
    /// # Panics
    /// When `data` does not hold exactly `rows * cols` elements.
    #[must_use]
    pub fn new(data: &'a mut [T], rows: usize, cols: usize) -> Self {
        assert!(
            rows.checked_mul(cols) == Some(data.len()),
            "a {rows} x {cols} view over {} elements",
            data.len()
        );
        let layout = Layout { rows, cols, row_stride: cols, col_stride: 1 };
        Self { ptr: NonNull::from(data).cast(), layout, marker: PhantomData }
    }

    /// Number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.layout.rows
    }

    /// Number of columns.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.layout.cols
    }

    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.layout.rows * self.layout.cols
    }

    /// Whether the view has no element.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// As [`Mat::as_ptr`], to write.
    #[must_use]
    pub fn as_mut_ptr(&mut self) -> *mut T {
        self.ptr.as_ptr()
    }

    /// A shorter-lived view of the same elements, so that the original can be used again after it.
    #[must_use]
    pub fn rb(&mut self) -> MatMut<'_, T> {
        MatMut { ptr: self.ptr, layout: self.layout, marker: PhantomData }
    }

    /// The same elements, read-only.
    #[must_use]
    pub fn as_ref(&self) -> Mat<'_, T> {
        Mat { ptr: self.ptr, layout: self.layout, marker: PhantomData }
    }

    /// The same elements, read-only for the rest of the borrow.
    #[must_use]
    pub fn into_ref(self) -> Mat<'a, T> {
        Mat { ptr: self.ptr, layout: self.layout, marker: PhantomData }
    }

    /// The element at row `i`, column `j`.
    ///
    /// # Panics
    /// When out of bounds.
    #[must_use]
    pub fn get(&self, i: usize, j: usize) -> T {
        self.as_ref().get(i, j)
    }

    /// The element at row `i`, column `j`, to write.
    ///
    /// # Panics
    /// When out of bounds.
    pub fn at(&mut self, i: usize, j: usize) -> &mut T {
        let at = self.layout.offset(i, j);
        // SAFETY: `offset` checked the bounds, so by the module's invariant the element is inside.
        let mut p = unsafe { self.ptr.add(at) };
        // SAFETY: the element belongs to this view alone, which `&mut self` borrows.
        unsafe { p.as_mut() }
    }

    /// Row `i` as a slice.
    ///
    /// # Panics
    /// When out of bounds, or when the columns are not adjacent in memory.
    #[must_use]
    pub fn row(&self, i: usize) -> &[T] {
        self.as_ref().row(i)
    }

    /// Row `i` as a mutable slice.
    ///
    /// # Panics
    /// When out of bounds, or when the columns are not adjacent in memory.
    pub fn row_mut(&mut self, i: usize) -> &mut [T] {
        if self.layout.cols == 0 {
            assert!(i < self.layout.rows, "row {i} of a view with {} rows", self.layout.rows);
            return &mut [];
        }
        self.layout.assert_unit_rows();
        let at = self.layout.offset(i, 0);
        // SAFETY: `offset` checked the bounds of the row's first element.
        let p = unsafe { self.ptr.add(at) };
        // SAFETY: the row's `cols` adjacent elements belong to this view alone, which `&mut self`
        // borrows.
        unsafe { core::slice::from_raw_parts_mut(p.as_ptr(), self.layout.cols) }
    }

    /// The transposed view.
    #[must_use]
    pub fn t(self) -> Self {
        Self { layout: self.layout.t(), ..self }
    }

    /// The rows before `at` and those from `at` on.
    ///
    /// # Panics
    /// When `at` is greater than the number of rows.
    #[must_use]
    pub fn split_rows(self, at: usize) -> (Self, Self) {
        let rows = self.layout.rows;
        let first = self.layout.row_block(&(0..at));
        let second = self.layout.row_block(&(at..rows));
        // SAFETY: `row_block` gives the offset of an element of this view, or 0.
        let a = unsafe { self.ptr.add(first) };
        // SAFETY: as above; the two parts hold different rows, so they are disjoint.
        let b = unsafe { self.ptr.add(second) };
        let top = Layout { rows: at, ..self.layout };
        let bottom = Layout { rows: rows - at, ..self.layout };
        (
            Self { ptr: a, layout: top, marker: PhantomData },
            Self { ptr: b, layout: bottom, marker: PhantomData },
        )
    }

    /// The columns before `at` and those from `at` on.
    ///
    /// # Panics
    /// When `at` is greater than the number of columns.
    #[must_use]
    pub fn split_cols(self, at: usize) -> (Self, Self) {
        let (left, right) = self.t().split_rows(at);
        (left.t(), right.t())
    }

    /// The rows of `range`.
    ///
    /// # Panics
    /// When out of bounds.
    #[must_use]
    pub fn rows_range(self, range: Range<usize>) -> Self {
        self.split_rows(range.end).0.split_rows(range.start).1
    }

    /// The columns of `range`.
    ///
    /// # Panics
    /// When out of bounds.
    #[must_use]
    pub fn cols_range(self, range: Range<usize>) -> Self {
        self.split_cols(range.end).0.split_cols(range.start).1
    }

    /// The elements as one slice and their order, when nothing lies between them.
    #[must_use]
    pub fn contiguous(self) -> Option<(&'a mut [T], Order)> {
        if self.is_empty() {
            return Some((&mut [], Order::RowMajor));
        }
        let order = self.layout.order()?;
        // SAFETY: without gaps the view's elements are exactly the `len` elements after `ptr`, and
        // `self` is consumed, so the slice is the only way to reach them.
        let all = unsafe { core::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len()) };
        Some((all, order))
    }

    /// Sets every element.
    pub fn fill(&mut self, value: T) {
        for i in 0..self.rows() {
            if self.layout.col_stride == 1 {
                self.row_mut(i).fill(value);
            } else {
                for j in 0..self.cols() {
                    *self.at(i, j) = value;
                }
            }
        }
    }

    /// Copies every element of `from`.
    ///
    /// # Panics
    /// When the shapes differ.
    pub fn copy_from(&mut self, from: Mat<'_, T>) {
        assert!(
            (self.rows(), self.cols()) == (from.rows(), from.cols()),
            "copying {} x {} into {} x {}",
            from.rows(),
            from.cols(),
            self.rows(),
            self.cols()
        );
        for i in 0..self.rows() {
            if self.layout.col_stride == 1 && from.col_stride() == 1 {
                self.row_mut(i).copy_from_slice(from.row(i));
            } else {
                for j in 0..self.cols() {
                    *self.at(i, j) = from.get(i, j);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
