//! What a run is told: the flags of `finetune` and `plan`, as a value that reads and writes TOML.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::AdapterType;

mod bytes;
mod check;
mod paths;
mod patterns;
mod preset;
mod schedule;

pub use bytes::{BudgetError, parse_bytes};
pub use check::{COUNT_MAX, check_window};
pub use patterns::PatternTable;
pub use preset::Preset;

/// The resolved settings of a run. Keys in a configuration file are the flag names: `max-seq-len`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Settings {
    /// HF folder or `.gguf` file.
    pub model: PathBuf,
    /// `.jsonl`, `.txt`, or a folder with `train.jsonl`.
    pub data: PathBuf,
    /// Folder to write.
    pub output: PathBuf,
    /// Adapter method.
    pub method: String,
    /// Inner width of low-rank methods.
    pub rank: usize,
    /// Numerator of the scale of low-rank methods.
    pub alpha: f64,
    /// Chance that an input element of the adapter is dropped.
    pub dropout: f64,
    /// Scale by `alpha / sqrt(rank)`.
    pub use_rslora: bool,
    /// `all-linear`, a comma list, or a regular expression over site names; `auto` is what the
    /// method adapts when nobody says, every linear for LoRA.
    pub target_modules: String,
    /// `all`, `last:N`, or ranges such as `0-3,20-29`.
    pub layers: String,
    /// Passes over the data, unless `max_steps` says otherwise.
    pub epochs: u64,
    /// Updates to make.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<u64>,
    /// Sequences of a batch.
    pub batch_size: usize,
    /// Batches in an update.
    pub grad_accum: usize,
    /// Sequences computed at once: `all` of a batch, a number of them, `fit`, which is fewer than
    /// all where no plan for all fits the budget, or `auto`, whatever the fastest plan takes.
    pub micro_batch: String,
    /// Tokens of the longest sequence; longer examples are truncated.
    pub max_seq_len: usize,
    /// Several examples in one sequence of up to `max_seq_len` tokens, kept apart.
    pub packing: bool,
    /// Whether the sequences of an update are of about one length.
    pub group_by_length: bool,
    /// Highest learning rate.
    pub lr: f64,
    /// What the second factor of low-rank updates learns faster by than all else (LoRA+).
    pub lora_plus_ratio: f64,
    /// `constant`, `linear`, `cosine`, `wsd` or `inverse-sqrt`.
    pub lr_scheduler: String,
    /// Updates over which the learning rate rises; 3 % of all when neither they nor their share are
    /// given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_steps: Option<u64>,
    /// Share of all updates over which the learning rate rises, instead of `warmup_steps`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_ratio: Option<f64>,
    /// Updates at the end over which the learning rate of `wsd` falls; 10 % of all when neither
    /// they nor their share are given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decay_steps: Option<u64>,
    /// Share of all updates over which it falls, instead of `decay_steps`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decay_ratio: Option<f64>,
    /// Share of `lr` that `linear`, `cosine` and `wsd` end at.
    pub min_lr_ratio: f64,
    /// `adamw`, `adamw8bit`, `lion`, `lion8bit` or `sgd`; `auto` is `adamw` where
    /// it fits the budget, else `adamw8bit`.
    pub optimizer: String,
    /// Decay of the first moment; 0.9 when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beta1: Option<f64>,
    /// Decay of AdamW's second moment, 0.999 when not given, or of Lion's momentum, 0.99.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beta2: Option<f64>,
    /// Added to AdamW's denominator; 1e-8 when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eps: Option<f64>,
    /// What is left of SGD's last step in the next; 0 for none.
    pub momentum: f64,
    /// Which entries of gradients are applied, with states for those only: `off` for all,
    /// `top:10%` of each tensor, or `threshold:0.001` and more.
    pub sparse_updates: String,
    /// Decoupled weight decay (enters the gradient for SGD).
    pub weight_decay: f64,
    /// Gradients are scaled down to this global norm; 0 turns clipping off.
    pub max_grad_norm: f64,
    /// How they are: `auto`, `whole`, `two-pass` or `per-block`. `auto` takes `two-pass`, which is
    /// the same update in twice the time, where no plan with `whole` fits the budget.
    pub clipping: String,
    /// Loss on responses only, for chat and completion data.
    pub mask_prompt: bool,
    /// Heap that may be held, such as `256MiB`; none for no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_budget: Option<String>,
    /// `exact`, `balanced` or `fast`: how far results may stray for speed.
    pub precision: String,
    /// Arithmetic of products with packed weights: `f32`, `int8x2` or `int8`; `auto` is the
    /// quickest that the precision allows and the backend has.
    pub compute: String,
    /// How an update's gradient is come by: `backprop`, or approximately by `mezo` or `partial`.
    pub gradient: String,
    /// How far `mezo` looks to either side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mezo_eps: Option<f64>,
    /// Blocks that `partial` goes through in an update; a quarter of those trained when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partial_blocks: Option<usize>,
    /// Words that the softmax of the training loss runs over: `exact`, all of them, or `union:K`,
    /// the targets of a micro-batch and K neighbours of each, which is approximate.
    pub softmax: String,
    /// The most of the last tokens that a token sees in any layer, itself included; as the base has
    /// it when not given. Changes what is computed, in training and in evaluation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sliding_window: Option<usize>,
    /// What is kept from forward to backward: `auto`, `store`, `selective`, `block`,
    /// `every:N` or `sqrt`.
    pub checkpointing: String,
    /// How block inputs are kept: `auto`, `f32`, `bf16`, `int8` or `file`. `auto` rounds no more
    /// than the precision allows.
    pub checkpoint_store: String,
    /// What the adapter's parameters lie in while they are trained: `f32`, or `bf16`, to which
    /// updates round by chance.
    pub param_dtype: String,
    /// Where the optimizer's states are: `ram`, `file`, of which those of one block are in memory,
    /// or `auto`, which is `ram` where any plan fits.
    pub optimizer_states: String,
    /// Rows that a block works on at a time where it is computed again: `auto`, `all` or a multiple
    /// of 64.
    pub tile_rows: String,
    /// Whether weights are read ahead and let go block by block: `auto`, which is where they do not
    /// fit into memory, `on` or `off`.
    pub stream_weights: String,
    /// Whether what is reserved is locked in memory, so that the system never swaps it out.
    pub mlock: bool,
    /// Folder for temporary files that training writes; none for the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scratch_dir: Option<PathBuf>,
    /// Seed of shuffling, initialisation and dropout.
    pub seed: u64,
    /// Share of the data held out when there is no validation file.
    pub val_split: f64,
    /// Updates between evaluations; 0 for only before and after.
    pub eval_every: u64,
    /// Updates between saves; 0 for only at the end.
    pub save_every: u64,
    /// Evaluations without a better held-out loss after which the run ends; its best adapter is
    /// kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patience: Option<u64>,
    /// By how much a held-out loss has to be lower to be better.
    pub min_delta: f64,
    /// Whether the adapter with the best held-out loss is saved in the end, not the last.
    pub keep_best: bool,
    /// How often the run may go back to a good state when its loss is no number.
    pub max_rollbacks: u64,
    /// What is done where a loss or a gradient norm is far above the usual: `warn`, `roll-back` or
    /// `off`.
    pub on_spike: String,
    /// Updates between reports.
    pub report_every: u64,
    /// Held-out prompts that the report shows answered before and after; 0 for none.
    pub samples: usize,
    /// Bytes that the saved adapter's weights may take, such as `96KiB`: ranks of up to `rank` are
    /// chosen for each site before training.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter_budget: Option<String>,
    /// Rank that sites have on average at the end: pairs that earn least are switched off on the
    /// way, over all sites, starting from `rank`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adaptive_rank: Option<usize>,
    /// Batches whose gradients are taken to choose ranks, and for the sensitivity of sites.
    pub probes: usize,
    /// Type that the adapter is saved in: `f32`, `bf16`, `f16`, `int8` or `int4`.
    pub adapter_type: String,
    /// What only some methods know, by name: `pool` of LARS, for instance.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub method_option: BTreeMap<String, String>,
    /// File that makes the run wait between updates for as long as it is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pause_file: Option<PathBuf>,
    /// Share of its time that the run works; it rests for the others, between updates.
    pub duty: f64,
    /// Folder for an event file of TensorBoard.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tensorboard: Option<PathBuf>,
    /// File for a Chrome trace of the first updates, block by block.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace: Option<PathBuf>,
    /// Output folder of the run to go on with, from where it was saved last; it has to be the same
    /// run by all other settings. No part of a configuration file.
    #[serde(skip)]
    pub resume: Option<PathBuf>,
    /// Goes on with another precision, backend or instruction set too, which changes last bits.
    #[serde(skip)]
    pub resume_anyway: bool,
    /// Adapter folder to start from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init_adapter: Option<PathBuf>,
    /// Ranks that differ from `rank`, by regular expressions for the ends of site names; 0 leaves a
    /// site without an adapter.
    #[serde(skip_serializing_if = "PatternTable::is_empty")]
    pub rank_pattern: PatternTable<usize>,
    /// Alphas that differ from `alpha`, in the same way.
    #[serde(skip_serializing_if = "PatternTable::is_empty")]
    pub alpha_pattern: PatternTable<f64>,
    /// Factors on the learning rates of some trained tensors, by regular expressions for the ends
    /// of their names or of their sites'.
    #[serde(skip_serializing_if = "PatternTable::is_empty")]
    pub lr_pattern: PatternTable<f64>,
    /// Weight decays that differ from `weight_decay`, in the same way.
    #[serde(skip_serializing_if = "PatternTable::is_empty")]
    pub weight_decay_pattern: PatternTable<f64>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            model: PathBuf::new(),
            data: PathBuf::new(),
            output: "adapter".into(),
            method: "lora".into(),
            rank: 8,
            alpha: 16.0,
            dropout: 0.0,
            use_rslora: false,
            target_modules: "auto".into(),
            layers: "all".into(),
            epochs: 1,
            max_steps: None,
            batch_size: 1,
            grad_accum: 1,
            micro_batch: "fit".into(),
            max_seq_len: 512,
            packing: false,
            group_by_length: false,
            lr: 2e-4,
            lora_plus_ratio: 1.0,
            lr_scheduler: "cosine".into(),
            warmup_steps: None,
            warmup_ratio: None,
            decay_steps: None,
            decay_ratio: None,
            min_lr_ratio: 0.0,
            optimizer: "adamw8bit".into(),
            beta1: None,
            beta2: None,
            eps: None,
            momentum: 0.0,
            sparse_updates: "off".into(),
            weight_decay: 0.0,
            max_grad_norm: 1.0,
            clipping: "auto".into(),
            mask_prompt: true,
            memory_budget: None,
            precision: "exact".into(),
            compute: "auto".into(),
            gradient: "backprop".into(),
            mezo_eps: None,
            partial_blocks: None,
            softmax: "exact".into(),
            sliding_window: None,
            checkpointing: "auto".into(),
            checkpoint_store: "auto".into(),
            param_dtype: "f32".into(),
            optimizer_states: "auto".into(),
            tile_rows: "auto".into(),
            stream_weights: "auto".into(),
            mlock: false,
            scratch_dir: None,
            seed: 0,
            val_split: 0.0,
            eval_every: 0,
            save_every: 0,
            patience: None,
            min_delta: 0.0,
            keep_best: false,
            max_rollbacks: 3,
            on_spike: "warn".into(),
            report_every: 10,
            samples: 3,
            adapter_budget: None,
            adaptive_rank: None,
            probes: 4,
            adapter_type: "f32".into(),
            method_option: BTreeMap::new(),
            pause_file: None,
            duty: 1.0,
            tensorboard: None,
            trace: None,
            resume: None,
            resume_anyway: false,
            init_adapter: None,
            rank_pattern: PatternTable::default(),
            alpha_pattern: PatternTable::default(),
            lr_pattern: PatternTable::default(),
            weight_decay_pattern: PatternTable::default(),
        }
    }
}

