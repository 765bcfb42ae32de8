//! HF folders: `config.json`, weights in safetensors, tokenizer and generation settings.
//!
//! Weights may be packed by bitsandbytes (NF4, with or without double quantization, and int8). They
//! stay mapped as they are: codes and scales are brought together where they are decoded.

mod bitsandbytes;
mod tokenizer_config;
mod weights;

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use bitsandbytes::Packing;
pub(crate) use tokenizer_config::TokenizerConfig;
pub use weights::Weights;

use crate::family::{self, Family};
use crate::json::{CONFIG_BYTES_MAX, Object, parse_object, read_object};
use crate::{DocumentError, Error, Hyperparameters, SpecialTokens};

/// Reads the text of a `config.json`, in the style of transformers 4 or 5.
///
/// # Errors
/// [`DocumentError`], naming the field; a setting that would change the forward pass and is not
/// computed is refused.
pub fn parse_config(text: &str) -> Result<Hyperparameters, DocumentError> {
    let config = parse_object(text)?;
    let read = read_config(&config)?;
    Ok(read.hyper)
}

/// What a `config.json` says.
struct Config {
    family: &'static Family,
    hyper: Hyperparameters,
    packing: Packing,
}

fn read_config(config: &Map<String, Value>) -> Result<Config, DocumentError> {
    let config = Object::root(config);
    let family = family::of_hf(config)?;
    let hyper = (family.from_hf)(config)?;
    Ok(Config { family, hyper, packing: bitsandbytes::packing(config)? })
}

/// An HF folder with a base.
#[derive(Clone, Debug)]
pub struct HfFolder {
    dir: PathBuf,
    pub(crate) family: &'static Family,
    hyper: Hyperparameters,
    weights: Weights,
    tokenizer: TokenizerConfig,
    eos_token_ids: Vec<u32>,
}

impl HfFolder {
    /// Reads the configs in `dir` and maps the weights.
    ///
    /// # Errors
    /// [`Error`], naming the file and the field.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let config_path = dir.join("config.json");
        let not_a_base = || Error::NotABase { path: dir.to_path_buf() };
        let config = read_object(&config_path, CONFIG_BYTES_MAX)?.ok_or_else(not_a_base)?;
        let of_config = |reason| Error::document(&config_path, reason);
        let Config { family, hyper, packing } = read_config(&config).map_err(of_config)?;

        let generation_path = dir.join("generation_config.json");
        let generation = read_object(&generation_path, CONFIG_BYTES_MAX)?.unwrap_or_default();
        let eos_token_ids = match eos_ids(&generation, hyper.vocab_size) {
            Ok(Some(ids)) => ids,
            Ok(None) => eos_ids(&config, hyper.vocab_size).map_err(of_config)?.unwrap_or_default(),
            Err(reason) => return Err(Error::document(&generation_path, reason)),
        };
        let tokenizer = TokenizerConfig::read(dir)?;
        let weights = Weights::open_packed(dir, packing)?.ok_or_else(not_a_base)?;
        let dir = dir.to_path_buf();
        Ok(Self { dir, family, hyper, weights, tokenizer, eos_token_ids })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What `config.json` says.
    pub fn hyper(&self) -> &Hyperparameters {
        &self.hyper
    }

    /// The mapped weights.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// `tokenizer.json`, if the folder has one.
    pub fn tokenizer_json(&self) -> Option<PathBuf> {
        Some(self.dir.join("tokenizer.json")).filter(|path| path.is_file())
    }

    /// The chat template: `chat_template.jinja`, or what `tokenizer_config.json` says.
    pub fn chat_template(&self) -> Option<&str> {
        self.tokenizer.chat_template.as_deref()
    }

    /// The special tokens of `tokenizer_config.json`.
    pub fn special_tokens(&self) -> &SpecialTokens {
        &self.tokenizer.special
    }

    /// Tokens at which generation stops: those of `generation_config.json`, else of `config.json`.
    pub fn eos_token_ids(&self) -> &[u32] {
        &self.eos_token_ids
    }
}

/// `eos_token_id`, one or a list; all must be tokens.
fn eos_ids(
    config: &Map<String, Value>,
    vocab_size: usize,
) -> Result<Option<Vec<u32>>, DocumentError> {
    const KEY: &str = "eos_token_id";
    let config = Object::root(config);
    let Some(value) = config.get(KEY) else { return Ok(None) };
    let values = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
    let mut ids = Vec::new();
    for value in values {
        if !value.is_number() {
            return Err(config.wrong_type(KEY, "a token id or a list of them", value));
        }
        let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
        let Some(id) = id.filter(|id| (*id as usize) < vocab_size) else {
            let expected = format!("a token id below {vocab_size}");
            return Err(DocumentError::out_of_range(KEY, value, expected));
        };
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    Ok(Some(ids))
}
