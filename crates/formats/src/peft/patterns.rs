//! Settings that hold for some modules only.

use regex::Regex;
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
        let matches = match is_plain(key) {
            true => ends_with(module, key),
            false => compile(field, key)?.is_match(module),
        };
        if matches {
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
            compile(field, key)?;
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

/// Whether comparing letters does what the regular expression says: there may be such a key for
/// every module, each asked for every module.
fn is_plain(key: &str) -> bool {
    !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.'))
}

/// What a plain key says of the end of `name`; its dots stand for any character.
fn ends_with(name: &str, key: &str) -> bool {
    let (mut name, mut key) = (name.chars().rev(), key.chars().rev());
    let same = |wanted: char| name.next().is_some_and(|c| wanted == '.' || wanted == c);
    key.all(same) && name.next().is_none_or(|before| before == '.')
}

fn compile(field: &str, key: &str) -> Result<Regex, DocumentError> {
    Regex::new(&format!(r"^(?:.*\.)?(?:{key})$")).map_err(|_| {
        let supported = "regular expressions without look-around and back-references";
        DocumentError::unsupported(field, shown(key), supported)
    })
}
