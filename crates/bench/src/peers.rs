//! What others reached, read from a JSON file and put beside our own figures.
//!
//! ```json
//! {
//!   "peers": [
//!     {
//!       "name": "PyTorch + PEFT, f32",
//!       "threads": 2,
//!       "figures": [
//!         { "suite": "step", "rows": ["train 512 store"], "seconds": 1.9 },
//!         { "suite": "generate", "rows": ["prompt 512"], "tokens_per_second": 285 }
//!       ]
//!     }
//!   ]
//! }
//! ```

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::Row;

/// The most bytes of a file that is read.
const BYTES_MAX: u64 = 1 << 20;

/// Somebody else's figures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// What it is called.
    pub name: String,
    /// Threads it used, if that is known.
    #[serde(default)]
    pub threads: Option<usize>,
    /// What it reached.
    pub figures: Vec<Figure>,
}

/// A figure, and which of our rows it stands beside.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figure {
    /// `kernels`, `step` or `generate`.
    pub suite: String,
    /// Names of rows.
    pub rows: Vec<String>,
    /// Seconds of one call; this or `tokens_per_second`.
    #[serde(default)]
    pub seconds: Option<f64>,
    /// Tokens a second; this or `seconds`.
    #[serde(default)]
    pub tokens_per_second: Option<f64>,
}

/// A file of peers that says nothing that can be used.
#[derive(Debug, thiserror::Error)]
pub enum PeersError {
    /// It cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is larger than any list of figures.
    #[error("{}: larger than {BYTES_MAX} bytes, the most that is read", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// It is no JSON, or has other fields.
    #[error("{}: {}{source}", path.display(), place(field.as_deref()))]
    Json {
        /// The file.
        path: PathBuf,
        /// The field, as `peers[0].figures[1].seconds`, if it is about one.
        field: Option<String>,
        /// What was found, with line and column.
        source: serde_json::Error,
    },
    /// A value outside what it may be.
    #[error("{}: `{field}` is {found}, expected {expected}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The field, as `peers[0].figures[1].seconds`.
        field: String,
        /// What it is.
        found: String,
        /// What it may be.
        expected: &'static str,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    peers: Vec<Peer>,
}

/// Reads the peers of a file.
///
/// # Errors
/// [`PeersError`], naming the file and the field.
pub fn read_peers(path: &Path) -> Result<Vec<Peer>, PeersError> {
    let io = |source| PeersError::Io { path: path.to_owned(), source };
    let mut text = Vec::new();
    File::open(path)
        .and_then(|file| file.take(BYTES_MAX + 1).read_to_end(&mut text))
        .map_err(io)?;
    if text.len() as u64 > BYTES_MAX {
        return Err(PeersError::TooLarge { path: path.to_owned() });
    }
    parse_peers(path, &text)
}

/// Reads the peers of the bytes of a file; `path` is for what is said of errors.
///
/// # Errors
/// [`PeersError`], naming the file and the field.
pub fn parse_peers(path: &Path, text: &[u8]) -> Result<Vec<Peer>, PeersError> {
    let json = |field, source| PeersError::Json { path: path.to_owned(), field, source };
    let mut bytes = serde_json::Deserializer::from_slice(text);
    let read = serde_path_to_error::deserialize(&mut bytes).map_err(|error| {
        let within = error.path().iter().next().is_some();
        json(within.then(|| error.path().to_string()), error.into_inner())
    });
    let Document { peers } = read?;
    bytes.end().map_err(|error| json(None, error))?;
    for (p, peer) in peers.iter().enumerate() {
        for (f, figure) in peer.figures.iter().enumerate() {
            check(figure).map_err(|(name, found, expected)| PeersError::Value {
                path: path.to_owned(),
                field: format!("peers[{p}].figures[{f}].{name}"),
                found,
                expected,
            })?;
        }
    }
    Ok(peers)
}

fn place(field: Option<&str>) -> String {
    field.map(|field| format!("`{field}`: ")).unwrap_or_default()
}

/// Name of the field at fault, what it is, and what it may be.
fn check(figure: &Figure) -> Result<(), (&'static str, String, &'static str)> {
    let Figure { suite, rows, seconds, tokens_per_second } = figure;
    if !["kernels", "step", "generate"].contains(&suite.as_str()) {
        return Err(("suite", format!("`{suite}`"), "kernels, step or generate"));
    }
    if rows.is_empty() {
        return Err(("rows", "empty".into(), "the name of a row at least"));
    }
    let given = [("seconds", seconds), ("tokens_per_second", tokens_per_second)];
    for (name, value) in given.iter().filter_map(|(name, value)| value.map(|value| (*name, value)))
    {
        if !(value.is_finite() && value > 0.0) {
            return Err((name, value.to_string(), "more than 0"));
        }
    }
    match (seconds, tokens_per_second) {
        (None, None) => Err(("seconds", "missing".into(), "this or `tokens_per_second`")),
        (Some(_), Some(_)) => {
            Err(("seconds", "beside `tokens_per_second`".into(), "one of the two"))
        }
        _ => Ok(()),
    }
}

