//! Axes with ticks at round values.

/// A range of values, the ticks on it, and how they are written.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Axis {
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) ticks: Vec<(f64, String)>,
}

impl Axis {
    /// An axis that holds all of `values`, its ends at ticks; about `wanted` ticks. Values that are
    /// not finite are left out, and no value at all makes an axis from 0 to 1.
    pub(super) fn around(values: impl Iterator<Item = f64>, wanted: usize) -> Self {
        let (low, high) = range(values);
        let step = Step::for_range(high - low, wanted);
        let first = (low / step.size()).floor() as i64;
        let last = ((high / step.size()).ceil() as i64).max(first + 1);
        Self {
            low: step.at(first),
            high: step.at(last),
            ticks: (first..=last).map(|n| (step.at(n), step.label(n))).collect(),
        }
    }

    /// As [`around`](Self::around), beginning at 0.
    pub(super) fn from_zero(values: impl Iterator<Item = f64>, wanted: usize) -> Self {
        Self::around(values.chain([0.0]), wanted)
    }

    /// An axis for whole numbers such as updates, which ends where the values do.
    pub(super) fn whole(values: impl Iterator<Item = f64>, wanted: usize) -> Self {
        let (low, high) = range(values);
        let mut step = Step::for_range(high - low, wanted);
        if step.size() < 1.0 {
            step = Step { digit: 1, power: 0 };
        }
        let (first, last) = ((low / step.size()).ceil(), (high / step.size()).floor());
        let ticks = (first as i64..=last as i64).map(|n| (step.at(n), step.label(n))).collect();
        Self { low, high, ticks }
    }

    /// Where a value lies: 0 at the lower end, 1 at the upper.
    pub(super) fn place(&self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }
}

/// Least and greatest of the finite values, apart from each other.
fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    // Beyond this, sums and quotients would no longer be finite.
    let values = values.filter(|value| value.abs() < 1e300);
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
        (low.min(value), high.max(value))
    });
    if low > high {
        return (0.0, 1.0);
    }
    // A flat line gets an axis around it, as long as there are numbers between its ends.
    let least = (low.abs().max(high.abs()) * 1e-9).max(1e-300);
    if high - low >= least { (low, high) } else { (low, low + (low.abs() * 0.1).max(1e-12)) }
}

/// The distance between ticks: 1, 2 or 5 times a power of ten.
#[derive(Clone, Copy, Debug)]
struct Step {
    digit: i64,
    power: i32,
}

impl Step {
    /// The least that needs no more than about `wanted` steps.
    fn for_range(range: f64, wanted: usize) -> Self {
        let rough = range / wanted as f64;
        let power = rough.log10().floor() as i32;
        let lead = rough / 10f64.powi(power);
        match lead {
            x if x <= 1.0 => Self { digit: 1, power },
            x if x <= 2.0 => Self { digit: 2, power },
            x if x <= 5.0 => Self { digit: 5, power },
            _ => Self { digit: 1, power: power + 1 },
        }
    }

    fn size(self) -> f64 {
        self.at(1)
    }

    /// `n` steps from 0; divided where that is exact.
    fn at(self, n: i64) -> f64 {
        let whole = (n as i128 * i128::from(self.digit)) as f64;
        match self.power {
            power if power < 0 => whole / 10f64.powi(-power),
            power => whole * 10f64.powi(power),
        }
    }

    fn label(self, n: i64) -> String {
        let value = self.at(n);
        let text = match self.power {
            -3..0 => format!("{value:.*}", self.power.unsigned_abs() as usize),
            0..5 => format!("{value:.0}"),
            _ if value == 0.0 => "0".into(),
            // Short because `at` gives the float that is nearest to the round value.
            _ => format!("{value:e}"),
        };
        text.replace('-', "−")
    }
}

#[cfg(test)]
mod tests {
    use super::Axis;

    fn labels(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|(_, label)| label.as_str()).collect()
    }

    #[test]
    fn ticks_are_round_and_enclose_the_values() {
        let axis = Axis::around([2.31, 3.07].into_iter(), 4);
        assert_eq!(labels(&axis), ["2.2", "2.4", "2.6", "2.8", "3.0", "3.2"]);
        assert_eq!((axis.low, axis.high), (2.2, 3.2));
        assert!((axis.place(2.7) - 0.5).abs() < 1e-12);
        let axis = Axis::from_zero([2e-4].into_iter(), 4);
        assert_eq!(labels(&axis), ["0", "5e−5", "1e−4", "1.5e−4", "2e−4"]);
        let axis = Axis::from_zero([812.0, 95.0].into_iter(), 4);
        assert_eq!(labels(&axis), ["0", "500", "1000"]);
        let axis = Axis::around([-3.0, 4.0].into_iter(), 4);
        assert_eq!(labels(&axis), ["−4", "−2", "0", "2", "4"]);
    }

    #[test]
    fn whole_numbers_have_whole_ticks_and_no_margin() {
        let axis = Axis::whole([0.0, 12.0].into_iter(), 6);
        assert_eq!(labels(&axis), ["0", "2", "4", "6", "8", "10", "12"]);
        let axis = Axis::whole([1.0, 3.0].into_iter(), 6);
        assert_eq!((labels(&axis), axis.low, axis.high), (vec!["1", "2", "3"], 1.0, 3.0));
    }

    #[test]
    fn any_values_make_an_axis() {
        let wild = [f64::NAN, f64::INFINITY, -f64::INFINITY, f64::MAX, -f64::MAX, 0.0, 5e-324];
        for a in wild.into_iter().chain([1.0, -1.0, 1e-30, 1e299, 1e15]) {
            for b in wild.into_iter().chain([1.0, 1e299, -1e299, 1e15 + 1.0]) {
                for axis in [
                    Axis::around([a, b].into_iter(), 4),
                    Axis::from_zero([a, b].into_iter(), 4),
                    Axis::whole([a, b].into_iter(), 6),
                ] {
                    assert!(axis.low < axis.high, "{a} {b} {axis:?}");
                    assert!(axis.low.is_finite() && axis.high.is_finite(), "{a} {b} {axis:?}");
                    assert!(axis.ticks.len() <= 16, "{a} {b} {axis:?}");
                }
            }
        }
        let axis = Axis::around([2.5; 3].into_iter(), 4);
        assert!(axis.low <= 2.5 && axis.high > 2.5);
    }
}
