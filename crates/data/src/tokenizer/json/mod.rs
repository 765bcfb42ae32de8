//! From a `tokenizer.json` to the vocabulary of a GGUF file, and back. SentencePiece is in [`spm`].
//!
//! Both hold the same byte-level BPE: tokens, merges, and how text is split before merging. GGUF
//! has a name for the way of splitting; [`pre`](super::pre) holds the names with their parts, and a
//! document is searched for the name whose parts are its own. Parts that have no name are refused:
//! another program would split some texts otherwise.

mod spm;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::pre::{self, KNOWN, Recipe};
use super::{GgufVocab, JSON_BYTES_MAX, TokenizerConfig, TokenizerError, hf};

/// `token_type` of an ordinary token.
const NORMAL: i32 = 1;
/// Of a control token such as `<|im_end|>`.
const CONTROL: i32 = 3;
/// Of a token that a user added.
const USER_DEFINED: i32 = 4;
/// Of an id that stands for nothing.
const UNUSED: i32 = 5;

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    added_tokens: Vec<Added>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    model: Model,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type", default)]
    kind: Option<String>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    #[serde(default)]
    fuse_unk: bool,
    #[serde(default)]
    unk_token: Option<String>,
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    vocab: Option<HashMap<String, u32>>,
    #[serde(default)]
    merges: Vec<Merge>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Line(String),
    Pair(String, String),
}

impl Merge {
    /// Both halves, where there are two.
    fn pieces(&self) -> Option<(&str, &str)> {
        match self {
            Self::Line(line) => line.split_once(' '),
            Self::Pair(left, right) => Some((left.as_str(), right.as_str())),
        }
        .filter(|(left, right)| !left.is_empty() && !right.is_empty())
    }

    fn shown(&self) -> String {
        match self {
            Self::Line(line) => line.clone(),
            Self::Pair(left, right) => format!("{left} {right}"),
        }
    }
}

impl GgufVocab {
    /// The vocabulary of the tokenizer in an HF folder, filled up with unused tokens to `rows`, the
    /// number of token ids of the model.
    ///
    /// # Errors
    /// When a file cannot be read or understood, the tokenizer is no BPE, or splits or joins text
    /// in a way that GGUF has no words for.
    pub fn from_hf_folder(folder: &Path, rows: usize) -> Result<Self, TokenizerError> {
        let path = folder.join("tokenizer.json");
        let bytes = hf::read_limited(&path, JSON_BYTES_MAX)?;
        let config = TokenizerConfig::read(folder)?;
        Self::from_json(&bytes, &config, rows)
            .map_err(|error| TokenizerError::InFile { path, error: error.into() })
    }

    /// The same from the bytes of a `tokenizer.json`.
    ///
    /// # Errors
    /// As [`from_hf_folder`](Self::from_hf_folder).
    pub fn from_json(
        bytes: &[u8],
        config: &TokenizerConfig,
        rows: usize,
    ) -> Result<Self, TokenizerError> {
        let document: Document = serde_json::from_slice(bytes).map_err(|e| unread(bytes, &e))?;
        let around = Around::of(&document.post_processor);
        let mut vocab = if kind_of(&document.model)? == Kind::SentencePiece {
            spm::vocab(document, rows)?
        } else {
            byte_level(document, rows)?
        };
        let tokens = &vocab.tokens;
        let ids: HashMap<&str, u32> = tokens.iter().map(String::as_str).zip(0..).collect();
        let required = |field, token: &Option<String>| match token {
            None => Ok(None),
            Some(token) => ids
                .get(token.as_str())
                .copied()
                .map(Some)
                .ok_or_else(|| TokenizerError::UnknownToken { field, token: token.clone() }),
        };
        let optional = |token: &Option<String>| ids.get(token.as_deref()?).copied();
        let (bos, eos) =
            (required("bos_token", &config.bos_token)?, required("eos_token", &config.eos_token)?);
        let (unk, pad) = (optional(&config.unk_token).or(vocab.unk), optional(&config.pad_token));
        drop(ids);
        (vocab.bos, vocab.eos, vocab.unk, vocab.pad) = (bos, eos, unk, pad);
        vocab.add_bos = Some(bos.is_some() && around.before == bos);
        vocab.add_eos = Some(eos.is_some() && around.after == eos);
        Ok(vocab)
    }

