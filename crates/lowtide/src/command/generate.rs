//! `lowtide generate`: one answer.

use std::io::{self, IsTerminal, Read};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use clap::Args;
use lowtide::data::Message;
use lowtide::runtime::{Generation, Prompt, RuntimeError, Session, with_session};
use lowtide::train::SettingsError;
use serde::Serialize;

use super::args::Voice;
use super::computing::{ArithmeticFlags, MachineFlags};
use super::console::Console;
use super::failure::Failure;
use super::machine::Machine;
use super::speech::SpeechFlags;

/// Bytes of the longest prompt that is read; no context holds as many tokens.
pub(crate) const PROMPT_BYTES_MAX: u64 = 1 << 20;

/// `lowtide generate`.
#[derive(Debug, Args)]
pub(crate) struct GenerateArgs {
    #[command(flatten)]
    speech: SpeechFlags,
    /// What is to be answered or continued [default: standard input]
    #[arg(long, short, value_name = "TEXT", help_heading = "Input", allow_hyphen_values = true)]
    prompt: Option<String>,
    /// File with the prompt
    #[arg(long, value_name = "FILE", help_heading = "Input", conflicts_with = "prompt")]
    prompt_file: Option<PathBuf>,
    /// What the model is told before the conversation
    #[arg(long, value_name = "TEXT", help_heading = "Input", conflicts_with = "raw")]
    #[arg(allow_hyphen_values = true)]
    system: Option<String>,
    /// Continue the prompt as it is, although the base has a chat template
    #[arg(long, help_heading = "Input")]
    raw: bool,
    #[command(flatten)]
    arithmetic: ArithmeticFlags,
    #[command(flatten)]
    machine: MachineFlags,
    #[command(flatten)]
    pub(crate) voice: Voice,
}

/// An answer as `--json` tells it.
#[derive(Serialize)]
pub(crate) struct Answer<'a> {
    prompt_tokens: usize,
    tokens: usize,
    text: &'a str,
    stop: &'static str,
    seconds: f64,
    tokens_per_second: f64,
}

impl<'a> Answer<'a> {
    pub(crate) fn of(generation: &'a Generation) -> Self {
        Self {
            prompt_tokens: generation.prompt_tokens,
            tokens: generation.ids.len(),
            text: &generation.text,
            stop: generation.stop.name(),
            seconds: generation.seconds,
            tokens_per_second: generation.tokens_per_second(),
        }
    }
}

/// Runs `lowtide generate`.
pub(crate) fn run(args: &GenerateArgs) -> Result<(), Failure> {
    let (settings, request) = args.speech.resolve(args.voice)?;
    let prompt = prompt(args)?;
    let machine = Machine::start(args.machine, &args.arithmetic)?;
    let mut console = Console::new(args.voice);
    let generation = machine.run(|backend, _| {
        with_session(&settings, backend, |session| {
            let mut tell = |piece: &str| {
                console.speech(piece);
                ControlFlow::Continue(())
            };
            let turns = turns(args, session, &prompt)?;
            let prompt = turns.as_deref().map_or(Prompt::Text(&prompt), Prompt::Chat);
            session.complete(prompt, &request, &mut tell)
        })
    })?;
    console.speech("\n");
    console.json(&Answer::of(&generation));
    Ok(console.finish()?)
}

/// The prompt as a conversation, where the base knows how to hold one.
fn turns(
    args: &GenerateArgs,
    session: &Session<'_, '_>,
    prompt: &str,
) -> Result<Option<Vec<Message>>, RuntimeError> {
    let text = session.text();
    if args.raw || text.template.is_none() && args.system.is_none() {
        return Ok(None);
    }
    let system = args.system.iter().map(|system| Message::new("system", system));
    Ok(Some(system.chain([Message::new("user", prompt)]).collect()))
}

/// The prompt, from the flag, the file or standard input, less the line break that ends it.
fn prompt(args: &GenerateArgs) -> Result<String, Failure> {
    let mut prompt = match (&args.prompt, &args.prompt_file) {
        (Some(prompt), _) => return given(prompt.clone()),
        (None, Some(path)) => {
            let file = std::fs::File::open(path);
            file.and_then(read).map_err(|error| unreadable(path, &error))?
        }
        (None, None) if io::stdin().is_terminal() => {
            return Err(missing());
        }
        (None, None) => {
            read(io::stdin().lock()).map_err(|error| unreadable(Path::new("-"), &error))?
        }
    };
    if prompt.ends_with('\n') {
        prompt.pop();
        if prompt.ends_with('\r') {
            prompt.pop();
        }
    }
    given(prompt)
}

fn given(prompt: String) -> Result<String, Failure> {
    if prompt.is_empty() { Err(missing()) } else { Ok(prompt) }
}

fn missing() -> Failure {
    let expected = "a text, with --prompt, in a file with --prompt-file, or on standard input";
    SettingsError::BadValue { field: "prompt", found: "empty".into(), expected }.into()
}

fn read(from: impl Read) -> io::Result<String> {
    let mut text = String::new();
    let bytes = from.take(PROMPT_BYTES_MAX + 1).read_to_string(&mut text)?;
    if bytes as u64 > PROMPT_BYTES_MAX {
        let words = format!("longer than {PROMPT_BYTES_MAX} bytes, more than any context holds");
        return Err(io::Error::other(words));
    }
    Ok(text)
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    Failure::Input { flag: "prompt-file", path: path.to_owned(), reason: error.to_string() }
}
