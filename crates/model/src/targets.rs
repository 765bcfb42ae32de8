//! Choosing sites: by name and by layer.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::RangeInclusive;
use core::str::FromStr;

use lowtide_adapter::{Place, SiteInfo};
use lowtide_names::{Pattern, ends_with};

/// A selection of sites that cannot be understood or selects nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetsError {
    /// The regular expression does not parse.
    #[error("target modules `{text}` is no regular expression: {reason}")]
    BadRegex {
        /// What was given.
        text: String,
        /// Why it does not parse.
        reason: String,
    },
    /// A listed module is in no block.
    #[error("target module `{name}` is not in the model, which has {}", known.join(", "))]
    UnknownModule {
        /// What was asked for.
        name: String,
        /// The names of a block's linears.
        known: Vec<String>,
    },
    /// A key of a pattern that does not parse.
    #[error("{field} `{text}` is no regular expression: {reason}")]
    BadPattern {
        /// Which kind of pattern: `rank pattern` or `alpha pattern`.
        field: &'static str,
        /// The key.
        text: String,
        /// Why it does not parse.
        reason: String,
    },
    /// A key of a pattern that matches nothing.
    #[error("{field} `{text}` matches the end of no linear's name in the model")]
    StrayPattern {
        /// Which kind of pattern: `rank pattern` or `alpha pattern`.
        field: &'static str,
        /// The key.
        text: String,
    },
    /// A key of a pattern for tensors that matches none.
    #[error("{field} `{text}` matches the end of no trained tensor's name")]
    NoTensor {
        /// Which kind of pattern: `lr pattern` or `weight decay pattern`.
        field: &'static str,
        /// The key.
        text: String,
    },
    /// Every site that is selected has a rank of 0.
    #[error("rank patterns leave none of the chosen sites an adapter")]
    NothingLeft,
    /// Nothing is selected.
    #[error("no linear matches target modules `{text}` in the chosen layers")]
    NothingSelected {
        /// The selection.
        text: String,
    },
    /// The method adapts none of the sites that a selection, or one name of it, means.
    #[error("method `{method}` adapts nothing of target modules `{text}`")]
    NotForMethod {
        /// The method.
        method: &'static str,
        /// The selection, or the name.
        text: String,
    },
    /// A layer range that cannot be read.
    #[error("layers `{text}`: expected `all`, `last:N` or ranges such as `0-3,20-29`")]
    BadLayers {
        /// What was given.
        text: String,
    },
    /// More of the topmost layers than there are.
    #[error("layers `last:{asked}`: the model has {count}")]
    TooManyLayers {
        /// Layers asked for.
        asked: usize,
        /// Layers there are.
        count: usize,
    },
    /// A layer the model has not.
    #[error("layer {layer} is not in the model, which has {count} (0 to {})", count - 1)]
    LayerOutOfRange {
        /// The layer asked for.
        layer: usize,
        /// Layers there are.
        count: usize,
    },
}

/// Which linears of a block are trained, as PEFT's `target_modules` says it.
#[derive(Clone, Debug)]
pub enum TargetModules {
    /// Every linear but the output head.
    AllLinear,
    /// Names or last parts of names: `q_proj` means every module whose path ends so.
    List(Vec<String>),
    /// A regular expression over whole module paths.
    Pattern(Pattern),
}

impl FromStr for TargetModules {
    type Err = TargetsError;

    /// Reads `all-linear`, a comma list, or (when it holds any other character than letters,
    /// digits, `_`, `.` and commas) a regular expression that must match the whole path.
    fn from_str(text: &str) -> Result<Self, TargetsError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | ',' | ' ');
        if text == "all-linear" {
            Ok(Self::AllLinear)
        } else if text.chars().all(plain) {
            let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
            Ok(Self::List(names.map(str::to_owned).collect()))
        } else {
            Pattern::whole(text).map(Self::Pattern).map_err(|error| TargetsError::BadRegex {
                text: text.to_owned(),
                reason: error.reason,
            })
        }
    }
}

impl TargetModules {
    fn selects(&self, site: &SiteInfo) -> bool {
        let name = &site.name;
        match self {
            Self::AllLinear => site.place == Place::Linear,
            Self::List(names) => names.iter().any(|wanted| ends_with(name, wanted)),
            Self::Pattern(pattern) => pattern.matches(name),
        }
    }

