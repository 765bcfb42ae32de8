//! The library's tokenizer, around a model of its own or around the one for SentencePiece's scores.

use tokenizers::{
    DecoderWrapper, Encoding, Model, ModelWrapper, NormalizedString, Normalizer, NormalizerWrapper,
    OffsetReferential, OffsetType, PostProcessorWrapper, PreTokenizedString, PreTokenizer,
    PreTokenizerWrapper, Result, TokenizerImpl,
};

use super::spm::Spm;

/// The library's tokenizer around a model.
pub(super) type Around<M> =
    TokenizerImpl<M, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;

/// A tokenizer of either kind.
#[derive(Debug)]
pub(super) enum Inner {
    /// One that the library reads or builds whole.
    Library(Box<tokenizers::Tokenizer>),
    /// One with scores from a GGUF file.
    Spm(Box<Around<Spm>>),
}

impl Inner {
    pub(super) fn encode(&self, text: &str) -> Result<Encoding> {
        match self {
            Self::Library(inner) => inner.encode(text, false),
            Self::Spm(inner) => inner.encode(text, false),
        }
    }

    pub(super) fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        match self {
            Self::Library(inner) => inner.decode(ids, skip_special),
            Self::Spm(inner) => inner.decode(ids, skip_special),
        }
    }

    pub(super) fn token_to_id(&self, token: &str) -> Option<u32> {
        match self {
            Self::Library(inner) => inner.token_to_id(token),
            Self::Spm(inner) => inner.token_to_id(token),
        }
    }

    pub(super) fn id_to_token(&self, id: u32) -> Option<String> {
        match self {
            Self::Library(inner) => inner.id_to_token(id),
            Self::Spm(inner) => inner.id_to_token(id),
        }
    }

    /// One more than the largest id.
    pub(super) fn vocab_size(&self) -> usize {
        match self {
            Self::Library(inner) => {
                inner.get_vocab(true).values().max().map_or(0, |&largest| largest as usize + 1)
            }
            // Every token that was added has its id from the model.
            Self::Spm(inner) => inner.get_model().get_vocab_size(),
        }
    }

    /// Ids marked special, sorted.
    pub(super) fn special_ids(&self) -> Vec<u32> {
        let added = match self {
            Self::Library(inner) => inner.get_added_tokens_decoder(),
            Self::Spm(inner) => inner.get_added_tokens_decoder(),
        };
        let special = added.iter().filter(|(_, token)| token.special);
        let mut ids: Vec<u32> = special.map(|(&id, _)| id).collect();
        ids.sort_unstable();
        ids
    }

    /// Whether something is put in front of a text before it is tokenized.
    pub(super) fn space_first(&self) -> bool {
        match self {
            Self::Library(inner) => {
                leads(inner.get_normalizer(), inner.get_pre_tokenizer()).unwrap_or(false)
            }
            Self::Spm(inner) => {
                leads(inner.get_normalizer(), inner.get_pre_tokenizer()).unwrap_or(false)
            }
        }
    }
}

/// Makes the same text give the same tokens: training a tokenizer may leave merges out by chance,
/// and a file can ask for that.
pub(super) fn without_dropout(inner: &mut tokenizers::Tokenizer) {
    if let ModelWrapper::BPE(model) = inner.get_model()
        && model.dropout.is_some()
    {
        let mut model = model.clone();
        model.dropout = None;
        inner.with_model(model);
    }
}

/// Tries it on a letter.
fn leads(
    normalizer: Option<&NormalizerWrapper>,
    splitter: Option<&PreTokenizerWrapper>,
) -> Result<bool> {
    let mut text = NormalizedString::from("a");
    normalizer.map_or(Ok(()), |normalizer| normalizer.normalize(&mut text))?;
    let mut pieces = PreTokenizedString::from(text);
    splitter.map_or(Ok(()), |splitter| splitter.pre_tokenize(&mut pieces))?;
    let splits = pieces.get_splits(OffsetReferential::Normalized, OffsetType::Byte);
    let first = splits.first().map_or("a", |&(piece, ..)| piece);
    Ok(first != "a" && (first.ends_with('a') || splits.len() > 1))
}
