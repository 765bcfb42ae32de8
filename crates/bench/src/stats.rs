//! What is told of several measurements of one thing.

use serde::{Deserialize, Serialize};

/// Median and quartiles.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// A quarter of the measurements lies below.
    pub low: f64,
    /// Half of them.
    pub median: f64,
    /// Three quarters.
    pub high: f64,
}

impl Spread {
    /// The spread of `values`, in any order; between two of them it is interpolated.
    ///
    /// # Panics
    /// When there is no value.
    #[must_use]
    pub fn of(values: &[f64]) -> Self {
        assert!(!values.is_empty(), "the spread of no measurement");
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let place = share * (sorted.len() - 1) as f64;
            let below = place as usize;
            let above = (below + 1).min(sorted.len() - 1);
            sorted[below] + (sorted[above] - sorted[below]) * place.fract()
        };
        Self { low: at(0.25), median: at(0.5), high: at(0.75) }
    }

    /// The same in another unit.
    #[must_use]
    pub fn scaled(self, factor: f64) -> Self {
        Self { low: self.low * factor, median: self.median * factor, high: self.high * factor }
    }

    /// Half the distance between the quartiles, as a share of the median.
    #[must_use]
    pub fn noise(&self) -> f64 {
        (self.high - self.low) / (2.0 * self.median)
    }
}

#[cfg(test)]
mod tests {
    use super::Spread;

    #[test]
    fn quartiles_are_interpolated() {
        let spread = Spread::of(&[4.0, 1.0, 3.0, 2.0, 5.0]);
        assert_eq!(spread, Spread { low: 2.0, median: 3.0, high: 4.0 });
        let spread = Spread::of(&[1.0, 2.0]);
        assert_eq!(spread, Spread { low: 1.25, median: 1.5, high: 1.75 });
        assert_eq!(Spread::of(&[7.0]), Spread { low: 7.0, median: 7.0, high: 7.0 });
        assert_eq!(spread.scaled(2.0), Spread { low: 2.5, median: 3.0, high: 3.5 });
        assert!((spread.noise() - 1.0 / 6.0).abs() < 1e-12);
    }

    #[test]
    #[should_panic(expected = "the spread of no measurement")]
    fn nothing_has_no_spread() {
        let _ = Spread::of(&[]);
    }
}
