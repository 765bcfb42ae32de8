//! What a pass over labelled rows sums up.

use core::ops::AddAssign;

/// Loss summed over labelled rows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LossSum {
    /// Sum of the rows' losses, in nats.
    pub loss: f64,
    /// Number of rows.
    pub labelled: usize,
    /// Rows whose most likely token is the target.
    pub correct: usize,
}

impl AddAssign for LossSum {
    fn add_assign(&mut self, other: Self) {
        self.loss += other.loss;
        self.labelled += other.labelled;
        self.correct += other.correct;
    }
}

impl LossSum {
    /// Mean loss of a row; NaN when there is none.
    #[must_use]
    pub fn mean(&self) -> f64 {
        self.loss / self.labelled as f64
    }
}
