//! What values settings may have.

use super::{Settings, SettingsError, parse_bytes};
use crate::update_rule::UpdateRule;
use crate::{Softmax, StreamWeights};

/// Inner widths of adapters, at most; what is larger is a slip.
const RANK_MAX: usize = 1 << 16;

/// Prompts that are answered for a report, at most: each costs two answers.
const SAMPLES_MAX: usize = 100;

/// Batches whose gradients are taken before training, at most.
const PROBES_MAX: usize = 1000;

/// What may be done about spikes.
const SPIKES: [&str; 3] = ["warn", "roll-back", "off"];

/// The most sequences in a batch and micro-batches in an update: no real run has more, and
/// their product is a count.
pub const COUNT_MAX: usize = 1 << 20;

impl Settings {
    /// Checks what no other part checks.
    ///
    /// # Errors
    /// [`SettingsError::BadValue`] naming the field.
    pub fn check(&self) -> Result<(), SettingsError> {
        self.check_amounts()?;
        self.check_adapter()?;
        self.check_rates()?;
        self.check_pacing()?;
        self.check_adapter_budget()?;
        self.check_adaptive_rank()?;
        UpdateRule::of(self)?;
        self.check_gradient()?;
        self.schedule(1)?;
        self.precision()?.check(&self.compute)?;
        self.budget()?;
        self.candidates()?;
        self.clippings()?;
        self.state_places()?;
        self.in_bf16(self.adapter_type()?.codes())?;
        self.micro_batches()?;
        StreamWeights::named(&self.stream_weights)?;
        Softmax::named(&self.softmax)?;
        Ok(())
    }

    /// How much data, how often, how many.
    fn check_amounts(&self) -> Result<(), SettingsError> {
        for (field, count) in [("batch-size", self.batch_size), ("grad-accum", self.grad_accum)] {
            if !(1..=COUNT_MAX).contains(&count) {
                return bad(field, &count, "a whole number from 1 to 1048576");
            }
        }
        check_window(self.sliding_window)?;
        if self.max_seq_len < 2 {
            return bad("max-seq-len", &self.max_seq_len, "at least 2");
        }
        if self.epochs == 0 && self.max_steps.is_none() {
            return bad("epochs", &0, "at least 1, or max-steps");
        }
        if self.max_steps == Some(0) {
            return bad("max-steps", &0, "at least 1");
        }
        if i64::try_from(self.seed).is_err() {
            return bad("seed", &self.seed, "a whole number below 2 to the power of 63");
        }
        if self.samples > SAMPLES_MAX {
            return bad("samples", &self.samples, "at most 100");
        }
        if self.patience == Some(0) {
            return bad("patience", &0, "at least 1 evaluation");
        }
        if self.patience.is_some() && self.eval_every == 0 {
            return bad("patience", &"set", "eval-every beside it, which is what it counts");
        }
        if !self.min_delta.is_finite() || self.min_delta < 0.0 {
            return bad("min-delta", &self.min_delta, "a finite number, 0 or more");
        }
        if self.min_delta > 0.0 && !self.keeps_best() {
            let expected = "0 unless patience or keep-best is beside it";
            return bad("min-delta", &self.min_delta, expected);
        }
        if self.group_by_length && self.packing {
            let expected = "false beside packing, whose sequences are of one length";
            return bad("group-by-length", &true, expected);
        }
        if !SPIKES.contains(&self.on_spike.as_str()) {
            return bad("on-spike", &self.on_spike, "warn, roll-back or off");
        }
        if !(0.0..1.0).contains(&self.val_split) {
            return bad("val-split", &self.val_split, "a share from 0 to below 1");
        }
        if !(2..=PROBES_MAX).contains(&self.probes) {
            return bad("probes", &self.probes, "a whole number from 2 to 1000");
        }
        Ok(())
    }

    /// What an adapter is made with.
    fn check_adapter(&self) -> Result<(), SettingsError> {
        if !(1..=RANK_MAX).contains(&self.rank) {
            return bad("rank", &self.rank, "a whole number from 1 to 65536");
        }
        let positive = |alpha: f64| alpha.is_finite() && alpha > 0.0;
        if !positive(self.alpha) {
            return bad("alpha", &self.alpha, "a finite number above 0");
        }
        if let Some((_, rank)) = self.rank_pattern.iter().find(|(_, rank)| *rank > RANK_MAX) {
            return bad("rank-pattern", &rank, "whole numbers from 0 to 65536");
        }
        if let Some((_, alpha)) = self.alpha_pattern.iter().find(|(_, alpha)| !positive(*alpha)) {
            return bad("alpha-pattern", &alpha, "finite numbers above 0");
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return bad("dropout", &self.dropout, "a chance from 0 to below 1");
        }
        Ok(())
    }

