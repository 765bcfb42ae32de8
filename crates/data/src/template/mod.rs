//! Chat templates: the Jinja documents that come with a model, rendered as Hugging Face
//! transformers renders them.
//!
//! The same in both: blocks trimmed on both sides (`trim_blocks`, `lstrip_blocks`), `break` and
//! `continue`, Python's methods on strings, lists and maps, `raise_exception`, `strftime_now`,
//! `tojson` with Python's spacing, and the variables `messages`, `tools`, `bos_token`, `eos_token`
//! and `add_generation_prompt`. Two things differ: work is bounded, because a template is a program
//! from a file, and the clock stands still from the moment a template is loaded, in UTC, so that
//! every example of a run sees the same date.

mod generation;
mod json;
mod time;

use std::ops::Range;
use std::time::SystemTime;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde};
use minijinja::{Environment, Error, ErrorKind, Value, context};
use minijinja_contrib::pycompat::unknown_method_callback;
use thiserror::Error as ThisError;

use crate::record::Message;

/// The longest template that is loaded, in bytes; the longest known is under 64 KiB.
const SOURCE_BYTES_MAX: usize = 1 << 20;
/// How many steps one rendering may take; a conversation of a thousand turns takes some 10⁵.
const FUEL: u64 = 20_000_000;
/// The name the template has in messages of the engine.
const NAME: &str = "chat_template";

/// Why a template could not be loaded or rendered.
#[derive(Clone, Debug, PartialEq, Eq, ThisError)]
pub enum TemplateError {
    /// A document longer than any template.
    #[error("chat template: {bytes} bytes: expected at most {limit}")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Not Jinja.
    #[error("chat template, line {line}: {reason}")]
    Syntax {
        /// The line, counted from 1.
        line: usize,
        /// What the parser stumbled over.
        reason: String,
    },
    /// A rendering that failed.
    #[error("chat template, line {line}: rendering failed: {reason}")]
    Render {
        /// The line, counted from 1; 0 where the engine does not know.
        line: usize,
        /// What went wrong.
        reason: String,
    },
    /// The template itself refused the conversation, by `raise_exception`.
    #[error("the chat template refuses the conversation: {message}")]
    Raised {
        /// The template's words.
        message: String,
    },
}

/// What goes into a rendering besides the messages.
#[derive(Clone, Copy, Debug, Default)]
pub struct RenderOptions<'a> {
    /// End with what opens an assistant's turn.
    pub add_generation_prompt: bool,
    /// The tools the assistant may call, as the record gives them.
    pub tools: Option<&'a serde_json::Value>,
}

/// A chat template, compiled.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    engine: Environment<'static>,
    bos_token: Option<String>,
    eos_token: Option<String>,
    marks_generation: bool,
}

/// What `raise_exception` was given; carried through the engine as the source of its error.
#[derive(Debug, ThisError)]
#[error("{0}")]
struct Raised(String);

impl ChatTemplate {
    /// Compiles a template. `bos_token` and `eos_token` are the tokens' spellings.
    ///
    /// # Errors
    /// When the source is not Jinja, or longer than 1 MiB.
    pub fn new(
        source: &str,
        bos_token: Option<&str>,
        eos_token: Option<&str>,
    ) -> Result<Self, TemplateError> {
        let (bytes, limit) = (source.len(), SOURCE_BYTES_MAX);
        if bytes > limit {
            return Err(TemplateError::TooLong { bytes, limit });
        }
        let (source, marks_generation) = generation::rewrite(source);
        let mut engine = Environment::new();
        engine.set_syntax(whitespace_as_transformers()?);
        engine.set_fuel(Some(FUEL));
        engine.set_unknown_method_callback(unknown_method_callback);
        engine.add_filter("tojson", json::tojson);
        engine.add_function("raise_exception", raise_exception);
        engine.add_template_owned(NAME, source).map_err(|error| TemplateError::Syntax {
            line: error.line().unwrap_or(0),
            reason: words(&error),
        })?;
        let owned = |token: Option<&str>| token.map(str::to_owned);
        let (bos_token, eos_token) = (owned(bos_token), owned(eos_token));
        let template = Self { engine, bos_token, eos_token, marks_generation };
        Ok(template.with_clock(SystemTime::now()))
    }

    /// The same template at another moment, for `strftime_now`.
    #[must_use]
    pub fn with_clock(mut self, now: SystemTime) -> Self {
        let now = time::Civil::from(now);
        self.engine.add_function("strftime_now", move |format: &str| now.format(format));
        self
    }

    /// Whether the template marks the assistant's words by `{% generation %}`.
    #[must_use]
    pub fn marks_generation(&self) -> bool {
        self.marks_generation
    }

    /// Renders a conversation.
    ///
    /// # Errors
    /// When the template refuses it, fails on it, or takes too many steps.
    pub fn render(
        &self,
        messages: &[Message],
        options: RenderOptions<'_>,
    ) -> Result<String, TemplateError> {
        self.render_with(messages, options, ("", ""))
    }

    /// Renders a conversation and tells which byte ranges of the text lie in `{% generation %}`
    /// blocks; none where the template has no such blocks, or where the conversation contains the
    /// characters that mark them on the way.
    ///
    /// # Errors
    /// As [`render`](Self::render).
    pub fn render_marked(
        &self,
        messages: &[Message],
        options: RenderOptions<'_>,
    ) -> Result<(String, Vec<Range<usize>>), TemplateError> {
        let plain = self.render(messages, options)?;
        if !self.marks_generation {
            return Ok((plain, Vec::new()));
        }
        let marked = self.render_with(messages, options, (generation::OPEN, generation::CLOSE))?;
        let spans = generation::spans(&marked, &plain).unwrap_or_default();
        Ok((plain, spans))
    }

    fn render_with(
        &self,
        messages: &[Message],
        options: RenderOptions<'_>,
        marks: (&str, &str),
    ) -> Result<String, TemplateError> {
        let template = self.engine.get_template(NAME).map_err(|error| failure(&error))?;
        // An absent token is left undefined, as transformers leaves it; absent tools are none.
        let token = |token: &Option<String>| token.clone().map_or(Value::UNDEFINED, Value::from);
        let context = context! {
            messages => Value::from(Serde(messages)),
            tools => options.tools.map_or(Value::from(()), |tools| Value::from(Serde(tools))),
            documents => Value::from(()),
            add_generation_prompt => options.add_generation_prompt,
            bos_token => token(&self.bos_token),
            eos_token => token(&self.eos_token),
            __generation_open => marks.0,
            __generation_close => marks.1,
        };
        template.render(context).map_err(|error| failure(&error))
    }
}

fn whitespace_as_transformers() -> Result<SyntaxConfig, TemplateError> {
    let config = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    config.map_err(|error| failure(&error))
}

fn raise_exception(message: &str, _: Kwargs) -> Result<Value, Error> {
    let error = Error::new(ErrorKind::InvalidOperation, message.to_owned());
    Err(error.with_source(Raised(message.to_owned())))
}

fn failure(error: &Error) -> TemplateError {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        if let Some(Raised(message)) = error.downcast_ref() {
            return TemplateError::Raised { message: message.clone() };
        }
        source = error.source();
    }
    TemplateError::Render { line: error.line().unwrap_or(0), reason: words(error) }
}

/// The engine's message without its own account of the place.
fn words(error: &Error) -> String {
    match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    }
}

#[cfg(test)]
mod tests;
