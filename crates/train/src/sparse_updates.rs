//! Which entries of gradients are applied.

use lowtide_optim::{Optimizer, SparseThreshold, SparseTop};

use crate::SettingsError;

/// Which entries of each gradient are applied.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SparseUpdates {
    /// All.
    Off,
    /// Of each tensor the share that is largest at first, always the same entries.
    Top(f64),
    /// Those of at least this magnitude.
    Threshold(f64),
}

impl SparseUpdates {
    /// Reads `off`, `top:10%` or `threshold:0.001`.
    ///
    /// # Errors
    /// [`SettingsError::BadValue`] when it is none of them.
    pub fn named(text: &str) -> Result<Self, SettingsError> {
        let bad = || SettingsError::BadValue {
            field: "sparse-updates",
            found: text.into(),
            expected: "off, top:P% with a share above 0 and at most 100, or threshold:X above 0",
        };
        if text == "off" {
            return Ok(Self::Off);
        }
        let share = text.strip_prefix("top:").and_then(|share| share.strip_suffix('%'));
        if let Some(share) = share {
            let share: f64 = share.trim().parse().map_err(|_| bad())?;
            let inside = share > 0.0 && share <= 100.0;
            return if inside { Ok(Self::Top(share / 100.0)) } else { Err(bad()) };
        }
        let threshold = text.strip_prefix("threshold:").ok_or_else(bad)?;
        let threshold: f64 = threshold.trim().parse().map_err(|_| bad())?;
        let inside = threshold > 0.0 && threshold.is_finite();
        if inside { Ok(Self::Threshold(threshold)) } else { Err(bad()) }
    }

    /// A rule on those entries.
    pub(crate) fn of<O: Optimizer + 'static>(self, inner: O) -> Box<dyn Optimizer> {
        match self {
            Self::Off => Box::new(inner),
            Self::Top(share) => Box::new(SparseTop { inner, share }),
            Self::Threshold(threshold) => Box::new(SparseThreshold { inner, threshold }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::SparseUpdates;

    #[test]
    fn what_can_be_read() {
        let named = |text: &str| SparseUpdates::named(text).ok();
        assert_eq!(named("off"), Some(SparseUpdates::Off));
        assert_eq!(named("top:10%"), Some(SparseUpdates::Top(0.1)));
        assert_eq!(named("threshold:1e-3"), Some(SparseUpdates::Threshold(1e-3)));
        for bad in ["", "top", "top:10", "top:0%", "top:101%", "threshold:0", "threshold:inf"] {
            assert_eq!(named(bad), None, "{bad}");
        }
    }
}
