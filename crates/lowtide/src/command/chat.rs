//! `lowtide chat`: a conversation, line by line.

use std::io::{self, BufRead, IsTerminal, Read as _};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use lowtide::data::Message;
use lowtide::runtime::{Prompt, Request, RuntimeError, Session, Stop, with_session};

use super::args::Voice;
use super::computing::{ArithmeticFlags, MachineFlags};
use super::console::Console;
use super::failure::Failure;
use super::generate::{Answer, PROMPT_BYTES_MAX};
use super::machine::Machine;
use super::signals;
use super::speech::SpeechFlags;

const HELP: &str = "\
/reset         forget the conversation
/system TEXT   forget it, and tell the model TEXT before the next one
/help          this
/exit          end (and so does Ctrl-D); Ctrl-C stops an answer
";

/// `lowtide chat`.
#[derive(Debug, Args)]
pub(crate) struct ChatArgs {
    #[command(flatten)]
    speech: SpeechFlags,
    /// What the model is told before the conversation
    #[arg(long, value_name = "TEXT", help_heading = "Input", allow_hyphen_values = true)]
    system: Option<String>,
    #[command(flatten)]
    arithmetic: ArithmeticFlags,
    #[command(flatten)]
    machine: MachineFlags,
    #[command(flatten)]
    pub(crate) voice: Voice,
}

/// What a line asks for.
#[derive(Debug, PartialEq)]
enum Line<'a> {
    Say(&'a str),
    Nothing,
    Reset,
    System(&'a str),
    Help,
    Exit,
    Unknown(&'a str),
}

/// Runs `lowtide chat`.
pub(crate) fn run(args: &ChatArgs) -> Result<(), Failure> {
    let (settings, request) = args.speech.resolve(args.voice)?;
    let machine = Machine::start(args.machine, &args.arithmetic)?;
    let console = Console::new(args.voice);
    // A set flag ends the process at the next Ctrl-C; it is unset while an answer is under way.
    let stop = signals::stop_flag();
    stop.store(true, Ordering::Relaxed);
    let live = io::stdin().is_terminal() && io::stdout().is_terminal() && !args.voice.json;
    let mut talk = Talk { console, request, stop: &stop, live, turns: Vec::new() };
    talk.begin(args.system.as_deref().unwrap_or_default());
    let done: Result<(), Failure> = machine.run(|backend, _| {
        with_session(&settings, backend, |session| talk.run(session, io::stdin().lock()))
    });
    done?;
    Ok(talk.console.finish()?)
}

/// A conversation under way.
struct Talk<'a> {
    console: Console,
    request: Request,
    stop: &'a AtomicBool,
    /// A person types and reads.
    live: bool,
    turns: Vec<Message>,
}

impl Talk<'_> {
    fn run(
        &mut self,
        session: &mut Session<'_, '_>,
        mut lines: impl BufRead,
    ) -> Result<(), Failure> {
        // Tells a base without a template before anything is typed.
        session.text().chat(&[Message::new("user", "?")])?;
        self.aside("/help tells what can be typed besides words\n");
        let mut line = String::new();
        loop {
            self.aside("> ");
            line.clear();
            // What is longer is cut there, and refused by the context.
            let mut lines = lines.by_ref().take(PROMPT_BYTES_MAX);
            if lines.read_line(&mut line).map_err(|error| unreadable(&error))? == 0 {
                self.aside("\n");
                return Ok(());
            }
            match read(line.trim_end_matches(['\r', '\n'])) {
                Line::Nothing => {}
                Line::Say(words) => self.answer(session, words)?,
                Line::Reset => {
                    let keep = self.turns.first().is_some_and(|turn| turn.role() == "system");
                    self.turns.truncate(usize::from(keep));
                }
                Line::System(words) => self.begin(words),
                Line::Help => self.console.text(HELP),
                Line::Exit => return Ok(()),
                Line::Unknown(word) => {
                    let words = "is no command; /help lists them, and a space in front sends it";
                    self.console.text(&format!("{word} {words}\n"));
                }
            }
        }
    }

    fn begin(&mut self, system: &str) {
        self.turns.clear();
        if !system.is_empty() {
            self.turns.push(Message::new("system", system));
        }
    }

    fn answer(&mut self, session: &mut Session<'_, '_>, words: &str) -> Result<(), Failure> {
        self.turns.push(Message::new("user", words));
        self.stop.store(false, Ordering::Relaxed);
        let (console, stop) = (&mut self.console, self.stop);
        let mut tell = |piece: &str| {
            console.speech(piece);
            match stop.load(Ordering::Relaxed) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        };
        let answer = session.complete(Prompt::Chat(&self.turns), &self.request, &mut tell);
        self.stop.store(true, Ordering::Relaxed);
        match answer {
            Ok(answer) => {
                self.console.speech("\n");
                self.console.json(&Answer::of(&answer));
                if let Some(note) = note(answer.stop) {
                    self.aside(note);
                }
                self.turns.push(Message::new("assistant", &answer.text));
                Ok(())
            }
            Err(RuntimeError::PromptTooLong { tokens, context }) if self.live => {
                self.turns.pop();
                let words = format!(
                    "the conversation has {tokens} tokens and the context holds {context}: /reset \
                     begins a new one, a larger --context holds more\n"
                );
                self.console.text(&words);
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Words for a person at a terminal.
    fn aside(&mut self, words: &str) {
        if self.live {
            self.console.text(words);
        }
    }
}

/// What to say of an answer that the model did not end.
fn note(stop: Stop) -> Option<&'static str> {
    match stop {
        Stop::End | Stop::Text => None,
        Stop::MaxTokens => Some("[cut at --max-tokens]\n"),
        Stop::Context => Some("[the context is full: /reset begins a new one]\n"),
        Stop::Interrupted => Some("[stopped]\n"),
    }
}

fn read(line: &str) -> Line<'_> {
    if !line.starts_with('/') {
        let words = line.trim();
        return if words.is_empty() { Line::Nothing } else { Line::Say(words) };
    }
    let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
    match command.trim_end() {
        "/reset" => Line::Reset,
        "/system" => Line::System(rest.trim()),
        "/help" => Line::Help,
        "/exit" | "/quit" => Line::Exit,
        _ => Line::Unknown(command),
    }
}

fn unreadable(error: &io::Error) -> Failure {
    Failure::Path { path: "standard input".into(), reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_words_or_a_command() {
        assert_eq!(read("hello there "), Line::Say("hello there"));
        assert_eq!(read("  "), Line::Nothing);
        assert_eq!(read("/reset"), Line::Reset);
        assert_eq!(read("/system be brief "), Line::System("be brief"));
        assert_eq!(read("/system"), Line::System(""));
        assert_eq!(read("/help"), Line::Help);
        assert_eq!(read("/exit"), Line::Exit);
        assert_eq!(read("/etc/hosts is a file"), Line::Unknown("/etc/hosts"));
        assert_eq!(read(" /etc/hosts"), Line::Say("/etc/hosts"));
    }
}
