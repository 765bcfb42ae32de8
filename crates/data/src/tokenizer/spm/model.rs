//! SentencePiece's byte-pair model: neighbours are joined, best score first, as long as what they
//! spell is a token.
//!
//! The `tokenizers` crate has a BPE of its own, driven by a list of merges in which each pair has a
//! rank. SentencePiece and llama.cpp have no such list: every way to spell a token has that token's
//! score, of two equal scores the leftmost pair goes first, and a pair may be joined although its
//! halves are no tokens. A list of merges can say neither, so the algorithm is written out here, as
//! a model that the crate's tokenizer takes in place of its own.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokenizers::models::bpe::BpeTrainer;
use tokenizers::{Model, Token};

/// A vocabulary with scores.
#[derive(Debug)]
pub(in super::super) struct Spm {
    tokens: Vec<Arc<str>>,
    ids: HashMap<Arc<str>, u32>,
    /// One a token; NaN where pieces are never joined into it.
    scores: Vec<f32>,
    /// What stands for a byte, for text that no token spells.
    bytes: Box<[Option<u32>; 256]>,
    /// What stands for a character that not even bytes spell.
    unk: Option<u32>,
    /// Bytes of the longest token.
    longest: usize,
}

/// What a token is for, as far as it matters to joining.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Text.
    Text,
    /// One byte.
    Byte(u8),
    /// Never made of text: a control token.
    Apart,
}

impl Spm {
    /// A model of these tokens, each with its role; empty ones have an id and spell nothing.
    /// `scores` are numbers, one a token.
    pub(super) fn new(
        tokens: Vec<String>,
        scores: Vec<f32>,
        role: impl Fn(usize) -> Role,
        unk: Option<u32>,
    ) -> Self {
        let tokens: Vec<Arc<str>> = tokens.into_iter().map(Arc::from).collect();
        let mut model = Self {
            ids: HashMap::with_capacity(tokens.len()),
            bytes: Box::new([None; 256]),
            longest: tokens.iter().map(|token| token.len()).max().unwrap_or(0),
            tokens,
            scores,
            unk,
        };
        for (id, (token, score)) in model.tokens.iter().zip(&mut model.scores).enumerate() {
            if token.is_empty() {
                continue;
            }
            model.ids.insert(Arc::clone(token), id as u32);
            match role(id) {
                Role::Text => {}
                Role::Byte(byte) => {
                    model.bytes[usize::from(byte)].get_or_insert(id as u32);
                    *score = f32::NAN;
                }
                Role::Apart => *score = f32::NAN,
            }
        }
        model
    }

    pub(super) fn vocab_size(&self) -> usize {
        self.tokens.len()
    }

    /// The token of text that is spelled so, with its score.
    fn text(&self, piece: &str) -> Option<(u32, f32)> {
        if piece.len() > self.longest {
            return None;
        }
        let id = *self.ids.get(piece)?;
        Some((id, self.scores[id as usize])).filter(|(_, score)| !score.is_nan())
    }

    /// A symbol that stayed: its token, or its bytes, or else the token for the unknown.
    fn spell(
        &self,
        sequence: &str,
        range: Range<usize>,
        out: &mut Vec<Token>,
    ) -> tokenizers::Result<()> {
        let piece = &sequence[range.clone()];
        if let Some((id, _)) = self.text(piece) {
            out.push(self.token_at(id, range));
            return Ok(());
        }
        let byte_ids = piece.bytes().map(|byte| self.bytes[usize::from(byte)]);
        if let Some(ids) = byte_ids.collect::<Option<Vec<u32>>>() {
            out.extend(range.zip(ids).map(|(at, id)| self.token_at(id, at..at + 1)));
            return Ok(());
        }
        let unk = self.unk.ok_or_else(|| {
            format!("no token spells {piece:?}, nor its bytes, and there is none for the unknown")
        })?;
        match out.last_mut() {
            // Unknown characters in a row are one unknown.
            Some(last) if last.id == unk && last.offsets.1 == range.start => {
                last.offsets.1 = range.end;
            }
            _ => out.push(self.token_at(unk, range)),
        }
        Ok(())
    }

