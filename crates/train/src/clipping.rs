//! How gradients are scaled down to a norm, and what that asks a run to hold.

use crate::{Settings, SettingsError};

/// What the gradients of an update are scaled down to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Clip {
    /// They stay as they are.
    Off,
    /// All together to this norm.
    Whole(f64),
    /// Those of each trained block by themselves, to this norm divided by the root of the number of
    /// trained blocks; all together are then within it.
    PerBlock(f64),
}

impl From<f64> for Clip {
    /// The norm of all together; 0 for none.
    fn from(norm: f64) -> Self {
        if norm > 0.0 { Self::Whole(norm) } else { Self::Off }
    }
}

/// A way to clip that a plan is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clipping {
    /// No clipping.
    Off,
    /// By the norm of all gradients, which are held for it.
    Whole,
    /// By the norm of all gradients, which a first backward measures and a second one applies.
    TwoPass,
    /// By the norm of each block's gradients.
    PerBlock,
}

impl Clipping {
    /// Name in configurations.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Whole => "whole",
            Self::TwoPass => "two-pass",
            Self::PerBlock => "per-block",
        }
    }

    /// What an update does.
    pub(crate) fn clip(self, norm: f64) -> Clip {
        match self {
            Self::Off => Clip::Off,
            Self::Whole | Self::TwoPass => Clip::Whole(norm),
            Self::PerBlock => Clip::PerBlock(norm),
        }
    }

    /// Whether each block's gradients are freed as soon as they are complete, in an update of so
    /// many micro-batches. Those of several add up, all blocks of each before any of the next.
    pub(crate) fn frees(self, micro_batches: usize) -> bool {
        self != Self::Whole && micro_batches == 1
    }
}

impl Settings {
    /// Ways to clip that the planner tries, quickest first.
    ///
    /// # Errors
    /// [`SettingsError::BadValue`] when the name is none, or asks for what accumulating over
    /// micro-batches rules out.
    pub(crate) fn clippings(&self) -> Result<Vec<Clipping>, SettingsError> {
        let bad = |found: String, expected| {
            Err(SettingsError::BadValue { field: "clipping", found, expected })
        };
        let at_once = self.micro_batches()?[0];
        let several = at_once < self.per_update();
        let ways = match self.clipping.as_str() {
            // One slope is clipped as it is.
            "auto" if several || self.gradient == "mezo" => vec![Clipping::Whole],
            "auto" => vec![Clipping::Whole, Clipping::TwoPass],
            "whole" => vec![Clipping::Whole],
            "two-pass" if several && self.max_grad_norm > 0.0 => {
                let expected = "whole or per-block: where gradients accumulate over micro-batches, \
                                all are held in any case";
                let found =
                    format!("two-pass with {at_once} of {} sequences at once", self.per_update());
                return bad(found, expected);
            }
            "two-pass" => vec![Clipping::TwoPass],
            "per-block" => vec![Clipping::PerBlock],
            other => return bad(other.into(), "auto, whole, two-pass or per-block"),
        };
        Ok(if self.max_grad_norm > 0.0 { ways } else { vec![Clipping::Off] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(clipping: &str, max_grad_norm: f64, grad_accum: usize) -> Vec<&'static str> {
        let clipping = clipping.into();
        let settings = Settings { clipping, max_grad_norm, grad_accum, ..Settings::default() };
        settings.clippings().unwrap().into_iter().map(Clipping::name).collect()
    }

    #[test]
    fn the_planner_tries_what_gives_the_same_update() {
        assert_eq!(names("auto", 1.0, 1), ["whole", "two-pass"]);
        assert_eq!(names("auto", 1.0, 2), ["whole"]);
        assert_eq!(names("auto", 0.0, 1), ["off"]);
        assert_eq!(names("two-pass", 0.5, 1), ["two-pass"]);
        assert_eq!(names("two-pass", 0.0, 2), ["off"]);
        assert_eq!(names("two-pass", 0.0, 1), ["off"]);
        assert_eq!(names("per-block", 0.5, 4), ["per-block"]);
    }

    #[test]
    fn gradients_are_freed_where_one_backward_completes_them() {
        let frees = |way: Clipping| [1, 2].map(|micro_batches| way.frees(micro_batches));
        assert_eq!(frees(Clipping::Off), [true, false]);
        assert_eq!(frees(Clipping::Whole), [false, false]);
        assert_eq!(frees(Clipping::TwoPass), [true, false]);
        assert_eq!(frees(Clipping::PerBlock), [true, false]);
    }

    #[test]
    fn what_cannot_be_is_named() {
        let refused = |clipping: &str, grad_accum| {
            let settings =
                Settings { clipping: clipping.into(), grad_accum, ..Settings::default() };
            settings.check().unwrap_err().to_string()
        };
        let error = refused("both", 1);
        assert!(error.contains("`clipping` is both, expected auto, whole"), "{error}");
        let error = refused("two-pass", 3);
        assert!(
            error.contains("two-pass with 1 of 3 sequences at once, expected whole"),
            "{error}"
        );
    }
}
