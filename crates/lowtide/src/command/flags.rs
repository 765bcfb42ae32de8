//! The flags of `finetune` and `plan`: one for every field of [`Settings`], none of them with a
//! default of its own, so that what was not given leaves the configuration file its say.

mod conduct;
mod memory;
mod rhythm;
mod updates;

use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;
use lowtide::train::{
    AdapterType, BudgetError, Gradient, OPTIMIZERS, PatternTable, Settings, parse_bytes,
};

use super::args::{MaskFlags, PackingFlags};
use super::computing::ArithmeticFlags;
use conduct::{ConductFlags, ShowFlags};
use memory::MemoryFlags;
use rhythm::RhythmFlags;
use updates::{ConstantFlags, ScheduleFlags};

/// Settings as far as they were given on the command line.
#[derive(Debug, Default, Args)]
pub(crate) struct RunFlags {
    #[command(flatten)]
    paths: PathFlags,
    #[command(flatten)]
    adapter: AdapterFlags,
    #[command(flatten)]
    training: TrainingFlags,
    #[command(flatten)]
    loss: LossFlags,
    #[command(flatten, next_help_heading = "Training")]
    packing: PackingFlags,
    #[command(flatten, next_help_heading = "Training")]
    mask: MaskFlags,
    #[command(flatten)]
    memory: MemoryFlags,
    #[command(flatten)]
    arithmetic: ArithmeticFlags,
    #[command(flatten)]
    rhythm: RhythmFlags,
    #[command(flatten)]
    conduct: ConductFlags,
    #[command(flatten)]
    show: ShowFlags,
}

#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Input and output")]
struct PathFlags {
    /// Base: a Hugging Face folder, a .gguf file, or a hub id such as org/name
    #[arg(long, short, value_name = "PATH")]
    #[arg(required_unless_present_any = ["config", "resume"])]
    model: Option<PathBuf>,
    /// A .jsonl or .txt file, or a folder with train.jsonl and perhaps valid.jsonl
    #[arg(long, short, value_name = "PATH")]
    #[arg(required_unless_present_any = ["config", "resume"])]
    data: Option<PathBuf>,
    /// Folder to write [default: adapter]
    #[arg(long, short, aliases = ["adapter-path", "output-dir"], value_name = "DIR")]
    output: Option<PathBuf>,
    /// Adapter to start from, a folder or a .gguf file, instead of a fresh one
    #[arg(long, value_name = "PATH")]
    init_adapter: Option<PathBuf>,
    /// Go on exactly where the run in this folder, or in --output, was saved last; what else is
    /// given must be as it was, but for what changes no result
    #[arg(long, value_name = "DIR", num_args = 0..=1)]
    #[expect(clippy::option_option, reason = "a flag that may be given with and without a value")]
    resume: Option<Option<PathBuf>>,
    /// Go on with another precision, backend or instruction set too: the result is then not the
    /// same to the last bit
    #[arg(long, requires = "resume")]
    resume_anyway: bool,
}

impl PathFlags {
    fn over(&self, s: &mut Settings) {
        set(&mut s.model, &self.model);
        set(&mut s.data, &self.data);
        if let Some(output) = &self.output {
            *s = std::mem::take(s).into_folder(output.clone());
        }
        set_option(&mut s.init_adapter, &self.init_adapter);
        s.resume_anyway = self.resume_anyway;
    }
}

