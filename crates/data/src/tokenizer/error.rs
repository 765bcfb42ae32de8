//! Why a tokenizer could not be built or used.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::pre::KNOWN;

/// Why a tokenizer could not be built or used.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum TokenizerError {
    /// A file that cannot be read.
    #[error("{path}: cannot read: {reason}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's kind of error.
        kind: io::ErrorKind,
        /// The system's words.
        reason: String,
    },
    /// A file larger than is read.
    #[error("{path}: {bytes} bytes: expected at most {limit}", path = path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// An error in a file.
    #[error("{path}: {error}", path = path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// The error.
        error: Box<TokenizerError>,
    },
    /// A document that is no tokenizer.
    #[error("not a tokenizer: {reason}")]
    Json {
        /// What the parser stumbled over.
        reason: String,
    },
    /// A field of `tokenizer_config.json` of the wrong kind.
    #[error("`{field}`: expected {expected}, found {found}")]
    Field {
        /// The field.
        field: &'static str,
        /// What belongs there.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// A token with a role that the vocabulary lacks.
    #[error("`{field}` is {token:?}, which is not in the vocabulary")]
    UnknownToken {
        /// The field that names it.
        field: &'static str,
        /// The token.
        token: String,
    },
    /// A GGUF vocabulary of another kind.
    #[error(
        "tokenizer.ggml.model is {model:?}: expected \"gpt2\" (byte-level BPE) or \"llama\" \
         (SentencePiece)"
    )]
    UnknownModel {
        /// What the file says.
        model: String,
    },
    /// A pre-tokenizer nobody taught us.
    #[error("tokenizer.ggml.pre is {pre:?}: expected one of {known}", known = KNOWN.join(", "))]
    UnknownPre {
        /// What the file says; empty when it says nothing.
        pre: String,
    },
    /// A way of splitting text that GGUF has no name for.
    #[error(
        "`pre_tokenizer` {pre_tokenizer} with `normalizer` {normalizer} is none of the ways to \
         split text that GGUF has names for here: {known}",
        known = KNOWN.join(", ")
    )]
    UnknownSplit {
        /// How the document splits.
        pre_tokenizer: String,
        /// How it changes text before.
        normalizer: String,
    },
    /// A tokenizer that is written to no GGUF file.
    #[error("the tokenizer is {kind}: expected BPE, byte-level or with byte fallback")]
    NotByteLevel {
        /// What it is.
        kind: String,
    },
    /// A treatment of spaces that SentencePiece vocabularies in GGUF do not have.
    #[error(
        "`pre_tokenizer` {pre_tokenizer} with `normalizer` {normalizer}: expected each space as \
         \"▁\", and one put before every piece of text or none, as GGUF says it"
    )]
    UnknownSpaces {
        /// How the document splits.
        pre_tokenizer: String,
        /// How it changes text before.
        normalizer: String,
    },
    /// Scores that no list of merges says.
    #[error(
        "tokens {first:?} and {second:?} have one score: a list of merges joins one of them first \
         everywhere"
    )]
    SharedScore {
        /// One token.
        first: String,
        /// The other.
        second: String,
    },
    /// Merges that no scores say.
    #[error(
        "the merges into {token:?} are not together, or not all ways to make it of two tokens: \
         scores would join others"
    )]
    MergeOrder {
        /// What they make.
        token: String,
    },
    /// A character that is joined with scores and not with merges.
    #[error("{character:?} in the token {token:?} is no token itself: merges do not join it")]
    LooseCharacter {
        /// The token.
        token: String,
        /// The character.
        character: char,
    },
    /// A vocabulary that has nothing for some texts.
    #[error("{bytes} of 256 bytes have a token: expected all, or a token for the unknown")]
    NoUnknown {
        /// Bytes with a token.
        bytes: usize,
    },
    /// A token for a byte that other programs do not read as one.
    #[error("the token {token:?} is for a byte: expected it spelled as \"<0x0A>\"")]
    ByteSpelling {
        /// The token.
        token: String,
    },
    /// A token id that the model has no row for.
    #[error("token id {id} is beyond the {rows} ids of the model")]
    IdOutside {
        /// The id.
        id: u32,
        /// Ids that the model has.
        rows: usize,
    },
    /// Two tokens with one id.
    #[error("token id {id} belongs to {token:?} and to another token")]
    SharedId {
        /// The id.
        id: u32,
        /// One of the tokens.
        token: String,
    },
    /// A list without entries.
    #[error("{field} is empty")]
    Empty {
        /// The list.
        field: &'static str,
    },
    /// A list longer than any honest file's.
    #[error("{field} has {count} entries: expected at most {limit}")]
    TooMany {
        /// The list.
        field: &'static str,
        /// Its length.
        count: usize,
        /// The limit.
        limit: usize,
    },
    /// As many types as tokens, or none.
    #[error(
        "tokenizer.ggml.token_type has {types} entries and tokenizer.ggml.tokens {tokens}: \
         expected one type a token"
    )]
    TypeCount {
        /// Number of tokens.
        tokens: usize,
        /// Number of types.
        types: usize,
    },
    /// A SentencePiece vocabulary without a score for each token.
    #[error(
        "tokenizer.ggml.scores has {scores} entries and tokenizer.ggml.tokens {tokens}: \
         expected one score a token"
    )]
    ScoreCount {
        /// Number of tokens.
        tokens: usize,
        /// Number of scores.
        scores: usize,
    },
    /// A score that cannot be compared.
    #[error("tokenizer.ggml.scores[{index}] is not a number")]
    ScoreNaN {
        /// Which score.
        index: usize,
    },
    /// The same token under two ids.
    #[error("tokenizer.ggml.tokens[{first}] and [{second}] are both {token:?}")]
    DuplicateToken {
        /// The token.
        token: String,
        /// The lower id.
        first: usize,
        /// The higher id.
        second: usize,
    },
    /// A merge that is not two pieces.
    #[error("tokenizer.ggml.merges[{index}] is {merge:?}: expected two pieces and one space")]
    MergeShape {
        /// Which merge.
        index: usize,
        /// The merge.
        merge: String,
    },
    /// A merge of or into something that is no token.
    #[error("tokenizer.ggml.merges[{index}] needs the token {piece:?}, which does not exist")]
    MergeUnknown {
        /// Which merge.
        index: usize,
        /// The piece or result that is missing.
        piece: String,
    },
    /// A special id outside the vocabulary.
    #[error("{field} is {id}: expected an id below {vocab_size}")]
    SpecialOutside {
        /// The key.
        field: &'static str,
        /// The id.
        id: u32,
        /// Number of tokens.
        vocab_size: usize,
    },
    /// A text the tokenizer cannot express.
    #[error("cannot tokenize: {reason}")]
    Encode {
        /// The tokenizer's words.
        reason: String,
    },
    /// Ids the tokenizer cannot turn into text.
    #[error("cannot turn ids into text: {reason}")]
    Decode {
        /// The tokenizer's words.
        reason: String,
    },
    /// A tokenizer that contradicts itself so badly that using it fails.
    #[error("the tokenizer is broken: {reason}")]
    Broken {
        /// What failed.
        reason: String,
    },
}

impl TokenizerError {
    pub(crate) fn io(path: &Path, error: &io::Error) -> Self {
        Self::Io { path: path.to_owned(), kind: error.kind(), reason: error.to_string() }
    }
}
