//! Where a base keeps its tokenizer, and the vocabulary that GGUF files carry.

use std::path::PathBuf;

use crate::DocumentError;
use crate::gguf::Metadata;
use crate::json::required;

/// Where to read the tokenizer of a base from.
#[derive(Clone, Debug, PartialEq)]
pub enum TokenizerSource {
    /// An HF `tokenizer.json`.
    Json(PathBuf),
    /// The vocabulary in the metadata of a GGUF file.
    Gguf(GgufTokenizer),
    /// The base has none: it can be used with token ids only.
    None,
}

/// The vocabulary and the rules of a tokenizer as `tokenizer.ggml.*` says them.
///
/// All token ids in it are below `tokens.len()`.
#[derive(Clone, Debug, PartialEq)]
pub struct GgufTokenizer {
    /// The kind, such as `gpt2` (byte-level BPE) or `llama` (SentencePiece).
    pub model: String,
    /// How text is split before merging, such as `smollm`.
    pub pre: Option<String>,
    /// Text of every token.
    pub tokens: Vec<String>,
    /// Kind of every token, or empty.
    pub token_types: Vec<i32>,
    /// BPE merges in order of rank, or empty.
    pub merges: Vec<String>,
    /// SentencePiece score of every token, or empty.
    pub scores: Vec<f32>,
    /// Token that begins a text.
    pub bos: Option<u32>,
    /// Token that ends a text.
    pub eos: Option<u32>,
    /// Token that ends a turn.
    pub eot: Option<u32>,
    /// Token for what has no other.
    pub unk: Option<u32>,
    /// Token that fills up.
    pub pad: Option<u32>,
    /// Whether `bos` is put in front.
    pub add_bos: Option<bool>,
    /// Whether `eos` is put at the end.
    pub add_eos: Option<bool>,
    /// Whether a space is put in front.
    pub add_space_prefix: Option<bool>,
}

/// The special tokens that chat templates name, as text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Begins a text.
    pub bos: Option<String>,
    /// Ends a text.
    pub eos: Option<String>,
    /// Stands for what has no other.
    pub unk: Option<String>,
    /// Fills up.
    pub pad: Option<String>,
}

const TOKENS: &str = "tokenizer.ggml.tokens";
const BOS: &str = "tokenizer.ggml.bos_token_id";
const EOS: &str = "tokenizer.ggml.eos_token_id";
const EOT: &str = "tokenizer.ggml.eot_token_id";
const UNK: &str = "tokenizer.ggml.unknown_token_id";
const PAD: &str = "tokenizer.ggml.padding_token_id";

impl GgufTokenizer {
    /// Reads the vocabulary; `None` if the file has none.
    pub(crate) fn read(metadata: &Metadata<'_>) -> Result<Option<Self>, DocumentError> {
        let Some(model) = metadata.get_str("tokenizer.ggml.model")? else { return Ok(None) };
        let strings = |key| Ok(metadata.strings(key)?.map(owned));
        let tokens: Vec<String> = required(strings(TOKENS)?, TOKENS, "an array of texts")?;
        let types = metadata.integers("tokenizer.ggml.token_type")?;
        let scores = metadata.floats("tokenizer.ggml.scores")?;
        let id = |key| token_id(metadata, key, tokens.len());
        let tokenizer = Self {
            model: model.to_owned(),
            pre: metadata.get_str("tokenizer.ggml.pre")?.map(str::to_owned),
            token_types: types.into_iter().flatten().map(token_type).collect::<Result<_, _>>()?,
            merges: strings("tokenizer.ggml.merges")?.unwrap_or_default(),
            scores: scores.into_iter().flatten().collect(),
            bos: id(BOS)?,
            eos: id(EOS)?,
            eot: id(EOT)?,
            unk: id(UNK)?,
            pad: id(PAD)?,
            add_bos: metadata.get_bool("tokenizer.ggml.add_bos_token")?,
            add_eos: metadata.get_bool("tokenizer.ggml.add_eos_token")?,
            add_space_prefix: metadata.get_bool("tokenizer.ggml.add_space_prefix")?,
            tokens,
        };
        let per_token = [
            ("tokenizer.ggml.token_type", tokenizer.token_types.len()),
            ("tokenizer.ggml.scores", tokenizer.scores.len()),
        ];
        for (key, len) in per_token {
            if len != 0 && len != tokenizer.tokens.len() {
                let (len, tokens) = (items(len), items(tokenizer.tokens.len()));
                return Err(DocumentError::conflict(key, len, TOKENS, tokens));
            }
        }
        Ok(Some(tokenizer))
    }
}

/// Tokens at which generation stops, from GGUF metadata.
pub(crate) fn gguf_eos_ids(
    metadata: &Metadata<'_>,
    vocab_size: usize,
) -> Result<Vec<u32>, DocumentError> {
    let mut ids = Vec::new();
    for key in [EOS, EOT] {
        ids.extend(token_id(metadata, key, vocab_size)?.filter(|id| !ids.contains(id)));
    }
    Ok(ids)
}

/// The special tokens of GGUF metadata, as text.
pub(crate) fn gguf_special_tokens(metadata: &Metadata<'_>) -> Result<SpecialTokens, DocumentError> {
    let Some(tokens) = metadata.strings(TOKENS)? else { return Ok(SpecialTokens::default()) };
    let text = |key| {
        let id = token_id(metadata, key, tokens.len())?;
        Ok(id.and_then(|id| tokens.clone().nth(id as usize)).map(str::to_owned))
    };
    Ok(SpecialTokens { bos: text(BOS)?, eos: text(EOS)?, unk: text(UNK)?, pad: text(PAD)? })
}

fn token_id(
    metadata: &Metadata<'_>,
    key: &str,
    tokens: usize,
) -> Result<Option<u32>, DocumentError> {
    let id = metadata.get_u32(key)?;
    match id.filter(|id| *id as usize >= tokens) {
        Some(id) => {
            let expected = format!("a token id below {tokens}");
            Err(DocumentError::out_of_range(key, id, expected))
        }
        None => Ok(id),
    }
}

fn token_type(value: i64) -> Result<i32, DocumentError> {
    let key = "tokenizer.ggml.token_type";
    i32::try_from(value).map_err(|_| DocumentError::out_of_range(key, value, "numbers of 32 bits"))
}

fn owned<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<String> {
    texts.map(str::to_owned).collect()
}

fn items(count: usize) -> String {
    format!("an array of {count}")
}