#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Adapter")]
struct AdapterFlags {
    /// Adapter method [default: lora]
    #[arg(long, aliases = ["fine-tune-type", "peft-type"], value_name = "NAME")]
    method: Option<String>,
    /// Inner width of the adapter; 256 for vera [default: 8]
    #[arg(long, short, aliases = ["lora-r", "lora-rank"], value_name = "N")]
    #[arg(allow_negative_numbers = true)]
    rank: Option<usize>,
    /// Numerator of the adapter's scale, alpha / rank [default: 16]
    #[arg(long, alias = "lora-alpha", value_name = "X")]
    #[arg(allow_negative_numbers = true)]
    alpha: Option<f64>,
    /// Chance that an input of the adapter is dropped [default: 0]
    #[arg(long, alias = "lora-dropout", value_name = "P")]
    #[arg(allow_negative_numbers = true)]
    dropout: Option<f64>,
    /// Scale by alpha / sqrt(rank) instead [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true")]
    use_rslora: Option<bool>,
    /// Rank of sites whose name ends with what the regular expression matches; may be given several
    /// times, the first that matches counts, and 0 leaves a site without an adapter
    #[arg(long, value_name = "PATTERN=RANK", value_parser = pattern::<usize>)]
    rank_pattern: Vec<(String, usize)>,
    /// Alpha of such sites, in the same way
    #[arg(long, value_name = "PATTERN=ALPHA", value_parser = pattern::<f64>)]
    alpha_pattern: Vec<(String, f64)>,
    /// Bytes that the saved weights may take, such as 96KiB: ranks up to --rank are chosen for each
    /// site by what its gradients promise, and sites that do not earn their bytes get no adapter
    #[arg(long, value_name = "SIZE", value_parser = size)]
    adapter_budget: Option<String>,
    /// Rank that sites have on average at the end, below --rank, at which they start: the pairs of
    /// rank one that earn least, of all sites, are switched off on the way and not saved
    #[arg(long, value_name = "N")]
    #[arg(allow_negative_numbers = true)]
    adaptive_rank: Option<usize>,
    /// Batches whose gradients are taken for --adapter-budget and plan --sensitivity [default: 4]
    #[arg(long, value_name = "N")]
    #[arg(allow_negative_numbers = true)]
    probes: Option<usize>,
    /// Type that the adapter is saved in: f32, bf16 or f16, or int8 or int4, a file of Lowtide's
    /// own; --method-option quantize=int8 trains what int8 saves [default: f32]
    #[arg(long, value_name = "TYPE", value_parser = AdapterType::NAMES)]
    adapter_type: Option<String>,
    /// An option that only some methods know, such as `pool=chunk` of lars; may be given several
    /// times
    #[arg(long, value_name = "NAME=VALUE", value_parser = option)]
    method_option: Vec<(String, String)>,
    /// What lars makes its bias from, prompt, all, chunk or learned, or gate for its other formula:
    /// the method option `pool` [default: prompt]
    #[arg(long, value_name = "POOL")]
    lars_pool: Option<String>,
    /// all-linear, a comma list, a regular expression over site names, or auto, which is what the
    /// method adapts by itself: all-linear for lora [default: auto]
    #[arg(long, alias = "lora-target-modules", value_name = "SITES")]
    target_modules: Option<String>,
    /// all, last:N, or ranges such as 0-3,20-29 [default: all]
    #[arg(long, value_name = "LAYERS")]
    layers: Option<String>,
}

impl AdapterFlags {
    fn over(&self, s: &mut Settings) {
        set(&mut s.method, &self.method);
        set(&mut s.rank, &self.rank);
        set(&mut s.alpha, &self.alpha);
        set(&mut s.dropout, &self.dropout);
        set(&mut s.use_rslora, &self.use_rslora);
        set_option(&mut s.adapter_budget, &self.adapter_budget);
        set_option(&mut s.adaptive_rank, &self.adaptive_rank);
        set(&mut s.probes, &self.probes);
        set(&mut s.adapter_type, &self.adapter_type);
        s.method_option.extend(self.method_option.iter().cloned());
        let pool = self.lars_pool.iter().map(|pool| ("pool".to_owned(), pool.clone()));
        s.method_option.extend(pool);
        set_table(&mut s.rank_pattern, &self.rank_pattern);
        set_table(&mut s.alpha_pattern, &self.alpha_pattern);
        set(&mut s.target_modules, &self.target_modules);
        set(&mut s.layers, &self.layers);
    }
}

