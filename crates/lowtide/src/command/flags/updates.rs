//! Flags of what makes an update: the optimizer's constants, and rates over time and over tensors.

use clap::Args;
use clap::builder::{PossibleValue, PossibleValuesParser};
use lowtide::optim::ScheduleKind;
use lowtide::train::Settings;

use super::{pattern, set, set_option, set_table};

/// How the learning rate moves.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Training")]
pub(super) struct ScheduleFlags {
    /// How the learning rate falls: constant (not at all), linear and cosine (from warm-up to the
    /// end), wsd (at the end only), inverse-sqrt (with the root of the update) [default: cosine]
    #[arg(long, alias = "lr-scheduler-type", value_name = "NAME")]
    #[arg(value_parser = PossibleValuesParser::new(ScheduleKind::ALL.map(schedule)))]
    lr_scheduler: Option<String>,
    /// Updates over which the learning rate rises [default: 3 % of all]
    #[arg(long, value_name = "N")]
    #[arg(allow_negative_numbers = true)]
    warmup_steps: Option<u64>,
    /// The same as a share of all updates
    #[arg(long, value_name = "SHARE", conflicts_with = "warmup_steps")]
    #[arg(allow_negative_numbers = true)]
    warmup_ratio: Option<f64>,
    /// Updates at the end over which the learning rate of wsd falls [default: 10 % of all]
    #[arg(long, value_name = "N")]
    #[arg(allow_negative_numbers = true)]
    decay_steps: Option<u64>,
    /// The same as a share of all updates
    #[arg(long, value_name = "SHARE", conflicts_with = "decay_steps")]
    #[arg(allow_negative_numbers = true)]
    decay_ratio: Option<f64>,
    /// Share of the highest learning rate that linear, cosine and wsd end at [default: 0]
    #[arg(long, value_name = "SHARE")]
    #[arg(allow_negative_numbers = true)]
    min_lr_ratio: Option<f64>,
}

impl ScheduleFlags {
    pub(super) fn over(&self, s: &mut Settings) {
        set(&mut s.lr_scheduler, &self.lr_scheduler);
        set_instead(&mut s.warmup_steps, &self.warmup_steps, &mut s.warmup_ratio);
        set_instead(&mut s.warmup_ratio, &self.warmup_ratio, &mut s.warmup_steps);
        set_instead(&mut s.decay_steps, &self.decay_steps, &mut s.decay_ratio);
        set_instead(&mut s.decay_ratio, &self.decay_ratio, &mut s.decay_steps);
        set(&mut s.min_lr_ratio, &self.min_lr_ratio);
    }
}

/// A schedule's name on the command line, with those it has elsewhere.
fn schedule(kind: ScheduleKind) -> PossibleValue {
    PossibleValue::new(kind.name()).aliases(kind.aliases())
}

/// What optimizers are made with.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Training")]
pub(super) struct ConstantFlags {
    /// Decay of the optimizer's first moment, in what Lion steps along [default: 0.9]
    #[arg(long, alias = "adam-beta1", value_name = "X")]
    #[arg(allow_negative_numbers = true)]
    beta1: Option<f64>,
    /// Decay of AdamW's second moment, or of Lion's momentum [default: 0.999, or 0.99 for Lion]
    #[arg(long, alias = "adam-beta2", value_name = "X")]
    #[arg(allow_negative_numbers = true)]
    beta2: Option<f64>,
    /// Added to AdamW's denominator [default: 1e-8]
    #[arg(long, alias = "adam-epsilon", value_name = "X")]
    #[arg(allow_negative_numbers = true)]
    eps: Option<f64>,
    /// What is left of SGD's last step in the next; 0 needs no state [default: 0]
    #[arg(long, value_name = "X")]
    #[arg(allow_negative_numbers = true)]
    momentum: Option<f64>,
    /// Factor on the learning rate of trained tensors where the regular expression matches the end
    /// of their name (lora_A) or their site's (q_proj); may be given several times, and the first
    /// that matches counts
    #[arg(long, value_name = "PATTERN=FACTOR", value_parser = pattern::<f64>)]
    lr_pattern: Vec<(String, f64)>,
    /// Weight decay of such tensors, in the same way
    #[arg(long, value_name = "PATTERN=X", value_parser = pattern::<f64>)]
    weight_decay_pattern: Vec<(String, f64)>,
}

impl ConstantFlags {
    pub(super) fn over(&self, s: &mut Settings) {
        set_option(&mut s.beta1, &self.beta1);
        set_option(&mut s.beta2, &self.beta2);
        set_option(&mut s.eps, &self.eps);
        set(&mut s.momentum, &self.momentum);
        set_table(&mut s.lr_pattern, &self.lr_pattern);
        set_table(&mut s.weight_decay_pattern, &self.weight_decay_pattern);
    }
}

/// Sets what was given, and lets go of what a file says in its place.
fn set_instead<T: Copy, U>(setting: &mut Option<T>, given: &Option<T>, other: &mut Option<U>) {
    if given.is_some() {
        (*setting, *other) = (*given, None);
    }
}
