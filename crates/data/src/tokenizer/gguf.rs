//! A tokenizer out of the `tokenizer.ggml.*` metadata of a GGUF file: byte-level BPE here,
//! SentencePiece in `spm`.

use std::collections::HashMap;

use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, DecoderWrapper};

use super::{Inner, Specials, Tokenizer, TokenizerError, pre, spm};

/// More tokens than any vocabulary has.
const TOKENS_MAX: usize = 1 << 22;
/// More merges than any vocabulary has.
const MERGES_MAX: usize = 1 << 23;
/// `token_type` of the token for what has no other.
pub(super) const UNKNOWN: i32 = 2;
/// `token_type` of a control token such as `<|im_end|>`.
pub(super) const CONTROL: i32 = 3;
/// `token_type` of a token a user added: matched as a whole, but ordinary text.
pub(super) const USER_DEFINED: i32 = 4;
/// `token_type` of a token that stands for one byte.
pub(super) const BYTE: i32 = 6;

/// The tokenizer metadata of a GGUF file, as it stands there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GgufVocab {
    /// `tokenizer.ggml.model`: `gpt2` (byte-level BPE) or `llama` (SentencePiece).
    pub model: String,
    /// `tokenizer.ggml.pre`: how text is split before merging; empty where absent.
    pub pre: String,
    /// `tokenizer.ggml.tokens`; the place is the id.
    pub tokens: Vec<String>,
    /// `tokenizer.ggml.token_type`, one a token, or empty.
    pub token_types: Vec<i32>,
    /// `tokenizer.ggml.merges`, best first: two pieces with a space between; byte-level BPE only.
    pub merges: Vec<String>,
    /// `tokenizer.ggml.scores`, one a token; SentencePiece only.
    pub scores: Vec<f32>,
    /// `tokenizer.ggml.bos_token_id`.
    pub bos: Option<u32>,
    /// `tokenizer.ggml.eos_token_id`.
    pub eos: Option<u32>,
    /// `tokenizer.ggml.eot_token_id`.
    pub eot: Option<u32>,
    /// `tokenizer.ggml.unknown_token_id`.
    pub unk: Option<u32>,
    /// `tokenizer.ggml.padding_token_id`.
    pub pad: Option<u32>,
    /// `tokenizer.ggml.add_bos_token`; absent, the habit of the kind decides.
    pub add_bos: Option<bool>,
    /// `tokenizer.ggml.add_eos_token`; absent means no.
    pub add_eos: Option<bool>,
    /// `tokenizer.ggml.add_space_prefix`; absent means yes. SentencePiece only.
    pub add_space_prefix: Option<bool>,
}

pub(super) fn build(vocab: GgufVocab) -> Result<Tokenizer, TokenizerError> {
    match vocab.model.as_str() {
        "gpt2" => byte_level(vocab),
        "llama" => spm::build(vocab),
        _ => Err(TokenizerError::UnknownModel { model: vocab.model }),
    }
}

fn byte_level(vocab: GgufVocab) -> Result<Tokenizer, TokenizerError> {
    let recipe = pre::recipe(&vocab.pre)?;
    check_counts(&vocab)?;
    let ids = index(&vocab.tokens)?;
    let specials = specials(&vocab)?;
    let merges = merges(&vocab.merges, &ids)?;
    let added = added_tokens(&vocab.tokens, &vocab.token_types);
    let (add_bos, add_eos) = (vocab.add_bos, vocab.add_eos.unwrap_or(false));
    drop(ids);

    let vocabulary: Vec<(String, u32)> = vocab.tokens.into_iter().zip(0..).collect();
    let model = BPE::builder()
        .vocab_and_merges(vocabulary.into_iter().collect::<HashMap<_, _, _>>(), merges)
        .ignore_merges(recipe.ignore_merges)
        .build()
        .map_err(|error| TokenizerError::Broken { reason: error.to_string() })?;
    let mut inner = tokenizers::Tokenizer::new(model);
    inner.with_normalizer(recipe.normalizer);
    inner.with_pre_tokenizer(Some(recipe.splitter));
    inner.with_decoder(Some(DecoderWrapper::ByteLevel(ByteLevel::new(false, false, false))));
    inner.add_tokens(&added);

    let mut tokenizer = Tokenizer::new(Inner::Library(Box::new(inner)))?.with_specials(specials);
    tokenizer.prefix.extend(specials.bos.filter(|_| add_bos.unwrap_or(recipe.add_bos)));
    tokenizer.suffix.extend(specials.eos.filter(|_| add_eos));
    Ok(tokenizer)
}

