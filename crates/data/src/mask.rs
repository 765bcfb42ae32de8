//! Which tokens of a rendered conversation carry loss.
//!
//! A turn of the assistant begins where the same conversation, rendered up to the message before
//! and asked to open an assistant's turn, ends; it ends with its last special token, which is what
//! ends a turn (`<|im_end|>`; the line break that many templates put after it is not the
//! assistant's). This holds for templates whose rendering of the beginning of a conversation is a
//! beginning of the rendering of the whole. Where it does not hold, the template's
//! `{% generation %}` blocks tell, and where there are none, nothing can: that is an error.

use std::ops::Range;

use crate::error::RecordError;
use crate::record::Message;
use crate::template::{ChatTemplate, RenderOptions};
use crate::tokenizer::{Encoding, Tokenizer};

/// A conversation with what is needed to render it.
#[derive(Clone, Copy)]
pub(crate) struct Conversation<'a> {
    pub(crate) tokenizer: &'a Tokenizer,
    pub(crate) template: &'a ChatTemplate,
    pub(crate) messages: &'a [Message],
    /// How many messages are context only.
    pub(crate) context: usize,
    pub(crate) tools: Option<&'a serde_json::Value>,
}

/// A conversation as tokens, with the byte ranges of the text that carry loss, in order.
pub(crate) struct Marked {
    pub(crate) encoding: Encoding,
    pub(crate) spans: Vec<Range<usize>>,
}

/// The name under which errors speak of a conversation.
const FIELD: &str = "messages";

impl Conversation<'_> {
    /// Renders and tokenizes the whole once, and finds the assistant's turns in it.
    pub(crate) fn mark(&self) -> Result<Marked, RecordError> {
        let text = self.render(self.messages.len(), false)?;
        let encoding = self.encode(&text)?;
        let spans = match self.turns(&text, &encoding) {
            Err(RecordError::UnstableTemplate { message }) => {
                self.generation_blocks(&encoding, message)?
            }
            found => found?,
        };
        Ok(Marked { encoding, spans })
    }

    /// The whole without a mask.
    pub(crate) fn plain(&self) -> Result<Encoding, RecordError> {
        self.encode(&self.render(self.messages.len(), false)?)
    }

    fn turns(&self, text: &str, encoding: &Encoding) -> Result<Vec<Range<usize>>, RecordError> {
        let assistant = |index: &usize| self.messages[*index].is_assistant();
        (self.context..self.messages.len())
            .filter(assistant)
            .map(|index| self.turn(index, text, encoding))
            .collect()
    }

    /// The turn of message `index` in the rendering of the whole.
    fn turn(
        &self,
        index: usize,
        text: &str,
        encoding: &Encoding,
    ) -> Result<Range<usize>, RecordError> {
        let unstable = RecordError::UnstableTemplate { message: index };
        // The whole was rendered; a template that refuses a part of it just leaves no telling.
        let Ok(head) = self.render(index, true) else { return Err(unstable) };
        if !text.starts_with(&head) {
            return Err(unstable);
        }
        let content = self.messages[index].content().unwrap_or_default();
        if index + 1 == self.messages.len() {
            return Ok(self.end_of_turn(text, encoding, head.len()..text.len(), content).0);
        }
        let Ok(own) = self.render(index + 1, false) else { return Err(unstable) };
        if text.starts_with(&own) && own.len() >= head.len() {
            return Ok(self.end_of_turn(text, encoding, head.len()..own.len(), content).0);
        }
        if !own.starts_with(&head) {
            return Err(unstable);
        }
        // Some templates write the last turn differently (Qwen 3 adds its thinking to it). What
        // ends the turn there ends it here.
        let own_encoding = self.encode(&own)?;
        let (_, end) = self.end_of_turn(&own, &own_encoding, head.len()..own.len(), content);
        let here =
            |&(&id, &(start, _)): &(&u32, &(usize, usize))| start >= head.len() && Some(id) == end;
        let found = encoding.ids.iter().zip(&encoding.offsets).find(here);
        found.map(|(_, &(_, end))| head.len()..end).ok_or(unstable)
    }

    /// Cuts a turn off behind its last special token, and says which that is. A template that ends
    /// turns with plain text keeps all of it.
    fn end_of_turn(
        &self,
        text: &str,
        encoding: &Encoding,
        turn: Range<usize>,
        content: &str,
    ) -> (Range<usize>, Option<u32>) {
        let content = content.trim();
        let said = text[turn.clone()].find(content).filter(|_| !content.is_empty());
        let said = said.map_or(turn.start, |at| turn.start + at + content.len());
        let tokens = encoding.ids.iter().zip(&encoding.offsets);
        let last = tokens.rev().find(|&(&id, &(start, end))| {
            start >= turn.start && end <= turn.end && self.tokenizer.is_special(id)
        });
        // A call to a tool follows the content, and may begin with a special token.
        let ends = |start, end: usize| start >= said && text[end..turn.end].trim().is_empty();
        match last {
            Some((&id, &(start, end))) if ends(start, end) => (turn.start..end, Some(id)),
            _ => (turn, None),
        }
    }

    /// The spans a template marks itself, each with the special token behind it where it ends
    /// before that.
    fn generation_blocks(
        &self,
        encoding: &Encoding,
        message: usize,
    ) -> Result<Vec<Range<usize>>, RecordError> {
        let options = RenderOptions { add_generation_prompt: false, tools: self.tools };
        let (_, spans) = self
            .template
            .render_marked(self.messages, options)
            .map_err(|error| RecordError::Template { field: FIELD, error })?;
        let turns = self.messages.iter().filter(|message| message.is_assistant()).count();
        let context = &self.messages[..self.context];
        let skipped = context.iter().filter(|message| message.is_assistant()).count();
        if spans.is_empty() || spans.len() != turns {
            return Err(RecordError::UnstableTemplate { message });
        }
        let extended = |span: Range<usize>| {
            let mut tokens = encoding.ids.iter().zip(&encoding.offsets);
            let next = tokens.find(|&(_, &(start, _))| start >= span.end);
            match next {
                Some((&id, &(start, end)))
                    if start == span.end && self.tokenizer.is_special(id) =>
                {
                    span.start..end
                }
                _ => span,
            }
        };
        Ok(spans.into_iter().skip(skipped).map(extended).collect())
    }

    fn render(&self, count: usize, add_generation_prompt: bool) -> Result<String, RecordError> {
        let options = RenderOptions { add_generation_prompt, tools: self.tools };
        self.template
            .render(&self.messages[..count], options)
            .map_err(|error| RecordError::Template { field: FIELD, error })
    }

    fn encode(&self, text: &str) -> Result<Encoding, RecordError> {
        self.tokenizer.encode(text).map_err(|error| RecordError::Tokenizer { field: FIELD, error })
    }
}
