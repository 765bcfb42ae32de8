//! Text to token ids with byte offsets, and back.
//!
//! The work is done by the `tokenizers` crate, so a `tokenizer.json` means here what it means in
//! Hugging Face transformers. A GGUF file has no such document; [`gguf`] puts the same parts
//! together from its metadata, with a model of its own for SentencePiece's scores.
//!
//! Two departures from that crate's habits: padding, truncation and dropped merges asked for by a
//! file are turned off, and the ids it puts around a text (`<s>`) are kept apart as
//! [`prefix`](Tokenizer::prefix) and [`suffix`](Tokenizer::suffix), because a chat template writes
//! its own.

mod error;
pub mod gguf;
mod hf;
mod inner;
mod json;
mod outline;
mod pre;
mod spm;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use inner::Inner;

pub use error::TokenizerError;
pub use gguf::GgufVocab;
pub use hf::TokenizerConfig;

/// The largest `tokenizer.json` that is read, in bytes; the largest known is about 35 MB.
const JSON_BYTES_MAX: u64 = 256 << 20;

/// Ids with a role, where the vocabulary has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Specials {
    /// Beginning of a sequence.
    pub bos: Option<u32>,
    /// End of a sequence.
    pub eos: Option<u32>,
    /// End of a turn, where that is not `eos`.
    pub eot: Option<u32>,
    /// What stands for text outside the vocabulary.
    pub unk: Option<u32>,
    /// Padding.
    pub pad: Option<u32>,
}

/// A tokenized text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoding {
    /// Token ids, `[tokens]`.
    pub ids: Vec<u32>,
    /// `[start, end)` of each token in the text, in bytes, `[tokens]`. Tokens that share a
    /// character all carry that character's range.
    pub offsets: Vec<(usize, usize)>,
}

