//! A record to token ids with a loss mask.

use std::ops::Range;

use crate::error::RecordError;
use crate::mask::Conversation;
use crate::record::{Message, Record};
use crate::sample::NO_LOSS;
use crate::template::ChatTemplate;
use crate::tokenizer::{Encoding, Tokenizer};

/// A tokenized example, owned and not cut.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Example {
    /// Token ids, `[tokens]`.
    pub ids: Vec<u32>,
    /// Labels, `[tokens]`; see [`Sample::labels`](crate::Sample::labels).
    pub labels: Vec<i32>,
    /// Number of tokens before the first response.
    pub prompt_len: usize,
}

/// What turns records into examples.
#[derive(Clone, Copy, Debug)]
pub struct Encoder<'a> {
    /// For every form but `input_ids`.
    pub tokenizer: Option<&'a Tokenizer>,
    /// For conversations; with it, `prompt` and `completion` become one.
    pub template: Option<&'a ChatTemplate>,
    /// Loss on responses only.
    pub mask_prompt: bool,
    /// End texts and completions that no template ended with the tokenizer's eos token, and give it
    /// a label, so that the model learns to stop.
    pub append_eos: bool,
    /// Number of ids the model knows; ids beyond it are errors. Absent, the tokenizer's.
    pub vocab_size: Option<usize>,
}

impl Encoder<'_> {
    /// Tokenizes a record and marks its labelled tokens; at least one is labelled.
    ///
    /// # Errors
    /// When the record needs a tokenizer or template that is not there, the template refuses it,
    /// an id is outside the vocabulary, or nothing is labelled.
    pub fn encode(&self, record: &Record) -> Result<Example, RecordError> {
        let field = record.field();
        let mut example = match record {
            Record::Ids { ids, labels } => from_ids(ids, labels.as_deref()),
            Record::Text(text) => self.text(text, 0, field)?,
            Record::Chat { messages, context, tools } => {
                self.chat(messages, *context, tools.as_ref())?
            }
            Record::Completion { prompt, completion } => match self.template {
                Some(_) => self.exchange(prompt, completion)?,
                None => self.completion(prompt, completion, field)?,
            },
            Record::Instruction { instruction, input, output } => match self.template {
                Some(_) if input.is_empty() => self.exchange(instruction, output)?,
                Some(_) => self.exchange(&format!("{instruction}\n\n{input}"), output)?,
                None => self.completion(&sections(instruction, input), output, field)?,
            },
        };
        self.check_vocabulary(&example, field)?;
        // Nothing predicts the first token.
        if let Some(first) = example.labels.first_mut() {
            *first = NO_LOSS;
        }
        if example.labels.iter().all(|&label| label == NO_LOSS) {
            return Err(RecordError::NoLabelledToken { field, why: why_unlabelled(record) });
        }
        Ok(example)
    }

    /// Prompt and answer as user and assistant.
    fn exchange(&self, user: &str, assistant: &str) -> Result<Example, RecordError> {
        self.chat(&[Message::new("user", user), Message::new("assistant", assistant)], 0, None)
    }

    fn chat(
        &self,
        messages: &[Message],
        context: usize,
        tools: Option<&serde_json::Value>,
    ) -> Result<Example, RecordError> {
        let field = "messages";
        let template = self.template.ok_or(RecordError::NeedsTemplate { field })?;
        let tokenizer = self.tokenizer.ok_or(RecordError::NeedsTokenizer { field })?;
        let conversation = Conversation { tokenizer, template, messages, context, tools };
        if self.mask_prompt {
            let marked = conversation.mark()?;
            return Ok(masked(marked.encoding, &marked.spans));
        }
        // Without the mask the prompt's length is a courtesy: a template that hides it is no error.
        match conversation.mark() {
            Ok(marked) => Ok(unmasked(masked(marked.encoding, &marked.spans))),
            Err(RecordError::UnstableTemplate { .. }) => {
                let Encoding { ids, .. } = conversation.plain()?;
                Ok(unmasked(Example { labels: vec![NO_LOSS; ids.len()], ids, prompt_len: 0 }))
            }
            Err(error) => Err(error),
        }
    }

    fn completion(
        &self,
        prompt: &str,
        completion: &str,
        field: &'static str,
    ) -> Result<Example, RecordError> {
        if completion.is_empty() {
            return Err(RecordError::NoLabelledToken { field, why: "it is empty" });
        }
        let example = self.text(&[prompt, completion].concat(), prompt.len(), field)?;
        Ok(if self.mask_prompt { example } else { unmasked(example) })
    }

    /// A text whose first `prompt_bytes` bytes carry no loss, with what belongs around it.
    fn text(
        &self,
        text: &str,
        prompt_bytes: usize,
        field: &'static str,
    ) -> Result<Example, RecordError> {
        let tokenizer = self.tokenizer.ok_or(RecordError::NeedsTokenizer { field })?;
        let encoding =
            tokenizer.encode(text).map_err(|error| RecordError::Tokenizer { field, error })?;
        if encoding.ids.is_empty() {
            return Err(RecordError::NoLabelledToken { field, why: "it is empty" });
        }
        // No range but the one of the text: a token that reaches into it belongs to it.
        let mut example = masked(encoding, std::slice::from_ref(&(prompt_bytes..text.len())));
        let prefix = tokenizer.prefix();
        example.ids.splice(..0, prefix.iter().copied());
        example.labels.splice(..0, prefix.iter().map(|_| NO_LOSS));
        example.prompt_len = if prompt_bytes == 0 { 0 } else { example.prompt_len + prefix.len() };
        let eos = tokenizer.specials().eos;
        let appended = eos.filter(|&eos| self.append_eos && example.ids.last() != Some(&eos));
        let suffix = tokenizer.suffix();
        let ends = appended.iter().filter(|&eos| !suffix.contains(eos)).chain(suffix);
        for &id in ends {
            example.ids.push(id);
            example.labels.push(label(id));
        }
        Ok(example)
    }

    fn check_vocabulary(&self, example: &Example, field: &'static str) -> Result<(), RecordError> {
        let known = self.vocab_size.or(self.tokenizer.map(Tokenizer::vocab_size));
        let Some(vocab_size) = known else { return Ok(()) };
        let outside = |id: u32| id as usize >= vocab_size;
        if let Some(index) = example.ids.iter().position(|&id| outside(id)) {
            let id = example.ids[index];
            return Err(RecordError::OutsideVocabulary { field, index, id, vocab_size });
        }
        let labels = example.labels.iter().map(|&label| u32::try_from(label).ok());
        let mut outside_labels = labels.enumerate().filter_map(|(i, label)| Some((i, label?)));
        match outside_labels.find(|&(_, id)| outside(id)) {
            Some((index, id)) => {
                Err(RecordError::OutsideVocabulary { field: "labels", index, id, vocab_size })
            }
            None => Ok(()),
        }
    }
}

