//! Why the command did not do what it was asked, and the exit code that says so.

use std::error::Error;
use std::fmt;
use std::io;

use lowtide::TrainError;
use lowtide::adapter::BuildError;
use lowtide::model::TargetsError;
use lowtide::train::SettingsError;
use rayon::ThreadPoolBuildError;

use super::show::number;

/// An error that ends the command.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The job.
    Job(TrainError),
    /// Threads that cannot be started.
    Threads(ThreadPoolBuildError),
    /// Standard output that takes nothing.
    Output(io::Error),
}

impl Failure {
    /// 1 failed, 2 bad usage, 3 no plan fits the budget.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Job(TrainError::NoPlanFits { .. }) => 3,
            Self::Job(error) if is_usage(error) => 2,
            Self::Job(_) | Self::Threads(_) | Self::Output(_) => 1,
        }
    }
}

/// Whether a flag would be refused whatever the files hold.
fn is_usage(error: &TrainError) -> bool {
    use BuildError::{BadValue, UnknownMethod};
    use TargetsError::{BadLayers, BadRegex};
    match error {
        TrainError::Settings(_) => true,
        TrainError::Targets(error) => matches!(error, BadRegex { .. } | BadLayers { .. }),
        TrainError::Build(error) => matches!(error, UnknownMethod { .. } | BadValue(_)),
        _ => false,
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Job(TrainError::NoPlanFits { budget, smallest, policy }) => write!(
                f,
                "no plan fits the memory budget of {} ({} bytes): the leanest, policy `{policy}`, \
                 holds {} bytes\nuse --memory-budget {} or more; a shorter --max-seq-len or a \
                 smaller --batch-size holds less, and so does training with a smaller --rank or \
                 fewer --layers",
                number::bytes(*budget),
                number::count(*budget),
                number::count(*smallest),
                number::budget(*smallest),
            ),
            Self::Job(error) => chain(f, error),
            Self::Threads(error) => {
                write!(f, "cannot start the threads: {error}\nask for fewer with --threads")
            }
            Self::Output(error) => write!(f, "cannot write to standard output: {error}"),
        }
    }
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

impl From<TrainError> for Failure {
    fn from(error: TrainError) -> Self {
        Self::Job(error)
    }
}

impl From<SettingsError> for Failure {
    fn from(error: SettingsError) -> Self {
        Self::Job(error.into())
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
mod tests {
    use lowtide::train::parse_bytes;

    use super::*;

    fn no_plan(smallest: u64) -> Failure {
        TrainError::NoPlanFits { budget: 1 << 20, smallest, policy: "block" }.into()
    }

    #[test]
    fn the_budget_that_is_named_is_enough_and_hardly_more() {
        for smallest in [1, 1023, 1 << 20, (1 << 20) + 1, 42_257_408, 42_257_613, 3 << 40] {
            let text = no_plan(smallest).to_string();
            let (_, rest) = text.split_once("--memory-budget ").unwrap();
            let named = parse_bytes(rest.split(' ').next().unwrap()).unwrap();
            let slack = (1 << 20) / 10 + 1;
            assert!((smallest..=smallest + slack).contains(&named), "{smallest}: {named}");
        }
    }

    #[test]
    fn over_budget_says_what_is_held_and_what_to_do() {
        let failure = no_plan(42_257_408);
        assert_eq!(failure.exit_code(), 3);
        assert_eq!(
            failure.to_string(),
            "no plan fits the memory budget of 1.00 MiB (1,048,576 bytes): the leanest, policy \
             `block`, holds 42,257,408 bytes\nuse --memory-budget 40.3MiB or more; a shorter \
             --max-seq-len or a smaller --batch-size holds less, and so does training with a \
             smaller --rank or fewer --layers"
        );
    }

    #[test]
    fn causes_are_told_once() {
        #[derive(Debug)]
        struct Outer(&'static str, io::Error);
        impl fmt::Display for Outer {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.0)
            }
        }
        impl Error for Outer {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                Some(&self.1)
            }
        }
        struct Shown<'a>(&'a Outer);
        impl fmt::Display for Shown<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                chain(f, self.0)
            }
        }
        let cause = || io::Error::other("disk full");
        assert_eq!(Shown(&Outer("a.json", cause())).to_string(), "a.json: disk full");
        assert_eq!(Shown(&Outer("a: disk full", cause())).to_string(), "a: disk full");
    }

    #[test]
    fn bad_settings_are_bad_usage() {
        let bad = SettingsError::BadValue { field: "lr", found: "-1".into(), expected: "more" };
        assert_eq!(Failure::from(bad).exit_code(), 2);
        let layers = TargetsError::BadLayers { text: "first".into() };
        assert_eq!(Failure::from(TrainError::from(layers)).exit_code(), 2);
        let module = TargetsError::UnknownModule { name: "x".into(), known: vec![] };
        assert_eq!(Failure::from(TrainError::from(module)).exit_code(), 1);
        assert_eq!(Failure::from(io::Error::other("gone")).exit_code(), 1);
    }
}