/// A tokenizer: text to ids and back. Dropping it frees all it held.
#[derive(Debug)]
pub struct Tokenizer {
    inner: Inner,
    prefix: Vec<u32>,
    suffix: Vec<u32>,
    specials: Specials,
    /// Sorted.
    special_ids: Vec<u32>,
    vocab_size: usize,
    space_first: bool,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`. What the ids at its ends mean is told by
    /// [`with_specials`](Self::with_specials) or [`from_hf_folder`](Self::from_hf_folder).
    ///
    /// # Errors
    /// When the file cannot be read, is larger than 256 MiB, or is not a tokenizer.
    pub fn from_json_file(path: &Path) -> Result<Self, TokenizerError> {
        let bytes = hf::read_limited(path, JSON_BYTES_MAX)?;
        Self::from_json_bytes(&bytes)
            .map_err(|error| TokenizerError::InFile { path: path.to_owned(), error: error.into() })
    }

    /// The same from the bytes of such a file.
    ///
    /// # Errors
    /// When they are not a tokenizer.
    pub fn from_json_bytes(bytes: &[u8]) -> Result<Self, TokenizerError> {
        outline::check(bytes)?;
        let mut inner = fenced(|| tokenizers::Tokenizer::from_bytes(bytes))?
            .map_err(|error| TokenizerError::Json { reason: error.to_string() })?;
        inner.with_padding(None);
        inner
            .with_truncation(None)
            .map_err(|error| TokenizerError::Json { reason: error.to_string() })?;
        inner::without_dropout(&mut inner);
        let (prefix, suffix) = added_around(&inner)?;
        inner.with_post_processor(None::<tokenizers::PostProcessorWrapper>);
        let mut tokenizer = Self::new(Inner::Library(Box::new(inner)))?;
        (tokenizer.prefix, tokenizer.suffix) = (prefix, suffix);
        Ok(tokenizer)
    }

    /// Reads `tokenizer.json` of a Hugging Face folder, and from `tokenizer_config.json`, where
    /// there is one, which tokens begin, end and pad a sequence.
    ///
    /// # Errors
    /// When a file cannot be read, or names a token that the vocabulary lacks.
    pub fn from_hf_folder(folder: &Path) -> Result<Self, TokenizerError> {
        let tokenizer = Self::from_json_file(&folder.join("tokenizer.json"))?;
        let specials = TokenizerConfig::read(folder)?.specials(&tokenizer)?;
        Ok(tokenizer.with_specials(specials))
    }

    /// Builds a tokenizer from the metadata of a GGUF file: byte-level BPE or SentencePiece.
    ///
    /// # Errors
    /// When the vocabulary is of a kind that is not understood, or contradicts itself.
    pub fn from_gguf(vocab: GgufVocab) -> Result<Self, TokenizerError> {
        gguf::build(vocab)
    }

    /// The same tokenizer with other special ids.
    #[must_use]
    pub fn with_specials(mut self, specials: Specials) -> Self {
        self.specials = specials;
        for id in [specials.bos, specials.eos, specials.eot, specials.pad].into_iter().flatten() {
            if let Err(place) = self.special_ids.binary_search(&id) {
                self.special_ids.insert(place, id);
            }
        }
        self
    }

    /// Tokenizes a text, special tokens in it included; adds nothing around it.
    ///
    /// # Errors
    /// When the tokenizer cannot express the text.
    pub fn encode(&self, text: &str) -> Result<Encoding, TokenizerError> {
        let encoding = fenced(|| self.inner.encode(text))?
            .map_err(|error| TokenizerError::Encode { reason: error.to_string() })?;
        Ok(Encoding { ids: encoding.get_ids().to_vec(), offsets: encoding.get_offsets().to_vec() })
    }

    /// [`encode`](Self::encode) without the offsets.
    ///
    /// # Errors
    /// When the tokenizer cannot express the text.
    pub fn encode_ids(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        self.encode(text).map(|encoding| encoding.ids)
    }

    /// The text of some ids, special tokens included. Ids outside the vocabulary give nothing;
    /// bytes that are not UTF-8, as at the edge of a cut character, give U+FFFD.
    ///
    /// # Errors
    /// When the tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        self.decode_as(ids, false)
    }

    /// [`decode`](Self::decode) without special tokens.
    ///
    /// # Errors
    /// When the tokenizer's decoder fails.
    pub fn decode_plain(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        self.decode_as(ids, true)
    }

    /// The id of a token by its exact spelling in the vocabulary.
    #[must_use]
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The spelling of a token in the vocabulary; byte-level vocabularies write a space as `Ġ`.
    #[must_use]
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// One more than the largest id.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Ids with a role.
    #[must_use]
    pub fn specials(&self) -> Specials {
        self.specials
    }

    /// Whether an id is a control token: marked special in the vocabulary, or one of
    /// [`specials`](Self::specials) other than the unknown one.
    #[must_use]
    pub fn is_special(&self, id: u32) -> bool {
        self.special_ids.binary_search(&id).is_ok()
    }

    /// Whether a text is tokenized as if a space stood before it, as SentencePiece mostly has it.
    /// A text in two pieces then tokenizes as the whole only when the second begins at a space,
    /// and is given without it.
    #[must_use]
    pub fn puts_space_first(&self) -> bool {
        self.space_first
    }

    /// Ids that belong before a text that no chat template wrote; often one `<s>`, often none.
    #[must_use]
    pub fn prefix(&self) -> &[u32] {
        &self.prefix
    }

    /// Ids that belong after such a text; mostly none.
    #[must_use]
    pub fn suffix(&self) -> &[u32] {
        &self.suffix
    }

    fn new(inner: Inner) -> Result<Self, TokenizerError> {
        let (special_ids, vocab_size) = (inner.special_ids(), inner.vocab_size());
        let space_first = fenced(|| inner.space_first())?;
        let (prefix, suffix, specials) = Default::default();
        Ok(Self { inner, prefix, suffix, specials, special_ids, vocab_size, space_first })
    }

    fn decode_as(&self, ids: &[u32], skip_special: bool) -> Result<String, TokenizerError> {
        fenced(|| self.inner.decode(ids, skip_special))?
            .map_err(|error| TokenizerError::Decode { reason: error.to_string() })
    }
}

/// What the post-processor puts before and after a text, found by trying it on one.
fn added_around(inner: &tokenizers::Tokenizer) -> Result<(Vec<u32>, Vec<u32>), TokenizerError> {
    let ids = |special| {
        fenced(|| inner.encode("a", special))?
            .map(|encoding| encoding.get_ids().to_vec())
            .map_err(|error| TokenizerError::Encode { reason: error.to_string() })
    };
    let (bare, dressed) = (ids(false)?, ids(true)?);
    let at = (0..=dressed.len().saturating_sub(bare.len()))
        .find(|&at| dressed[at..].starts_with(&bare))
        .filter(|_| !bare.is_empty());
    Ok(at.map_or_else(Default::default, |at| {
        (dressed[..at].to_vec(), dressed[at + bare.len()..].to_vec())
    }))
}

/// Runs code of the `tokenizers` crate on input that may be hostile. [`outline`] refuses every
/// document known to make it panic; one that is not known is an error all the same.
fn fenced<T>(work: impl FnOnce() -> T) -> Result<T, TokenizerError> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| {
        let words = payload.downcast_ref::<String>().map(String::as_str);
        let words = words.or_else(|| payload.downcast_ref::<&str>().copied());
        TokenizerError::Broken { reason: words.unwrap_or("no reason given").to_owned() }
    })
}
