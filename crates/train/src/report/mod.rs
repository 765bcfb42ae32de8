//! `report.html`: a run on one page, which loads nothing, runs nothing and reads well on a phone.
//!
//! [`Run`] is what a page shows, [`page()`] and [`comparison`] make the text of one, [`write()`]
//! puts it in its place. [`Run::read`] finds a run again in its folder: figures in `summary.json`,
//! updates in `metrics.jsonl`, settings in `config.toml`, and what none of these tell in the page
//! itself, which carries its [`Notes`] along.
//!
//! Text from users is escaped wherever it stands: pages are built by `maud`, which escapes by
//! default, and the notes are JSON without a character that means something to a browser.

mod axis;
mod chart;
mod compare;
mod memory;
pub mod number;
mod page;
pub mod parts;
mod read;
mod scatter;
mod smooth;
mod times;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lowtide_formats::atomic;
use lowtide_memory::Timeline;
use serde::{Deserialize, Serialize};

pub use chart::{Words, bar};
pub use compare::comparison;
pub use page::page;
pub use read::ReportError;
pub(crate) use read::{UPDATES_MAX, updates};
pub use scatter::{Mark, scatter};

use crate::metrics::by_name;
use crate::{Settings, Summary, Times};

/// What the page of a run is called in its folder.
pub const FILE: &str = "report.html";

/// Everything a page shows.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// The folder.
    pub folder: PathBuf,
    /// What the run was told.
    pub settings: Settings,
    /// What it came to.
    pub summary: Summary,
    /// Its updates as far as they were reported, or evenly spaced ones of them.
    pub updates: Vec<Reported>,
    /// What no other file of the folder tells.
    pub notes: Notes,
}

/// A line of `metrics.jsonl`, as far as a page needs it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
pub struct Reported {
    /// Number of the update, from 1.
    pub step: u64,
    /// Mean loss of its labelled tokens.
    pub loss: Option<f64>,
    /// Learning rate.
    #[serde(default)]
    pub lr: Option<f64>,
    /// Norm of the gradient before clipping.
    #[serde(default)]
    pub grad_norm: Option<f64>,
}

/// What a page knows and no other file of its folder tells.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Notes {
    /// Version of Lowtide that trained.
    pub version: String,
    /// When the run ended, in seconds since the beginning of 1970, UTC.
    pub ended: Option<u64>,
    /// Whether it was stopped before its last update.
    pub interrupted: bool,
    /// Family of the base.
    pub architecture: String,
    /// Adapted linears.
    pub sites: usize,
    /// Bytes that were allowed, if there was a budget.
    pub memory_budget: Option<u64>,
    /// The planned peak by category.
    pub planned: BTreeMap<String, u64>,
    /// The course of one step, as planned.
    pub course: Vec<Stretch>,
    /// Held-out losses, or evenly spaced ones of them.
    pub evaluations: Vec<HeldOut>,
    /// How long blocks took.
    pub times: Times,
    /// What the model said before and after.
    pub samples: Vec<Sample>,
}

/// A stretch of a step and the bytes alive in it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stretch {
    /// `forward`, `head` or `backward`.
    pub phase: String,
    /// Which part of the model is at work, counted from the embedding.
    pub segment: usize,
    /// Bytes by category.
    pub live: BTreeMap<String, u64>,
}

/// A held-out loss.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeldOut {
    /// Updates made before it.
    pub step: u64,
    /// Mean loss of a labelled token.
    pub loss: f64,
}

/// A held-out prompt, and what the model made of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sample {
    /// What was asked.
    pub prompt: String,
    /// What the data answers.
    pub expected: String,
    /// What the model answered before training.
    pub before: String,
    /// What it answers now.
    pub after: String,
}

/// The course of a step in the words of a page.
pub(crate) fn course(timeline: &Timeline) -> Vec<Stretch> {
    let stretch = |span: &lowtide_memory::Span| Stretch {
        phase: span.phase.to_owned(),
        segment: span.segment,
        live: named(by_name(span.live)),
    };
    timeline.spans().iter().map(stretch).collect()
}

/// The same with names of its own.
pub(crate) fn named(bytes: BTreeMap<&'static str, u64>) -> BTreeMap<String, u64> {
    bytes.into_iter().map(|(name, n)| (name.to_owned(), n)).collect()
}

/// Writes a page whole, or leaves what was there.
///
/// # Errors
/// [`lowtide_formats::Error::Io`], naming the file.
pub fn write(path: &Path, page: &str) -> Result<(), lowtide_formats::Error> {
    atomic::write_file(path, |out| out.write_all(page.as_bytes()))
}

#[cfg(test)]
mod tests;