#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Training")]
struct TrainingFlags {
    /// Passes over the data [default: 1]
    #[arg(long, value_name = "N")]
    #[arg(allow_negative_numbers = true)]
    epochs: Option<u64>,
    /// Updates to make, whatever --epochs says
    #[arg(long, alias = "iters", value_name = "N")]
    #[arg(allow_negative_numbers = true)]
    max_steps: Option<u64>,
    /// Sequences of a batch [default: 1]
    #[arg(long, value_name = "N")]
    #[arg(allow_negative_numbers = true)]
    batch_size: Option<usize>,
    /// Batches in an update [default: 1]
    #[arg(long, alias = "gradient-accumulation-steps", value_name = "N")]
    #[arg(allow_negative_numbers = true)]
    grad_accum: Option<usize>,
    /// Sequences computed at once, for the same update but for its last bits: all of a batch, a
    /// number of them, fit (all, or fewer where nothing else fits the budget), auto (whatever is
    /// fastest within it) [default: fit]
    #[arg(long, value_name = "N")]
    #[arg(allow_negative_numbers = true)]
    micro_batch: Option<String>,
    /// Tokens of the longest sequence; longer examples are truncated [default: 512]
    #[arg(long, aliases = ["max-seq-length", "max-length"], value_name = "TOKENS")]
    #[arg(allow_negative_numbers = true)]
    max_seq_len: Option<usize>,
    /// Let the sequences of an update be of about one length [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true")]
    group_by_length: Option<bool>,
    /// Highest learning rate [default: 0.0002]
    #[arg(long, alias = "learning-rate", value_name = "X")]
    #[arg(allow_negative_numbers = true)]
    lr: Option<f64>,
    /// How much faster the second factor of a low-rank update, B, learns (LoRA+) [default: 1]
    #[arg(long, value_name = "X")]
    #[arg(allow_negative_numbers = true)]
    lora_plus_ratio: Option<f64>,
    #[command(flatten)]
    schedule: ScheduleFlags,
    /// Optimizer; auto: adamw where it fits the budget, else adamw8bit [default: adamw8bit]
    #[arg(long, alias = "optim", value_name = "NAME")]
    #[arg(value_parser = OPTIMIZERS)]
    optimizer: Option<String>,
    #[command(flatten)]
    constants: ConstantFlags,
    /// Which entries of gradients are applied, with optimizer states for those only: off (all),
    /// top:P% (of each tensor those that are largest at first) or threshold:X (of at least this
    /// magnitude; with adamw, lion or sgd) [default: off]
    #[arg(long, value_name = "ENTRIES")]
    sparse_updates: Option<String>,
    /// Decoupled weight decay [default: 0]
    #[arg(long, value_name = "X")]
    #[arg(allow_negative_numbers = true)]
    weight_decay: Option<f64>,
    /// Gradients are scaled down to this norm; 0 turns it off and saves memory [default: 1]
    #[arg(long, value_name = "X")]
    #[arg(allow_negative_numbers = true)]
    max_grad_norm: Option<f64>,
    /// How: whole (all gradients are held), two-pass (none are; twice the time, the same update),
    /// per-block (each block by itself); auto: whole, or two-pass to fit [default: auto]
    #[arg(long, value_name = "WAY", value_parser = ["auto", "whole", "two-pass", "per-block"])]
    clipping: Option<String>,
    /// How an update's gradient is come by; mezo (two losses in a random direction) and partial
    /// (backward through some blocks) are approximate, and take less memory [default: backprop]
    #[arg(long, value_name = "NAME", value_parser = Gradient::NAMES)]
    gradient: Option<String>,
    /// How far mezo looks to either side [default: 0.01]
    #[arg(long, value_name = "X")]
    #[arg(allow_negative_numbers = true)]
    mezo_eps: Option<f64>,
    /// Blocks that partial goes through in an update [default: a quarter of those trained]
    #[arg(long, value_name = "N")]
    #[arg(allow_negative_numbers = true)]
    partial_blocks: Option<usize>,
    /// Seed of shuffling, initialisation and dropout [default: 0]
    #[arg(long, value_name = "N")]
    #[arg(allow_negative_numbers = true)]
    seed: Option<u64>,
}

impl TrainingFlags {
    fn over(&self, s: &mut Settings) {
        set(&mut s.epochs, &self.epochs);
        set_option(&mut s.max_steps, &self.max_steps);
        set(&mut s.batch_size, &self.batch_size);
        set(&mut s.grad_accum, &self.grad_accum);
        set(&mut s.micro_batch, &self.micro_batch);
        set(&mut s.max_seq_len, &self.max_seq_len);
        set(&mut s.group_by_length, &self.group_by_length);
        set(&mut s.lr, &self.lr);
        set(&mut s.lora_plus_ratio, &self.lora_plus_ratio);
        self.schedule.over(s);
        set(&mut s.optimizer, &self.optimizer);
        self.constants.over(s);
        set(&mut s.sparse_updates, &self.sparse_updates);
        set(&mut s.weight_decay, &self.weight_decay);
        set(&mut s.max_grad_norm, &self.max_grad_norm);
        set(&mut s.clipping, &self.clipping);
        set(&mut s.gradient, &self.gradient);
        set_option(&mut s.mezo_eps, &self.mezo_eps);
        set_option(&mut s.partial_blocks, &self.partial_blocks);
        set(&mut s.seed, &self.seed);
    }
}

