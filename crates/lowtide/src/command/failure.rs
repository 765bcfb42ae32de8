//! Why the command did not do what it was asked, and the exit code that says so.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use lowtide::adapter::BuildError;
use lowtide::bench::BenchError;
use lowtide::convert::ConvertError;
use lowtide::hub::HubError;
use lowtide::model::{ModelError, TargetsError};
use lowtide::runtime::RuntimeError;
use lowtide::train::{BudgetSource, SettingsError};
use lowtide::{Settings, TrainError};
use rayon::ThreadPoolBuildError;
use serde::Serialize;

use super::show::number;
use super::signals::INTERRUPTED;

/// An error that ends the command.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A value outside what it may be, or a configuration file that cannot be read.
    Usage(SettingsError),
    /// A flag that contradicts another one, or asks for what this machine lacks.
    Flag { flag: &'static str, found: String, expected: String },
    /// A path given with a flag, at which is not what was expected.
    Input { flag: &'static str, path: PathBuf, reason: String },
    /// `convert`.
    Conversion(Box<ConvertError>),
    /// A base that is named by a hub id and cannot be had.
    Hub { flag: &'static str, error: HubError },
    /// `finetune` or `plan`, and what was asked of it.
    Training(Box<TrainError>, Box<Settings>),
    /// A run that failed after some of its updates were saved.
    AfterSave { failure: Box<Failure>, updates: u64, output: PathBuf },
    /// `eval`.
    Evaluation(Box<TrainError>),
    /// `bench`.
    Bench(Box<BenchError>),
    /// `generate` or `chat`.
    Generation(Box<RuntimeError>),
    /// A path given by itself, at which is not what was expected.
    Path { path: PathBuf, reason: String },
    /// A file that cannot be read, understood or written.
    Files(Box<TrainError>),
    /// A run that was told to stop, after some of its updates.
    Interrupted { updates: u64, of: u64, output: PathBuf },
    /// Threads that cannot be started.
    Threads(ThreadPoolBuildError),
    /// Standard output that takes nothing.
    Output(io::Error),
}

/// The failure as `--json` tells it.
#[derive(Serialize)]
pub(crate) struct Report {
    event: &'static str,
    exit_code: u8,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    smallest_budget: Option<u64>,
}

impl Report {
    /// A failure with nothing to it but its words.
    pub(crate) fn new(exit_code: u8, message: String) -> Self {
        Self { event: "error", exit_code, message, smallest_budget: None }
    }
}

impl Failure {
    /// A failure of `finetune` or `plan`.
    pub(crate) fn training(error: TrainError, settings: &Settings) -> Self {
        Self::Training(Box::new(error), Box::new(settings.clone()))
    }

    /// A flag that cannot be heeded.
    pub(crate) fn flag(flag: &'static str, found: impl fmt::Display, expected: &str) -> Self {
        Self::Flag { flag, found: found.to_string(), expected: expected.into() }
    }

    /// 1 failed, 2 bad usage, 3 no plan fits the budget, 130 interrupted.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Flag { .. } => 2,
            Self::Bench(error) if blamed(error).is_some() => 2,
            Self::Training(error, _) | Self::Files(error) if usage(error).is_some() => 2,
            Self::Generation(error) if speaker(error).is_some() => 2,
            Self::Interrupted { .. } => INTERRUPTED,
            Self::AfterSave { failure, .. } => failure.exit_code(),
            _ if self.smallest_budget().is_some() => 3,
            _ => 1,
        }
    }

    /// The failure as `--json` tells it.
    pub(crate) fn report(&self) -> Report {
        let smallest_budget = self.smallest_budget();
        Report { smallest_budget, ..Report::new(self.exit_code(), self.to_string()) }
    }

    fn smallest_budget(&self) -> Option<u64> {
        match self {
            Self::Training(error, _) | Self::Evaluation(error) => error.smallest_budget(),
            Self::Generation(error) => error.smallest_budget(),
            Self::AfterSave { failure, .. } => failure.smallest_budget(),
            Self::Conversion(error) => match **error {
                ConvertError::Budget { needed, .. } => Some(needed),
                _ => None,
            },
            _ => None,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(error) => f.write_str(&setting(error)),
            Self::Flag { flag, found, expected } => {
                f.write_str(&out_of_range(flag, found, expected))
            }
            Self::Input { flag, path, reason } => {
                write!(f, "--{flag} {}: {reason}", path.display())
            }
            Self::Conversion(error) => write!(f, "{error}"),
            Self::Hub { flag, error } => write!(f, "--{flag} {error}"),
            Self::Training(error, settings) => training(f, error, settings),
            Self::AfterSave { failure, updates, output } => {
                let (updates, output) = (number::counted(*updates, "update"), output.display());
                write!(
                    f,
                    "{failure}\n{updates} are saved in {output}, and `lowtide finetune --resume \
                     {output}` goes on from there"
                )
            }
            Self::Evaluation(error) => evaluation(f, error),
            Self::Generation(error) => generation(f, error),
            Self::Bench(error) => match blamed(error) {
                Some(flag) => write!(f, "--{flag}: {error}"),
                None => chain(f, &**error),
            },
            Self::Path { path, reason } => write!(f, "{}: {reason}", path.display()),
            Self::Files(error) => match usage(error) {
                Some(words) => f.write_str(&words),
                None => chain(f, &**error),
            },
            Self::Interrupted { updates: 0, .. } => {
                f.write_str("stopped before the first update: no adapter was written")
            }
            Self::Interrupted { updates, of, output } => {
                let of = number::counted(*of, "update");
                let (updates, output) = (number::count(*updates), output.display());
                write!(
                    f,
                    "stopped after {updates} of {of}: the adapter so far is in {output}, and \
                     `lowtide finetune --resume {output}` goes on"
                )
            }
            Self::Threads(error) => {
                write!(f, "cannot start the threads: {error}\nask for fewer with --threads")
            }
            Self::Output(error) => write!(f, "cannot write to standard output: {error}"),
        }
    }
}

