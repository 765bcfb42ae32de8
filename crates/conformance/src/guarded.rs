//! Memory lent to code under test, with canaries around it.

use lowtide_tensor::{Float, MatMut};

/// Canaries before and after each row.
const PAD: usize = 3;

/// Rows of numbers with canaries before, between and after them.
pub(crate) struct Guarded<F> {
    data: Vec<F>,
    rows: usize,
    cols: usize,
}

impl<F: Float> Guarded<F> {
    /// `[rows, cols]`, every element `value`.
    pub(crate) fn filled(rows: usize, cols: usize, value: F) -> Self {
        let data = vec![canary(); rows * (cols + 2 * PAD)];
        let mut guarded = Self { data, rows, cols };
        guarded.view().fill(value);
        guarded
    }

    /// `[rows, cols]` with these elements.
    pub(crate) fn copy(values: &[F], rows: usize, cols: usize) -> Self {
        let mut guarded = Self::filled(rows, cols, F::ZERO);
        for (i, row) in values.chunks(cols.max(1)).enumerate() {
            guarded.view().row_mut(i).copy_from_slice(row);
        }
        guarded
    }

    /// The elements as a matrix whose rows do not touch.
    pub(crate) fn view(&mut self) -> MatMut<'_, F> {
        MatMut::new(&mut self.data, self.rows, self.cols + 2 * PAD).cols_range(PAD..PAD + self.cols)
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
        let mut values = Vec::with_capacity(self.rows * self.cols);
        for (i, row) in self.data.chunks(self.cols + 2 * PAD).enumerate() {
            let (before, row) = row.split_at(PAD);
            let (row, after) = row.split_at(self.cols);
            let alive = before.iter().chain(after).all(|&c| c == canary());
            assert!(alive, "{what}: written outside row {i} of [{}, {}]", self.rows, self.cols);
            values.extend_from_slice(row);
        }
        values
    }
}

fn canary<F: Float>() -> F {
    F::from_f32(-8.25e30)
}
