//! The flags that say when a run works, and where it is shown.

use std::path::PathBuf;

use clap::Args;
use lowtide::Settings;

use super::{set, set_option};

/// When a run works and when it waits.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Pauses and rests")]
pub(super) struct ConductFlags {
    /// Wait between two updates for as long as this file is there; what was learned is saved before
    #[arg(long, value_name = "PATH")]
    pause_file: Option<PathBuf>,
    /// Share of its time that the run works: with 0.5, every update is followed by a rest as long
    /// as itself, for battery and heat [default: 1]
    #[arg(long, value_name = "SHARE")]
    #[arg(allow_negative_numbers = true)]
    duty: Option<f64>,
}

/// Where a run is shown besides the console and its report.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Evaluation and saving")]
pub(super) struct ShowFlags {
    /// Folder for an event file of TensorBoard, written as the run goes on [default: runs in the
    /// output folder]
    #[arg(long, value_name = "DIR", num_args = 0..=1)]
    #[expect(clippy::option_option, reason = "a flag that may be given with and without a value")]
    tensorboard: Option<Option<PathBuf>>,
    /// Chrome trace of the first five updates, block by block, for ui.perfetto.dev
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
}

impl ShowFlags {
    /// Puts what was given into settings, whose output folder is known.
    pub(super) fn over(&self, s: &mut Settings) {
        if let Some(folder) = &self.tensorboard {
            s.tensorboard = Some(folder.clone().unwrap_or_else(|| s.usual_board()));
        }
        set_option(&mut s.trace, &self.trace);
    }
}

impl ConductFlags {
    /// Puts what was given into settings.
    pub(super) fn over(&self, s: &mut Settings) {
        set_option(&mut s.pause_file, &self.pause_file);
        set(&mut s.duty, &self.duty);
    }
}