fn training(f: &mut fmt::Formatter<'_>, error: &TrainError, settings: &Settings) -> fmt::Result {
    match error {
        TrainError::NoPlanFits { budget, smallest, policy, from } => {
            over_budget(f, *budget, *smallest, &format!("the leanest, policy `{policy}`,"))?;
            if settings.resume.is_some() {
                // All that would hold less is refused beside a save.
                f.write_str("; the save stays as it is")?;
                return source(f, from);
            }
            if settings.checkpointing == "store" {
                f.write_str("; --checkpointing auto or block may need less")?;
            }
            f.write_str(
                "; a shorter --max-seq-len or a smaller --batch-size holds less, and so does \
                 training with a smaller --rank or fewer --layers",
            )?;
            source(f, from)
        }
        TrainError::Runtime(runtime) if runtime.smallest_budget().is_some() => {
            shared(f, runtime)?;
            match settings.resume {
                Some(_) => Ok(()),
                None => f.write_str("; a smaller --rank holds less"),
            }
        }
        TrainError::Output { path, source } => match written(path, settings) {
            Some((flag, what)) => {
                let path = path.display();
                write!(f, "--{flag} {path}: no {what} can be written there: {source}")
            }
            None => chain(f, error),
        },
        TrainError::Scratch { folder, .. } => match &settings.scratch_dir {
            Some(named) if named == folder => write!(f, "--scratch-dir {error}"),
            _ => write!(f, "{error}\n--scratch-dir names another folder"),
        },
        error => match usage(error) {
            Some(words) => f.write_str(&words),
            None => chain(f, error),
        },
    }
}

/// The flag that names a folder or file to write, and which of both it is.
fn written(path: &Path, settings: &Settings) -> Option<(&'static str, &'static str)> {
    let is = |of: &Option<PathBuf>| of.as_deref() == Some(path);
    if path == settings.output {
        Some(("output", "folder"))
    } else if is(&settings.tensorboard) {
        Some(("tensorboard", "folder"))
    } else {
        is(&settings.trace).then_some(("trace", "file"))
    }
}

fn evaluation(f: &mut fmt::Formatter<'_>, error: &TrainError) -> fmt::Result {
    match error {
        TrainError::NoPlanFits { budget, smallest, from, .. } => {
            over_budget(f, *budget, *smallest, "the evaluation")?;
            f.write_str("; a shorter --max-seq-len or a smaller --batch-size holds less")?;
            source(f, from)
        }
        TrainError::Runtime(error) if error.smallest_budget().is_some() => shared(f, error),
        error => chain(f, error),
    }
}

/// Says what the sites of an adapter share, where that alone is above the budget.
fn shared(f: &mut fmt::Formatter<'_>, error: &RuntimeError) -> fmt::Result {
    let (RuntimeError::Build(built)
    | RuntimeError::Model { source: ModelError::Adapter(built), .. }) = error
    else {
        return chain(f, error);
    };
    let BuildError::TooLarge { method, bytes, most } = built else { return chain(f, error) };
    over_budget(f, *most, *bytes, &format!("what the sites of {method} share alone"))?;
    f.write_str("; all else that is held comes on top")
}

/// Explains a budget that was not asked for.
fn source(f: &mut fmt::Formatter<'_>, from: &BudgetSource) -> fmt::Result {
    match from {
        BudgetSource::Group { limit, held, cache } => write!(
            f,
            "\nthe budget is what the control group's limit of {} leaves beside {} held and {} \
             for weights",
            number::bytes(*limit),
            number::bytes(*held),
            number::bytes(*cache),
        ),
        BudgetSource::None | BudgetSource::Asked => Ok(()),
    }
}

fn generation(f: &mut fmt::Formatter<'_>, error: &RuntimeError) -> fmt::Result {
    if let Some(words) = speaker(error) {
        return f.write_str(&words);
    }
    match error {
        RuntimeError::OverBudget { budget, smallest, context } => {
            let holder = format!("a context of {} tokens", number::count(*context as u64));
            over_budget(f, *budget, *smallest, &holder)?;
            f.write_str("; a smaller --context holds less")
        }
        RuntimeError::PromptTooLong { .. } => {
            write!(f, "{error}\nuse a larger --context, or a shorter prompt")
        }
        RuntimeError::TemplateFile { .. } => write!(f, "--chat-template {error}"),
        error if error.smallest_budget().is_some() => shared(f, error),
        RuntimeError::NoTemplate { .. } => {
            write!(
                f,
                "{error}\ngive one with --chat-template, or continue plain text with lowtide \
                 generate --raw"
            )
        }
        error => chain(f, error),
    }
}

