//! What a pass over labelled rows sums up.

use core::ops::AddAssign;

use lowtide_tensor::Float;

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

/// How far a loss over some words, and the gradient of the topmost output under it, are from those
/// over all words.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct HeadGap {
    /// Over all words.
    pub exact: LossSum,
    /// Over some.
    pub approximate: LossSum,
    /// Inner product of the two gradients.
    dot: f64,
    /// Sums of squares of the exact gradient, the other one, and their difference.
    squares: [f64; 3],
}

impl HeadGap {
    /// Nothing compared.
    pub(crate) fn over(exact: LossSum) -> Self {
        Self { exact, ..Self::default() }
    }

    /// Takes in a row of both gradients, `[D]`.
    pub(crate) fn take<F: Float>(&mut self, exact: &[F], other: &[F]) {
        for (a, b) in exact.iter().zip(other) {
            let (a, b) = (a.to_f64(), b.to_f64());
            self.dot += a * b;
            let terms = [a * a, b * b, (a - b) * (a - b)];
            self.squares.iter_mut().zip(terms).for_each(|(sum, term)| *sum += term);
        }
    }

    /// Cosine of the angle between the two gradients; NaN where one of them is zero.
    #[must_use]
    pub fn cosine(&self) -> f64 {
        let [exact, other, _] = self.squares.map(Float::sqrt);
        self.dot / (exact * other)
    }

    /// Norm of their difference, as a share of the exact one's.
    #[must_use]
    pub fn relative_error(&self) -> f64 {
        let [exact, _, difference] = self.squares.map(Float::sqrt);
        difference / exact
    }
}
