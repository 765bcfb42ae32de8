//! Continuing token ids: a decoder, a sampler, and what was read already.

use std::ops::ControlFlow;
use std::time::Instant;

use lowtide_backend::Backend;
use lowtide_memory::{ByCategory, Category, Ledger, ReserveError, Slab};
use lowtide_tape::{DecodeLimits, DecodePlan, Decoder, Program, Segment};

use crate::stream::TextStream;
use crate::{BaseText, RuntimeError, Sampling};

/// What an answer is told.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// The most tokens to generate.
    pub max_tokens: usize,
    /// Texts before which an answer ends.
    pub stop: Vec<String>,
    /// Whether an answer goes on behind the tokens that would end it.
    pub ignore_ends: bool,
}

impl Default for Request {
    /// The default sampling, at most 256 tokens, no stop text.
    fn default() -> Self {
        let sampling = Sampling::default();
        Self { sampling, max_tokens: 256, stop: Vec::new(), ignore_ends: false }
    }
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The model ended it.
    End,
    /// A stop text was reached.
    Text,
    /// It has as many tokens as were asked for.
    MaxTokens,
    /// The context is full.
    Context,
    /// Whoever listened had heard enough.
    Interrupted,
}

impl Stop {
    /// Name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::End => "end",
            Self::Text => "stop",
            Self::MaxTokens => "max_tokens",
            Self::Context => "context",
            Self::Interrupted => "interrupted",
        }
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of the prompt that had been read before and were not read again.
    pub reused_tokens: usize,
    /// The generated tokens; one that ended the answer is not among them.
    pub ids: Vec<u32>,
    /// Their text, without control tokens and without the stop text.
    pub text: String,
    /// Why it ended.
    pub stop: Stop,
    /// Seconds it took to read the prompt.
    pub prompt_seconds: f64,
    /// Seconds it took altogether.
    pub seconds: f64,
}

impl Generation {
    /// Generated tokens a second, reading the prompt not counted; 0 when there are none.
    #[must_use]
    pub fn tokens_per_second(&self) -> f64 {
        let seconds = self.seconds - self.prompt_seconds;
        if seconds > 0.0 { self.ids.len() as f64 / seconds } else { 0.0 }
    }
}

/// What a generator will hold.
#[derive(Clone, Debug)]
pub struct GeneratorPlan {
    decoding: DecodePlan,
    vocab: usize,
}

impl GeneratorPlan {
    /// Rows of a prompt read at once, the fastest first.
    const ROWS: [usize; 4] = [256, 64, 16, 1];

    /// The plans for a context, the fastest first; one, of as many rows, where an adapter reads
    /// whole prompts.
    pub fn all<'a>(
        program: &'a Program<'_, f32>,
        be: &'a dyn Backend<f32>,
        context: usize,
    ) -> impl Iterator<Item = Self> + 'a {
        let vocab = program.head.weight.rows();
        let mut last = 0;
        let fewest = if whole_prompts(program) { context } else { 1 };
        let rows = Self::ROWS.into_iter().map(move |rows| rows.clamp(fewest, context));
        let rows = rows.filter(move |&rows| std::mem::replace(&mut last, rows) != rows);
        rows.map(move |rows| Self {
            decoding: DecodePlan::new(program, be, DecodeLimits { context, rows }),
            vocab,
        })
    }

    /// Bytes by category.
    #[must_use]
    pub fn bytes(&self) -> ByCategory {
        let library = self.decoding.library_bytes();
        self.decoding.bytes().with(Category::Scratch, library) + self.own_bytes()
    }

    /// Tokens the context holds.
    #[must_use]
    pub fn context(&self) -> usize {
        self.decoding.limits().context
    }

    /// The words of the sampler, and the ids that the cache is of.
    fn own_bytes(&self) -> ByCategory {
        let word = size_of::<u32>() as u64;
        let sampler = self.vocab + self.vocab.div_ceil(32);
        ByCategory::of(Category::Head, sampler as u64 * word)
            .with(Category::Data, self.context() as u64 * word)
    }
}