/// Those of the peers' figures that stand beside `row`, as seconds of one call.
pub fn beside<'r>(peers: &'r [Peer], row: &'r Row) -> impl Iterator<Item = (&'r Peer, f64)> {
    peers.iter().flat_map(move |peer| {
        let seconds = peer.figures.iter().filter_map(|figure| figure.seconds_of(row));
        seconds.map(move |seconds| (peer, seconds))
    })
}

impl Figure {
    /// Seconds for a call of `row`, if this figure stands beside it.
    #[must_use]
    pub fn seconds_of(&self, row: &Row) -> Option<f64> {
        if self.suite != row.suite || !self.rows.contains(&row.name) {
            return None;
        }
        let by_tokens = || Some(row.tokens? as f64 / self.tokens_per_second?);
        self.seconds.or_else(by_tokens)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Work;

    fn parse(text: &str) -> Result<Vec<Peer>, String> {
        parse_peers(Path::new("peers.json"), text.as_bytes()).map_err(|error| error.to_string())
    }

    fn one(figure: &str) -> String {
        let text = format!(r#"{{"peers": [{{"name": "P", "figures": [{figure}]}}]}}"#);
        parse(&text).unwrap_err()
    }

    #[test]
    fn figures_stand_beside_their_rows() {
        let peers = parse(
            r#"{"peers": [{"name": "P", "threads": 2, "figures": [
                {"suite": "step", "rows": ["train 512 block", "train 512 store"], "seconds": 2.5},
                {"suite": "generate", "rows": ["prompt 512"], "tokens_per_second": 256}]}]}"#,
        )
        .unwrap();
        let row = |suite: &str, name: &str, tokens| Row {
            suite: suite.into(),
            name: name.into(),
            work: Work::default(),
            tokens,
            results: Vec::new(),
        };
        let [step, prompt] = &peers[0].figures[..] else { panic!("{peers:?}") };
        assert_eq!(step.seconds_of(&row("step", "train 512 store", Some(512))), Some(2.5));
        assert_eq!(step.seconds_of(&row("generate", "train 512 store", Some(512))), None);
        assert_eq!(step.seconds_of(&row("step", "forward 512", Some(512))), None);
        assert_eq!(prompt.seconds_of(&row("generate", "prompt 512", Some(512))), Some(2.0));
        assert_eq!(prompt.seconds_of(&row("generate", "prompt 512", None)), None);
    }

    #[test]
    fn bad_files_name_themselves_and_the_field() {
        let figure = "peers.json: `peers[0].figures[0]";
        let cases = [
            (r#"{"suite": "x", "rows": ["a"], "seconds": 1}"#, "suite` is `x`, expected kernels"),
            (r#"{"suite": "step", "rows": [], "seconds": 1}"#, "rows` is empty, expected"),
            (r#"{"suite": "step", "rows": ["a"]}"#, "seconds` is missing, expected this or"),
            (r#"{"suite": "step", "rows": ["a"], "seconds": -1}"#, "seconds` is -1, expected more"),
            (
                r#"{"suite": "step", "rows": ["a"], "seconds": 1, "tokens_per_second": 2}"#,
                "seconds` is beside `tokens_per_second`, expected one",
            ),
        ];
        for (text, says) in cases {
            let error = one(text);
            assert!(error.starts_with(&format!("{figure}.{says}")), "{text}: {error}");
        }
        for (text, says) in [
            (r#"{"suite": "step", "seconds": 1}"#, "`: missing field `rows` at line 1 column 68"),
            (
                r#"{"suite": "step", "rows": ["a"], "second": 1}"#,
                ".second`: unknown field `second`, expected one of `suite`, `rows`",
            ),
            (
                r#"{"suite": "step", "rows": ["a", 3]}"#,
                ".rows[1]`: invalid type: integer `3`, expected a string",
            ),
            (r#"{"suite": "step", "rows": "#, ".rows`: expected value at line 1 column"),
        ] {
            let error = one(text);
            assert!(error.starts_with(&format!("{figure}{says}")), "{text}: {error}");
        }
        for (text, says) in [
            (r#"{"peers": [{"figures": []}]}"#, "`peers[0]`: missing field `name`"),
            (r#"{"peers": 5}"#, "`peers`: invalid type: integer `5`, expected a sequence"),
            ("{}", "missing field `peers` at line 1 column"),
            ("7", "invalid type: integer `7`"),
            (r#"{"peers": []} 7"#, "trailing characters at line 1 column"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(&format!("peers.json: {says}")), "{text}: {error}");
        }
        let error = read_peers(Path::new("no-such-file.json")).unwrap_err().to_string();
        assert!(error.starts_with("no-such-file.json: "), "{error}");
    }

    #[test]
    fn a_file_that_is_no_list_of_figures_is_not_read_to_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("large.json");
        std::fs::write(&path, vec![b' '; BYTES_MAX as usize + 1]).unwrap();
        assert!(matches!(read_peers(&path), Err(PeersError::TooLarge { .. })));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_bytes_are_peers_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..99)) {
            let _ = parse_peers(Path::new("p"), &bytes);
        }
    }
}
