//! Models in several GGUF files: `name-00001-of-00003.gguf` and its siblings.
//!
//! Every part is a container of its own that says which part it is. The first holds the metadata
//! of the model; tensors lie in any of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::Contents;
use super::file::Part;
use crate::{DocumentError, Error};

/// Which part a file is, from 0.
const NUMBER: &str = "split.no";
/// How many parts there are.
const COUNT: &str = "split.count";
/// How many tensors all parts have together.
const TENSORS: &str = "split.tensors.count";
/// Digits of the two numbers in a file name.
const DIGITS: usize = 5;

/// What is wrong with one part of a split model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SplitError {
    /// A part whose name does not lead to the others.
    #[error(
        "`split.count` is {count}, but the file name does not end in `-00001-of-{count:05}.gguf` \
         or another of these numbers, so the other parts cannot be found; rename it back"
    )]
    Name {
        /// The number of parts that the file says.
        count: u64,
    },
    /// A part that is not there.
    #[error("part {number} of {count} is missing: expected {} beside it", path.display())]
    Missing {
        /// Which part, from 1.
        number: u64,
        /// How many there are.
        count: u64,
        /// Where it should be.
        path: PathBuf,
    },
    /// A field that says something else than the name of the file or the first part.
    #[error("`{key}` is {found}; expected {expected}, as {source_of_truth} says")]
    Field {
        /// The metadata key.
        key: &'static str,
        /// What it is.
        found: String,
        /// What it should be.
        expected: String,
        /// Who says so.
        source_of_truth: &'static str,
    },
    /// Metadata that the first part has otherwise, or not at all.
    #[error("`{key}` differs from that of the first part: this is a part of another model")]
    OtherModel {
        /// The metadata key.
        key: String,
    },
    /// A tensor that an earlier part holds too.
    #[error("tensor `{tensor}` is in {} too", other.display())]
    DuplicateTensor {
        /// The tensor.
        tensor: String,
        /// The earlier part.
        other: PathBuf,
    },
    /// Not as many tensors as the parts should have together.
    #[error("the {count} parts hold {found} tensors; expected {expected}, as `{TENSORS}` says")]
    TensorCount {
        /// The number of parts.
        count: u64,
        /// Tensors found.
        found: usize,
        /// Tensors that there should be.
        expected: u64,
    },
}

/// What a part says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fields {
    number: u64,
    count: u64,
    tensors: Option<u64>,
}

impl Fields {
    /// `None` if the file is no part of several.
    fn read(contents: &Contents, bytes: &[u8]) -> Result<Option<Self>, DocumentError> {
        let metadata = contents.metadata(bytes);
        let Some(count) = metadata.get_u64(COUNT)?.filter(|count| *count > 1) else {
            return Ok(None);
        };
        let number = metadata.get_u64(NUMBER)?;
        let number =
            number.ok_or_else(|| DocumentError::missing(NUMBER, "the number of the part"))?;
        if number >= count {
            let expected = format!("a number below {count}, the number of parts");
            return Err(DocumentError::out_of_range(NUMBER, number, expected));
        }
        Ok(Some(Self { number, count, tensors: metadata.get_u64(TENSORS)? }))
    }
}

/// The other parts of the model that `opened` is a part of: all of them in order, or just it.
pub(super) fn gather(opened: Part) -> Result<Vec<Part>, Error> {
    let fields = Fields::read(&opened.contents, opened.file.bytes());
    let path = opened.file.path().to_path_buf();
    let Some(fields) = fields.map_err(|reason| Error::document(&path, reason))? else {
        return Ok(vec![opened]);
    };
    let refuse = |reason| Error::Split { path: path.clone(), reason: Box::new(reason) };
    let Some((stem, number)) = part_name(&path, fields.count) else {
        return Err(refuse(SplitError::Name { count: fields.count }));
    };
    if fields.number + 1 != number {
        return Err(refuse(field(NUMBER, &fields.number, &(number - 1), "the name of the file")));
    }
    let mut parts = Vec::new();
    let mut opened = Some(opened);
    for other in 1..=fields.count {
        let part = match opened.take_if(|_| other == number) {
            Some(opened) => opened,
            None => open_part(&stem, other, fields.count, &path)?,
        };
        parts.push(part);
    }
    check(&parts)?;
    Ok(parts)
}

