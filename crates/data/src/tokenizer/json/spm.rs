//! SentencePiece vocabularies: scores as the merges of a `tokenizer.json`, and back.
//!
//! Scores rank what a merge makes, a list of merges ranks pairs. The merges that say the same as
//! scores are all ways to make a token of two others, best token first, as Hugging Face's converter
//! lists them; of one token's ways the longer left half comes first, as joining goes from the left.
//! What either side cannot say is refused: tokens of one score, a character that is no token, a
//! list that lacks ways or shuffles them.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use serde_json::{Value, json};

use super::super::gguf::{BYTE, CONTROL, UNKNOWN, USER_DEFINED};
use super::super::{GgufVocab, TokenizerError, spm};
use super::{Document, Merge, canonical, cut, table};

/// `token_type` of an ordinary token.
const NORMAL: i32 = 1;
/// What stands for a space.
const SPACE: &str = "▁";

/// Model, normalizer and decoder of a document.
pub(super) struct Parts {
    pub(super) model: Value,
    pub(super) normalizer: Value,
    pub(super) decoder: Value,
}

/// Says a vocabulary whose tokenizer could be built. `unk` is its unknown token.
pub(super) fn parts(vocab: &GgufVocab, unk: Option<u32>) -> Result<Parts, TokenizerError> {
    let types = spm::kinds(vocab);
    let bytes = bytes(&vocab.tokens, &types)?;
    let unk = unk.map(|id| vocab.tokens[id as usize].as_str());
    if unk.is_none() && bytes < 256 {
        return Err(TokenizerError::NoUnknown { bytes });
    }
    let text = text(&vocab.tokens, &types);
    let mut made: Vec<(&str, f32)> = Vec::new();
    for (&token, &id) in &text {
        check_characters(token, &text)?;
        if splits(token, &text).next().is_some() {
            made.push((token, vocab.scores[id as usize] + 0.0));
        }
    }
    made.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(b.0)));
    if let Some(pair) = made.windows(2).find(|pair| pair[0].1 == pair[1].1) {
        let [first, second] = [pair[0].0.to_owned(), pair[1].0.to_owned()];
        return Err(TokenizerError::SharedScore { first, second });
    }
    let ways = made.iter().flat_map(|&(token, _)| {
        let ways: Vec<usize> = splits(token, &text).collect();
        ways.into_iter().rev().map(move |at| format!("{} {}", &token[..at], &token[at..]))
    });
    let merges: Vec<Value> = ways.map(Value::String).collect();
    let all = vocab.tokens.iter().zip(0_u32..).filter(|(token, _)| !token.is_empty());
    let all: serde_json::Map<_, _> = all.map(|(token, id)| (token.clone(), id.into())).collect();
    let model = json!({
        "type": "BPE", "dropout": null, "unk_token": unk, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": bytes > 0,
        "ignore_merges": false, "vocab": all, "merges": merges,
    });
    let space_first = vocab.add_space_prefix.unwrap_or(true);
    let part = |part: serde_json::Result<Value>| {
        part.map_err(|error| TokenizerError::Json { reason: error.to_string() })
    };
    Ok(Parts {
        model,
        normalizer: part(serde_json::to_value(spm::normalizer(space_first)))?,
        decoder: part(serde_json::to_value(spm::decoder(space_first)))?,
    })
}

/// The tokens, types and scores of a document with byte fallback, without special ids.
pub(super) fn vocab(document: Document, rows: usize) -> Result<GgufVocab, TokenizerError> {
    let add_space_prefix = Some(space_first(&document)?);
    let Document { added_tokens, model, .. } = document;
    if model.ignore_merges {
        let kind = "BPE with byte fallback that ignores merges".to_owned();
        return Err(TokenizerError::NotByteLevel { kind });
    }
    let (tokens, mut token_types) = table(model.vocab.unwrap_or_default(), &added_tokens, rows)?;
    for (token, kind) in tokens.iter().zip(&mut token_types) {
        match () {
            () if model.unk_token.as_ref() == Some(token) => *kind = UNKNOWN,
            () if *kind == NORMAL && spm::byte_of(token, BYTE).is_some() => *kind = BYTE,
            () => {}
        }
    }
    let count = bytes(&tokens, &token_types)?;
    let unk = (0..).zip(&token_types).find(|(_, kind)| **kind == UNKNOWN).map(|(id, _)| id);
    if count < 256 && (unk.is_none() || !model.fuse_unk) {
        return Err(TokenizerError::NoUnknown { bytes: count });
    }
    let scores = scores(&tokens, &token_types, &model.merges)?;
    Ok(GgufVocab {
        model: "llama".to_owned(),
        pre: "default".to_owned(),
        tokens,
        token_types,
        scores,
        unk,
        add_space_prefix,
        ..GgufVocab::default()
    })
}

