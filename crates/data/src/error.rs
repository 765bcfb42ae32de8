//! Everything that can be wrong with data, in words that name the file, the line and the field.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::template::TemplateError;
use crate::tokenizer::TokenizerError;

/// What was being done to a file when the system refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoAction {
    /// Opening it.
    Open,
    /// Reading from it.
    Read,
    /// Making a temporary file in it.
    Create,
    /// Writing to a temporary file in it.
    Write,
}

impl std::fmt::Display for IoAction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Read => "read",
            Self::Create => "make a temporary file for the data in this folder",
            Self::Write => "write the data to a temporary file in this folder",
        })
    }
}

/// Why a dataset could not be built or read.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum DataError {
    /// The system refused.
    #[error("{path}: cannot {action}: {reason}", path = path.display())]
    Io {
        /// The file; for a dataset's own store, the folder its temporary file lies in.
        path: PathBuf,
        /// What was tried.
        action: IoAction,
        /// The system's kind of error.
        kind: io::ErrorKind,
        /// The system's words.
        reason: String,
    },
    /// A record that cannot be used.
    #[error("{path}:{line}: {error}", path = path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: u64,
        /// What is wrong with it.
        error: RecordError,
    },
    /// A file without a single example.
    #[error("{path}: no examples in it: expected at least one", path = path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A dataset that nothing was added to.
    #[error("no data was given: expected at least one example")]
    NoData,
    /// Every example lost all its labelled tokens to truncation.
    #[error(
        "all {dropped} examples lose every labelled token when cut to {max_seq_len} tokens: raise \
         the maximum sequence length"
    )]
    AllTruncated {
        /// How many examples there were.
        dropped: u64,
        /// The limit they were cut to, in tokens.
        max_seq_len: usize,
    },
    /// A limit nobody can work with.
    #[error("a maximum sequence length of {max_seq_len} tokens: expected 2 to {most}")]
    SequenceLimit {
        /// What was asked for.
        max_seq_len: usize,
        /// The largest that is understood.
        most: usize,
    },
    /// A file name that says nothing about the data.
    #[error(
        "{path}: cannot tell what data it holds: expected a .jsonl or .txt file, or a folder with \
         train.jsonl", path = path.display()
    )]
    UnknownFile {
        /// The file or folder.
        path: PathBuf,
    },
    /// A fraction of held-out examples that leaves one side empty.
    #[error(
        "cannot hold out {fraction} of {examples} examples: expected a fraction between 0 and 1 \
         that leaves at least one example on each side"
    )]
    Split {
        /// The fraction asked for.
        fraction: f64,
        /// How many examples there are.
        examples: usize,
    },
}

impl DataError {
    pub(crate) fn io(path: &Path, action: IoAction, error: &io::Error) -> Self {
        let (path, kind, reason) = (path.to_owned(), error.kind(), error.to_string());
        Self::Io { path, action, kind, reason }
    }
}

/// Why one record could not be used.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum RecordError {
    /// A line longer than is read into memory.
    #[error("longer than {limit} bytes: expected one record a line")]
    TooLong {
        /// The limit, in bytes.
        limit: usize,
    },
    /// Bytes that are not UTF-8.
    #[error("invalid UTF-8 after byte {at} of the line")]
    Utf8 {
        /// How many bytes of the line are well formed.
        at: usize,
    },
    /// Not JSON.
    #[error("not JSON: {reason}, at column {column}")]
    Json {
        /// Where, in bytes from 1.
        column: usize,
        /// What the parser stumbled over.
        reason: String,
    },
    /// JSON of another kind.
    #[error("expected an object with keys, found {found}")]
    NotAnObject {
        /// What is there.
        found: &'static str,
    },
    /// Keys that make up no known form.
    #[error("found the keys {found}: expected {forms}", forms = crate::record::FORMS)]
    UnknownKeys {
        /// The keys of the record, quoted.
        found: String,
    },
    /// A field of the wrong kind.
    #[error("`{field}`: expected {expected}, found {found}")]
    Field {
        /// The path of the field, such as `messages[2].role`.
        field: String,
        /// What belongs there.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// A form of which one half is missing.
    #[error("`{present}` without `{missing}`: the two belong together")]
    Missing {
        /// The key that is there.
        present: &'static str,
        /// The key that is not.
        missing: &'static str,
    },
    /// Ids and labels that do not match.
    #[error("`labels` has {labels} entries and `input_ids` {ids}: expected one label a token")]
    LabelCount {
        /// Number of ids.
        ids: usize,
        /// Number of labels.
        labels: usize,
    },
    /// An id that no row of the embedding answers to.
    #[error("`{field}[{index}]` is {id}: expected an id below the vocabulary's {vocab_size}")]
    OutsideVocabulary {
        /// The field the id came from.
        field: &'static str,
        /// Which entry of it.
        index: usize,
        /// The id.
        id: u32,
        /// Number of ids the model knows.
        vocab_size: usize,
    },
    /// Nothing to learn from.
    #[error("no labelled token in `{field}`: {why}")]
    NoLabelledToken {
        /// The field that should have given one.
        field: &'static str,
        /// What a labelled token would have needed.
        why: &'static str,
    },
    /// A loss that begins with the text, where a prompt is needed.
    #[error(
        "no prompt before its first labelled token: the method is trained on prompts with answers, \
         such as `prompt` and `completion`, and with no loss on the prompts"
    )]
    NoPrompt,
    /// A conversation, and no template to render it.
    #[error(
        "`{field}` needs a chat template, and the model has none: use `text`, or `prompt` and \
         `completion` as text"
    )]
    NeedsTemplate {
        /// The field.
        field: &'static str,
    },
    /// Text, and nothing to tokenize it.
    #[error("`{field}` needs a tokenizer, and the model has none: use `input_ids`")]
    NeedsTokenizer {
        /// The field.
        field: &'static str,
    },
    /// The chat template refused the record.
    #[error("`{field}`: {error}")]
    Template {
        /// The field.
        field: &'static str,
        /// The template's complaint.
        error: TemplateError,
    },
    /// The assistant's turns cannot be told from the rest.
    #[error(
        "`messages[{message}]`: cannot tell which part of the rendered text is this turn, because \
         the chat template renders the messages before it differently on their own and marks no \
         generation blocks: train without the prompt mask, or give input_ids with labels"
    )]
    UnstableTemplate {
        /// Which message, from 0.
        message: usize,
    },
    /// The tokenizer refused the text.
    #[error("`{field}`: {error}")]
    Tokenizer {
        /// The field.
        field: &'static str,
        /// The tokenizer's complaint.
        error: TokenizerError,
    },
}

/// What a JSON value is, in words.
pub(crate) fn json_kind(value: &serde_json::Value) -> &'static str {
    match value {
        serde_json::Value::Null => "null",
        serde_json::Value::Bool(_) => "a boolean",
        serde_json::Value::Number(_) => "a number",
        serde_json::Value::String(_) => "a string",
        serde_json::Value::Array(_) => "a list",
        serde_json::Value::Object(_) => "an object",
    }
}