fn from_ids(ids: &[u32], labels: Option<&[i32]>) -> Example {
    let labels = labels.map_or_else(|| ids.iter().map(|&id| label(id)).collect(), <[_]>::to_vec);
    // A prompt is what is not learned; without labels there is none.
    let first = labels.iter().position(|&label| label != NO_LOSS).unwrap_or(labels.len());
    Example { ids: ids.to_vec(), labels, prompt_len: first }
}

/// Labels every token that holds a byte of one of the spans, which are in order.
fn masked(encoding: Encoding, spans: &[Range<usize>]) -> Example {
    let Encoding { ids, offsets } = encoding;
    let mut spans = spans.iter().peekable();
    let labels: Vec<i32> = ids
        .iter()
        .zip(&offsets)
        .map(|(&id, &(start, end))| {
            while spans.next_if(|span| span.end <= start).is_some() {}
            let inside = spans.peek().is_some_and(|span| start < span.end && end > span.start);
            if inside { label(id) } else { NO_LOSS }
        })
        .collect();
    let prompt_len = labels.iter().position(|&l| l != NO_LOSS).unwrap_or(labels.len());
    Example { ids, labels, prompt_len }
}

/// Every token labelled; the prompt stays where it was.
fn unmasked(example: Example) -> Example {
    let labels = example.ids.iter().map(|&id| label(id)).collect();
    Example { labels, ..example }
}

/// An id as its own label. Ids over `i32::MAX` exist in no vocabulary and are refused on reading.
fn label(id: u32) -> i32 {
    i32::try_from(id).unwrap_or(NO_LOSS)
}

/// Alpaca's sections, for a model without a chat template.
fn sections(instruction: &str, input: &str) -> String {
    let input = if input.is_empty() { String::new() } else { format!("### Input:\n{input}\n\n") };
    format!("### Instruction:\n{instruction}\n\n{input}### Response:\n")
}

fn why_unlabelled(record: &Record) -> &'static str {
    match record {
        Record::Chat { .. } => "expected a message of the assistant that is not empty",
        Record::Ids { labels: Some(_), .. } => "expected a label other than -100 after the first",
        _ => "expected at least two tokens",
    }
}
