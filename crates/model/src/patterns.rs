//! Ranks and alphas of their own for some sites.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use lowtide_adapter::{Config, SiteInfo};
use regex::Regex;

use crate::TargetsError;

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
        self.ranks.iter().map(|(key, rank)| (key.text.as_str(), *rank))
    }

    /// Keys and alphas, in order.
    pub fn alphas(&self) -> impl Iterator<Item = (&str, f64)> {
        self.alphas.iter().map(|(key, alpha)| (key.text.as_str(), *alpha))
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
            Some((field, key)) => Err(TargetsError::StrayPattern { field, text: key.text.clone() }),
            None => Ok(()),
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
    entries.into_iter().map(|(key, value)| Ok((Pattern::new(field, key)?, value))).collect()
}

/// What matches the end of a module's name.
#[derive(Clone, Debug)]
struct Pattern {
    text: String,
    /// `None` where comparing letters does the same: names as they are, of which there may be one
    /// for every site.
    regex: Option<Regex>,
}

impl Pattern {
    fn new(field: &'static str, key: &str) -> Result<Self, TargetsError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.');
        let text = key.to_owned();
        if !key.is_empty() && key.chars().all(plain) {
            return Ok(Self { text, regex: None });
        }
        let bad = |error: regex::Error| TargetsError::BadPattern {
            field,
            text: key.to_owned(),
            reason: error.to_string(),
        };
        // By itself first, so that an error quotes what was written and nothing else.
        Regex::new(key).map_err(bad)?;
        let regex = Regex::new(&format!(r"^(?:.*\.)?(?:{key})$")).map_err(bad)?;
        Ok(Self { text, regex: Some(regex) })
    }

    fn matches(&self, name: &str) -> bool {
        match &self.regex {
            Some(regex) => regex.is_match(name),
            None => ends_with(name, &self.text),
        }
    }
}

/// What the regular expression `key`, of letters, digits, `_` and the dot that stands for any
/// character, says of the end of `name`.
fn ends_with(name: &str, key: &str) -> bool {
    let (mut name, mut key) = (name.chars().rev(), key.chars().rev());
    let same = |wanted: char| name.next().is_some_and(|c| wanted == '.' || wanted == c);
    key.all(same) && name.next().is_none_or(|before| before == '.')
}

#[cfg(test)]
mod tests {
    use super::{Pattern, SitePatterns};
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
    fn plain_keys_match_as_the_regular_expressions_that_they_are() {
        let names = [Q, "q_proj", "xq_proj", "a.q-proj", "a.q_proj.b", "é.q_proj", ""];
        for key in ["q_proj", "q.proj", "self_attn.q_proj", Q, "proj", ".q_proj", "."] {
            let plain = Pattern::new("rank pattern", key).unwrap();
            let regex = Pattern::new("rank pattern", &alloc::format!("(?:{key})")).unwrap();
            assert!(plain.regex.is_none() && regex.regex.is_some());
            for name in names {
                assert_eq!(plain.matches(name), regex.matches(name), "`{key}` in `{name}`");
            }
        }
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