/// A setting outside what it may be.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SettingsError {
    /// A value outside its range.
    #[error("`{field}` is {found}, expected {expected}")]
    BadValue {
        /// Name of the setting.
        field: &'static str,
        /// What it was.
        found: String,
        /// What it may be.
        expected: &'static str,
    },
    /// A configuration file that does not parse.
    #[error("{}: {reason}", path.display())]
    BadFile {
        /// The file.
        path: PathBuf,
        /// Where and why.
        reason: String,
    },
    /// A backend that computes otherwise than was asked for.
    #[error(
        "the backend computes packed products in {compute}, expected what `precision` {precision} \
         with `compute` {asked} allows"
    )]
    Arithmetic {
        /// Precision asked for.
        precision: &'static str,
        /// Arithmetic asked for, or `auto`.
        asked: String,
        /// Arithmetic of the backend.
        compute: &'static str,
    },
    /// A size that cannot be read.
    #[error(transparent)]
    Budget(#[from] BudgetError),
}

impl Settings {
    /// Reads a TOML file over the defaults.
    ///
    /// # Errors
    /// [`SettingsError::BadFile`] naming the file and the key that is unknown or of another type.
    pub fn from_file(path: &Path) -> Result<Self, SettingsError> {
        let bad = |reason: String| SettingsError::BadFile { path: path.to_owned(), reason };
        let text = std::fs::read_to_string(path).map_err(|error| bad(error.to_string()))?;
        toml::from_str(&text).map_err(|error| bad(error.to_string()))
    }