    /// The `tokenizer.json` of this vocabulary.
    ///
    /// # Errors
    /// When the vocabulary is of a kind that is not understood, or contradicts itself.
    pub fn to_json(&self) -> Result<Value, TokenizerError> {
        // Building it checks all that the document relies on.
        let built = super::Tokenizer::from_gguf(self.clone())?;
        let (prefix, suffix) = (built.prefix(), built.suffix());
        let unk = built.specials().unk;
        let part = |part: Result<Value, serde_json::Error>| {
            part.map_err(|error| TokenizerError::Json { reason: error.to_string() })
        };
        let (pre_tokenizer, post_processor, parts);
        if self.model == "llama" {
            parts = spm::parts(self, unk)?;
            (pre_tokenizer, post_processor) = (Value::Null, self.template(prefix, suffix));
        } else {
            let recipe = pre::recipe(&self.pre)?;
            let byte_level = json!({
                "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                "use_regex": false,
            });
            pre_tokenizer = part(serde_json::to_value(&recipe.splitter))?;
            post_processor = match self.template(prefix, suffix) {
                Value::Null => byte_level.clone(),
                template => json!({"type": "Sequence", "processors": [byte_level, template]}),
            };
            let normalizer = part(serde_json::to_value(&recipe.normalizer))?;
            let model = self.byte_level_model(recipe.ignore_merges);
            parts = spm::Parts { model, normalizer, decoder: byte_level };
        }
        Ok(json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": self.added(unk),
            "normalizer": parts.normalizer,
            "pre_tokenizer": pre_tokenizer,
            "post_processor": post_processor,
            "decoder": parts.decoder,
            "model": parts.model,
        }))
    }

    /// Tokens that are matched as a whole.
    fn added(&self, unk: Option<u32>) -> Vec<Value> {
        let unk = unk.filter(|_| self.model == "llama");
        let kinds = self.token_types.iter().copied();
        (0_u32..)
            .zip(self.tokens.iter().zip(kinds))
            .filter(|(id, (token, kind))| {
                let whole = matches!(*kind, CONTROL | USER_DEFINED) || unk == Some(*id);
                whole && !token.is_empty()
            })
            .map(|(id, (token, kind))| {
                json!({
                    "id": id, "content": token, "single_word": false, "lstrip": false,
                    "rstrip": false, "normalized": false, "special": kind != USER_DEFINED,
                })
            })
            .collect()
    }

    fn byte_level_model(&self, ignore_merges: bool) -> Value {
        let vocab: Map<String, Value> =
            self.tokens.iter().cloned().zip((0_u32..).map(Value::from)).collect();
        json!({
            "type": "BPE", "dropout": null, "unk_token": null,
            "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": ignore_merges,
            "vocab": vocab, "merges": self.merges,
        })
    }

    /// What puts bos and eos around a text; null where none belongs there.
    fn template(&self, prefix: &[u32], suffix: &[u32]) -> Value {
        if prefix.is_empty() && suffix.is_empty() {
            return Value::Null;
        }
        let token = |id: &u32| self.tokens[*id as usize].as_str();
        let special = |id: &u32| json!({"SpecialToken": {"id": token(id), "type_id": 0}});
        let around = |name: &str| -> Vec<Value> {
            let text = json!({"Sequence": {"id": name, "type_id": 0}});
            prefix.iter().map(special).chain([text]).chain(suffix.iter().map(special)).collect()
        };
        let mut pair = around("A");
        pair.extend(around("B"));
        let defined: Map<String, Value> = prefix
            .iter()
            .chain(suffix)
            .map(|id| {
                let name = token(id);
                (name.to_owned(), json!({"id": name, "ids": [id], "tokens": [name]}))
            })
            .collect();
        json!({
            "type": "TemplateProcessing",
            "single": around("A"),
            "pair": pair,
            "special_tokens": defined,
        })
    }
}

/// Tokens by id with their types; ids that nothing has are unused.
fn table(
    vocab: HashMap<String, u32>,
    added: &[Added],
    rows: usize,
) -> Result<(Vec<String>, Vec<i32>), TokenizerError> {
    let mut tokens: Vec<Option<(String, i32)>> = vec![None; rows];
    let outside = |id: u32| TokenizerError::IdOutside { id, rows };
    for (token, id) in vocab {
        let place = tokens.get_mut(id as usize).ok_or_else(|| outside(id))?;
        if let Some((other, _)) = place.replace((token, NORMAL)) {
            return Err(TokenizerError::SharedId { id, token: other });
        }
    }
    for Added { id, content, special } in added {
        let place = tokens.get_mut(*id as usize).ok_or_else(|| outside(*id))?;
        let kind = if *special { CONTROL } else { USER_DEFINED };
        match place.replace((content.clone(), kind)) {
            Some((other, _)) if other != *content => {
                return Err(TokenizerError::SharedId { id: *id, token: other });
            }
            _ => {}
        }
    }
    let named = |(id, token): (usize, Option<(String, i32)>)| {
        token.unwrap_or_else(|| (format!("[PAD{id}]"), UNUSED))
    };
    Ok(tokens.into_iter().enumerate().map(named).unzip())
}