/// A program reserved to continue token ids. Parameters are lent at each call, so that it works on
/// an adapter under training as on one that was loaded.
pub struct Generator<'p, 'w> {
    decoder: Decoder<'p, 'w, f32>,
    /// What [`Words`] are cut from.
    words: Slab,
    vocab: usize,
    /// A prompt is read in one call, from its first token on: an adapter makes something of it.
    whole_prompts: bool,
}

impl<'p, 'w> Generator<'p, 'w> {
    /// Reserves what the plan says.
    ///
    /// # Errors
    /// [`ReserveError`] when the ledger or the system refuses; nothing stays reserved then.
    pub fn reserve(
        program: &'p Program<'w, f32>,
        be: &'p dyn Backend<f32>,
        plan: GeneratorPlan,
        ledger: &mut Ledger,
    ) -> Result<Self, ReserveError> {
        let words = Slab::reserve(ledger, plan.own_bytes())?;
        let (vocab, whole_prompts) = (plan.vocab, whole_prompts(program));
        match Decoder::reserve(program, be, plan.decoding, ledger) {
            Ok(decoder) => Ok(Self { decoder, words, vocab, whole_prompts }),
            Err(error) => {
                words.release(ledger);
                Err(error)
            }
        }
    }

    /// Gives everything back.
    pub fn release(self, ledger: &mut Ledger) {
        self.decoder.release(ledger);
        self.words.release(ledger);
    }

    /// Tokens the context holds.
    #[must_use]
    pub fn context(&self) -> usize {
        self.decoder.plan().limits().context
    }

    /// Forgets what was read. To be called when the parameters are others than before.
    pub fn clear(&mut self) {
        self.decoder.clear();
        self.decoder.params_changed();
    }

    /// What goes with the adapter's parameters and is not trained, to set.
    #[must_use]
    pub fn fixed_mut(&mut self) -> &mut [f32] {
        self.decoder.fixed_mut()
    }