    /// How far an update goes.
    fn check_rates(&self) -> Result<(), SettingsError> {
        for (field, value) in [
            ("lr", self.lr),
            ("weight-decay", self.weight_decay),
            ("max-grad-norm", self.max_grad_norm),
        ] {
            if !value.is_finite() || value < 0.0 {
                return bad(field, &value, "a finite number, 0 or more");
            }
        }
        for (field, table) in
            [("lr-pattern", &self.lr_pattern), ("weight-decay-pattern", &self.weight_decay_pattern)]
        {
            let bad_value = |value: &f64| !value.is_finite() || *value < 0.0;
            if let Some((_, value)) = table.iter().find(|(_, value)| bad_value(value)) {
                return bad(field, &value, "finite numbers, 0 or more");
            }
        }
        if !self.lora_plus_ratio.is_finite() || self.lora_plus_ratio <= 0.0 {
            return bad("lora-plus-ratio", &self.lora_plus_ratio, "a finite number above 0");
        }
        Ok(())
    }

    /// What a budget of bytes for the adapter stands beside.
    fn check_adapter_budget(&self) -> Result<(), SettingsError> {
        self.adapter_type()?;
        let Some(budget) = &self.adapter_budget else { return Ok(()) };
        parse_bytes(budget)?;
        let field = "adapter-budget";
        if !self.rank_pattern.is_empty() {
            return bad(field, &"set", "no rank-pattern beside it: it chooses the ranks");
        }
        if self.init_adapter.is_some() {
            return bad(field, &"set", "no init-adapter beside it: that has its ranks");
        }
        Ok(())
    }
}

/// Whether a window over the last tokens has room for one.
///
/// # Errors
/// [`SettingsError::BadValue`] when it is 0.
pub fn check_window(window: Option<usize>) -> Result<(), SettingsError> {
    match window {
        Some(0) => bad("sliding-window", &0, "at least 1: a token sees itself"),
        _ => Ok(()),
    }
}

fn bad(
    field: &'static str,
    found: &dyn ToString,
    expected: &'static str,
) -> Result<(), SettingsError> {
    Err(SettingsError::BadValue { field, found: found.to_string(), expected })
}

#[cfg(test)]
mod tests {
    use super::{Settings, SettingsError};

    #[test]
    fn values_out_of_range_name_their_field() {
        let field = |settings: Settings| match settings.check() {
            Err(SettingsError::BadValue { field, .. }) => Some(field),
            _ => None,
        };
        let base = Settings::default;
        assert_eq!(field(base()), None);
        assert_eq!(field(Settings { batch_size: 0, ..base() }), Some("batch-size"));
        assert_eq!(field(Settings { grad_accum: usize::MAX, ..base() }), Some("grad-accum"));
        assert_eq!(field(Settings { lr: f64::NAN, ..base() }), Some("lr"));
        let ratio = |lora_plus_ratio| field(Settings { lora_plus_ratio, ..base() });
        assert_eq!((ratio(16.0), ratio(0.0)), (None, Some("lora-plus-ratio")));
        assert_eq!(field(Settings { val_split: 1.0, ..base() }), Some("val-split"));
        assert_eq!(field(Settings { lr_scheduler: "step".into(), ..base() }), Some("lr-scheduler"));
    }

    #[test]
    fn what_would_do_nothing_is_refused() {
        let words = |settings: Settings| settings.check().map_err(|error| error.to_string());
        let delta = Settings { min_delta: 0.5, ..Settings::default() };
        let says = "`min-delta` is 0.5, expected 0 unless patience or keep-best is beside it";
        assert_eq!(words(delta.clone()), Err(says.into()));
        assert_eq!(words(Settings { keep_best: true, ..delta.clone() }), Ok(()));
        assert_eq!(words(Settings { patience: Some(2), eval_every: 3, ..delta }), Ok(()));
        let grouped = Settings { group_by_length: true, ..Settings::default() };
        assert_eq!(words(grouped.clone()), Ok(()));
        let says = "`group-by-length` is true, expected false beside packing, whose sequences are \
                    of one length";
        assert_eq!(words(Settings { packing: true, ..grouped }), Err(says.into()));
    }
}