    /// Checks that every listed name is somewhere in the model.
    fn check(&self, sites: &[SiteInfo]) -> Result<(), TargetsError> {
        let Self::List(names) = self else { return Ok(()) };
        for name in names {
            if !sites.iter().any(|site| ends_with(&site.name, name)) {
                let last = |site: &SiteInfo| site.name.rsplit('.').next().map(str::to_owned);
                let mut known: Vec<String> = sites.iter().filter_map(last).collect();
                known.sort();
                known.dedup();
                return Err(TargetsError::UnknownModule { name: name.clone(), known });
            }
        }
        Ok(())
    }

    /// What of the selection a method has left alone, of sites and whether it has adapted them: a
    /// listed name without any adapter, or all of it.
    pub(crate) fn left_alone(&self, sites: &[(&SiteInfo, bool)]) -> Option<String> {
        let untaken = |name: &&String| {
            let mut meant = sites.iter().filter(|(site, _)| ends_with(&site.name, name)).peekable();
            meant.peek().is_some() && meant.all(|(_, taken)| !taken)
        };
        match self {
            Self::List(names) => names.iter().find(untaken).cloned(),
            // What else a regular expression matches beside linears, nobody asked for by name.
            Self::AllLinear | Self::Pattern(_) => {
                sites.iter().all(|(_, taken)| !taken).then(|| self.text())
            }
        }
    }

    pub(crate) fn text(&self) -> String {
        match self {
            Self::AllLinear => "all-linear".to_owned(),
            Self::List(names) => names.join(","),
            Self::Pattern(pattern) => pattern.text().to_owned(),
        }
    }
}

/// Which blocks are trained.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Layers {
    /// Every block.
    #[default]
    All,
    /// The topmost blocks.
    Last(usize),
    /// Blocks by number.
    Ranges(Vec<RangeInclusive<usize>>),
}

impl FromStr for Layers {
    type Err = TargetsError;

    fn from_str(text: &str) -> Result<Self, TargetsError> {
        let bad = || TargetsError::BadLayers { text: text.to_owned() };
        let number = |s: &str| s.trim().parse::<usize>().map_err(|_| bad());
        if text == "all" {
            return Ok(Self::All);
        }
        if let Some(count) = text.strip_prefix("last:") {
            let count = number(count)?;
            return if count > 0 { Ok(Self::Last(count)) } else { Err(bad()) };
        }
        let range = |part: &str| {
            let (start, end) = part.split_once('-').unwrap_or((part, part));
            let (start, end) = (number(start)?, number(end)?);
            if start <= end { Ok(start..=end) } else { Err(bad()) }
        };
        text.split(',').map(range).collect::<Result<_, _>>().map(Self::Ranges)
    }
}

impl Layers {
    fn selects(&self, layer: usize, count: usize) -> bool {
        match self {
            Self::All => true,
            Self::Last(n) => layer + n >= count,
            Self::Ranges(ranges) => ranges.iter().any(|range| range.contains(&layer)),
        }
    }

    fn check(&self, count: usize) -> Result<(), TargetsError> {
        let ranges = match self {
            Self::Last(asked) if *asked > count => {
                return Err(TargetsError::TooManyLayers { asked: *asked, count });
            }
            Self::All | Self::Last(_) => return Ok(()),
            Self::Ranges(ranges) => ranges,
        };
        match ranges.iter().map(|range| *range.end()).find(|layer| *layer >= count) {
            Some(layer) => Err(TargetsError::LayerOutOfRange { layer, count }),
            None => Ok(()),
        }
    }
}

/// Which of `sites` are selected, in a model of `count` layers.
pub(crate) fn select(
    targets: &TargetModules,
    layers: &Layers,
    sites: &[SiteInfo],
    count: usize,
) -> Result<Vec<bool>, TargetsError> {
    targets.check(sites)?;
    layers.check(count)?;
    let selects = |s: &SiteInfo| targets.selects(s) && layers.selects(s.layer, count);
    let selected: Vec<bool> = sites.iter().map(selects).collect();
    if selected.contains(&true) {
        Ok(selected)
    } else {
        Err(TargetsError::NothingSelected { text: targets.text() })
    }
}