fn open_part(stem: &str, number: u64, count: u64, beside: &Path) -> Result<Part, Error> {
    let path = beside.with_file_name(format!("{stem}-{number:05}-of-{count:05}.gguf"));
    if !path.exists() {
        let reason = SplitError::Missing { number, count, path };
        return Err(Error::Split { path: beside.to_path_buf(), reason: Box::new(reason) });
    }
    Part::open(&path)
}

/// What stands before the numbers in the name of a part, and its number from 1.
fn part_name(path: &Path, count: u64) -> Option<(String, u64)> {
    let name = path.file_name()?.to_str()?;
    let rest = name.strip_suffix(&format!("-of-{count:05}.gguf"))?;
    let (stem, number) = rest.rsplit_once('-')?;
    let digits = number.len() >= DIGITS && number.bytes().all(|b| b.is_ascii_digit());
    let number = number.parse().ok().filter(|n| digits && (1..=count).contains(n))?;
    Some((stem.to_owned(), number))
}

/// Checks that all parts belong together.
fn check(parts: &[Part]) -> Result<(), Error> {
    let first = &parts[0];
    let mut places: BTreeMap<&str, &Path> = BTreeMap::new();
    let mut of_first = None;
    for (number, part) in (0..).zip(parts) {
        let path = part.file.path();
        let refuse = |reason| Error::Split { path: path.to_path_buf(), reason: Box::new(reason) };
        let fields = Fields::read(&part.contents, part.file.bytes());
        let fields = fields.map_err(|reason| Error::document(path, reason))?;
        let count = parts.len() as u64;
        let told = fields.map_or(1, |fields| fields.count);
        if told != count {
            return Err(refuse(field(COUNT, &told, &count, "the name of the file")));
        }
        let fields = fields.expect("a count above 1 was read");
        if fields.number != number {
            return Err(refuse(field(NUMBER, &fields.number, &number, "the name of the file")));
        }
        let expected = *of_first.get_or_insert(fields.tensors);
        if fields.tensors.is_some() && fields.tensors != expected {
            let shown = |n: Option<u64>| n.map_or_else(|| "absent".to_owned(), |n| n.to_string());
            let (found, expected) = (shown(fields.tensors), shown(expected));
            return Err(refuse(field(TENSORS, &found, &expected, "the first part")));
        }
        if let Some(key) = foreign_key(part, first) {
            return Err(refuse(SplitError::OtherModel { key: key.to_owned() }));
        }
        for tensor in part.contents.tensors().keys() {
            if let Some(other) = places.insert(tensor, path) {
                let (tensor, other) = (tensor.clone(), other.to_path_buf());
                return Err(refuse(SplitError::DuplicateTensor { tensor, other }));
            }
        }
    }
    match of_first.flatten().filter(|expected| *expected != places.len() as u64) {
        Some(expected) => {
            let (count, found) = (parts.len() as u64, places.len());
            let reason = SplitError::TensorCount { count, found, expected };
            let path = first.file.path().to_path_buf();
            Err(Error::Split { path, reason: Box::new(reason) })
        }
        None => Ok(()),
    }
}

/// A key of a later part that the first has otherwise, or that would change the model.
fn foreign_key<'a>(part: &'a Part, first: &Part) -> Option<&'a str> {
    let (ours, theirs) = (part.contents.metadata(&part.file), first.contents.metadata(&first.file));
    ours.keys().filter(|key| !key.starts_with("split.")).find(|key| match ours.same(&theirs, key) {
        Some(same) => !same,
        None => !key.starts_with("general."),
    })
}

fn field(
    key: &'static str,
    found: &dyn ToString,
    expected: &dyn ToString,
    source_of_truth: &'static str,
) -> SplitError {
    SplitError::Field {
        key,
        found: found.to_string(),
        expected: expected.to_string(),
        source_of_truth,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_parts() {
        let name = |name: &str| part_name(Path::new(name), 3);
        assert_eq!(name("a/m-q4-00002-of-00003.gguf"), Some(("m-q4".to_owned(), 2)));
        assert_eq!(name("-00001-of-00003.gguf"), Some((String::new(), 1)));
        for bad in [
            "m.gguf",
            "m-00002-of-00004.gguf",
            "m-00000-of-00003.gguf",
            "m-00004-of-00003.gguf",
            "m-2-of-00003.gguf",
            "m-+0002-of-00003.gguf",
            "m-00002-of-3.gguf",
        ] {
            assert_eq!(name(bad), None, "{bad}");
        }
    }
}