/// Whether a document puts a space before every piece of text. GGUF knows that and its absence.
fn space_first(document: &Document) -> Result<bool, TokenizerError> {
    let Document { normalizer, pre_tokenizer, .. } = document;
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE});
    let prepend = json!({"type": "Prepend", "prepend": SPACE});
    // Where no space is left, splitting at spaces does nothing.
    let idle = json!({
        "type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious",
        "invert": false,
    });
    let split = canonical(pre_tokenizer);
    if split.is_empty() || split == canonical(&idle) {
        let normal = canonical(normalizer);
        if normal == canonical(&replace) {
            return Ok(false);
        }
        if normal == canonical(&json!({"normalizers": [prepend, replace]})) {
            return Ok(true);
        }
    }
    Err(TokenizerError::UnknownSpaces {
        pre_tokenizer: cut(pre_tokenizer),
        normalizer: cut(normalizer),
    })
}

/// Scores that rank tokens as their merges do; what nothing makes comes last.
fn scores(tokens: &[String], types: &[i32], merges: &[Merge]) -> Result<Vec<f32>, TokenizerError> {
    let text = text(tokens, types);
    let known: HashSet<&str> = tokens.iter().map(String::as_str).collect();
    let mut ranks: HashMap<u32, usize> = HashMap::new();
    let mut last: Option<(u32, Vec<usize>)> = None;
    let mut token = String::new();
    for (index, merge) in merges.iter().enumerate() {
        let (left, right) = merge
            .pieces()
            .ok_or_else(|| TokenizerError::MergeShape { index, merge: merge.shown() })?;
        token.clear();
        token.extend([left, right]);
        if let Some(piece) = [left, right, &token].into_iter().find(|piece| !known.contains(piece))
        {
            return Err(TokenizerError::MergeUnknown { index, piece: piece.to_owned() });
        }
        // Tokens that are matched before anything is merged never arise.
        if !text.contains_key(left) || !text.contains_key(right) {
            continue;
        }
        let Some(&id) = text.get(token.as_str()) else { continue };
        match &mut last {
            Some((current, ways)) if *current == id => ways.push(left.len()),
            _ => {
                check_ways(tokens, last.take(), &text)?;
                if ranks.insert(id, ranks.len()).is_some() {
                    return Err(TokenizerError::MergeOrder { token });
                }
                last = Some((id, vec![left.len()]));
            }
        }
    }
    check_ways(tokens, last, &text)?;
    for (&token, id) in &text {
        check_characters(token, &text)?;
        if !ranks.contains_key(id) && splits(token, &text).next().is_some() {
            return Err(TokenizerError::MergeOrder { token: token.to_owned() });
        }
    }
    let rest = -(ranks.len() as f32);
    let score = |(id, kind): (u32, &i32)| match *kind {
        NORMAL => ranks.get(&id).map_or(rest, |&rank| -(rank as f32)),
        _ => 0.0,
    };
    Ok((0..).zip(types).map(score).collect())
}

/// Whether the merges that make a token are all that scores would try.
fn check_ways(
    tokens: &[String],
    made: Option<(u32, Vec<usize>)>,
    text: &HashMap<&str, u32>,
) -> Result<(), TokenizerError> {
    let Some((id, mut ways)) = made else { return Ok(()) };
    let token = &tokens[id as usize];
    ways.sort_unstable();
    if splits(token, text).eq(ways) {
        return Ok(());
    }
    Err(TokenizerError::MergeOrder { token: token.clone() })
}

/// Tokens that text can be joined into. Those with a space in them never are, as spaces are
/// replaced before; nor those that are matched as a whole before that.
fn text<'a>(tokens: &'a [String], types: &[i32]) -> HashMap<&'a str, u32> {
    let joined = |token: &str, kind: i32| match kind {
        CONTROL | UNKNOWN | BYTE => false,
        USER_DEFINED => token.contains(SPACE),
        _ => true,
    };
    let found = (0_u32..).zip(tokens.iter().zip(types)).filter(|(_, (token, kind))| {
        joined(token, **kind) && !token.is_empty() && !token.contains(' ')
    });
    found.map(|(id, (token, _))| (token.as_str(), id)).collect()
}

/// Where a token can be cut so that both halves are tokens, in bytes from its start.
fn splits<'a>(
    token: &'a str,
    text: &'a HashMap<&str, u32>,
) -> impl Iterator<Item = usize> + use<'a> {
    let cuts: Range<usize> = 1..token.len();
    cuts.filter(|&at| {
        token.is_char_boundary(at)
            && text.contains_key(&token[..at])
            && text.contains_key(&token[at..])
    })
}

/// Scores join characters that are no tokens themselves; merges do not.
fn check_characters(token: &str, text: &HashMap<&str, u32>) -> Result<(), TokenizerError> {
    let mut buffer = [0; 4];
    match token.chars().find(|c| !text.contains_key(&*c.encode_utf8(&mut buffer))) {
        Some(character) => {
            Err(TokenizerError::LooseCharacter { token: token.to_owned(), character })
        }
        None => Ok(()),
    }
}

/// How many tokens stand for bytes, each spelled as every program reads it.
fn bytes(tokens: &[String], types: &[i32]) -> Result<usize, TokenizerError> {
    let mut count = 0;
    for (token, _) in tokens.iter().zip(types).filter(|(_, kind)| **kind == BYTE) {
        match spm::byte_of(token, BYTE) {
            Some(byte) if *token == format!("<0x{byte:02X}>") => count += 1,
            _ => return Err(TokenizerError::ByteSpelling { token: token.clone() }),
        }
    }
    Ok(count)
}
