//! Reading a prompt, and decoding one token after the other.

use lowtide_memory::{Budget, Ledger};
use lowtide_model::Model;
use lowtide_tape::{DecodeLimits, DecodePlan, Decoder};

use super::step::ids;
use super::{Base, cost};
use crate::stand::Task;
use crate::{BenchError, Contender, Row, Stand, Work};

/// Rows of a prompt that are read at once, as `lowtide generate` does where memory allows.
const ROWS: usize = 256;

/// Times reading a prompt of `prompt` tokens, and `decode` tokens, each the likeliest after those
/// before it: from nothing, and after the prompt. Choosing among likely tokens and making text of
/// them is not part of it.
///
/// # Errors
/// When `prompt` and `decode` together are no length for the base, or memory is refused.
pub fn generate(
    stand: &Stand<'_>,
    base: &Base,
    prompt: usize,
    decode: usize,
) -> Result<Vec<Row>, BenchError> {
    base.check(prompt + decode)?;
    let model = base.bare()?;
    let ids = ids(base, prompt);
    let limits = DecodeLimits { context: prompt + decode, rows: ROWS.min(prompt) };
    let reserve = |contender| Reader::reserve(contender, &model, limits);
    let mut readers = stand.contenders.iter().map(reserve).collect::<Result<Vec<_>, _>>()?;
    let planned: Vec<_> = readers.iter().map(|reader| reader.planned).collect();
    let mut time = |name: &str, work: Work, tokens: usize, pass: &mut Pass<'_>| {
        let tokens = Some(tokens as u64);
        let task = Task { suite: "generate", name, work, tokens, planned: &planned };
        stand.time(&task, &mut |index, calls| {
            let (contender, reader) = (&stand.contenders[index], &mut readers[index]);
            contender.within(|| (0..calls).for_each(|_| pass(reader)));
        })
    };
    let mut rows = Vec::new();
    let work = cost::forward(base, prompt, 1);
    rows.push(time(&format!("prompt {prompt}"), work, prompt, &mut |reader| {
        reader.decoder.clear();
        reader.read(&ids);
    }));
    let (name, work) = (format!("decode {decode}"), cost::decode(base, 0, decode));
    rows.push(time(&name, work, decode, &mut |reader| {
        reader.decoder.clear();
        reader.decode(ids[0], decode);
    }));
    // Keys that a window has dropped cannot be had back without reading the prompt again.
    if base.config().local.is_none() {
        let (name, work) =
            (format!("decode {decode} after {prompt}"), cost::decode(base, prompt, decode));
        rows.push(time(&name, work, decode, &mut |reader| {
            reader.back_to(&ids);
            reader.decode(ids[0], decode);
        }));
    }
    readers.into_iter().for_each(Reader::release);
    Ok(rows)
}

/// Something a reader does once.
type Pass<'a> = dyn FnMut(&mut Reader<'_, '_>) + Send + 'a;

/// A decoder with its ledger.
struct Reader<'p, 'w> {
    decoder: Decoder<'p, 'w, f32>,
    ledger: Ledger,
    planned: u64,
}

impl<'p, 'w> Reader<'p, 'w> {
    fn reserve(
        contender: &Contender<'p>,
        model: &'p Model<'w, f32>,
        limits: DecodeLimits,
    ) -> Result<Self, BenchError> {
        let plan = DecodePlan::new(&model.program, contender.backend, limits);
        let planned = plan.bytes().held() + plan.library_bytes();
        let mut ledger = Ledger::new(Budget::UNLIMITED);
        match Decoder::reserve(&model.program, contender.backend, plan, &mut ledger) {
            Ok(decoder) => Ok(Self { decoder, ledger, planned }),
            Err(source) => {
                let contender = contender.label.to_owned();
                Err(BenchError::Reserve { contender, source })
            }
        }
    }

    fn release(self) {
        let Self { decoder, mut ledger, .. } = self;
        decoder.release(&mut ledger);
    }

    /// Reads a prompt and gives the likeliest token after it.
    fn read(&mut self, prompt: &[u32]) -> u32 {
        let rows = self.decoder.plan().limits().rows;
        let last = prompt.len() - (prompt.len() - 1) % rows - 1;
        for part in prompt[..last].chunks(rows) {
            self.decoder.read(&[], part);
        }
        likeliest(self.decoder.extend(&[], &prompt[last..]))
    }

    /// Goes on for `tokens` tokens from `id`.
    fn decode(&mut self, mut id: u32, tokens: usize) {
        for _ in 0..tokens {
            id = likeliest(self.decoder.extend(&[], &[id]));
        }
    }

    /// Back to where all of the prompt and nothing else was read.
    fn back_to(&mut self, prompt: &[u32]) {
        if self.decoder.len() < prompt.len() || self.decoder.truncate(prompt.len()) < prompt.len() {
            self.decoder.clear();
            self.read(prompt);
        }
    }
}

fn likeliest(logits: &[f32]) -> u32 {
    let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    best.map_or(0, |(id, _)| id as u32)
}