    /// Continues `prompt` with the adapter `params`. What the prompt has in common with what was
    /// read before is not read again.
    ///
    /// `on_piece` hears the text as it becomes certain, after every token and after every part of
    /// the prompt; a piece may be empty, and breaking off ends the answer.
    ///
    /// # Errors
    /// When the prompt is empty, too long or not of this vocabulary, a sampling value is out of
    /// range, the base has no tokenizer, or no logit is a number.
    pub fn generate(
        &mut self,
        params: &[f32],
        text: &BaseText,
        prompt: &[u32],
        request: &Request,
        on_piece: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Generation, RuntimeError> {
        let start = Instant::now();
        request.sampling.check()?;
        self.check(prompt)?;
        let mut stream = TextStream::new(text.tokenizer()?, &request.stop);
        let reused = self.reuse(prompt);
        let (mut ids, mut said) = (Vec::new(), String::new());
        let last = if self.whole_prompts { reused } else { prompt.len() - 1 };
        let heard = self.read_prompt(params, &prompt[reused..last], on_piece);
        let mut prompt_seconds = start.elapsed().as_secs_f64();
        self.mark_all(prompt);
        let mut pending = prompt[last..].to_vec();
        let stop = loop {
            if heard.is_break() {
                break Stop::Interrupted;
            }
            if ids.len() == request.max_tokens {
                break Stop::MaxTokens;
            }
            if self.decoder.len() == self.context() {
                break Stop::Context;
            }
            let id = self.next(params, &pending, &request.sampling, ids.len() as u64)?;
            if pending.len() > 1 {
                prompt_seconds = start.elapsed().as_secs_f64();
            }
            if text.ends().contains(&id) && !request.ignore_ends {
                break Stop::End;
            }
            pending.clear();
            pending.push(id);
            ids.push(id);
            let piece = stream.push(id).map_err(|error| text.tokens_error(error))?;
            said.push_str(&piece);
            let heard = on_piece(&piece);
            if stream.stopped() {
                break Stop::Text;
            }
            if heard.is_break() {
                break Stop::Interrupted;
            }
        };
        let rest = stream.finish().map_err(|error| text.tokens_error(error))?;
        if !rest.is_empty() {
            said.push_str(&rest);
            let _ = on_piece(&rest);
        }
        Ok(Generation {
            prompt_tokens: prompt.len(),
            reused_tokens: reused,
            ids,
            text: said,
            stop,
            prompt_seconds,
            seconds: start.elapsed().as_secs_f64(),
        })
    }

    fn check(&self, prompt: &[u32]) -> Result<(), RuntimeError> {
        let (tokens, context) = (prompt.len(), self.context());
        if tokens == 0 {
            return Err(RuntimeError::EmptyPrompt);
        }
        if tokens > context {
            return Err(RuntimeError::PromptTooLong { tokens, context });
        }
        let vocab_size = self.vocab;
        match prompt.iter().find(|id| **id as usize >= vocab_size) {
            Some(&id) => Err(RuntimeError::UnknownToken { id, vocab_size }),
            None => Ok(()),
        }
    }

    /// Takes back what `prompt` does not begin with, and its last token, whose logits are wanted;
    /// all, where what was made of another prompt is of no use.
    fn reuse(&mut self, prompt: &[u32]) -> usize {
        if self.whole_prompts {
            self.decoder.clear();
        }
        let read = &Words::of(&mut self.words, self.vocab).read[..self.decoder.len()];
        let common = read.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        self.decoder.truncate(common.min(prompt.len() - 1))
    }

    /// Reads a part of a prompt, without the last token.
    fn read_prompt(
        &mut self,
        params: &[f32],
        rest: &[u32],
        on_piece: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let rows = self.decoder.plan().limits().rows;
        for ids in rest.chunks(rows) {
            self.note(ids);
            self.decoder.read(params, ids);
            on_piece("")?;
        }
        ControlFlow::Continue(())
    }

    /// Marks the tokens of a prompt as seen, and none else.
    fn mark_all(&mut self, prompt: &[u32]) {
        let Words { seen, .. } = Words::of(&mut self.words, self.vocab);
        seen.fill(0);
        prompt.iter().for_each(|id| mark(seen, *id));
    }

    /// Remembers the tokens that the decoder is about to read.
    fn note(&mut self, ids: &[u32]) {
        let past = self.decoder.len();
        Words::of(&mut self.words, self.vocab).read[past..][..ids.len()].copy_from_slice(ids);
    }

    /// Reads `ids` and chooses what follows.
    fn next(
        &mut self,
        params: &[f32],
        ids: &[u32],
        sampling: &Sampling,
        draws: u64,
    ) -> Result<u32, RuntimeError> {
        self.note(ids);
        let tokens = self.decoder.len() + ids.len();
        let logits = self.decoder.extend(params, ids);
        let Words { order, seen, .. } = Words::of(&mut self.words, self.vocab);
        let next = sampling.pick(logits, seen, order, draws);
        let next = next.ok_or(RuntimeError::LogitsNotFinite { tokens })?;
        mark(seen, next);
        Ok(next)
    }
}

/// Whether an adapter makes something of a whole prompt.
fn whole_prompts(program: &Program<'_, f32>) -> bool {
    program.segments.iter().any(Segment::whole_sequence)
}

/// What a generator holds besides its decoder, in one slab.
struct Words<'s> {
    /// Room for an id of every logit.
    order: &'s mut [u32],
    /// Of every token, whether it was there: a bit.
    seen: &'s mut [u32],
    /// The tokens that the decoder has read, as many as it says, and room up to the context.
    read: &'s mut [u32],
}

impl<'s> Words<'s> {
    fn of(slab: &'s mut Slab, vocab: usize) -> Self {
        let (order, rest) = slab.get_mut::<u32>().split_at_mut(vocab);
        let (seen, read) = rest.split_at_mut(vocab.div_ceil(32));
        Self { order, seen, read }
    }
}

fn mark(seen: &mut [u32], id: u32) {
    seen[id as usize / 32] |= 1 << (id % 32);
}
