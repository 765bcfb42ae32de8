//! Which modules of a model a text means, by their names: the rules of PEFT's settings, in one
//! place for those who read settings from files and those who have the modules.
//!
//! PEFT has three. A listed name means every module whose path ends with it ([`ends_with`]). A
//! regular expression in place of a list is for whole paths ([`Pattern::whole`]). A key of
//! `rank_pattern` or `alpha_pattern` is a regular expression for a whole path, or for what follows
//! a dot in it ([`Pattern::end`]).
//!
//! ```
//! use lowtide_names::{Pattern, ends_with};
//!
//! let name = "model.layers.1.self_attn.q_proj";
//! assert!(ends_with(name, "self_attn.q_proj") && !ends_with(name, "proj"));
//! assert!(Pattern::whole(r".*\.[qk]_proj")?.matches(name));
//! assert!(!Pattern::whole("q_proj")?.matches(name));
//! assert!(Pattern::end("q_proj")?.matches(name) && !Pattern::end("proj")?.matches(name));
//! # Ok::<(), lowtide_names::PatternError>(())
//! ```
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};

use regex::Regex;

/// Whether `end` is the path `name`, or its last parts.
#[must_use]
pub fn ends_with(name: &str, end: &str) -> bool {
    name.strip_suffix(end).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// A text that is no regular expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct PatternError {
    /// Why it is none, with the text as it was given.
    pub reason: String,
}

/// A regular expression over names of modules, without look-around and back-references.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: String,
    /// `None` where comparing letters does the same: names as they are, of which there may be one
    /// for every module, each asked for every module.
    regex: Option<Regex>,
}

impl Pattern {
    /// What matches whole names.
    ///
    /// # Errors
    /// [`PatternError`] when `text` is no regular expression.
    pub fn whole(text: &str) -> Result<Self, PatternError> {
        let regex = compile(text, "^(?:")?;
        Ok(Self { text: text.to_owned(), regex: Some(regex) })
    }

    /// What matches whole names, or what follows a dot in them.
    ///
    /// # Errors
    /// [`PatternError`] when `text` is no regular expression.
    pub fn end(text: &str) -> Result<Self, PatternError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.');
        let regex = match !text.is_empty() && text.chars().all(plain) {
            true => None,
            false => Some(compile(text, r"^(?:.*\.)?(?:")?),
        };
        Ok(Self { text: text.to_owned(), regex })
    }

    /// What it was made from.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it means the module of this name.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        match &self.regex {
            Some(regex) => regex.is_match(name),
            None => ends_like(name, &self.text),
        }
    }
}

/// The regular expression `text` up to the end of a name, behind `start`, which opens a group.
fn compile(text: &str, start: &str) -> Result<Regex, PatternError> {
    let bad = |error: regex::Error| PatternError { reason: error.to_string() };
    // By itself first: so an error quotes what was written and nothing else, and the group around
    // it makes nothing of unequal brackets.
    Regex::new(text).map_err(bad)?;
    Regex::new(&format!("{start}{text})$")).map_err(bad)
}

/// What the regular expression `key`, of letters, digits, `_` and the dot that stands for any
/// character, says of the end of `name`.
fn ends_like(name: &str, key: &str) -> bool {
    let (mut name, mut key) = (name.chars().rev(), key.chars().rev());
    let same = |wanted: char| name.next().is_some_and(|c| wanted == '.' || wanted == c);
    key.all(same) && name.next().is_none_or(|before| before == '.')
}

#[cfg(test)]
mod tests {
    use super::{Pattern, ends_with};

    const Q: &str = "model.layers.11.self_attn.q_proj";

    #[test]
    fn ends_are_whole_parts() {
        assert!(ends_with(Q, "q_proj") && ends_with(Q, "self_attn.q_proj") && ends_with(Q, Q));
        assert!(!ends_with(Q, "proj") && !ends_with(Q, "q.proj") && !ends_with("q_proj", Q));
    }

    #[test]
    fn plain_keys_match_as_the_regular_expressions_that_they_are() {
        let names = [Q, "q_proj", "xq_proj", "a.q-proj", "a.q_proj.b", "é.q_proj", ""];
        for key in ["q_proj", "q.proj", "self_attn.q_proj", Q, "proj", ".q_proj", "."] {
            let plain = Pattern::end(key).unwrap();
            let regex = Pattern::end(&alloc::format!("(?:{key})")).unwrap();
            assert!(plain.regex.is_none() && regex.regex.is_some());
            for name in names {
                assert_eq!(plain.matches(name), regex.matches(name), "`{key}` in `{name}`");
            }
        }
    }

    #[test]
    fn whole_is_the_whole_name() {
        for (text, matches) in [(r".*\.11\..*", true), ("q_proj", false), ("x|model.*", true)] {
            assert_eq!(Pattern::whole(text).unwrap().matches(Q), matches, "{text}");
        }
        assert_eq!(Pattern::whole("q_.*").unwrap().text(), "q_.*");
    }

    #[test]
    fn an_error_quotes_what_was_written() {
        for bad in ["(", "a)|(b", "(?=x)", "*"] {
            for error in [Pattern::whole(bad).unwrap_err(), Pattern::end(bad).unwrap_err()] {
                let told = alloc::format!("{error}");
                assert!(told.contains(bad) && !told.contains("^(?:"), "{told}");
            }
        }
    }
}
