//! A SentencePiece tokenizer out of the `tokenizer.ggml.*` metadata of a GGUF file.
//!
//! Such files carry scores instead of merges. [`model`] joins by them; the rest is put together
//! from the parts that Hugging Face's converters use: spaces become `▁`, one of them is put in
//! front of a text and of what follows a special token where the file says so, and a character
//! without a token becomes its bytes.

mod model;

use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as Decoders;
use tokenizers::decoders::strip::Strip;
use tokenizers::normalizers::{Prepend, Replace, Sequence as Normalizers};
use tokenizers::{DecoderWrapper, NormalizerWrapper};

pub(super) use self::model::Spm;

use self::model::Role;
use super::gguf::{BYTE, CONTROL, UNKNOWN, added_tokens, check_counts, index, specials};
use super::inner::Around;
use super::{GgufVocab, Inner, Specials, Tokenizer, TokenizerError};

/// What stands for a space in the tokens.
const SPACE: &str = "▁";

/// Ids that files of this kind leave unsaid: `<unk>`, `<s>` and `</s>`, first in the vocabulary.
const USUAL: Specials = Specials { unk: Some(0), bos: Some(1), eos: Some(2), eot: None, pad: None };

pub(super) fn build(vocab: GgufVocab) -> Result<Tokenizer, TokenizerError> {
    check_counts(&vocab)?;
    let types = kinds(&vocab);
    check_scores(&vocab)?;
    drop(index(&vocab.tokens)?);
    let specials = with_usual(specials(&vocab)?, &types);
    // Where a text spells the token for the unknown, that is meant.
    let whole: Vec<i32> =
        types.iter().map(|&kind| if kind == UNKNOWN { CONTROL } else { kind }).collect();
    let added = added_tokens(&vocab.tokens, &whole);
    let bytes: Vec<Option<u8>> =
        vocab.tokens.iter().zip(&types).map(|(token, &kind)| byte_of(token, kind)).collect();
    let role = |id: usize| match (bytes[id], types[id]) {
        (Some(byte), _) => Role::Byte(byte),
        (None, CONTROL | UNKNOWN | BYTE) => Role::Apart,
        _ => Role::Text,
    };
    // A zero below zero is a zero.
    let scores = vocab.scores.iter().map(|score| score + 0.0).collect();
    let model = Spm::new(vocab.tokens, scores, role, specials.unk);

    let space_first = vocab.add_space_prefix.unwrap_or(true);
    let mut inner = Around::new(model);
    inner.with_normalizer(Some(normalizer(space_first)));
    inner.with_decoder(Some(decoder(space_first)));
    inner.add_tokens(&added);
    let mut tokenizer = Tokenizer::new(Inner::Spm(Box::new(inner)))?.with_specials(specials);
    tokenizer.prefix.extend(specials.bos.filter(|_| vocab.add_bos.unwrap_or(true)));
    tokenizer.suffix.extend(specials.eos.filter(|_| vocab.add_eos.unwrap_or(false)));
    Ok(tokenizer)
}

/// The type of each token; files without types are told by the spelling of bytes alone.
pub(super) fn kinds(vocab: &GgufVocab) -> Vec<i32> {
    let spelled = |token: &String| if byte_of(token, BYTE).is_some() { BYTE } else { 1 };
    if vocab.token_types.is_empty() {
        vocab.tokens.iter().map(spelled).collect()
    } else {
        vocab.token_types.clone()
    }
}

fn check_scores(vocab: &GgufVocab) -> Result<(), TokenizerError> {
    let (tokens, scores) = (vocab.tokens.len(), vocab.scores.len());
    if scores != tokens {
        return Err(TokenizerError::ScoreCount { tokens, scores });
    }
    match vocab.scores.iter().position(|score| score.is_nan()) {
        Some(index) => Err(TokenizerError::ScoreNaN { index }),
        None => Ok(()),
    }
}

/// The byte that a token of that type stands for, spelled `<0x0A>`.
pub(super) fn byte_of(token: &str, kind: i32) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    let spelled = kind == BYTE && digits.len() == 2 && !digits.starts_with('+');
    u8::from_str_radix(digits, 16).ok().filter(|_| spelled)
}

/// Fills in the ids that a file leaves unsaid, where a token of the right kind is there.
fn with_usual(said: Specials, types: &[i32]) -> Specials {
    let usual = |said: Option<u32>, usual: Option<u32>, kind| {
        said.or(usual.filter(|&id| types.get(id as usize) == Some(&kind)))
    };
    Specials {
        bos: usual(said.bos, USUAL.bos, CONTROL),
        eos: usual(said.eos, USUAL.eos, CONTROL),
        unk: usual(said.unk, USUAL.unk, UNKNOWN),
        ..said
    }
}

pub(super) fn normalizer(space_first: bool) -> NormalizerWrapper {
    let spaces = replace(" ", SPACE).into();
    let first = space_first.then(|| Prepend::new(SPACE.to_owned()).into());
    Normalizers::new(first.into_iter().chain([spaces]).collect()).into()
}

pub(super) fn decoder(space_first: bool) -> DecoderWrapper {
    let mut parts: Vec<DecoderWrapper> =
        vec![replace(SPACE, " ").into(), ByteFallback::new().into(), Fuse::new().into()];
    if space_first {
        parts.push(Strip::new(' ', 1, 0).into());
    }
    Decoders::new(parts).into()
}

fn replace(from: &str, to: &str) -> Replace {
    Replace::new(from, to).unwrap_or_else(|error| panic!("a plain text is no pattern: {error}"))
}
