//! `tokenizer_config.json` of a Hugging Face folder: which tokens have a role, and the template.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use serde_json::{Map, Value};

use super::{Specials, Tokenizer, TokenizerError};
use crate::error::json_kind;

/// The largest `tokenizer_config.json` or template that is read, in bytes.
const CONFIG_BYTES_MAX: u64 = 16 << 20;

/// What `tokenizer_config.json` says, as far as it matters here. All empty where there is no such
/// file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenizerConfig {
    /// The token that begins a sequence.
    pub bos_token: Option<String>,
    /// The token that ends a sequence.
    pub eos_token: Option<String>,
    /// The token for text outside the vocabulary.
    pub unk_token: Option<String>,
    /// The padding token.
    pub pad_token: Option<String>,
    /// The chat template: `chat_template.jinja` where there is one, else the template of that name
    /// in `tokenizer_config.json`, or of several the one called `default`.
    pub chat_template: Option<String>,
}

impl TokenizerConfig {
    /// Reads `tokenizer_config.json` and `chat_template.jinja` of a folder; both may be absent.
    ///
    /// # Errors
    /// When one is there and cannot be read or understood.
    pub fn read(folder: &Path) -> Result<Self, TokenizerError> {
        let path = folder.join("tokenizer_config.json");
        let mut config = match optional(read_limited(&path, CONFIG_BYTES_MAX))? {
            Some(bytes) => Self::from_json_bytes(&bytes)
                .map_err(|error| TokenizerError::InFile { path, error: error.into() })?,
            None => Self::default(),
        };
        let path = folder.join("chat_template.jinja");
        if let Some(bytes) = optional(read_limited(&path, CONFIG_BYTES_MAX))? {
            let template = String::from_utf8(bytes).map_err(|_| TokenizerError::InFile {
                path,
                error: TokenizerError::Json { reason: "invalid UTF-8".into() }.into(),
            })?;
            config.chat_template = Some(template);
        }
        Ok(config)
    }

    /// The same from the bytes of a `tokenizer_config.json`.
    ///
    /// # Errors
    /// When they are not JSON, or a field is of the wrong kind.
    pub fn from_json_bytes(bytes: &[u8]) -> Result<Self, TokenizerError> {
        let fields: Map<String, Value> = serde_json::from_slice(bytes)
            .map_err(|error| TokenizerError::Json { reason: error.to_string() })?;
        Ok(Self {
            bos_token: token(&fields, "bos_token")?,
            eos_token: token(&fields, "eos_token")?,
            unk_token: token(&fields, "unk_token")?,
            pad_token: token(&fields, "pad_token")?,
            chat_template: template(&fields)?,
        })
    }

    /// The ids of these tokens in a vocabulary.
    ///
    /// # Errors
    /// When the vocabulary lacks the end or beginning token. A missing padding or unknown token is
    /// ignored: some published files name one that never existed, and nothing here writes it.
    pub fn specials(&self, tokenizer: &Tokenizer) -> Result<Specials, TokenizerError> {
        let optional =
            |token: &Option<String>| token.as_deref().and_then(|t| tokenizer.token_id(t));
        let required = |field, token: &Option<String>| match (token, optional(token)) {
            (Some(token), None) => {
                Err(TokenizerError::UnknownToken { field, token: token.clone() })
            }
            (_, id) => Ok(id),
        };
        Ok(Specials {
            bos: required("bos_token", &self.bos_token)?,
            eos: required("eos_token", &self.eos_token)?,
            eot: None,
            unk: optional(&self.unk_token),
            pad: optional(&self.pad_token),
        })
    }
}

/// Reads a file that must not be larger than `limit` bytes.
pub(super) fn read_limited(path: &Path, limit: u64) -> Result<Vec<u8>, TokenizerError> {
    let io = |error| TokenizerError::io(path, &error);
    let file = File::open(path).map_err(io)?;
    let bytes = file.metadata().map_err(io)?.len();
    if bytes > limit {
        return Err(TokenizerError::TooLarge { path: path.to_owned(), bytes, limit });
    }
    let mut content = Vec::new();
    file.take(limit).read_to_end(&mut content).map_err(io)?;
    Ok(content)
}

fn optional(read: Result<Vec<u8>, TokenizerError>) -> Result<Option<Vec<u8>>, TokenizerError> {
    match read {
        Ok(bytes) => Ok(Some(bytes)),
        Err(TokenizerError::Io { kind: ErrorKind::NotFound, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A token as a string, or as an object with its `content`.
fn token(
    fields: &Map<String, Value>,
    field: &'static str,
) -> Result<Option<String>, TokenizerError> {
    let expected = "a string, an object with `content`, or null";
    match fields.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(token)) => Ok(Some(token.clone())),
        Some(other) => match other.get("content").and_then(Value::as_str) {
            Some(token) => Ok(Some(token.to_owned())),
            None => {
                Err(TokenizerError::Field { field, expected, found: json_kind(other).to_owned() })
            }
        },
    }
}

fn template(fields: &Map<String, Value>) -> Result<Option<String>, TokenizerError> {
    let field = "chat_template";
    let expected = "a string, or a list of objects with `name` and `template`";
    match fields.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(template)) => Ok(Some(template.clone())),
        Some(Value::Array(list)) => Ok(list
            .iter()
            .find(|entry| entry.get("name").and_then(Value::as_str) == Some("default"))
            .and_then(|entry| entry.get("template"))
            .and_then(Value::as_str)
            .map(str::to_owned)),
        Some(other) => {
            Err(TokenizerError::Field { field, expected, found: json_kind(other).to_owned() })
        }
    }
}
