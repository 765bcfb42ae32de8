//! `lowtide eval`: loss, perplexity and accuracy.

use lowtide::train::{
    COUNT_MAX, SettingsError, StreamWeights, check_window, evaluate_telling, parse_bytes,
};
use lowtide::{EvalSettings, Event};

use super::args::EvalArgs;
use super::console::Console;
use super::failure::Failure;
use super::machine::Machine;
use super::{inputs, show};

/// Runs `lowtide eval`.
pub(crate) fn run(args: &EvalArgs) -> Result<(), Failure> {
    let settings = settings(args)?;
    inputs::base("model", &settings.model, args.voice)?;
    inputs::check("data", &settings.data)?;
    if let Some(adapter) = &settings.adapter {
        inputs::check_adapter("adapter", adapter)?;
    }
    let machine = Machine::start(args.machine, &args.arithmetic)?;
    let mut console = Console::new(args.voice);
    let mut hear = |event: &Event| tell(event, &mut console);
    let result = machine.run(|backend, _| evaluate_telling(&settings, backend, &mut hear));
    console.settle();
    let result = result.map_err(|error| Failure::Evaluation(error.into()))?;
    console.json(&result);
    console.text(&show::evaluation::table(&result));
    Ok(console.finish()?)
}

/// Moves the live line of an evaluation.
pub(crate) fn tell(event: &Event, console: &mut Console) {
    if let Event::Progress { phase, done, total } = *event {
        let words = show::evaluation::progress(phase, done, total);
        console.advance(done as u64, total as u64, words, String::new());
    }
}

/// Refuses sequences of too few tokens, and batches that no run has.
pub(crate) fn check_sizes(max_seq_len: usize, batch_size: usize) -> Result<(), SettingsError> {
    let bad = |field, given: usize, expected| {
        Err(SettingsError::BadValue { field, found: given.to_string(), expected })
    };
    if max_seq_len < 2 {
        return bad("max-seq-len", max_seq_len, "at least 2");
    }
    match batch_size {
        1..=COUNT_MAX => Ok(()),
        given => bad("batch-size", given, "a whole number from 1 to 1048576"),
    }
}

fn settings(args: &EvalArgs) -> Result<EvalSettings, SettingsError> {
    check_window(args.sliding_window)?;
    check_sizes(args.max_seq_len, args.batch_size)?;
    let budget = args.memory_budget.as_deref().map(parse_bytes).transpose()?;
    Ok(EvalSettings {
        model: args.model.clone(),
        adapter: args.adapter.clone(),
        data: args.data.clone(),
        max_seq_len: args.max_seq_len,
        batch_size: args.batch_size,
        sliding_window: args.sliding_window,
        packing: args.packing.given().unwrap_or(false),
        mask_prompt: args.mask.given().unwrap_or(true),
        memory_budget: budget,
        stream_weights: StreamWeights::named(&args.stream_weights)?,
    })
}
