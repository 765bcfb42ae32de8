//! Tables whose order counts: ranks and alphas of sites by the ends of their names.

use std::fmt;
use std::marker::PhantomData;

use lowtide_model::{SitePatterns, TargetsError};
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Keys, which are regular expressions for the ends of site names, with what holds where they
/// match; the first that matches counts.
#[derive(Clone, Debug, PartialEq)]
pub struct PatternTable<T>(pub Vec<(String, T)>);

impl<T> PatternTable<T> {
    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Keys and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, T)>
    where
        T: Copy,
    {
        self.0.iter().map(|(key, value)| (key.as_str(), *value))
    }
}

impl<T> Default for PatternTable<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Serialize> Serialize for PatternTable<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for PatternTable<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(InOrder(PhantomData))
    }
}

struct InOrder<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for InOrder<T> {
    type Value = PatternTable<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table of patterns for the ends of site names")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries: Vec<(String, T)> = Vec::new();
        while let Some((key, value)) = map.next_entry::<String, T>()? {
            if entries.iter().any(|(other, _)| *other == key) {
                return Err(A::Error::custom(format_args!("pattern `{key}` is there twice")));
            }
            entries.push((key, value));
        }
        Ok(PatternTable(entries))
    }
}

impl super::Settings {
    /// Ranks and alphas that sites have of their own.
    pub(crate) fn patterns(&self) -> Result<SitePatterns, TargetsError> {
        SitePatterns::new(self.rank_pattern.iter(), self.alpha_pattern.iter())
    }

    /// Takes over the patterns of an adapter.
    pub(crate) fn set_patterns(&mut self, patterns: &SitePatterns) {
        let owned = |(key, value): (&str, usize)| (key.to_owned(), value);
        self.rank_pattern = PatternTable(patterns.ranks().map(owned).collect());
        let owned = |(key, value): (&str, f64)| (key.to_owned(), value);
        self.alpha_pattern = PatternTable(patterns.alphas().map(owned).collect());
    }
}

#[cfg(test)]
mod tests {
    use super::PatternTable;
    use crate::Settings;

    #[test]
    fn the_order_of_a_file_is_kept() {
        let entries = [("z.*", 4), ("a", 0), (r"layers\.[0-3]\..*q_proj", 2)];
        let ranks = entries.map(|(key, rank)| (key.to_owned(), rank)).to_vec();
        let alphas = PatternTable(vec![("v_proj".to_owned(), 0.5)]);
        let settings = Settings {
            rank_pattern: PatternTable(ranks),
            alpha_pattern: alphas,
            ..Settings::default()
        };
        let text = settings.to_toml();
        assert!(text.contains("[rank-pattern]\n\"z.*\" = 4\na = 0\n"), "{text}");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        std::fs::write(&path, text).unwrap();
        assert_eq!(Settings::from_file(&path).unwrap(), settings);
        assert!(!Settings::default().to_toml().contains("pattern"));
    }
}
