//! What to freeze where no budget says it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::SiteSensitivity;

/// The share of what is promised that a proposal keeps in each of its two steps.
const KEPT: f64 = 0.9;

/// The flags that keep most of what is promised: first as few of the topmost layers as hold 90 % of
/// it, since what is below is then not differentiated; then, in those, as few kinds of linears as
/// hold 90 % of what is left, by what they promise for their numbers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Proposal {
    /// For `--layers`.
    pub layers: String,
    /// For `--target-modules`.
    pub target_modules: String,
    /// Share of what all sites promise that these sites do.
    pub share: f64,
    /// Share of the trainable numbers that they have.
    pub parameters: f64,
}

impl Proposal {
    /// Whether there is anything that it leaves out.
    #[must_use]
    pub fn freezes(&self) -> bool {
        self.parameters < 1.0
    }

    pub(super) fn of(sites: &[SiteSensitivity], layers: usize, asked: &str) -> Self {
        let all = total(sites.iter());
        let above = |layer: usize| sites.iter().filter(move |site| site.layer >= layer);
        let keeps = |layer: &usize| total(above(*layer)).0 >= KEPT * all.0;
        let first = (0..layers).rev().find(keeps).unwrap_or(0);
        let there = kinds(above(first));
        let mut ranked: Vec<_> = there.iter().collect();
        let worth = |kind: &(f64, usize)| kind.0 / kind.1.max(1) as f64;
        ranked.sort_by(|a, b| worth(b.1).total_cmp(&worth(a.1)));
        let wanted = KEPT * total(above(first)).0;
        let (mut names, mut share, mut parameters) = (Vec::new(), 0.0, 0);
        for (name, kind) in &ranked {
            if share < wanted || names.is_empty() {
                names.push(**name);
                (share, parameters) = (share + kind.0, parameters + kind.1);
            }
        }
        names.sort_unstable();
        let every = names.len() == kinds(sites.iter()).len();
        Self {
            layers: layers_from(&above(first).map(|site| site.layer).collect(), layers),
            // As it was asked for, where all kinds stay.
            target_modules: if every { asked.to_owned() } else { names.join(",") },
            share,
            parameters: parameters as f64 / all.1.max(1) as f64,
        }
    }
}

/// What `--layers` says of these, of `count` layers.
fn layers_from(chosen: &BTreeSet<usize>, count: usize) -> String {
    let lowest = chosen.first().copied().unwrap_or(0);
    match (chosen.len() == count - lowest, lowest) {
        (true, 0) => "all".into(),
        (true, lowest) => format!("last:{}", count - lowest),
        (false, _) => chosen.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
    }
}

/// What each kind of linear promises, and its numbers.
fn kinds<'s>(sites: impl Iterator<Item = &'s SiteSensitivity>) -> BTreeMap<&'s str, (f64, usize)> {
    let mut kinds: BTreeMap<&str, (f64, usize)> = BTreeMap::new();
    for site in sites {
        let kind = kinds.entry(kind(&site.name)).or_default();
        *kind = (kind.0 + site.share, kind.1 + site.parameters);
    }
    kinds
}

fn total<'s>(sites: impl Iterator<Item = &'s SiteSensitivity>) -> (f64, usize) {
    sites.fold((0.0, 0), |(share, n), site| (share + site.share, n + site.parameters))
}

/// The last part of a site's name.
pub(super) fn kind(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}
