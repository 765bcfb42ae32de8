//! A run found again in its folder. Any bytes may be there.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use super::{FILE, Notes, Reported, Run};
use crate::thin::Thinned;
use crate::{Settings, Summary};

/// Most updates that a chart takes; of more, evenly spaced ones are kept.
pub(crate) const UPDATES_MAX: usize = 1024;
/// The largest file that is read as a whole.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// The longest line of `metrics.jsonl`; those written are a tenth of it.
const LINE_BYTES_MAX: u64 = 4096;

/// Why a run cannot be read from its folder.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A file is not there or cannot be read.
    #[error(
        "{}: cannot read: {source}; expected a folder that `lowtide finetune` wrote",
        path.display()
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file larger than any that is written.
    #[error("{}: larger than {limit} bytes, which no run writes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit.
        limit: u64,
    },
    /// A file that does not hold what it should.
    #[error("{}: {reason}", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// Which field or line, and what is wrong with it.
        reason: String,
    },
}

impl Run {
    /// Reads the run that `lowtide finetune` left in `folder`. What its page tells beyond the other
    /// files is empty where there is no page.
    ///
    /// # Errors
    /// [`ReportError`], naming the file and the field or line.
    pub fn read(folder: &Path) -> Result<Self, ReportError> {
        let path = folder.join("config.toml");
        let settings: Settings = toml::from_str(&text(&path)?)
            .map_err(|error| broken(&path, error.to_string().trim_end().to_owned()))?;
        let summary: Summary = json(&folder.join("summary.json"))?;
        let path = folder.join("metrics.jsonl");
        let file = File::open(&path).map_err(|source| unreadable(&path, source))?;
        let updates = updates(BufReader::new(file), &path)?;
        let notes = notes(&folder.join(FILE))?;
        Ok(Self { folder: folder.to_owned(), settings, summary, updates, notes })
    }
}

/// Reads lines of `metrics.jsonl`; `path` is their name in errors.
pub(crate) fn updates(mut lines: impl BufRead, path: &Path) -> Result<Vec<Reported>, ReportError> {
    let mut kept = Thinned::new(UPDATES_MAX);
    let mut line = Vec::with_capacity(512);
    for number in 1_u64.. {
        line.clear();
        let read = lines.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
        let read = read.map_err(|source| unreadable(path, source))?;
        if read == 0 {
            break;
        }
        if read as u64 == LINE_BYTES_MAX {
            let reason = format!("line {number} is longer than {LINE_BYTES_MAX} bytes");
            return Err(broken(path, reason));
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let update: Reported = serde_json::from_slice(&line)
            .map_err(|error| broken(path, format!("line {number}: {}", words(&error))))?;
        kept.push(update);
    }
    Ok(kept.into_items())
}

/// The notes that a page carries; none where there is no page, or one of another origin.
fn notes(path: &Path) -> Result<Notes, ReportError> {
    if !path.exists() {
        return Ok(Notes::default());
    }
    let page = text(path)?;
    let after = page.rsplit_once(super::parts::NOTES_OPEN).map(|(_, after)| after);
    let inside = after.and_then(|after| after.split_once(super::parts::NOTES_CLOSE));
    let Some((json, _)) = inside else { return Ok(Notes::default()) };
    serde_json::from_str(json)
        .map_err(|error| broken(path, format!("the notes in it: {}", words(&error))))
}

fn json<T: DeserializeOwned>(path: &Path) -> Result<T, ReportError> {
    serde_json::from_str(&text(path)?).map_err(|error| broken(path, error.to_string()))
}

fn text(path: &Path) -> Result<String, ReportError> {
    let read = || {
        let mut text = String::new();
        File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
        Ok(text)
    };
    let text = read().map_err(|source| unreadable(path, source))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(ReportError::TooLarge { path: path.to_owned(), limit: FILE_BYTES_MAX });
    }
    Ok(text)
}

/// The parser's words without its account of the line, which is always the first.
fn words(error: &serde_json::Error) -> String {
    let words = error.to_string();
    words.rsplit_once(" at line ").map_or(words.as_str(), |(reason, _)| reason).to_owned()
}

fn unreadable(path: &Path, source: io::Error) -> ReportError {
    ReportError::Read { path: path.to_owned(), source }
}

fn broken(path: &Path, reason: String) -> ReportError {
    ReportError::Broken { path: path.to_owned(), reason }
}
