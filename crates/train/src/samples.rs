//! Held-out prompts and what the model makes of them, before training and after.
//!
//! Asked when a run has given everything back, so that plan and ledger tell of training alone: the
//! adapter is read again as it was saved, and sessions hold no more than the run was allowed.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use lowtide_backend::Backend;
use lowtide_data::{Dataset, NO_LOSS, Tokenizer};
use lowtide_runtime::{
    Prompt, Request, RuntimeError, Sampling, Session, SessionSettings, Stop, with_session,
};

use crate::report::Sample;
use crate::{Event, Phase, Settings, TrainError};

/// Tokens of the longest answer.
const ANSWER_TOKENS: usize = 48;

/// A prompt with the answer of the data, in ids.
struct Asked {
    prompt: Vec<u32>,
    expected: Vec<u32>,
}

/// What the model says to the first held-out prompts; nothing when the base has no tokenizer, the
/// data no prompts, or the budget no room. Ends early when `stop` is set.
///
/// # Errors
/// When the data's temporary file or the adapter cannot be read.
pub(crate) fn take(
    settings: &Settings,
    valid: Option<&Dataset>,
    be: &dyn Backend<f32>,
    stop: &AtomicBool,
    on_event: &mut dyn FnMut(&Event),
) -> Result<Vec<Sample>, TrainError> {
    let asked = match valid {
        // A packed bin is no prompt.
        Some(valid) if !settings.packing => asked(valid, settings.samples)?,
        _ => Vec::new(),
    };
    let stopped = || stop.load(Ordering::Relaxed);
    if asked.is_empty() || stopped() {
        return Ok(Vec::new());
    }
    let (mut done, total) = (0, 2 * asked.len());
    let mut tell = || {
        done += 1;
        on_event(&Event::Progress { phase: Phase::Samples, done, total });
    };
    let before = answers(settings, settings.init_adapter.clone(), &asked, be, stop, &mut tell)?;
    let after = answers(settings, Some(settings.output.clone()), &asked, be, stop, &mut tell)?;
    if stopped() {
        // Answers cut short are nobody's.
        return Ok(Vec::new());
    }
    let pairs = before.into_iter().zip(after);
    Ok(pairs.map(|(before, after)| Sample { before: before.before, ..after }).collect())
}

fn asked(valid: &Dataset, most: usize) -> Result<Vec<Asked>, TrainError> {
    let mut asked = Vec::new();
    let mut buffer = valid.buffer();
    for index in 0..valid.len() {
        if asked.len() == most {
            break;
        }
        let sample = valid.read(index, &mut buffer)?;
        if sample.prompt_len == 0 || sample.prompt_len >= sample.ids.len() {
            continue;
        }
        let (prompt, rest) = sample.ids.split_at(sample.prompt_len);
        let labels = &sample.labels[sample.prompt_len..];
        let turn = labels.iter().take_while(|&&label| label != NO_LOSS).count();
        let expected = rest[..turn.min(ANSWER_TOKENS)].to_vec();
        asked.push(Asked { prompt: prompt.to_vec(), expected });
    }
    Ok(asked)
}

/// The answers under one adapter, each as both `before` and `after` of its sample.
fn answers(
    settings: &Settings,
    adapter: Option<PathBuf>,
    asked: &[Asked],
    be: &dyn Backend<f32>,
    stop: &AtomicBool,
    tell: &mut dyn FnMut(),
) -> Result<Vec<Sample>, TrainError> {
    let longest = asked.iter().map(|asked| asked.prompt.len()).max().unwrap_or(0);
    let session = SessionSettings {
        model: settings.model.clone(),
        adapter,
        chat_template: None,
        sliding_window: settings.sliding_window,
        context: Some(longest + ANSWER_TOKENS),
        memory_budget: settings.budget()?,
    };
    let answered = with_session(&session, be, |session| {
        let one = |asked| {
            let sample = answer(session, asked, stop)?;
            tell();
            Ok(sample)
        };
        asked.iter().map(one).collect::<Result<Vec<_>, RuntimeError>>()
    });
    match answered {
        Ok(samples) => Ok(samples),
        // Then the page goes without them: the run itself is done and saved.
        Err(
            RuntimeError::NoTokenizer { .. }
            | RuntimeError::OverBudget { .. }
            | RuntimeError::WholeSequence { .. }
            | RuntimeError::Context { .. },
        ) => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

fn answer(
    session: &mut Session<'_, '_>,
    asked: &Asked,
    stop: &AtomicBool,
) -> Result<Sample, RuntimeError> {
    let max_tokens = ANSWER_TOKENS;
    let request = Request { sampling: Sampling::GREEDY, max_tokens, ..Request::default() };
    let mut go_on = |_: &str| match stop.load(Ordering::Relaxed) {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    };
    let answer = session.complete(Prompt::Ids(&asked.prompt), &request, &mut go_on)?;
    let cut = if answer.stop == Stop::MaxTokens { " …" } else { "" };
    let said = answer.text + cut;
    let tokenizer = session.text().tokenizer()?;
    let words = |ids: &[u32]| plain(tokenizer, ids);
    Ok(Sample {
        prompt: words(&asked.prompt),
        expected: words(&asked.expected),
        before: said.clone(),
        after: said,
    })
}

/// Text for people, who do without control tokens; nothing for ids that no text belongs to.
fn plain(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    tokenizer.decode_plain(ids).unwrap_or_default()
}
