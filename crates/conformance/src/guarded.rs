//! Memory lent to code under test, with canaries around it.

use lowtide_tensor::{Float, Mat, MatMut};

/// Canaries before the first row, after the last, and between rows that do not touch.
const PAD: usize = 3;

/// Rows of numbers with canaries before and after them and, unless they are made to touch, between
/// them.
pub(crate) struct Guarded<F> {
    data: Vec<F>,
    rows: usize,
    cols: usize,
    gap: usize,
}

impl<F: Float> Guarded<F> {
    /// `[rows, cols]` whose rows do not touch, every element `value`.
    pub(crate) fn filled(rows: usize, cols: usize, value: F) -> Self {
        Self::new(rows, cols, PAD, value)
    }

    /// `[rows, cols]` without gaps between rows, every element `value`.
    pub(crate) fn touching(rows: usize, cols: usize, value: F) -> Self {
        Self::new(rows, cols, 0, value)
    }

    fn new(rows: usize, cols: usize, gap: usize, value: F) -> Self {
        let data = vec![canary(); rows * (cols + gap) + 2 * PAD];
        let mut guarded = Self { data, rows, cols, gap };
        guarded.view().fill(value);
        guarded
    }

    /// `[rows, cols]` with these elements.
    pub(crate) fn copy(values: &[F], rows: usize, cols: usize) -> Self {
        Self::filled(rows, cols, F::ZERO).with(values)
    }

    /// The same memory with these elements, row after row.
    pub(crate) fn with(mut self, values: &[F]) -> Self {
        for (i, row) in values.chunks(self.cols.max(1)).enumerate() {
            self.view().row_mut(i).copy_from_slice(row);
        }
        self
    }

    /// The elements as a matrix.
    pub(crate) fn view(&mut self) -> MatMut<'_, F> {
        let (stride, cols) = (self.cols + self.gap, self.cols);
        let inside = &mut self.data[PAD..][..self.rows * stride];
        MatMut::new(inside, self.rows, stride).cols_range(0..cols)
    }

    /// The elements as a matrix, to read.
    pub(crate) fn get(&self) -> Mat<'_, F> {
        let stride = self.cols + self.gap;
        Mat::new(&self.data[PAD..][..self.rows * stride], self.rows, stride)
            .cols_range(0..self.cols)
    }

    /// The elements of a single row.
    pub(crate) fn slice(&mut self) -> &mut [F] {
        assert!(self.rows == 1, "one row is a slice, {} are not", self.rows);
        &mut self.data[PAD..PAD + self.cols]
    }

    /// The elements without their canaries, which must be unharmed.
    ///
    /// # Panics
    /// When one is not; `what` names the memory.
    pub(crate) fn take(self, what: &str) -> Vec<F> {
        let (before, rest) = self.data.split_at(PAD);
        let (inside, after) = rest.split_at(self.rows * (self.cols + self.gap));
        let alive = |canaries: &[F]| canaries.iter().all(|&c| c == canary());
        let shape = [self.rows, self.cols];
        assert!(alive(before), "{what}: written before the first row of {shape:?}");
        assert!(alive(after), "{what}: written behind the last row of {shape:?}");
        let mut values = Vec::with_capacity(self.rows * self.cols);
        for (i, row) in inside.chunks((self.cols + self.gap).max(1)).enumerate() {
            let (row, gap) = row.split_at(self.cols);
            assert!(alive(gap), "{what}: written outside row {i} of {shape:?}");
            values.extend_from_slice(row);
        }
        values
    }
}

fn canary<F: Float>() -> F {
    F::from_f32(-8.25e30)
}
