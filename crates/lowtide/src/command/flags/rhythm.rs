//! The flags that say what happens between updates: measuring, saving, going back, telling.

use clap::Args;
use lowtide::Settings;

use super::{set, set_option};

/// What happens every so many updates, and what is made of what is measured.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Evaluation and saving")]
pub(super) struct RhythmFlags {
    /// Share of the data held out when there is no valid.jsonl [default: 0]
    #[arg(long, value_name = "SHARE")]
    #[arg(allow_negative_numbers = true)]
    val_split: Option<f64>,
    /// Updates between evaluations; 0 for only before and after [default: 0]
    #[arg(long, value_name = "N")]
    #[arg(allow_negative_numbers = true)]
    eval_every: Option<u64>,
    /// Updates between saves; 0 for only at the end [default: 0]
    #[arg(long, value_name = "N")]
    #[arg(allow_negative_numbers = true)]
    save_every: Option<u64>,
    /// End after so many evaluations without a better held-out loss, with the best adapter; needs
    /// --eval-every
    #[arg(long, alias = "early-stopping-patience", value_name = "N")]
    #[arg(allow_negative_numbers = true)]
    patience: Option<u64>,
    /// How much lower a held-out loss has to be to count as better [default: 0]
    #[arg(long, alias = "early-stopping-threshold", value_name = "X")]
    #[arg(allow_negative_numbers = true)]
    min_delta: Option<f64>,
    /// Save the adapter with the best held-out loss in the end, not the last [default: false]
    #[arg(long, alias = "load-best-model-at-end", value_name = "BOOL", num_args = 0..=1)]
    #[arg(require_equals = true, default_missing_value = "true")]
    keep_best: Option<bool>,
    /// How often to go back to the last good state, with half the learning rate, when a loss is no
    /// number [default: 3]
    #[arg(long, value_name = "N")]
    #[arg(allow_negative_numbers = true)]
    max_rollbacks: Option<u64>,
    /// What to do where a loss or a gradient norm is far above the usual [default: warn]
    #[arg(long, value_name = "WHAT", value_parser = ["warn", "roll-back", "off"])]
    on_spike: Option<String>,
    /// Updates between reports [default: 10]
    #[arg(long, value_name = "N")]
    #[arg(allow_negative_numbers = true)]
    report_every: Option<u64>,
    /// Held-out prompts that the report shows answered before and after; 0 for none [default: 3]
    #[arg(long, value_name = "N")]
    #[arg(allow_negative_numbers = true)]
    samples: Option<usize>,
}

impl RhythmFlags {
    /// Puts what was given into settings.
    pub(super) fn over(&self, s: &mut Settings) {
        set(&mut s.val_split, &self.val_split);
        set(&mut s.eval_every, &self.eval_every);
        set(&mut s.save_every, &self.save_every);
        set_option(&mut s.patience, &self.patience);
        set(&mut s.min_delta, &self.min_delta);
        set(&mut s.keep_best, &self.keep_best);
        set(&mut s.max_rollbacks, &self.max_rollbacks);
        set(&mut s.on_spike, &self.on_spike);
        set(&mut s.report_every, &self.report_every);
        set(&mut s.samples, &self.samples);
    }
}