/// What is minimised.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Training")]
struct LossFlags {
    /// Words that the softmax of the loss runs over: exact (all), or union:K (the targets of a
    /// micro-batch and K neighbours of each; approximate) [default: exact]
    #[arg(long, value_name = "WORDS")]
    softmax: Option<String>,
    /// The most of the last tokens that a token sees, itself included; changes what is computed in
    /// training and evaluation [default: as the base has it]
    #[arg(long, value_name = "TOKENS")]
    #[arg(allow_negative_numbers = true)]
    sliding_window: Option<usize>,
}

impl LossFlags {
    fn over(&self, s: &mut Settings) {
        set(&mut s.softmax, &self.softmax);
        set_option(&mut s.sliding_window, &self.sliding_window);
    }
}

impl RunFlags {
    /// Whether a rank was given.
    pub(crate) fn ranked(&self) -> bool {
        self.adapter.rank.is_some()
    }

    /// Whether a run is to go on.
    pub(crate) fn resumes(&self) -> bool {
        self.paths.resume.is_some()
    }

    /// The folder of the run that is to go on, where it is named.
    pub(crate) fn resumed(&self) -> Option<&Path> {
        self.paths.resume.as_ref()?.as_deref()
    }

    /// The adapter to start from, where one is named.
    pub(crate) fn init_adapter(&self) -> Option<&Path> {
        self.paths.init_adapter.as_deref()
    }

    /// The folder to write, where it is named.
    pub(crate) fn output(&self) -> Option<&Path> {
        self.paths.output.as_deref()
    }

    /// `settings` with everything replaced that was given as a flag.
    pub(crate) fn over(&self, mut settings: Settings) -> Settings {
        let s = &mut settings;
        let Self {
            paths,
            adapter,
            training,
            loss,
            packing,
            mask,
            memory,
            arithmetic,
            rhythm,
            conduct,
            show,
        } = self;
        paths.over(s);
        adapter.over(s);
        training.over(s);
        loss.over(s);
        set(&mut s.packing, &packing.given());
        set(&mut s.mask_prompt, &mask.given());
        memory.over(s);
        set(&mut s.precision, &arithmetic.precision);
        set(&mut s.compute, &arithmetic.compute);
        rhythm.over(s);
        conduct.over(s);
        // Last, for it asks for the output folder.
        show.over(s);
        settings
    }
}

fn set<T: Clone>(setting: &mut T, given: &Option<T>) {
    if let Some(value) = given {
        setting.clone_from(value);
    }
}

fn set_option<T: Clone>(setting: &mut Option<T>, given: &Option<T>) {
    if given.is_some() {
        setting.clone_from(given);
    }
}

/// Reads `NAME=VALUE`.
fn option(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected a name, `=` and a value, such as `pool=chunk`".to_owned()),
    }
}

/// Flags replace a table as a whole: its order counts.
fn set_table<T: Clone>(setting: &mut PatternTable<T>, given: &[(String, T)]) {
    if !given.is_empty() {
        *setting = PatternTable(given.to_vec());
    }
}

/// Reads `PATTERN=VALUE`; a pattern may hold `=` itself.
fn pattern<T: FromStr>(text: &str) -> Result<(String, T), String> {
    let bad = || "expected a pattern, `=` and a number, such as `down_proj=4`".to_owned();
    let (key, value) = text.rsplit_once('=').ok_or_else(bad)?;
    let value = value.trim().parse().map_err(|_| bad())?;
    if key.is_empty() { Err(bad()) } else { Ok((key.to_owned(), value)) }
}

/// Checks that a text is a size, and keeps it as it was written.
pub(crate) fn size(text: &str) -> Result<String, BudgetError> {
    parse_bytes(text).map(|_| text.to_owned())
}

#[cfg(test)]
mod tests;
