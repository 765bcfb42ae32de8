//! JSON files read whole, with a limit, and typed access to their fields.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::{Map, Value};

use crate::document::shown;
use crate::{DocumentError, Error};

/// Largest config of a few dozen fields. Parsed, the worst JSON takes some 30 times its length.
pub(crate) const CONFIG_BYTES_MAX: u64 = 1 << 20;
/// Largest file that lists tokens or tensors; those of the largest public models have 10 MB.
pub(crate) const LIST_BYTES_MAX: u64 = 16 << 20;

/// Reads a text file of at most `bytes_max`; `None` if there is no such file.
pub(crate) fn read_text(path: &Path, bytes_max: u64) -> Result<Option<String>, Error> {
    let failed = |e: std::io::Error| Error::io(path, "read", &e);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(e)),
    };
    let bytes = file.metadata().map_err(failed)?.len();
    if bytes > bytes_max {
        return Err(Error::TooLarge { path: path.to_path_buf(), bytes, bytes_max });
    }
    // The limit holds even if the file grows while it is read, or is a device without a size.
    let mut content = Vec::new();
    file.take(bytes_max).read_to_end(&mut content).map_err(failed)?;
    String::from_utf8(content).map(Some).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        Error::NotUtf8 { path: path.to_path_buf(), at }
    })
}

/// Parses a JSON object.
pub(crate) fn parse_object(text: &str) -> Result<Map<String, Value>, DocumentError> {
    // Editors on some systems put a byte order mark in front.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    serde_json::from_str(text).map_err(|e| {
        let full = e.to_string();
        let place = format!(" at line {} column {}", e.line(), e.column());
        let message = full.strip_suffix(&place).unwrap_or(&full).to_owned();
        DocumentError::Json { line: e.line(), column: e.column(), message }
    })
}

/// Reads and parses a JSON object; `None` if there is no such file.
pub(crate) fn read_object(
    path: &Path,
    bytes_max: u64,
) -> Result<Option<Map<String, Value>>, Error> {
    let Some(text) = read_text(path, bytes_max)? else { return Ok(None) };
    parse_object(&text).map(Some).map_err(|reason| Error::document(path, reason))
}

/// An object of a JSON document. A field that is `null` counts as absent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Object<'a> {
    prefix: &'a str,
    fields: &'a Map<String, Value>,
}

impl<'a> Object<'a> {
    pub(crate) fn root(fields: &'a Map<String, Value>) -> Self {
        Self { prefix: "", fields }
    }

    /// The name of a field, with the names of the objects it lies in.
    pub(crate) fn path(&self, key: &str) -> String {
        if self.prefix.is_empty() { key.to_owned() } else { format!("{}.{key}", self.prefix) }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.fields.get(key).filter(|v| !v.is_null())
    }

    /// Whether a field is there and `null`, where that means something else than its absence.
    pub(crate) fn is_null(&self, key: &str) -> bool {
        self.fields.get(key).is_some_and(Value::is_null)
    }

    /// All fields that are not `null`.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (&'a str, &'a Value)> + use<'a> {
        self.fields.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.as_str(), v))
    }

    pub(crate) fn usize(&self, key: &str) -> Result<Option<usize>, DocumentError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let expected = "a whole number that is not negative";
        match value.as_u64() {
            Some(number) => usize::try_from(number)
                .map(Some)
                .map_err(|_| DocumentError::out_of_range(self.path(key), number, expected)),
            None if value.is_number() => {
                Err(DocumentError::out_of_range(self.path(key), value, expected))
            }
            None => Err(self.wrong_type(key, expected, value)),
        }
    }

    pub(crate) fn f64(&self, key: &str) -> Result<Option<f64>, DocumentError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_f64().map(Some).ok_or_else(|| self.wrong_type(key, "a number", value))
    }

    pub(crate) fn bool(&self, key: &str) -> Result<Option<bool>, DocumentError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.wrong_type(key, "true or false", value))
    }

    pub(crate) fn str(&self, key: &str) -> Result<Option<&'a str>, DocumentError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.wrong_type(key, "text", value))
    }

    /// A nested object.
    pub(crate) fn object(&self, key: &'a str) -> Result<Option<Object<'a>>, DocumentError> {
        self.object_named(key, key)
    }

    /// A nested object; `prefix` is the name its fields go by in errors.
    pub(crate) fn object_named(
        &self,
        key: &str,
        prefix: &'a str,
    ) -> Result<Option<Object<'a>>, DocumentError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_object() {
            Some(fields) => Ok(Some(Object { prefix, fields })),
            None => Err(self.wrong_type(key, "an object", value)),
        }
    }

    pub(crate) fn wrong_type(
        &self,
        key: &str,
        expected: &'static str,
        value: &Value,
    ) -> DocumentError {
        DocumentError::WrongType { key: self.path(key), expected, found: kind(value).to_owned() }
    }
}

/// A value of a required field.
pub(crate) fn required<T>(
    value: Option<T>,
    key: &str,
    expected: &'static str,
) -> Result<T, DocumentError> {
    value.ok_or_else(|| DocumentError::missing(key, expected))
}

/// A JSON value, cut to a length that fits an error message.
pub(crate) fn shown_value(value: &Value) -> String {
    match value {
        Value::String(text) => shown(text),
        Value::Array(items) => format!("a list of {}", items.len()),
        Value::Object(fields) => {
            let names: Vec<_> = fields.keys().take(4).map(|k| shown(k)).collect();
            format!("an object with {}", names.join(", "))
        }
        other => other.to_string(),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
