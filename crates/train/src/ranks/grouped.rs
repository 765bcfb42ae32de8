//! Patterns that give sites something of their own.

use std::collections::BTreeMap;

/// Patterns that give each site its value: an entry for each kind of linear and each value, with
/// the layers that have it. Sites come as name, layer and value.
pub(crate) fn grouped<'s, T: Copy + Ord>(
    sites: impl Iterator<Item = (&'s str, usize, T)>,
) -> Vec<(String, T)> {
    let mut groups: BTreeMap<(&str, &str), BTreeMap<T, Vec<usize>>> = BTreeMap::new();
    for (name, layer, value) in sites {
        let number = format!("layers.{layer}.");
        let (before, kind) = name.split_once(&number).unwrap_or(("", name));
        groups.entry((kind, before)).or_default().entry(value).or_default().push(layer);
    }
    let mut patterns = Vec::new();
    for ((kind, _), by_value) in groups {
        let plain = kind.replace('.', r"\.");
        for (value, layers) in &by_value {
            let key = match &layers[..] {
                _ if by_value.len() == 1 => kind.to_owned(),
                [layer] => format!("layers.{layer}.{kind}"),
                layers => {
                    let layers: Vec<_> = layers.iter().map(ToString::to_string).collect();
                    format!(r"layers\.(?:{})\.{plain}", layers.join("|"))
                }
            };
            patterns.push((key, *value));
        }
    }
    patterns
}
