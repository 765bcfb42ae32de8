//! A first look at a `tokenizer.json`, for what the `tokenizers` crate takes on trust.
//!
//! It unwraps its way through a document that breaks off, through a post-processor that names a
//! token it does not define, and through a merge shorter than the prefix it should begin with. Each
//! is told here before it comes to that.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::TokenizerError;

#[derive(Deserialize)]
struct Outline {
    #[serde(default)]
    model: ModelOutline,
    #[serde(default)]
    post_processor: Value,
}

#[derive(Default, Deserialize)]
struct ModelOutline {
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
}

#[derive(Deserialize)]
struct MergesOutline {
    model: Merges,
}

#[derive(Deserialize)]
struct Merges {
    #[serde(default)]
    merges: Vec<Merge>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Line(String),
    Pair(IgnoredAny, String),
    Other(IgnoredAny),
}

/// Checks a document as far as described above.
pub(super) fn check(bytes: &[u8]) -> Result<(), TokenizerError> {
    let json = |error: serde_json::Error| TokenizerError::Json { reason: error.to_string() };
    let outline: Outline = serde_json::from_slice(bytes).map_err(json)?;
    check_post_processor(&outline.post_processor)?;
    match outline.model.continuing_subword_prefix {
        Some(prefix) if !prefix.is_empty() => {
            let merges: MergesOutline = serde_json::from_slice(bytes).map_err(json)?;
            check_prefix(&prefix, &merges.model.merges)
        }
        _ => Ok(()),
    }
}

fn check_prefix(prefix: &str, merges: &[Merge]) -> Result<(), TokenizerError> {
    for (index, merge) in merges.iter().enumerate() {
        let right = match merge {
            Merge::Line(line) => line.split_once(' ').map_or("", |(_, right)| right),
            Merge::Pair(_, right) => right,
            // The crate below has words for this one.
            Merge::Other(_) => continue,
        };
        if right.get(prefix.len()..).is_none() {
            let reason = format!(
                "model.merges[{index}] ends in {right:?}: expected it to begin with the subword \
                 prefix {prefix:?}"
            );
            return Err(TokenizerError::Json { reason });
        }
    }
    Ok(())
}

/// A post-processor, or a sequence of them.
fn check_post_processor(value: &Value) -> Result<(), TokenizerError> {
    if let Some(Value::Array(parts)) = value.get("processors") {
        return parts.iter().try_for_each(check_post_processor);
    }
    let defined = value.get("special_tokens");
    let pieces = ["single", "pair"].into_iter().filter_map(|key| value.get(key)?.as_array());
    for piece in pieces.flatten() {
        let token = match piece {
            Value::String(name) if !name.starts_with('$') => Some(name.as_str()),
            piece => piece.pointer("/SpecialToken/id").and_then(Value::as_str),
        };
        if let Some(token) = token
            && defined.is_none_or(|defined| defined.get(token).is_none())
        {
            let reason = format!("post_processor names {token:?} and does not define it");
            return Err(TokenizerError::Json { reason });
        }
    }
    Ok(())
}