    fn token_at(&self, id: u32, range: Range<usize>) -> Token {
        Token::new(id, self.tokens[id as usize].to_string(), (range.start, range.end))
    }
}

impl Model for Spm {
    type Trainer = BpeTrainer;

    fn tokenize(&self, sequence: &str) -> tokenizers::Result<Vec<Token>> {
        let mut out = Vec::new();
        for range in join(sequence, |piece| self.text(piece).map(|(_, score)| score)) {
            self.spell(sequence, range, &mut out)?;
        }
        Ok(out)
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.ids.get(token).copied()
    }

    fn id_to_token(&self, id: u32) -> Option<String> {
        self.tokens.get(id as usize).map(ToString::to_string)
    }

    fn get_vocab(&self) -> HashMap<String, u32> {
        self.ids.iter().map(|(token, &id)| (token.to_string(), id)).collect()
    }

    fn get_vocab_size(&self) -> usize {
        self.vocab_size()
    }

    fn save(&self, _: &Path, _: Option<&str>) -> tokenizers::Result<Vec<PathBuf>> {
        Err("a vocabulary from a GGUF file has no other form".into())
    }

    fn get_trainer(&self) -> BpeTrainer {
        BpeTrainer::default()
    }
}

/// A stretch of the text; stretches are linked, because joining takes them out of the middle.
#[derive(Clone, Copy, Debug)]
struct Symbol {
    start: usize,
    /// 0 once it was joined to the one before.
    len: usize,
    prev: Option<usize>,
    next: Option<usize>,
}

/// Two neighbours that spell a token.
#[derive(Clone, Copy, Debug)]
struct Pair {
    score: f32,
    left: usize,
    right: usize,
    /// Bytes of both; other when one of them has changed since.
    len: usize,
}

impl Ord for Pair {
    /// The best score is greatest, and of equals the leftmost.
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then_with(|| other.left.cmp(&self.left))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Pair {}

/// Joins the characters of a text into pieces, by `score`, which is none for what is no token.
fn join(text: &str, score: impl Fn(&str) -> Option<f32>) -> Vec<Range<usize>> {
    let mut symbols: Vec<Symbol> = Vec::with_capacity(text.len());
    for (index, (start, c)) in text.char_indices().enumerate() {
        let prev = index.checked_sub(1);
        symbols.push(Symbol { start, len: c.len_utf8(), prev, next: Some(index + 1) });
    }
    if let Some(last) = symbols.last_mut() {
        last.next = None;
    }
    let pair = |symbols: &[Symbol], left: usize, right: usize| {
        let (a, b) = (symbols[left], symbols[right]);
        let len = a.len + b.len;
        score(&text[a.start..a.start + len]).map(|score| Pair { score, left, right, len })
    };
    let mut queue: BinaryHeap<Pair> =
        (1..symbols.len()).filter_map(|right| pair(&symbols, right - 1, right)).collect();
    while let Some(Pair { left, right, len, .. }) = queue.pop() {
        let (a, b) = (symbols[left], symbols[right]);
        if a.len == 0 || b.len == 0 || a.len + b.len != len {
            continue;
        }
        symbols[left] = Symbol { len, next: b.next, ..a };
        symbols[right].len = 0;
        if let Some(next) = b.next {
            symbols[next].prev = Some(left);
            queue.extend(pair(&symbols, left, next));
        }
        queue.extend(a.prev.and_then(|prev| pair(&symbols, prev, left)));
    }
    let kept = symbols.into_iter().filter(|symbol| symbol.len > 0);
    kept.map(|symbol| symbol.start..symbol.start + symbol.len).collect()
}

#[cfg(test)]
mod tests;
