//! One record of a data file: its form is found by its keys.
//!
//! Where a record has the keys of several forms, the first of [`FORMS`] counts. A key whose value
//! is `null` counts as absent, because tables exported to JSON fill their gaps so. Other keys are
//! ignored.

mod form;
mod lines;
mod message;

use serde_json::{Map, Value};

pub(crate) use lines::{Line, Lines};
pub use message::Message;

use crate::error::{RecordError, json_kind};

/// The forms understood, in words, in order of precedence.
pub const FORMS: &str = "`input_ids` (with optional `labels`), `messages` (with optional `tools`), \
    `conversations`, `prompt` with `completion`, `instruction` with `output`, or `text`";

/// How many keys of an unknown record an error names, and how much of each.
const KEYS_NAMED: usize = 12;
const KEY_CHARS: usize = 40;

/// A record, checked for form; nothing is rendered or tokenized.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// `messages` or `conversations`: a conversation; the assistant's turns are learned.
    Chat {
        /// The messages, at least one.
        messages: Vec<Message>,
        /// How many of them are context only: their turns are not learned.
        context: usize,
        /// The tools the assistant may call: a list.
        tools: Option<Value>,
    },
    /// `prompt` and `completion` as text.
    Completion {
        /// What is given.
        prompt: String,
        /// What is learned.
        completion: String,
    },
    /// `instruction`, `input` and `output`.
    Instruction {
        /// What to do.
        instruction: String,
        /// What to do it with; may be empty.
        input: String,
        /// What is learned.
        output: String,
    },
    /// `text`: all of it is learned.
    Text(String),
    /// `input_ids` and `labels`: already tokenized.
    Ids {
        /// Token ids.
        ids: Vec<u32>,
        /// One label an id; absent, every token is learned.
        labels: Option<Vec<i32>>,
    },
}

impl Record {
    /// Reads one line of a JSONL file. Any bytes may be given.
    ///
    /// # Errors
    /// When the line is not UTF-8, not a JSON object, or not of a known form.
    pub fn from_json_line(line: &[u8]) -> Result<Self, RecordError> {
        let text = std::str::from_utf8(line)
            .map_err(|error| RecordError::Utf8 { at: error.valid_up_to() })?;
        let value: Value = serde_json::from_str(text).map_err(|error| RecordError::Json {
            column: error.column(),
            reason: json_reason(&error),
        })?;
        match value {
            Value::Object(fields) => Self::from_fields(fields),
            other => Err(RecordError::NotAnObject { found: json_kind(&other) }),
        }
    }

    /// The same from the fields of the object.
    ///
    /// # Errors
    /// When they are not of a known form.
    pub fn from_fields(mut fields: Map<String, Value>) -> Result<Self, RecordError> {
        fields.retain(|_, value| !value.is_null());
        let has = |key: &str| fields.contains_key(key);
        if has("input_ids") {
            form::ids(&fields)
        } else if has("messages") {
            form::chat(&mut fields)
        } else if has("conversations") {
            form::sharegpt(&mut fields)
        } else if has("prompt") && (has("completion") || !has("text")) {
            form::completion(&mut fields)
        } else if has("completion") && !has("text") {
            Err(RecordError::Missing { present: "completion", missing: "prompt" })
        } else if has("instruction") && (has("output") || !has("text")) {
            form::instruction(&mut fields)
        } else if has("text") {
            form::string(&mut fields, "text").map(Self::Text)
        } else {
            Err(RecordError::UnknownKeys { found: named(&fields) })
        }
    }

    /// The key its form is known by.
    #[must_use]
    pub fn field(&self) -> &'static str {
        match self {
            Self::Chat { .. } => "messages",
            Self::Completion { .. } => "completion",
            Self::Instruction { .. } => "output",
            Self::Text(_) => "text",
            Self::Ids { .. } => "input_ids",
        }
    }
}

/// The keys of a record, quoted, as far as an error needs them.
fn named(fields: &Map<String, Value>) -> String {
    if fields.is_empty() {
        return "(none)".to_owned();
    }
    let quoted = |key: &String| {
        let short: String = key.chars().take(KEY_CHARS).collect();
        format!("`{}`", short.escape_debug())
    };
    let mut names: Vec<String> = fields.keys().take(KEYS_NAMED).map(quoted).collect();
    if fields.len() > KEYS_NAMED {
        names.push(format!("and {} more", fields.len() - KEYS_NAMED));
    }
    names.join(", ")
}

/// The parser's words without its account of the place.
fn json_reason(error: &serde_json::Error) -> String {
    let words = error.to_string();
    words.rsplit_once(" at line ").map_or(words.as_str(), |(reason, _)| reason).to_owned()
}

#[cfg(test)]
mod tests;