/// What to say of an error of generating that a flag is to blame for.
fn speaker(error: &RuntimeError) -> Option<String> {
    match error {
        RuntimeError::Sampling(error) => {
            Some(out_of_range(error.field, error.value, error.expected))
        }
        RuntimeError::Context { context, longest } => {
            let expected = format!("1 to {longest}, for which this base was trained");
            Some(out_of_range("context", context, &expected))
        }
        RuntimeError::EmptyPrompt => Some(format!("--prompt: {error}")),
        _ => None,
    }
}

fn over_budget(
    f: &mut fmt::Formatter<'_>,
    budget: u64,
    smallest: u64,
    holder: &str,
) -> fmt::Result {
    write!(
        f,
        "no plan fits the memory budget of {} ({} bytes): {holder} holds {} bytes\nuse \
         --memory-budget {} or more",
        number::bytes(budget),
        number::count(budget),
        number::count(smallest),
        number::budget(smallest),
    )
}

/// What to say of an error that a flag is to blame for, whatever the files hold. Adapter methods
/// see their values when a base is built around them, so their errors come wrapped in the base's.
fn usage(error: &TrainError) -> Option<String> {
    match error {
        TrainError::Runtime(error) if error.smallest_budget().is_some() => None,
        TrainError::Settings(error) => Some(setting(error)),
        TrainError::Targets(error) => Some(targets(error)),
        TrainError::Runtime(error) => match &**error {
            RuntimeError::Model { source: ModelError::Targets(error), .. } => Some(targets(error)),
            RuntimeError::Build(error)
            | RuntimeError::Model { source: ModelError::Adapter(error), .. } => Some(method(error)),
            _ => None,
        },
        _ => None,
    }
}

fn targets(error: &TargetsError) -> String {
    let flag = match error {
        TargetsError::BadPattern { field, .. }
        | TargetsError::StrayPattern { field, .. }
        | TargetsError::NoTensor { field, .. } => {
            return format!("--{}: {error}", field.replace(' ', "-"));
        }
        TargetsError::NothingLeft => "rank-pattern",
        TargetsError::BadRegex { .. }
        | TargetsError::UnknownModule { .. }
        | TargetsError::NotForMethod { .. }
        | TargetsError::NothingSelected { .. } => "target-modules",
        TargetsError::BadLayers { .. }
        | TargetsError::TooManyLayers { .. }
        | TargetsError::LayerOutOfRange { .. } => "layers",
    };
    format!("--{flag}: {error}")
}

fn method(error: &BuildError) -> String {
    match error {
        BuildError::BadValue(bad) => {
            out_of_range(&bad.field.replace('_', "-"), bad.value, bad.expected)
        }
        BuildError::UnknownMethod { .. } => format!("--method: {error}"),
        BuildError::UnknownOption { .. } | BuildError::BadOption { .. } => {
            format!("--method-option: {error}")
        }
        BuildError::TooLarge { .. } => format!("--rank: {error}"),
        BuildError::BadSite { .. } => format!("--target-modules: {error}"),
    }
}

/// A setting's error under the name of its flag, which is also its name in a file.
fn setting(error: &SettingsError) -> String {
    match error {
        SettingsError::BadValue { field, found, expected } => out_of_range(field, found, expected),
        other => other.to_string(),
    }
}

fn out_of_range(flag: &str, found: impl fmt::Display, expected: &str) -> String {
    format!("--{flag} is {found}, expected {expected}")
}

/// An error and its causes. Many errors already tell their cause, so one is added only when its
/// words are new.
fn chain(f: &mut fmt::Formatter<'_>, error: &dyn Error) -> fmt::Result {
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !said.contains(&words) {
            said.push_str(": ");
            said.push_str(&words);
        }
        cause = error.source();
    }
    f.write_str(said.trim_end())
}

/// The flag that is to blame for an error of a bench, whatever the files hold.
fn blamed(error: &BenchError) -> Option<&'static str> {
    match error {
        BenchError::NoKernel { .. } => Some("filter"),
        BenchError::Tokens { .. } => Some("tokens"),
        _ => None,
    }
}

impl From<BenchError> for Failure {
    fn from(error: BenchError) -> Self {
        Self::Bench(Box::new(error))
    }
}

impl From<SettingsError> for Failure {
    fn from(error: SettingsError) -> Self {
        Self::Usage(error)
    }
}

impl From<RuntimeError> for Failure {
    fn from(error: RuntimeError) -> Self {
        Self::Generation(Box::new(error))
    }
}

impl From<ThreadPoolBuildError> for Failure {
    fn from(error: ThreadPoolBuildError) -> Self {
        Self::Threads(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

#[cfg(test)]
mod tests;
