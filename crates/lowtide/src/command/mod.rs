//! What the command does: read the flags, run the job, say how it went.
//!
//! [`args`] and [`flags`] are the command line, [`config`] joins it with a file; one file a
//! sub-command runs it; [`show`] turns what the job reports into text, and [`console`] is the only
//! place that writes to standard output.

mod args;
mod config;
mod console;
mod eval;
mod failure;
mod finetune;
mod flags;
mod machine;
mod plan;
mod show;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Job, Voice};
use failure::Failure;

/// Runs the command line that the process was started with.
pub(crate) fn run() -> ExitCode {
    let cli = Cli::parse();
    listen(cli.job.voice());
    let done = match &cli.job {
        Job::Finetune(args) => finetune::run(args),
        Job::Plan(args) => plan::run(args),
        Job::Eval(args) => eval::run(args),
    };
    done.map_or_else(|failure| report(&failure), |()| ExitCode::SUCCESS)
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

#[allow(clippy::print_stderr, reason = "this is where the command reports a failure")]
fn report(failure: &Failure) -> ExitCode {
    eprintln!("error: {failure}");
    ExitCode::from(failure.exit_code())
}
