//! Text of a base: its tokenizer and its chat template, where it has them.

use lowtide_data::{ChatTemplate, GgufVocab, Tokenizer};
use lowtide_formats::{GgufTokenizer, TokenizerSource};

use crate::{OpenBase, RuntimeError};

/// How a base reads and writes text. A base without a tokenizer works on token ids only.
#[derive(Debug)]
pub struct BaseText {
    /// Text to ids and back.
    pub tokenizer: Option<Tokenizer>,
    /// Conversations to text.
    pub template: Option<ChatTemplate>,
}

impl BaseText {
    /// Reads both from the base's own files.
    ///
    /// # Errors
    /// When the tokenizer or the template is there and cannot be used.
    pub fn open(base: &OpenBase) -> Result<Self, RuntimeError> {
        let file = base.file();
        let path = || file.path().to_owned();
        let tokenizer = match file.tokenizer_source()? {
            TokenizerSource::Json(_) => Some(Tokenizer::from_hf_folder(file.path())),
            TokenizerSource::Gguf(vocab) => Some(Tokenizer::from_gguf(vocab_of(vocab))),
            TokenizerSource::None => None,
        };
        let tokenizer = tokenizer
            .transpose()
            .map_err(|source| RuntimeError::Tokenizer { path: path(), source })?;
        let special = file.special_tokens();
        let template = file
            .chat_template()
            .map(|source| ChatTemplate::new(source, special.bos.as_deref(), special.eos.as_deref()))
            .transpose()
            .map_err(|source| RuntimeError::Template { path: path(), source })?;
        Ok(Self { tokenizer, template })
    }
}

fn vocab_of(vocab: GgufTokenizer) -> GgufVocab {
    let GgufTokenizer {
        model,
        pre,
        tokens,
        token_types,
        merges,
        scores,
        bos,
        eos,
        eot,
        unk,
        pad,
        add_bos,
        add_eos,
        add_space_prefix,
    } = vocab;
    let pre = pre.unwrap_or_default();
    GgufVocab {
        model,
        pre,
        tokens,
        token_types,
        merges,
        scores,
        bos,
        eos,
        eot,
        unk,
        pad,
        add_bos,
        add_eos,
        add_space_prefix,
    }
}
