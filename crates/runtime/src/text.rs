//! Text of a base: its tokenizer and its chat template, where it has them.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use lowtide_convert::vocab_of;
use lowtide_data::{ChatTemplate, Message, RenderOptions, Tokenizer, TokenizerError};
use lowtide_formats::TokenizerSource;

use crate::{OpenBase, RuntimeError};

/// Tokens that end a turn in the formats in use, by name. They are ends where a vocabulary has them
/// as control tokens, because files do not always name the one that their model was trained with.
const TURN_ENDS: [&str; 7] =
    ["<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<|end|>", "<|endoftext|>", "</s>"];

/// The longest chat template that is read; the longest known have about 20 KB.
const TEMPLATE_BYTES_MAX: u64 = 1 << 20;

/// How a base reads and writes text. A base without a tokenizer works on token ids only.
#[derive(Debug)]
pub struct BaseText {
    /// Text to ids and back.
    pub tokenizer: Option<Tokenizer>,
    /// Conversations to text.
    pub template: Option<ChatTemplate>,
    path: PathBuf,
    /// Where the template is from.
    template_path: PathBuf,
    ends: Vec<u32>,
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
        let template_path = path();
        let mut text = Self { tokenizer, template, path: path(), template_path, ends: Vec::new() };
        text.ends = text.find_ends(file.eos_token_ids());
        Ok(text)
    }

    /// The same with another chat template than the base's: the text of the file `path`.
    ///
    /// # Errors
    /// When the file cannot be read, is larger than 1 MiB, or is not a template.
    pub fn with_template(mut self, base: &OpenBase, path: &Path) -> Result<Self, RuntimeError> {
        let unread = |reason: String| RuntimeError::TemplateFile { path: path.to_owned(), reason };
        let mut source = String::new();
        let file = File::open(path).map_err(|error| unread(error.to_string()))?;
        let bytes = file.take(TEMPLATE_BYTES_MAX + 1).read_to_string(&mut source);
        if bytes.map_err(|error| unread(error.to_string()))? as u64 > TEMPLATE_BYTES_MAX {
            return Err(unread(format!(
                "more than {TEMPLATE_BYTES_MAX} bytes are no chat template"
            )));
        }
        let special = base.file().special_tokens();
        let template =
            ChatTemplate::new(&source, special.bos.as_deref(), special.eos.as_deref())
                .map_err(|source| RuntimeError::Template { path: path.to_owned(), source })?;
        self.template = Some(template);
        self.template_path = path.to_owned();
        self.ends = self.find_ends(base.file().eos_token_ids());
        Ok(self)
    }

    /// Tokens that end an answer: those the base's files name, the one with which the chat template
    /// ends a turn, and control tokens that are known to do so.
    #[must_use]
    pub fn ends(&self) -> &[u32] {
        &self.ends
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// [`RuntimeError::NoTokenizer`] when the base has none.
    pub fn tokenizer(&self) -> Result<&Tokenizer, RuntimeError> {
        let none = || RuntimeError::NoTokenizer { path: self.path.clone() };
        self.tokenizer.as_ref().ok_or_else(none)
    }

    /// The tokens of a text that is to be continued, with what the tokenizer puts before a text.
    ///
    /// # Errors
    /// When the base has no tokenizer, or it cannot express the text.
    pub fn plain(&self, text: &str) -> Result<Vec<u32>, RuntimeError> {
        let tokenizer = self.tokenizer()?;
        let mut ids = tokenizer.prefix().to_vec();
        ids.extend(tokenizer.encode_ids(text).map_err(|error| self.tokens_error(error))?);
        Ok(ids)
    }

    /// The tokens of a conversation that the assistant is to continue.
    ///
    /// # Errors
    /// When the base has no template or no tokenizer, or they refuse the conversation.
    pub fn chat(&self, messages: &[Message]) -> Result<Vec<u32>, RuntimeError> {
        let none = || RuntimeError::NoTemplate { path: self.path.clone() };
        let template = self.template.as_ref().ok_or_else(none)?;
        let options = RenderOptions { add_generation_prompt: true, tools: None };
        let text = template.render(messages, options).map_err(|source| RuntimeError::Template {
            path: self.template_path.clone(),
            source,
        })?;
        self.tokenizer()?.encode_ids(&text).map_err(|error| self.tokens_error(error))
    }

    /// An error of the tokenizer, with the base it is of.
    pub(crate) fn tokens_error(&self, source: TokenizerError) -> RuntimeError {
        RuntimeError::Tokenizer { path: self.path.clone(), source }
    }

    fn find_ends(&self, named: &[u32]) -> Vec<u32> {
        let mut ends = named.to_vec();
        if let Some(tokenizer) = &self.tokenizer {
            let specials = tokenizer.specials();
            ends.extend([specials.eos, specials.eot].into_iter().flatten());
            ends.extend(self.turn_end(tokenizer));
            let known = TURN_ENDS.iter().filter_map(|token| tokenizer.token_id(token));
            ends.extend(known.filter(|id| tokenizer.is_special(*id)));
        }
        ends.sort_unstable();
        ends.dedup();
        ends
    }

    /// The first control token behind what the assistant said, in a conversation that says so
    /// little that it can be found again. A template that refuses it ends no turn.
    fn turn_end(&self, tokenizer: &Tokenizer) -> Option<u32> {
        const SAID: &str = "Neap";
        let turns = [Message::new("user", "Spring?"), Message::new("assistant", SAID)];
        let text = self.template.as_ref()?.render(&turns, RenderOptions::default()).ok()?;
        let (_, after) = text.rsplit_once(SAID)?;
        let ids = tokenizer.encode_ids(after).ok()?;
        ids.into_iter().find(|id| tokenizer.is_special(*id))
    }
}
