//! Ranks that become smaller while a run goes on: pairs of low rank that earn least are switched
//! off.
//!
//! After AdaLoRA (Zhang et al., "Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning",
//! 2023): importance is smoothed sensitivity times its smoothed uncertainty, and the number of
//! pairs falls on a cubic. Adapters stay plain pairs `B A`, without its singular values and the
//! penalty that keeps factors orthogonal: the size of a pair is in its factors, so the loss by that
//! size is the loss by a factor, times the factor ([`scores`]).

mod compact;
mod grouped;
mod scores;

use lowtide_adapter::ParamSpec;
use lowtide_formats::peft::QUANTIZE;
use lowtide_model::Site;
use serde::{Deserialize, Serialize};

pub(crate) use self::compact::{compact, patterns, restore};
pub(crate) use self::grouped::grouped;
pub(crate) use self::scores::{Ranks, Score, is_on};
use crate::{Settings, SettingsError};

/// How many pairs a run trains, from its first update to its last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct AdaptiveRank {
    /// Pairs of all sites at the start.
    pub start: usize,
    /// Those that remain.
    pub target: usize,
    /// After this many updates the first are switched off.
    pub from: u64,
    /// After this many updates the last are.
    pub until: u64,
}

impl AdaptiveRank {
    /// From `start` pairs to `target` in a run of `steps` updates: the first tenth of them goes by
    /// with all pairs, and in any case the first update, before which the second factors are zero
    /// and all pairs alike; the last three tenths with those that remain.
    #[must_use]
    pub fn new(start: usize, target: usize, steps: u64) -> Self {
        let (from, settled) = ((steps / 10).max(1), steps.saturating_mul(3) / 10);
        Self { start, target, from, until: (steps - settled).max(from + 1) }
    }

    /// Pairs that are left after `step` updates.
    #[must_use]
    pub fn left(&self, step: u64) -> usize {
        if step >= self.until {
            return self.target;
        }
        let gone = step.saturating_sub(self.from) as f64 / (self.until - self.from) as f64;
        let rest = 1.0 - gone;
        let more = (self.start.saturating_sub(self.target)) as f64 * (rest * rest * rest);
        self.target + more.ceil() as usize
    }

    /// What `settings` ask of a run of `steps` updates with these sites, if they ask for it.
    ///
    /// # Errors
    /// [`SettingsError::BadValue`] where the method has no pairs, or starts with too few.
    pub(crate) fn of(
        settings: &Settings,
        sites: &[Site],
        steps: u64,
    ) -> Result<Option<Self>, SettingsError> {
        let Some(target) = settings.adaptive_rank else { return Ok(None) };
        let bad = |found, expected| {
            Err(SettingsError::BadValue { field: "adaptive-rank", found, expected })
        };
        if steps < STEPS_MIN {
            let expected = "a run of 3 updates or more: the first tells pairs apart by nothing";
            return bad(format!("{target} in a run of {steps} updates"), expected);
        }
        let coded = settings.method_option.contains_key(QUANTIZE)
            || settings.adapter_type()?.codes().is_some();
        let mut start = 0;
        for site in sites {
            if let Some(spec) = site.params.iter().find(|spec| coded && is_wide(spec)) {
                let found = format!("{target} with codes and {:?} in `{}`", spec.shape, spec.name);
                return bad(
                    found,
                    "ranks no larger than what they stand between, as codes go by pairs",
                );
            }
            let Some((_, spec)) = up(site) else {
                let found = format!("{target} with method {}", site.kind);
                return bad(found, "a method of low rank: lora, rslora, lora-fa, dora or qalora");
            };
            start += spec.rank().unwrap_or(0);
        }
        let wanted = target.saturating_mul(sites.len());
        if wanted >= start {
            let average = start as f64 / sites.len().max(1) as f64;
            let found =
                format!("{target} where the ranks of all sites are {average:.2} on average");
            return bad(found, "a whole number below what they start with");
        }
        Ok(Some(Self::new(start, wanted, steps)))
    }
}

/// The ranks that a run with `adaptive-rank` ended with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RanksLeft {
    /// Pairs of all sites.
    pub pairs: usize,
    /// Pairs of a site, those without any counted in.
    pub average: f64,
    /// The smallest rank of a site that has an adapter.
    pub smallest: usize,
    /// The largest.
    pub largest: usize,
    /// Sites that have an adapter.
    pub sites: usize,
    /// Sites that lost all their pairs.
    pub left_out: usize,
    /// Pairs of a site on average that were asked for at the end, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asked: Option<usize>,
}

impl RanksLeft {
    /// Of the ranks of all sites.
    #[must_use]
    pub fn of(ranks: &[usize]) -> Self {
        let pairs = ranks.iter().sum();
        let with = || ranks.iter().copied().filter(|rank| *rank > 0);
        let sites = with().count();
        Self {
            pairs,
            average: pairs as f64 / ranks.len().max(1) as f64,
            smallest: with().min().unwrap_or(0),
            largest: with().max().unwrap_or(0),
            sites,
            left_out: ranks.len() - sites,
            asked: None,
        }
    }

