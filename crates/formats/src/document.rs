//! What can be wrong with one field of a config, whichever file it came from.
#![allow(
    clippy::needless_pass_by_value,
    reason = "errors are built from numbers and fresh texts; references would only be noise"
)]

/// A field of a JSON config or of GGUF metadata that cannot be used.
///
/// The file is named by whoever opened it, in [`Error::Document`](crate::Error::Document).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// The text is not JSON, or not of the shape asked for.
    #[error("line {line}, column {column}: {message}")]
    Json {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What the JSON reader said.
        message: String,
    },
    /// A field that must be there is not.
    #[error("`{key}` is missing; expected {expected}")]
    Missing {
        /// The field, with dots where it is nested.
        key: String,
        /// What should be there.
        expected: &'static str,
    },
    /// A field holds another kind of value.
    #[error("`{key}` is {found}; expected {expected}")]
    WrongType {
        /// The field.
        key: String,
        /// The kind of value asked for.
        expected: &'static str,
        /// The kind of value found.
        found: String,
    },
    /// A value of the right kind that no sound file holds.
    #[error("`{key}` is {value}; expected {expected}")]
    OutOfRange {
        /// The field.
        key: String,
        /// Its value.
        value: String,
        /// Which values are sound.
        expected: String,
    },
    /// A sound value that asks for something that Lowtide does not compute.
    #[error("`{key}` is {value}, which is not supported; supported: {supported}")]
    Unsupported {
        /// The field.
        key: String,
        /// Its value.
        value: String,
        /// What is supported.
        supported: String,
    },
    /// Two fields that contradict each other.
    #[error("`{key}` is {value}, but `{other}` is {other_value}")]
    Conflict {
        /// The first field.
        key: String,
        /// Its value.
        value: String,
        /// The second field.
        other: String,
        /// Its value.
        other_value: String,
    },
}

/// Longest text of a file that an error repeats, in characters.
const SHOWN_CHARS: usize = 80;

impl DocumentError {
    pub(crate) fn missing(key: impl Into<String>, expected: &'static str) -> Self {
        Self::Missing { key: key.into(), expected }
    }

    pub(crate) fn out_of_range(
        key: impl Into<String>,
        value: impl ToString,
        expected: impl Into<String>,
    ) -> Self {
        Self::OutOfRange { key: key.into(), value: value.to_string(), expected: expected.into() }
    }

    pub(crate) fn unsupported(
        key: impl Into<String>,
        value: impl ToString,
        supported: impl Into<String>,
    ) -> Self {
        Self::Unsupported { key: key.into(), value: value.to_string(), supported: supported.into() }
    }

    pub(crate) fn conflict(
        key: impl Into<String>,
        value: impl ToString,
        other: impl Into<String>,
        other_value: impl ToString,
    ) -> Self {
        Self::Conflict {
            key: key.into(),
            value: value.to_string(),
            other: other.into(),
            other_value: other_value.to_string(),
        }
    }
}

/// Text from a file, quoted, escaped and cut to a length that fits an error message.
pub(crate) fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}
