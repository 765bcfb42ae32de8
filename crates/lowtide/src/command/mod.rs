//! What the command does: read the flags, run the job, say how it went.
//!
//! [`args`], [`flags`] and [`computing`] are the command line, [`config`] joins it with a file; one
//! file a sub-command runs it; [`show`] turns what the job reports into text, and [`console`] is
//! the only place that writes to standard output.

mod args;
mod bench;
mod chat;
mod computing;
mod config;
mod console;
mod convert;
mod eval;
mod failure;
mod finetune;
mod flags;
mod generate;
mod inputs;
mod inspect;
mod machine;
mod merge;
mod packaging;
mod plan;
mod quickstart;
mod report;
mod show;
mod signals;
mod speech;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Job, Voice};
use console::Console;
use failure::{Failure, Report};

/// What is said when a mapped file cannot be read any more.
#[cfg(unix)]
const CUT: &str = "a part of a file that was mapped cannot be read: the file was cut, or its disk \
                   failed, while in use";

/// Runs the command line that the process was started with.
pub(crate) fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return misread(&error),
    };
    let voice = cli.job.voice();
    listen(voice);
    // A run has words of its own, for it has saved something.
    #[cfg(unix)]
    if !matches!(cli.job, Job::Finetune(_))
        && let Err(error) = signals::end_at_cut_file(CUT)
    {
        return complain(&Failure::Output(error), voice);
    }
    let done = match &cli.job {
        Job::Quickstart(args) => quickstart::run(args),
        Job::Finetune(args) => finetune::run(args),
        Job::Plan(args) => plan::run(args),
        Job::Eval(args) => eval::run(args),
        Job::Merge(args) => merge::run(args),
        Job::Convert(args) => convert::run(args),
        Job::Generate(args) => generate::run(args),
        Job::Chat(args) => chat::run(args),
        Job::Inspect(args) => inspect::run(args),
        Job::Report(args) => report::run(args),
        Job::Bench(args) => bench::run(args),
        Job::Completions(args) => packaging::completions(args),
        Job::Man(args) => packaging::man(args),
    };
    done.map_or_else(|failure| complain(&failure, voice), |()| ExitCode::SUCCESS)
}

/// With `--verbose`, what the crates below trace goes to standard error.
fn listen(voice: Voice) {
    if voice.verbose {
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .with_writer(std::io::stderr)
            .init();
    }
}

/// Words for people on standard error, and with `--json` an object for programs on standard output.
#[allow(clippy::print_stderr, reason = "this is where the command reports a failure")]
fn complain(failure: &Failure, voice: Voice) -> ExitCode {
    match failure {
        Failure::Interrupted { .. } => eprintln!("{failure}"),
        _ => eprintln!("error: {failure}"),
    }
    tell(&failure.report(), voice);
    ExitCode::from(failure.exit_code())
}

/// A command line that is none, or that asks for help.
fn misread(error: &clap::Error) -> ExitCode {
    // Whoever closed the pipe has read enough of it.
    let _ = error.print();
    let code = u8::try_from(error.exit_code()).unwrap_or(1);
    if code != 0 {
        // To `bench`, the flag names a file.
        let bench = std::env::args_os().nth(1).is_some_and(|word| word == "bench");
        let json = !bench && std::env::args_os().any(|word| word == "--json");
        let words = error.to_string();
        let words = words.strip_prefix("error: ").unwrap_or(&words).trim_end().to_owned();
        tell(&Report::new(code, words), Voice { json, ..Voice::default() });
    }
    ExitCode::from(code)
}

/// A report for programs, if they listen. A failure outranks an output that takes no words.
fn tell(report: &Report, voice: Voice) {
    let mut console = Console::new(voice);
    console.json(report);
    let _ = console.finish();
}