pub(super) fn check_counts(vocab: &GgufVocab) -> Result<(), TokenizerError> {
    let (tokens, types) = (vocab.tokens.len(), vocab.token_types.len());
    if tokens == 0 {
        return Err(TokenizerError::Empty { field: "tokenizer.ggml.tokens" });
    }
    let limits = [
        ("tokenizer.ggml.tokens", tokens, TOKENS_MAX),
        ("tokenizer.ggml.merges", vocab.merges.len(), MERGES_MAX),
    ];
    if let Some(&(field, count, limit)) = limits.iter().find(|(_, count, limit)| count > limit) {
        return Err(TokenizerError::TooMany { field, count, limit });
    }
    if types != 0 && types != tokens {
        return Err(TokenizerError::TypeCount { tokens, types });
    }
    Ok(())
}

/// Token to id; the first pair of equals is an error. Empty tokens, which fill a vocabulary up, are
/// left out.
pub(super) fn index(tokens: &[String]) -> Result<HashMap<&str, usize>, TokenizerError> {
    let mut ids = HashMap::with_capacity(tokens.len());
    let spelled = tokens.iter().enumerate().filter(|(_, token)| !token.is_empty());
    for (second, token) in spelled {
        if let Some(first) = ids.insert(token.as_str(), second) {
            return Err(TokenizerError::DuplicateToken { token: token.clone(), first, second });
        }
    }
    Ok(ids)
}

/// Merges as pairs, each checked: both pieces and the result are tokens.
fn merges(
    merges: &[String],
    ids: &HashMap<&str, usize>,
) -> Result<Vec<(String, String)>, TokenizerError> {
    let mut result = String::new();
    merges
        .iter()
        .enumerate()
        .map(|(index, merge)| {
            let pair = merge.split_once(' ').filter(|(left, right)| {
                !left.is_empty() && !right.is_empty() && !right.contains(' ')
            });
            let Some((left, right)) = pair else {
                return Err(TokenizerError::MergeShape { index, merge: merge.clone() });
            };
            result.clear();
            result.push_str(left);
            result.push_str(right);
            match [left, right, &result].into_iter().find(|piece| !ids.contains_key(piece)) {
                Some(piece) => Err(TokenizerError::MergeUnknown { index, piece: piece.to_owned() }),
                None => Ok((left.to_owned(), right.to_owned())),
            }
        })
        .collect()
}

pub(super) fn specials(vocab: &GgufVocab) -> Result<Specials, TokenizerError> {
    let vocab_size = vocab.tokens.len();
    let within = |field, id: Option<u32>| match id {
        Some(id) if id as usize >= vocab_size => {
            Err(TokenizerError::SpecialOutside { field, id, vocab_size })
        }
        _ => Ok(id),
    };
    Ok(Specials {
        bos: within("tokenizer.ggml.bos_token_id", vocab.bos)?,
        eos: within("tokenizer.ggml.eos_token_id", vocab.eos)?,
        eot: within("tokenizer.ggml.eot_token_id", vocab.eot)?,
        unk: within("tokenizer.ggml.unknown_token_id", vocab.unk)?,
        pad: within("tokenizer.ggml.padding_token_id", vocab.pad)?,
    })
}

/// Tokens that are matched as a whole before anything is split or normalized.
pub(super) fn added_tokens(tokens: &[String], types: &[i32]) -> Vec<AddedToken> {
    let whole = |kind: i32| matches!(kind, CONTROL | USER_DEFINED);
    tokens
        .iter()
        .zip(types)
        .filter(|&(token, &kind)| whole(kind) && !token.is_empty())
        .map(|(token, &kind)| AddedToken::from(token.clone(), kind == CONTROL).normalized(false))
        .collect()
}
