//! Smoothing of curves, as TensorBoard does it.

/// Curves of fewer points are not smoothed.
const POINTS_MIN: usize = 10;

/// The least weight, which is TensorBoard's own at the start.
const WEIGHT_MIN: f64 = 0.6;

/// A curve without most of its noise.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Smoothed {
    /// What the points before have to say in each.
    pub(super) weight: f64,
    pub(super) points: Vec<(f64, f64)>,
}

/// The exponential mean of a curve, corrected for its start: y' = (w m + (1 - w) y) / (1 - wⁿ),
/// where m is the mean before the correction. It looks back over more points where there are more.
/// A gap stays one and weighs nothing. None for a curve of few points.
pub(super) fn smoothed(points: &[(f64, f64)]) -> Option<Smoothed> {
    if points.len() < POINTS_MIN {
        return None;
    }
    let weight = WEIGHT_MIN.max(1.0 - 24.0 / points.len() as f64);
    Some(Smoothed { weight, points: mean(points, weight) })
}

fn mean(points: &[(f64, f64)], weight: f64) -> Vec<(f64, f64)> {
    let (mut mean, mut rest) = (0.0, 1.0);
    let next = |&(x, y): &(f64, f64)| {
        if !y.is_finite() {
            return (x, f64::NAN);
        }
        mean = weight * mean + (1.0 - weight) * y;
        rest *= weight;
        (x, mean / (1.0 - rest))
    };
    points.iter().map(next).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mean_is_exponential_and_right_from_the_start() {
        let points = [(1.0, 4.0), (2.0, 2.0), (3.0, f64::NAN), (4.0, 8.0)];
        let got = mean(&points, 0.5);
        // (2/4 2 + 1/4 4) / (3/4), then (1/2 8 + 1/4 2 + 1/8 4) / (7/8).
        let expected = [(1.0, 4.0), (2.0, 8.0 / 3.0), (3.0, f64::NAN), (4.0, 40.0 / 7.0)];
        for (got, expected) in got.iter().zip(expected) {
            assert_eq!(got.0, expected.0);
            let same = (got.1 - expected.1).abs() < 1e-12;
            assert!(same || (got.1.is_nan() && expected.1.is_nan()), "{got:?} {expected:?}");
        }
    }

    #[test]
    fn more_points_are_smoothed_more_and_few_not_at_all() {
        let flat = |n: usize| (0..n).map(|x| (x as f64, 3.0)).collect::<Vec<_>>();
        assert_eq!(smoothed(&flat(9)), None);
        for (n, weight) in [(10, 0.6), (60, 0.6), (240, 0.9)] {
            let Smoothed { weight: got, points } = smoothed(&flat(n)).unwrap();
            assert!((got - weight).abs() < 1e-12, "{n}: {got}");
            assert!(points.iter().all(|(_, y)| (y - 3.0).abs() < 1e-9), "{n}");
        }
    }
}
