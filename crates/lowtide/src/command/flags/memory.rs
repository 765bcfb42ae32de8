//! The flags that say what memory is spent on.

use std::path::PathBuf;

use clap::Args;
use lowtide::Settings;
use lowtide::train::{PARAM_DTYPES, STATE_PLACES};

use super::{set, set_option, size};

/// What is held, in what form and where.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Memory")]
pub(super) struct MemoryFlags {
    /// Heap that may be held, such as 256MiB; if no plan fits, nothing starts
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory_budget: Option<String>,
    /// What is kept from forward to backward; the rest is computed again: auto, store (everything),
    /// selective (as much of it as fits the budget), block (each block's input), every:N (every
    /// N-th's), sqrt (the fewest) [default: auto]
    #[arg(long, value_name = "POLICY")]
    checkpointing: Option<String>,
    /// How block inputs are kept; auto rounds no more than --precision allows [default: auto]
    #[arg(long, value_name = "STORE", value_parser = ["auto", "f32", "bf16", "int8", "file"])]
    checkpoint_store: Option<String>,
    /// What the adapter lies in while it is trained: f32, or bf16, half of it, with updates rounded
    /// up or down by chance [default: f32]
    #[arg(long, value_name = "TYPE", value_parser = PARAM_DTYPES)]
    param_dtype: Option<String>,
    /// Where the optimizer's states are: ram, file (in --scratch-dir, with those of one block in
    /// memory; the same result), or auto, which is ram where any plan fits [default: auto]
    #[arg(long, value_name = "PLACE", value_parser = STATE_PLACES)]
    optimizer_states: Option<String>,
    /// Rows that a block works on at a time where it is computed again: auto, all, or a multiple of
    /// 64 [default: auto]
    #[arg(long, value_name = "ROWS")]
    tile_rows: Option<String>,
    /// Read weights ahead and let go of them block by block; auto where they do not fit in memory
    /// [default: auto]
    #[arg(long, value_name = "WHEN", value_parser = ["auto", "on", "off"])]
    stream_weights: Option<String>,
    /// Lock what is reserved in memory, so that it is never swapped out; needs a limit of locked
    /// memory (ulimit -l) above it [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true")]
    mlock: Option<bool>,
    /// Folder for temporary files, such as --checkpoint-store file makes [default: the system's]
    #[arg(long, value_name = "DIR")]
    scratch_dir: Option<PathBuf>,
}

impl MemoryFlags {
    /// Puts what was given into settings.
    pub(super) fn over(&self, s: &mut Settings) {
        set_option(&mut s.memory_budget, &self.memory_budget);
        set(&mut s.checkpointing, &self.checkpointing);
        set(&mut s.checkpoint_store, &self.checkpoint_store);
        set(&mut s.param_dtype, &self.param_dtype);
        set(&mut s.optimizer_states, &self.optimizer_states);
        set(&mut s.tile_rows, &self.tile_rows);
        set(&mut s.stream_weights, &self.stream_weights);
        set(&mut s.mlock, &self.mlock);
        set_option(&mut s.scratch_dir, &self.scratch_dir);
    }
}