    /// The settings as TOML, for `config.toml`.
    ///
    /// # Panics
    /// Never: every field has a TOML form.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("settings are plain values")
    }

    /// Folder for temporary files.
    #[must_use]
    pub fn scratch_dir(&self) -> PathBuf {
        self.scratch_dir.clone().unwrap_or_else(std::env::temp_dir)
    }

    /// Whether the best adapter is kept.
    pub(crate) fn keeps_best(&self) -> bool {
        self.keep_best || self.patience.is_some()
    }

    /// What the adapter's weights may take.
    pub(crate) fn adapter_bytes(&self) -> Result<Option<u64>, BudgetError> {
        self.adapter_budget.as_deref().map(parse_bytes).transpose()
    }

    /// The type that the adapter is saved in.
    pub(crate) fn adapter_type(&self) -> Result<AdapterType, SettingsError> {
        AdapterType::named(&self.adapter_type)
    }

    /// The budget in bytes, if there is one.
    pub(crate) fn budget(&self) -> Result<Option<u64>, BudgetError> {
        self.memory_budget.as_deref().map(parse_bytes).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::Settings;

    #[test]
    fn settings_survive_toml_and_unknown_keys_are_refused() {
        let settings = Settings {
            max_steps: Some(7),
            memory_budget: Some("1GB".into()),
            ..Settings::default()
        };
        let text = settings.to_toml();
        assert!(text.contains("max-seq-len = 512"), "{text}");
        assert_eq!(toml::from_str::<Settings>(&text).unwrap(), settings);
        let error = toml::from_str::<Settings>("learning_rate = 1").unwrap_err().to_string();
        assert!(error.contains("learning_rate"), "{error}");
    }
}
