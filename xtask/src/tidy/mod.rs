//! `cargo xtask tidy`: the invariants of absence that a program can check.
//!
//! Errors fail the run; warnings are printed and counted. Each check is a function from text to
//! findings, so it is tested on small strings.

mod functions;
mod layers;
mod mask;
mod no_std;
mod sources;
mod words;

use std::fmt;

use anyhow::{Result, bail};

use crate::{files, test};

/// What a check has to say about a place.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    path: String,
    /// Counted from 1; `None` for the file as a whole.
    line: Option<usize>,
    says: String,
    weight: Weight,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weight {
    Error,
    Warning,
}

impl Finding {
    fn error(path: &str, line: impl Into<Option<usize>>, says: impl Into<String>) -> Self {
        let line = line.into();
        Self { path: path.to_owned(), line, says: says.into(), weight: Weight::Error }
    }

    fn warning(path: &str, line: impl Into<Option<usize>>, says: impl Into<String>) -> Self {
        Self { weight: Weight::Warning, ..Self::error(path, line, says) }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let weight = match self.weight {
            Weight::Error => "error",
            Weight::Warning => "warning",
        };
        write!(f, "{weight}: {}", self.path)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}", self.says)
    }
}

/// Runs every check.
pub(crate) fn all() -> Result<()> {
    let mut findings = layers::check(&test::metadata()?);
    let mut lines = 0;
    let mut sources = 0;
    for path in files::tracked()? {
        let Some(text) = files::text(&path)? else { continue };
        findings.extend(words::check(&path, &text));
        if path.ends_with(".rs") {
            findings.extend(sources::check(&path, &text));
            lines += text.lines().count();
            sources += 1;
        }
    }
    for finding in &findings {
        println!("{finding}");
    }
    let errors = findings.iter().filter(|finding| finding.weight == Weight::Error).count();
    println!(
        "{sources} source files, {lines} lines, {} warnings, {errors} errors",
        findings.len() - errors
    );
    if errors > 0 {
        bail!("tidy found {errors} errors");
    }
    no_std::build()
}
