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
    /// usual no more than the furthest ordinary one would.
    pub(super) fn see(&mut self, value: f64) -> Option<f64> {
        let Self(seen, mean, deviation) = self;
        let (usual, furthest) = (*mean, *mean + FAR * *deviation);
        let value = (value as f32).min(f32::MAX);
        let far = *seen >= KNOWN && value > furthest;
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

    #[test]
    fn a_spike_is_far_above_what_went_before() {
        let mut usual = Usual::default();
        // Falling, with a ripple.
        let value = |i: u32| 3.0 - 0.01 * f64::from(i) + 0.1 * f64::from(i % 3);
        for i in 0..100 {
            assert_eq!(usual.see(value(i)), None, "update {i}");
        }
        let told = usual.see(9.0).expect("a spike");
        assert!((2.0..2.6).contains(&told), "{told}");
        // A lasting rise becomes the usual.
        let told = (0..200).filter(|_| usual.see(9.0).is_some()).count();
        assert!((2..60).contains(&told), "{told}");
        assert_eq!(usual.see(9.0), None);
    }

    #[test]
    fn nothing_is_told_before_the_usual_is_known_or_below_it() {
        let mut usual = Usual::default();
        for i in 0..KNOWN {
            assert_eq!(usual.see(f64::from(i % 2) * 1e6), None);
        }
        let mut usual = Usual::default();
        (0..50).for_each(|_| assert_eq!(usual.see(2.0), None));
        assert_eq!(usual.see(0.0), None);
        assert!(usual.see(f64::INFINITY).is_some());
    }

    #[test]
    fn it_comes_back_from_a_save_as_it_was() {
        let mut usual = Usual::default();
        (0..77).for_each(|i| _ = usual.see(f64::from(i).sin()));
        let json = serde_json::to_string(&usual).unwrap();
        assert_eq!(serde_json::from_str::<Usual>(&json).unwrap(), usual);
    }
}
