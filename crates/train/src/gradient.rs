//! How the gradient of an update is come by: exactly, or by an approximation that takes less.

use std::fmt;
use std::num::NonZeroUsize;

use crate::{Settings, SettingsError};

/// How the gradient of an update is come by.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Gradient {
    /// Backward through every block: the gradient itself, as far as stores and arithmetic are
    /// exact.
    #[default]
    Backprop,
    /// The slope of the loss in a random direction, from the losses on both sides of the
    /// parameters, times that direction (MeZO, arXiv 2305.17333). Two forward passes, which share
    /// one pass over the weights; nothing is kept, and no gradient is held but a block's.
    Mezo {
        /// How far to either side, in multiples of the direction's N(0, 1) numbers.
        eps: f64,
    },
    /// Backward through a few blocks, drawn anew for each update, as if all others were the
    /// identity (LCSB, arXiv 2602.13073). Those others keep their adapters as they are.
    Partial {
        /// Blocks an update.
        blocks: NonZeroUsize,
    },
}

/// How far MeZO looks unless told otherwise: what its paper takes for LoRA.
const EPS: f64 = 1e-2;

impl Gradient {
    /// Names in configurations, the exact one first.
    pub const NAMES: [&'static str; 3] = ["backprop", "mezo", "partial"];

    /// Name in configurations and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Backprop => "backprop",
            Self::Mezo { .. } => "mezo",
            Self::Partial { .. } => "partial",
        }
    }

    /// Whether it is another direction than the gradient's, whatever is rounded on the way.
    #[must_use]
    pub fn is_approximate(self) -> bool {
        self != Self::Backprop
    }

    /// Whether there is no backward that something would have to be kept for.
    #[must_use]
    pub fn keeps_nothing(self) -> bool {
        matches!(self, Self::Mezo { .. })
    }
}

impl fmt::Display for Gradient {
    /// `mezo, eps 0.01`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Backprop => write!(f, "backprop"),
            Self::Mezo { eps } => write!(f, "mezo, eps {eps}"),
            Self::Partial { blocks: NonZeroUsize::MIN } => write!(f, "partial, 1 block an update"),
            Self::Partial { blocks } => write!(f, "partial, {blocks} blocks an update"),
        }
    }
}

impl Settings {
    /// The gradient that is asked for, in a model of which so many blocks are trained.
    ///
    /// # Errors
    /// [`SettingsError::BadValue`] when more blocks are asked for than are trained.
    pub(crate) fn gradient_for(&self, trained: usize) -> Result<Gradient, SettingsError> {
        match self.gradient.as_str() {
            "mezo" => Ok(Gradient::Mezo { eps: self.mezo_eps.unwrap_or(EPS) }),
            "partial" => {
                // A quarter of them, unless told otherwise.
                let blocks = self.partial_blocks.unwrap_or(trained.div_ceil(4));
                let within = NonZeroUsize::new(blocks).filter(|blocks| blocks.get() <= trained);
                within.map(|blocks| Gradient::Partial { blocks }).ok_or_else(|| {
                    let found = format!("{blocks} of {trained} trained blocks");
                    let expected = "1, or more up to all that are trained";
                    SettingsError::BadValue { field: "partial-blocks", found, expected }
                })
            }
            _ => Ok(Gradient::Backprop),
        }
    }

