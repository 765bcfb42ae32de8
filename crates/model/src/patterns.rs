//! Ranks and alphas of their own for some sites.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use lowtide_adapter::{Config, SiteInfo};
use lowtide_names::Pattern;

use crate::{Site, TargetsError};

/// Ranks and alphas that hold for some sites only, as PEFT's `rank_pattern` and `alpha_pattern` say
/// them: each entry's key is a regular expression for the whole name of a module, or for what
/// follows a dot in it, and the first that matches counts. A rank of 0 leaves a site without an
/// adapter.
#[derive(Clone, Debug)]
pub struct SitePatterns {
    ranks: Vec<(Pattern, usize)>,
    alphas: Vec<(Pattern, f64)>,
}

impl Default for SitePatterns {
    fn default() -> Self {
        Self::NONE
    }
}

impl SitePatterns {
    /// No site has anything of its own.
    pub const NONE: Self = Self { ranks: Vec::new(), alphas: Vec::new() };

    /// The patterns with these entries, in this order.
    ///
    /// # Errors
    /// [`TargetsError::BadPattern`] when a key is no regular expression.
    pub fn new<'k>(
        ranks: impl IntoIterator<Item = (&'k str, usize)>,
        alphas: impl IntoIterator<Item = (&'k str, f64)>,
    ) -> Result<Self, TargetsError> {
        Ok(Self {
            ranks: entries("rank pattern", ranks)?,
            alphas: entries("alpha pattern", alphas)?,
        })
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranks.is_empty() && self.alphas.is_empty()
    }

    /// Keys and ranks, in order.
    pub fn ranks(&self) -> impl Iterator<Item = (&str, usize)> {
        self.ranks.iter().map(|(key, rank)| (key.text(), *rank))
    }

    /// Keys and alphas, in order.
    pub fn alphas(&self) -> impl Iterator<Item = (&str, f64)> {
        self.alphas.iter().map(|(key, alpha)| (key.text(), *alpha))
    }

    /// What the method is told at the module `name`; `None` where its rank is 0.
    #[must_use]
    pub fn config_of(&self, name: &str, config: &Config) -> Option<Config> {
        let rank = match lookup(&self.ranks, name) {
            Some(0) => return None,
            own => own.unwrap_or(config.rank),
        };
        let alpha = lookup(&self.alphas, name).unwrap_or(config.alpha);
        Some(Config { rank, alpha, ..config.clone() })
    }

    /// Only the entries whose key matches one of these modules.
    #[must_use]
    pub fn matching(mut self, modules: &[String]) -> Self {
        let matches = |key: &Pattern| modules.iter().any(|name| key.matches(name));
        self.ranks.retain(|(key, _)| matches(key));
        self.alphas.retain(|(key, _)| matches(key));
        self
    }

    /// Checks that every key matches a linear of the model.
    pub(crate) fn check(&self, sites: &[SiteInfo]) -> Result<(), TargetsError> {
        let stray = |key: &Pattern| !sites.iter().any(|site| key.matches(&site.name));
        let rank = self.ranks.iter().map(|(key, _)| ("rank pattern", key));
        let mut keys = rank.chain(self.alphas.iter().map(|(key, _)| ("alpha pattern", key)));
        match keys.find(|(_, key)| stray(key)) {
            Some((field, key)) => {
                Err(TargetsError::StrayPattern { field, text: key.text().to_owned() })
            }
            None => Ok(()),
        }
    }
}

/// What holds for some trained tensors only, in the same way: a key is for the end of a tensor's
/// name, such as `q_proj.lora_A.weight` (without `.weight`, too), or for the end of its site's.
#[derive(Clone, Debug)]
pub struct TensorPatterns<T>(Vec<(Pattern, T)>);

impl<T: Copy> TensorPatterns<T> {
    /// The patterns with these entries, in this order; `field` is what errors call them.
    ///
    /// # Errors
    /// [`TargetsError::BadPattern`] when a key is no regular expression.
    pub fn new<'k>(
        field: &'static str,
        given: impl IntoIterator<Item = (&'k str, T)>,
    ) -> Result<Self, TargetsError> {
        entries(field, given).map(Self)
    }

