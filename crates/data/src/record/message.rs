//! One message of a conversation.

use serde::Serialize;
use serde_json::{Map, Value};

use super::{RecordError, form};

/// Where calls to tools stand, in the present style and in an older one.
const CALLS: [&str; 2] = ["tool_calls", "function_call"];

/// A message: a role, mostly a content, and whatever else a template may read (`tool_calls`,
/// `name`, …), kept as it came.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Message {
    /// `role` is there and is text.
    fields: Map<String, Value>,
}

impl Message {
    /// A message of plain text.
    #[must_use]
    pub fn new(role: &str, content: &str) -> Self {
        let fields = [("role", role), ("content", content)];
        Self {
            fields: fields.map(|(key, text)| (key.to_owned(), text.into())).into_iter().collect(),
        }
    }

    /// A message from JSON; `field` is where it stands, for the error.
    ///
    /// # Errors
    /// When it is not an object with a text `role`, or its `content` is neither text nor a list of
    /// parts; without calls to tools it must be there.
    pub fn from_json(field: &str, value: Value) -> Result<Self, RecordError> {
        let fields = match value {
            Value::Object(fields) => fields,
            other => return Err(form::wrong(field, "a message with `role` and `content`", &other)),
        };
        let inside = |name: &str| format!("{field}.{name}");
        match fields.get("role") {
            Some(Value::String(_)) => {}
            other => {
                let found = other.unwrap_or(&Value::Null);
                return Err(form::wrong(inside("role"), "text, such as \"user\"", found));
            }
        }
        match fields.get("content") {
            Some(Value::String(_) | Value::Array(_)) => Ok(Self { fields }),
            // A message may be nothing but calls to tools.
            None | Some(Value::Null) if CALLS.iter().any(|key| fields.contains_key(*key)) => {
                Ok(Self { fields })
            }
            None => Err(form::wrong(inside("content"), "text or a list of parts", &Value::Null)),
            Some(other) => Err(form::wrong(inside("content"), "text or a list of parts", other)),
        }
    }

    /// A list of messages.
    pub(super) fn list(field: &str, values: Vec<Value>) -> Result<Vec<Self>, RecordError> {
        let message = |(index, value)| Self::from_json(&format!("{field}[{index}]"), value);
        values.into_iter().enumerate().map(message).collect()
    }

    /// Who speaks.
    #[must_use]
    pub fn role(&self) -> &str {
        self.fields.get("role").and_then(Value::as_str).unwrap_or_default()
    }

    /// What is said, where it is plain text.
    #[must_use]
    pub fn content(&self) -> Option<&str> {
        self.fields.get("content").and_then(Value::as_str)
    }

    /// Whether the assistant speaks (`model` is Gemma's name for it).
    #[must_use]
    pub fn is_assistant(&self) -> bool {
        matches!(self.role(), "assistant" | "model")
    }
}
