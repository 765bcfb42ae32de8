//! Ids of models.

use std::fmt;
use std::path::Path;

/// Longest part of an id that the hub gives out.
const PART_CHARS_MAX: usize = 96;

/// The id of a model on the hub: `org/name`, perhaps with the GGUF file that is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelId {
    repo: String,
    file: Option<String>,
}

impl ModelId {
    /// Reads `org/name`, `org/name:file.gguf` or `org/name:Q4_K_M`; `None` for anything else.
    ///
    /// What ends in `.gguf` without a colon is a path: no repository is called so.
    pub fn parse(text: &str) -> Option<Self> {
        let (repo, file) = match text.split_once(':') {
            Some((repo, file)) => (repo, Some(file)),
            None => (text, None),
        };
        let (org, name) = repo.split_once('/')?;
        let sound = is_part(org)
            && is_part(name)
            && !has_end(name, ".gguf")
            && file.is_none_or(|file| file.split('/').all(is_part));
        sound.then(|| Self { repo: repo.to_owned(), file: file.map(str::to_owned) })
    }

    /// The id that `model` is, unless a file or folder of that name exists.
    pub fn of_missing(model: &Path) -> Option<Self> {
        if model.exists() {
            return None;
        }
        Self::parse(model.to_str()?)
    }

    /// `org/name`.
    pub fn repo(&self) -> &str {
        &self.repo
    }

    /// What stands after the colon: the name of a GGUF file, or a part of one such as `Q4_K_M`.
    pub fn file(&self) -> Option<&str> {
        self.file.as_deref()
    }

    /// The one of `names` that the id means: the file of that name, or the only model whose name
    /// holds the text, whatever its case. A model in several files counts once, by its first.
    pub(crate) fn pick<'a>(&self, names: &[&'a str]) -> Pick<'a> {
        let ggufs = || names.iter().copied().filter(|name| has_end(name, ".gguf"));
        let wanted = self.file.as_deref();
        if let Some(exact) = ggufs().find(|name| Some(*name) == wanted) {
            return Pick::One(exact);
        }
        let holds = |name: &str| {
            wanted.is_none_or(|wanted| name.to_lowercase().contains(&wanted.to_lowercase()))
        };
        let mut found: Vec<_> = ggufs().filter(|name| is_first(name) && holds(name)).collect();
        // Projectors for pictures lie beside the model that they belong to.
        if wanted.is_none() {
            found.retain(|name| !name.to_lowercase().contains("mmproj"));
        }
        match found[..] {
            [] => Pick::None,
            [one] => Pick::One(one),
            _ => Pick::Several(found),
        }
    }
}

/// Which file an id means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Pick<'a> {
    None,
    One(&'a str),
    Several(Vec<&'a str>),
}

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repo)?;
        self.file.iter().try_for_each(|file| write!(f, ":{file}"))
    }
}

/// Whether `name` can be an organisation, a repository or a file name in one.
fn is_part(name: &str) -> bool {
    let fine = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    (1..=PART_CHARS_MAX).contains(&name.len())
        && name.chars().all(fine)
        && !name.starts_with(['.', '-'])
        && !name.ends_with('.')
        && !name.contains("..")
}

pub(crate) fn has_end(name: &str, end: &str) -> bool {
    name.len()
        .checked_sub(end.len())
        .and_then(|at| name.get(at..))
        .is_some_and(|tail| tail.eq_ignore_ascii_case(end))
}

/// The numbers in the name of a part of a split model: stem, part, number of parts.
pub(crate) fn split_name(name: &str) -> Option<(&str, u32, u32)> {
    let (rest, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let read = |digits: &str| digits.parse().ok().filter(|_| digits.len() == 5);
    Some((stem, read(number)?, read(count)?))
}

fn is_first(name: &str) -> bool {
    split_name(name).is_none_or(|(_, number, _)| number == 1)
}

/// All parts of the model whose file, or one of whose parts, is `name`.
pub(crate) fn all_parts(name: &str) -> Vec<String> {
    /// More parts than any model has.
    const PARTS_MAX: u32 = 1000;
    match split_name(name) {
        Some((stem, _, count @ 1..=PARTS_MAX)) => {
            (1..=count).map(|part| format!("{stem}-{part:05}-of-{count:05}.gguf")).collect()
        }
        _ => vec![name.to_owned()],
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ids_are_an_organisation_and_a_name() {
        for (text, repo, file) in [
            ("org/name", "org/name", None),
            ("Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B", None),
            ("org/name:Q4_K_M", "org/name", Some("Q4_K_M")),
            ("org/name-GGUF:a/b-q8_0.gguf", "org/name-GGUF", Some("a/b-q8_0.gguf")),
        ] {
            let id = ModelId::parse(text).unwrap();
            assert_eq!((id.repo(), id.file(), id.to_string()), (repo, file, text.to_owned()));
        }
        for path in [
            "",
            "name",
            "/a/b",
            "a/b/c",
            "./model",
            "../model",
            "a/..",
            "models/tiny.gguf",
            "models/tiny.GGUF",
            "a b/c",
            "a/b:",
            "a/b:../../x.gguf",
            "a/b:x//y",
            "C:\\a/b",
        ] {
            assert_eq!(ModelId::parse(path), None, "{path}");
        }
    }

    #[test]
    fn files_are_picked_by_name_or_by_a_part_of_it() {
        let names = ["README.md", "m-Q4_K_M.gguf", "m-Q8_0.gguf", "sub/m-F16.gguf"];
        let pick = |id: &str| ModelId::parse(id).unwrap().pick(&names);
        assert_eq!(pick("a/b:m-Q8_0.gguf"), Pick::One("m-Q8_0.gguf"));
        assert_eq!(pick("a/b:q4_k_m"), Pick::One("m-Q4_K_M.gguf"));
        assert_eq!(pick("a/b:sub/m-F16.gguf"), Pick::One("sub/m-F16.gguf"));
        assert_eq!(pick("a/b:Q5"), Pick::None);
        assert_eq!(pick("a/b:README.md"), Pick::None);
        assert_eq!(pick("a/b:m-Q"), Pick::Several(vec!["m-Q4_K_M.gguf", "m-Q8_0.gguf"]));
        let parts = ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "mmproj-m.gguf"];
        let id = ModelId::parse("a/b").unwrap();
        assert_eq!(id.pick(&parts), Pick::One("m-00001-of-00002.gguf"));
        assert_eq!(all_parts("m-00002-of-00002.gguf"), parts[..2]);
        assert_eq!(all_parts("m-00001-of-99999.gguf"), ["m-00001-of-99999.gguf"]);
    }

    proptest! {
        #[test]
        fn any_text_is_an_id_or_not(text in "[a-c./:\\-]{0,12}|\\PC{0,20}") {
            if let Some(id) = ModelId::parse(&text) {
                prop_assert_eq!(id.to_string(), text);
                prop_assert!(!id.repo().contains(".."));
            }
        }
    }
}
