//! Losses and gradient norms that are out of the ordinary.

use serde::{Deserialize, Serialize};

/// Values before anything is out of the ordinary.
const KNOWN: u8 = 30;

/// How much of the usual a new value is.
const SMOOTH: f32 = 0.05;

/// How many times the usual deviation a value may be above the usual.
const FAR: f32 = 10.0;

/// The usual value of something measured every update, and how far values usually are from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Usual(u8, f32, f32);

impl Usual {
    /// Takes note of a value; the usual one, if this is far above it. Such a value changes what is
    /// usual no more than the furthest ordinary one would. The first values are far above when they
    /// are more than `early` times the mean of those before, and one more than that mean.
    pub(super) fn see(&mut self, value: f64, early: Option<f32>) -> Option<f64> {
        let Self(seen, mean, deviation) = self;
        let usual = *mean;
        let furthest = match (*seen, early) {
            (KNOWN.., _) => usual + FAR * *deviation,
            (1.., Some(times)) => (times * usual).max(usual + 1.0),
            _ => f32::MAX,
        };
        let value = (value as f32).min(f32::MAX);
        let far = value > furthest;
        let value = if far { furthest } else { value };
        // A plain mean at first, so that the first value does not weigh most for long.
        *seen = seen.saturating_add(1);
        let weight = SMOOTH.max(1.0 / f32::from(*seen));
        *deviation += weight * ((value - *mean).abs() - *deviation) * f32::from(*seen > 1);
        *mean += weight * (value - *mean);
        far.then_some(f64::from(usual))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EARLY: Option<f32> = Some(3.0);

    #[test]
    fn a_spike_is_far_above_what_went_before() {
        let mut usual = Usual::default();
        // Falling, with a ripple.
        let value = |i: u32| 3.0 - 0.01 * f64::from(i) + 0.1 * f64::from(i % 3);
        for i in 0..100 {
            assert_eq!(usual.see(value(i), EARLY), None, "update {i}");
        }
        let told = usual.see(9.0, EARLY).expect("a spike");
        assert!((2.0..2.6).contains(&told), "{told}");
        // A lasting rise becomes the usual.
        let told = (0..200).filter(|_| usual.see(9.0, EARLY).is_some()).count();
        assert!((2..60).contains(&told), "{told}");
        assert_eq!(usual.see(9.0, EARLY), None);
    }

    #[test]
    fn nothing_is_told_before_the_usual_is_known_or_below_it() {
        let mut usual = Usual::default();
        for i in 0..KNOWN {
            assert_eq!(usual.see(f64::from(i % 2) * 1e6, None), None);
        }
        let mut usual = Usual::default();
        (0..50).for_each(|_| assert_eq!(usual.see(2.0, EARLY), None));
        assert_eq!(usual.see(0.0, EARLY), None);
        assert!(usual.see(f64::INFINITY, EARLY).is_some());
    }

    #[test]
    fn a_jump_among_the_first_values_is_seen() {
        let mut usual = Usual::default();
        assert_eq!(usual.see(0.99, EARLY), None);
        assert_eq!(usual.see(1.4, EARLY), None);
        let told = usual.see(7.15, EARLY).expect("a spike");
        assert!((1.1..1.3).contains(&told), "{told}");
        // A small value doubles easily, and norms of gradients do what they like.
        let mut small = Usual::default();
        assert_eq!([0.1, 0.9].map(|value| small.see(value, EARLY)), [None, None]);
        let mut norm = Usual::default();
        assert_eq!([0.1, 90.0].map(|value| norm.see(value, None)), [None, None]);
    }

    #[test]
    fn it_comes_back_from_a_save_as_it_was() {
        let mut usual = Usual::default();
        (0..77).for_each(|i| _ = usual.see(f64::from(i).sin(), EARLY));
        let json = serde_json::to_string(&usual).unwrap();
        assert_eq!(serde_json::from_str::<Usual>(&json).unwrap(), usual);
    }
}