/// Why a document cannot be read; models of other kinds hold their vocabulary in other ways.
fn unread(bytes: &[u8], error: &serde_json::Error) -> TokenizerError {
    #[derive(Deserialize)]
    struct Outline {
        model: Named,
    }
    #[derive(Deserialize)]
    struct Named {
        #[serde(rename = "type")]
        kind: String,
    }
    match serde_json::from_slice(bytes) {
        Ok(Outline { model: Named { kind } }) if kind != "BPE" => {
            TokenizerError::NotByteLevel { kind }
        }
        _ => TokenizerError::Json { reason: error.to_string() },
    }
}

/// The two kinds of vocabulary that GGUF files hold.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    ByteLevel,
    SentencePiece,
}

fn kind_of(model: &Model) -> Result<Kind, TokenizerError> {
    let kind = model.kind.as_deref().unwrap_or("BPE");
    let marks = [&model.continuing_subword_prefix, &model.end_of_word_suffix];
    let marked = marks.into_iter().flatten().any(|mark| !mark.is_empty());
    match kind {
        "BPE" if marked => {
            Err(TokenizerError::NotByteLevel { kind: "BPE that marks parts of words".to_owned() })
        }
        "BPE" if model.byte_fallback => Ok(Kind::SentencePiece),
        "BPE" => Ok(Kind::ByteLevel),
        other => Err(TokenizerError::NotByteLevel { kind: other.to_owned() }),
    }
}

/// Tokens, types and merges of a byte-level document, without special ids.
fn byte_level(document: Document, rows: usize) -> Result<GgufVocab, TokenizerError> {
    let pre = name_of(&document)?.to_owned();
    let Document { added_tokens, model, .. } = document;
    let merges = model.merges.into_iter().map(|merge| match merge {
        Merge::Line(line) => line,
        Merge::Pair(left, right) => format!("{left} {right}"),
    });
    let merges = merges.collect();
    let (tokens, token_types) = table(model.vocab.unwrap_or_default(), &added_tokens, rows)?;
    let model = "gpt2".to_owned();
    Ok(GgufVocab { model, pre, tokens, token_types, merges, ..GgufVocab::default() })
}

/// The name that GGUF has for the way a document splits text.
fn name_of(document: &Document) -> Result<&'static str, TokenizerError> {
    let Document { normalizer, pre_tokenizer, model, .. } = document;
    let (split, normal) = (canonical(pre_tokenizer), canonical(normalizer));
    let same = |recipe: &Recipe| {
        let of = |part: Result<Value, serde_json::Error>| part.map(|part| canonical(&part)).ok();
        recipe.ignore_merges == model.ignore_merges
            && of(serde_json::to_value(&recipe.splitter)) == Some(split.clone())
            && of(serde_json::to_value(&recipe.normalizer)) == Some(normal.clone())
    };
    let found = KNOWN.into_iter().find(|name| pre::recipe(name).is_ok_and(|recipe| same(&recipe)));
    found.ok_or_else(|| TokenizerError::UnknownSplit {
        pre_tokenizer: cut(pre_tokenizer),
        normalizer: cut(normalizer),
    })
}

/// A part of a pipeline as a list of its steps, without what does not change ids.
fn canonical(part: &Value) -> Vec<BTreeMap<String, Value>> {
    let Some(fields) = part.as_object() else { return Vec::new() };
    let steps =
        ["pretokenizers", "normalizers"].iter().find_map(|key| fields.get(*key)?.as_array());
    if let Some(steps) = steps {
        return steps.iter().flat_map(canonical).collect();
    }
    let mut step: BTreeMap<_, _> = fields
        .iter()
        .filter(|(key, _)| *key != "trim_offsets")
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    // Old documents leave out what holds by default.
    if fields.get("type").is_some_and(|kind| kind == "ByteLevel") {
        step.entry("use_regex".to_owned()).or_insert(Value::Bool(true));
    }
    vec![step]
}

/// A part of a document, cut to a length that fits an error message.
fn cut(part: &Value) -> String {
    const SHOWN: usize = 300;
    let text = part.to_string();
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// Single tokens that a post-processor puts around a text.
#[derive(Default)]
struct Around {
    before: Option<u32>,
    after: Option<u32>,
}

impl Around {
    fn of(post: &Value) -> Self {
        if let Some(parts) = post.get("processors").and_then(Value::as_array) {
            return parts.iter().map(Self::of).fold(Self::default(), |all, part| Self {
                before: all.before.or(part.before),
                after: all.after.or(part.after),
            });
        }
        let Some(single) = post.get("single").and_then(Value::as_array) else {
            return Self::default();
        };
        let id = |piece: Option<&Value>| {
            let name = piece?.pointer("/SpecialToken/id")?.as_str()?;
            let id = post.get("special_tokens")?.get(name)?.get("ids")?.get(0)?.as_u64()?;
            u32::try_from(id).ok()
        };
        Self { before: id(single.first()), after: id(single.last()) }
    }
}
