//! Settings that hold for some modules only.

use lowtide_names::Pattern;
use serde_json::{Map, Value};

use crate::DocumentError;
use crate::document::shown;
use crate::json::{Object, shown_value};

/// The first entry whose key matches the end of `module`, as PEFT matches: the key is a regular
/// expression for the whole name, or for what follows a dot.
pub(super) fn lookup<T: Copy>(
    field: &str,
    entries: &[(String, T)],
    module: &str,
) -> Result<Option<T>, DocumentError> {
    for (key, value) in entries {
        if end(field, key)?.matches(module) {
            return Ok(Some(*value));
        }
    }
    Ok(None)
}

/// Reads an object of patterns and values, in the order of the file, which decides.
pub(super) fn read<T>(
    config: Object<'_>,
    field: &'static str,
    expected: &'static str,
    value_of: impl Fn(&Value) -> Option<T>,
) -> Result<Vec<(String, T)>, DocumentError> {
    let Some(entries) = config.object(field)? else { return Ok(Vec::new()) };
    entries
        .fields()
        .map(|(key, value)| {
            end(field, key)?;
            let out_of_range =
                || DocumentError::out_of_range(entries.path(key), shown_value(value), expected);
            Ok((key.to_owned(), value_of(value).ok_or_else(out_of_range)?))
        })
        .collect()
}

/// The object that [`read`] reads.
pub(super) fn document<T: Copy>(entries: &[(String, T)], value: impl Fn(T) -> Value) -> Value {
    let fields: Map<_, _> = entries.iter().map(|(key, v)| (key.clone(), value(*v))).collect();
    Value::Object(fields)
}

/// The regular expression `text` over whole names.
pub(super) fn whole(field: &str, text: &str) -> Result<Pattern, DocumentError> {
    Pattern::whole(text).map_err(|_| unsupported(field, text))
}

/// The regular expression `key` over ends of names.
fn end(field: &str, key: &str) -> Result<Pattern, DocumentError> {
    Pattern::end(key).map_err(|_| unsupported(field, key))
}

fn unsupported(field: &str, text: &str) -> DocumentError {
    let supported = "regular expressions without look-around and back-references";
    DocumentError::unsupported(field, shown(text), supported)
}