    /// What holds for each trained tensor of these sites, in their order.
    ///
    /// # Errors
    /// [`TargetsError::NoTensor`] when a key matches none of them.
    pub fn of(&self, field: &'static str, sites: &[Site]) -> Result<Vec<Option<T>>, TargetsError> {
        let mut met = alloc::vec![false; self.0.len()];
        let mut values = Vec::new();
        for site in sites {
            for spec in &site.params {
                let whole = format!("{}.{}", site.info.name, spec.name);
                let short = whole.strip_suffix(".weight").unwrap_or(&whole);
                let matches = |key: &Pattern| {
                    [&site.info.name, whole.as_str(), short].iter().any(|name| key.matches(name))
                };
                for ((key, _), met) in self.0.iter().zip(&mut met) {
                    *met |= matches(key);
                }
                values.push(self.0.iter().find(|(key, _)| matches(key)).map(|(_, value)| *value));
            }
        }
        match self.0.iter().zip(met).find(|(_, met)| !met) {
            Some(((key, _), _)) => {
                Err(TargetsError::NoTensor { field, text: key.text().to_owned() })
            }
            None => Ok(values),
        }
    }
}

fn lookup<T: Copy>(entries: &[(Pattern, T)], name: &str) -> Option<T> {
    entries.iter().find(|(key, _)| key.matches(name)).map(|(_, value)| *value)
}

fn entries<'k, T>(
    field: &'static str,
    entries: impl IntoIterator<Item = (&'k str, T)>,
) -> Result<Vec<(Pattern, T)>, TargetsError> {
    let read = |(key, value): (&str, T)| match Pattern::end(key) {
        Ok(pattern) => Ok((pattern, value)),
        Err(error) => {
            Err(TargetsError::BadPattern { field, text: key.to_owned(), reason: error.reason })
        }
    };
    entries.into_iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::SitePatterns;
    use crate::TargetsError;
    use alloc::string::String;
    use alloc::vec::Vec;
    use lowtide_adapter::{Config, Place, SiteInfo};

    const Q: &str = "model.layers.11.self_attn.q_proj";

    #[test]
    fn the_first_key_that_matches_the_end_counts() {
        let ranks = [("layers.1.self_attn.q_proj", 2), (r"layers\.1\d\..*", 3), ("q_proj", 4)];
        let patterns = SitePatterns::new(ranks, [("v_proj", 1.0)]).unwrap();
        let config = Config::default();
        let rank = |name| patterns.config_of(name, &config).map(|c| (c.rank, c.alpha));
        assert_eq!(rank("model.layers.1.self_attn.q_proj"), Some((2, 16.0)));
        assert_eq!(rank(Q), Some((3, 16.0)));
        assert_eq!(rank("model.layers.2.self_attn.q_proj"), Some((4, 16.0)));
        assert_eq!(rank("model.layers.2.self_attn.v_proj"), Some((8, 1.0)));
        let none = SitePatterns::new([("q_proj", 0)], []).unwrap();
        assert_eq!(none.config_of(Q, &config), None);
        assert_eq!(SitePatterns::NONE.config_of(Q, &config), Some(config));
    }

    #[test]
    fn keys_that_are_no_pattern_or_match_nothing_are_told() {
        let bad = SitePatterns::new([("q_proj(", 1)], []).unwrap_err();
        let TargetsError::BadPattern { field, text, .. } = &bad else { panic!("{bad}") };
        assert_eq!((*field, text.as_str()), ("rank pattern", "q_proj("));
        let place = Place::Linear;
        let site = SiteInfo { name: Q.into(), layer: 11, in_features: 1, out_features: 1, place };
        let patterns = SitePatterns::new([("q_proj", 1)], [("k_proj", 1.0)]).unwrap();
        let stray = TargetsError::StrayPattern { field: "alpha pattern", text: "k_proj".into() };
        assert_eq!(patterns.check(&[site]), Err(stray));
        let kept = patterns.matching(&[String::from(Q)]);
        assert_eq!(kept.ranks().collect::<Vec<_>>(), [("q_proj", 1)]);
        assert_eq!(kept.alphas().count(), 0);
    }
}