    /// What was asked for, where more remain, as in a run that was stopped.
    #[must_use]
    pub fn not_reached(&self) -> Option<usize> {
        self.asked.filter(|asked| self.pairs > asked * (self.sites + self.left_out))
    }
}

/// Updates of a run that can tell pairs apart.
const STEPS_MIN: u64 = 3;

/// Whether a tensor has more pairs than numbers of a pair: lines of codes would run across pairs.
fn is_wide(spec: &ParamSpec) -> bool {
    spec.rank_axis.is_some_and(|axis| spec.shape[axis] > spec.shape[1 - axis])
}

/// Where the second factor of a site's pairs, `B`, lies among its parameters.
pub(crate) fn up(site: &Site) -> Option<(usize, &ParamSpec)> {
    let mut start = 0;
    for spec in &site.params {
        if spec.rank_axis.is_some() && spec.output_axis.is_some() {
            return Some((start, spec));
        }
        start += spec.len();
    }
    None
}

impl Settings {
    /// Checks what ranks that become smaller rule out.
    pub(crate) fn check_adaptive_rank(&self) -> Result<(), SettingsError> {
        let Some(target) = self.adaptive_rank else { return Ok(()) };
        let bad = |found: String, expected| {
            Err(SettingsError::BadValue { field: "adaptive-rank", found, expected })
        };
        let own = self.rank_pattern.is_empty() && self.init_adapter.is_none();
        if target == 0 || own && target >= self.rank {
            let found = format!("{target} with `rank` {}", self.rank);
            return bad(found, "a whole number from 1 to below `rank`, at which the sites start");
        }
        if self.adapter_budget.is_some() {
            return bad("set".into(), "no adapter-budget beside it: both choose ranks");
        }
        if self.gradient != "backprop" {
            let found = format!("set with `gradient` {}", self.gradient);
            return bad(found, "gradient backprop: pairs are compared by the gradients of all");
        }
        if self.sparse_updates != "off" {
            let found = format!("set with `sparse-updates` {}", self.sparse_updates);
            return bad(found, "sparse-updates off: a pair is judged by all of its entries");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_fall_on_a_cubic_between_warm_up_and_the_last_part() {
        let course = AdaptiveRank::new(120, 20, 100);
        assert_eq!((course.from, course.until), (10, 70));
        let left = |step| course.left(step);
        // 20 + 100 (1 - gone)³, rounded up.
        let all = [0, 10, 11, 25, 40, 55, 69, 70, 100].map(left);
        assert_eq!(all, [120, 120, 116, 63, 33, 22, 21, 20, 20]);
        assert!((1..100).all(|step| left(step + 1) <= left(step)));
    }

    #[test]
    fn the_shortest_runs_end_at_the_target_too() {
        for steps in STEPS_MIN..=12 {
            let course = AdaptiveRank::new(9, 4, steps);
            assert_eq!(course.left(steps), 4, "{steps} updates");
            // All pairs are alike before the first update.
            assert_eq!([0, 1].map(|step| course.left(step)), [9, 9], "{steps} updates");
        }
    }

    #[test]
    fn ranks_that_are_left_are_summed_up() {
        let left = RanksLeft::of(&[3, 0, 1, 4]);
        assert_eq!((left.pairs, left.average), (8, 2.0));
        assert_eq!((left.smallest, left.largest, left.sites, left.left_out), (1, 4, 3, 1));
        let of = |asked| RanksLeft { asked, ..left }.not_reached();
        assert_eq!([None, Some(1), Some(2), Some(3)].map(of), [None, Some(1), None, None]);
        assert_eq!(RanksLeft::of(&[0]).smallest, 0);
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        let base = || Settings { rank: 8, adaptive_rank: Some(4), ..Settings::default() };
        base().check().unwrap();
        for (settings, words) in [
            (Settings { adaptive_rank: Some(0), ..base() }, "0 with `rank` 8, expected a whole"),
            (Settings { adaptive_rank: Some(8), ..base() }, "8 with `rank` 8, expected a whole"),
            (Settings { adapter_budget: Some("1MB".into()), ..base() }, "no adapter-budget beside"),
            (Settings { gradient: "mezo".into(), ..base() }, "set with `gradient` mezo"),
            (Settings { gradient: "partial".into(), ..base() }, "set with `gradient` partial"),
            (Settings { sparse_updates: "top:10%".into(), ..base() }, "`sparse-updates` top:10%"),
        ] {
            let error = settings.check().unwrap_err().to_string();
            assert!(error.starts_with("`adaptive-rank` is "), "{error}");
            assert!(error.contains(words), "{error}");
        }
    }
}