#[cfg(test)]
mod tests {
    use super::{Layers, TargetModules, TargetsError, ends_with, select};
    use alloc::format;
    use alloc::string::ToString;
    use alloc::vec::Vec;
    use lowtide_adapter::{Place, SiteInfo};

    fn sites() -> Vec<SiteInfo> {
        let site = |layer: usize, module: &str| SiteInfo {
            name: format!("model.layers.{layer}.{module}"),
            layer,
            in_features: 4,
            out_features: 4,
            place: Place::Linear,
        };
        (0..3).flat_map(|l| ["self_attn.q_proj", "mlp.up_proj"].map(|m| site(l, m))).collect()
    }

    fn chosen(targets: &str, layers: &str) -> Result<Vec<usize>, TargetsError> {
        let selected = select(&targets.parse()?, &layers.parse()?, &sites(), 3)?;
        Ok((0..selected.len()).filter(|&i| selected[i]).collect())
    }

    #[test]
    fn lists_match_ends_of_paths_and_patterns_match_whole_paths() {
        assert_eq!(chosen("all-linear", "all").unwrap(), [0, 1, 2, 3, 4, 5]);
        assert_eq!(chosen("q_proj", "all").unwrap(), [0, 2, 4]);
        assert_eq!(chosen("mlp.up_proj, q_proj", "last:1").unwrap(), [4, 5]);
        assert_eq!(chosen(r".*\.[02]\..*up_proj", "all").unwrap(), [1, 5]);
        assert_eq!(chosen("q_proj", "0-1").unwrap(), [0, 2]);
        assert_eq!(chosen("q_proj", "0,2").unwrap(), [0, 4]);
    }

    #[test]
    fn names_that_a_method_leaves_alone() {
        let (sites, lists) = (sites(), |text: &str| text.parse::<TargetModules>().unwrap());
        let none_of = |module: &str, targets: &str| {
            let sites = sites.iter().map(|site| (site, !ends_with(&site.name, module)));
            lists(targets).left_alone(&sites.collect::<Vec<_>>())
        };
        assert_eq!(none_of("up_proj", "q_proj,up_proj").as_deref(), Some("up_proj"));
        assert_eq!(none_of("up_proj", "all-linear"), None);
        assert_eq!(none_of("up_proj", ".*"), None);
        assert_eq!(none_of("1.mlp.up_proj", "q_proj,up_proj"), None);
        // A name may mean sites that have a rank of 0, and were not asked for.
        assert_eq!(lists("q_proj,up_proj").left_alone(&[(&sites[0], true)]), None);
        assert_eq!(lists(".*").left_alone(&[(&sites[0], false)]).as_deref(), Some(".*"));
    }

    #[test]
    fn what_selects_nothing_is_an_error_that_says_what_there_is() {
        let known = Vec::from(["q_proj".into(), "up_proj".into()]);
        let unknown = TargetsError::UnknownModule { name: "proj".into(), known };
        assert_eq!(chosen("proj", "all").unwrap_err(), unknown);
        assert!(matches!(chosen("(", "all"), Err(TargetsError::BadRegex { .. })));
        let words = chosen("(", "all").unwrap_err().to_string();
        assert!(words.contains("`(`") && !words.contains("^(?:"), "{words}");
        let nothing = TargetsError::NothingSelected { text: "x+".into() };
        assert_eq!(chosen("x+", "all").unwrap_err(), nothing);
        let more = TargetsError::TooManyLayers { asked: 4, count: 3 };
        assert_eq!(chosen("q_proj", "last:4").unwrap_err(), more);
        assert_eq!(chosen("q_proj", "last:3").unwrap(), [0, 2, 4]);
        let out = TargetsError::LayerOutOfRange { layer: 3, count: 3 };
        assert_eq!(chosen("q_proj", "1-3").unwrap_err(), out);
        for bad in ["", "3-1", "last:0", "last:x", "a"] {
            assert!(matches!(bad.parse::<Layers>(), Err(TargetsError::BadLayers { .. })), "{bad}");
        }
        let none = "".parse::<TargetModules>();
        assert!(matches!(none, Ok(TargetModules::List(names)) if names.is_empty()));
    }
}