    /// Checks what belongs to the gradient and what it rules out.
    pub(crate) fn check_gradient(&self) -> Result<(), SettingsError> {
        let bad = |field, found: String, expected| {
            Err(SettingsError::BadValue { field, found, expected })
        };
        let gradient = self.gradient.as_str();
        if !Gradient::NAMES.contains(&gradient) {
            return bad("gradient", gradient.into(), "backprop, mezo or partial");
        }
        if let Some(eps) = self.mezo_eps {
            if gradient != "mezo" {
                return bad("mezo-eps", eps.to_string(), "nothing unless `gradient` is mezo");
            }
            if !(1e-6..=1.0).contains(&eps) {
                return bad("mezo-eps", eps.to_string(), "a number from 0.000001 to 1");
            }
        }
        if let Some(blocks) = self.partial_blocks {
            if gradient != "partial" {
                let expected = "nothing unless `gradient` is partial";
                return bad("partial-blocks", blocks.to_string(), expected);
            }
            if blocks == 0 {
                return bad("partial-blocks", "0".into(), "1 or more");
            }
        }
        let (policy, store) = (self.checkpointing.as_str(), self.checkpoint_store.as_str());
        match gradient {
            "mezo" if !["auto", "whole"].contains(&self.clipping.as_str()) => {
                let expected = "auto or whole, because with `gradient` mezo one slope is clipped";
                bad("clipping", self.clipping.clone(), expected)
            }
            "mezo" if policy != "auto" => {
                let expected = "auto, because with `gradient` mezo nothing is kept";
                bad("checkpointing", policy.into(), expected)
            }
            "mezo" if store != "auto" => {
                let expected = "auto, because with `gradient` mezo nothing is kept";
                bad("checkpoint-store", store.into(), expected)
            }
            "partial" if !["auto", "block"].contains(&policy) => {
                let expected = "auto or block, because with `gradient` partial the inputs of the \
                                blocks that are drawn are kept";
                bad("checkpointing", policy.into(), expected)
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(gradient: &str) -> Settings {
        Settings { gradient: gradient.into(), ..Settings::default() }
    }

    #[test]
    fn settings_name_a_gradient() {
        let of = |settings: Settings, trained| settings.gradient_for(trained).unwrap();
        let partial = |n| Gradient::Partial { blocks: NonZeroUsize::new(n).unwrap() };
        assert_eq!(of(Settings::default(), 30), Gradient::Backprop);
        assert_eq!(of(with("mezo"), 30), Gradient::Mezo { eps: 0.01 });
        let eps = Settings { mezo_eps: Some(1e-3), ..with("mezo") };
        assert_eq!(of(eps, 30).to_string(), "mezo, eps 0.001");
        assert_eq!(of(with("partial"), 30), partial(8));
        assert_eq!(of(with("partial"), 1), partial(1));
        let all = Settings { partial_blocks: Some(30), ..with("partial") };
        assert_eq!(of(all.clone(), 30).to_string(), "partial, 30 blocks an update");
        let error = all.gradient_for(29).unwrap_err().to_string();
        assert!(error.contains("`partial-blocks` is 30 of 29 trained blocks"), "{error}");
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        let refused = |settings: Settings| settings.check().unwrap_err().to_string();
        for (settings, words) in [
            (with("zeroth"), "`gradient` is zeroth, expected backprop, mezo or partial"),
            (
                Settings { mezo_eps: Some(0.1), ..with("partial") },
                "`mezo-eps` is 0.1, expected nothing unless `gradient` is mezo",
            ),
            (
                Settings { mezo_eps: Some(f64::NAN), ..with("mezo") },
                "`mezo-eps` is NaN, expected a number from 0.000001 to 1",
            ),
            (
                Settings { partial_blocks: Some(2), ..with("backprop") },
                "`partial-blocks` is 2, expected nothing unless `gradient` is partial",
            ),
            (
                Settings { partial_blocks: Some(0), ..with("partial") },
                "`partial-blocks` is 0, expected 1 or more",
            ),
            (
                Settings { checkpointing: "sqrt".into(), ..with("mezo") },
                "`checkpointing` is sqrt, expected auto, because",
            ),
            (
                Settings { checkpoint_store: "file".into(), ..with("mezo") },
                "`checkpoint-store` is file, expected auto, because",
            ),
            (
                Settings { checkpointing: "store".into(), ..with("partial") },
                "`checkpointing` is store, expected auto or block, because",
            ),
        ] {
            let error = refused(settings);
            assert!(error.contains(words), "{error}");
        }
        for gradient in Gradient::NAMES {
            with(gradient).check().unwrap();
        }
    }
}
