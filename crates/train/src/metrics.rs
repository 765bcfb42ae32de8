//! What a run says about itself while it runs and when it is done.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lowtide_data::{Packing, Stats};
use lowtide_memory::{ByCategory, Category};
use serde::{Deserialize, Serialize};

use crate::{
    AdaptiveRank, BudgetSource, Evaluation, PauseCause, RanksLeft, SensitivityReport, SoftmaxError,
    UnionReport, Warning,
};

/// What takes long and is no update.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Held-out examples are measured, by the sequence.
    Evaluation,
    /// Held-out prompts are answered for the report, by the answer.
    Samples,
    /// Words like each target are looked for, by the target.
    Neighbours,
    /// Gradients are taken to choose ranks, by the batch.
    Probes,
}

/// Something worth telling the user, in the order in which it happens: data, plan, evaluation
/// before, steps (with evaluations and saves between), evaluation after, saved, done.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The data was read and tokenized.
    Data(DataReport),
    /// Ranks were chosen for an adapter's budget.
    Sensitivity(Box<SensitivityReport>),
    /// The plan fits; memory will be reserved now.
    Plan(Box<PlanReport>),
    /// The run goes on where it was saved.
    Resumed {
        /// Updates made before.
        step: u64,
        /// Updates of the whole run.
        steps: u64,
        /// The folder of the save.
        path: PathBuf,
    },
    /// Something that takes long and is no update is under way.
    Progress {
        /// What.
        phase: Phase,
        /// Sequences or answers done.
        done: usize,
        /// Sequences or answers in all.
        total: usize,
    },
    /// The softmax of training is approximate, and this is how far off it is on the first
    /// micro-batch.
    Softmax(SoftmaxError),
    /// Held-out loss was measured.
    Evaluation {
        /// Updates made before it.
        step: u64,
        /// What was measured.
        #[serde(flatten)]
        result: Evaluation,
    },
    /// An update was made. Sent for every update; `report` says whether it is one of those that
    /// `report-every` asks for.
    Step(StepReport),
    /// A loss or a gradient norm was far above what is usual. Not sent for every one of many.
    Spike {
        /// The update.
        step: u64,
        /// `loss` or `grad_norm`.
        what: &'static str,
        /// What it was.
        value: f64,
        /// What it usually was before.
        usual: f64,
    },
    /// An update was no number, or a spike, and the run went back to the last good state.
    RolledBack {
        /// The update.
        step: u64,
        /// Updates made before that state.
        to: u64,
        /// Loss of the update.
        loss: f64,
        /// What the learning rate is multiplied with from now on.
        lr_factor: f64,
    },
    /// Tensors that are trained had no gradient in any of the first updates.
    Untrained {
        /// How many updates.
        updates: u64,
        /// Names of the tensors.
        tensors: Vec<String>,
    },
    /// The run waits, until it is called again.
    Paused {
        /// Updates made before it.
        step: u64,
        /// Why.
        cause: PauseCause,
    },
    /// The run goes on after a pause.
    Continued {
        /// Updates made before it.
        step: u64,
        /// Seconds that it waited.
        seconds: f64,
    },
    /// The adapter was written.
    Saved {
        /// Updates made before it.
        step: u64,
        /// The folder.
        path: PathBuf,
    },
    /// The run is complete.
    Done(Box<Summary>),
}

/// How much data there is, and what one example looks like.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct DataReport {
    /// Training examples.
    pub examples: usize,
    /// What a batch counts: the examples, or the bins they are packed into.
    pub sequences: usize,
    /// How they are packed; `None` when each is a sequence of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packing: Option<PackingReport>,
    /// Their tokens.
    pub tokens: u64,
    /// Those that carry loss.
    pub labelled_tokens: u64,
    /// Tokens of the longest.
    pub longest: usize,
    /// Examples that were cut to the longest sequence allowed.
    pub truncated: usize,
    /// Tokens cut off.
    pub tokens_cut: u64,
    /// Examples left out because nothing labelled remained after the cut.
    pub dropped: u64,
    /// Held-out examples.
    pub valid_examples: usize,
    /// Held-out tokens that carry loss.
    pub valid_labelled_tokens: u64,
    /// One example as text, labelled parts marked; `None` when the data has no text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample: Option<String>,
    /// The same with colours for a terminal.
    #[serde(skip)]
    pub sample_ansi: Option<String>,
}

/// How well examples are packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct PackingReport {
    /// Bins.
    pub bins: usize,
    /// Tokens that a bin has room for.
    pub capacity: usize,
    /// Tokens in the bins, as a share of their room.
    pub fill: f64,
    /// Tokens of the fullest bin.
    pub longest: usize,
    /// Examples of the bin that has most.
    pub examples_max: usize,
}

impl PackingReport {
    pub(crate) fn of(packing: Packing, stats: Stats) -> Self {
        let Packing { bins, capacity, longest, examples_max } = packing;
        Self { bins, capacity, fill: packing.fill(stats.tokens), longest, examples_max }
    }
}

/// One way to run, and what it would hold.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PlanRow {
    /// Checkpoint policy.
    pub policy: String,
    /// Checkpoint store.
    pub store: &'static str,
    /// Rows that a block works on at a time; none for all.
    pub tile_rows: Option<usize>,
    /// How gradients are clipped.
    pub clipping: &'static str,
    /// Sequences computed at once.
    pub micro_batch: usize,
    /// Time of an update over that of the fastest row: predicted from the work there is to do, and
    /// right to some tenths.
    pub time: f64,
    /// Bytes it would hold at its peak.
    pub peak_bytes: u64,
    /// Whether that fits the budget.
    pub fits: bool,
    /// Whether it was chosen.
    pub chosen: bool,
}

/// What the largest micro-batch was found in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct WorstCase {
    /// Sequences that were looked at, held-out ones included.
    pub sequences: usize,
    /// Whether held-out sequences have the most tokens, not those to train on.
    pub tokens_held_out: bool,
    /// Whether held-out sequences have the most labelled tokens.
    pub labelled_held_out: bool,
}

/// The plan of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PlanReport {
    /// The base.
    pub model: PathBuf,
    /// Its family.
    pub architecture: String,
    /// Adapter method.
    pub method: String,
    /// Adapted linears.
    pub sites: usize,
    /// Trainable numbers.
    pub trainable_parameters: usize,
    /// Bytes of the saved adapter's file of weights.
    pub adapter_bytes: u64,
    /// Type of its numbers.
    pub adapter_type: String,
    /// How its ranks become smaller on the way, where they do; then its bytes are the most that it
    /// can have at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adaptive_rank: Option<AdaptiveRank>,
    /// How its ranks were chosen, where they were chosen for its budget.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sensitivity: Option<SensitivityReport>,
    /// Optimizer.
    pub optimizer: String,
    /// What parameters lie in while they are trained: `f32` or `bf16`.
    pub param_dtype: String,
    /// Where its states are: `ram`, or `file` with those of one block in memory.
    pub optimizer_states: &'static str,
    /// Which entries of gradients are applied: `off` for all.
    pub sparse_updates: String,
    /// How gradients are come by: `backprop`, `mezo` or `partial`.
    pub gradient: &'static str,
    /// The same with its numbers, where it is an approximation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approximation: Option<String>,
    /// Checkpoint policy chosen.
    pub policy: String,
    /// Checkpoint store chosen.
    pub store: &'static str,
    /// Rows that a block works on at a time; none for all.
    pub tile_rows: Option<usize>,
    /// Whether each block's gradients are applied as soon as they are complete.
    pub apply_and_free: bool,
    /// How gradients are clipped: `off`, `whole`, `two-pass` or `per-block`.
    pub clipping: &'static str,
    /// Updates the run will make.
    pub steps: u64,
    /// Sequences of an update.
    pub sequences_per_update: usize,
    /// Sequences of a batch, which are computed at once unless `micro_batch` says otherwise.
    pub batch_size: usize,
    /// Sequences computed at once.
    pub micro_batch: usize,
    /// Rows of the largest micro-batch: of the longest sequences together.
    pub tokens_max: usize,
    /// Labelled rows of the largest micro-batch: of the sequences that have most, together.
    pub labelled_max: usize,
    /// Where those come from.
    pub worst_case: WorstCase,
    /// Seconds an update takes at most, with the largest batches: roughly, from the work there is
    /// to do and the speed of one product, measured just before.
    pub seconds_per_update: f64,
    /// Share of its time that the run works: an update comes with a rest after it below 1.
    pub duty: f64,
    /// Work of an update at most, as plans are compared by: about so many multiply-adds.
    pub work_per_update: u64,
    /// Bytes an update writes to and reads from disk at most, roughly: block inputs in a file, and
    /// weights that are streamed.
    pub disk_bytes_per_update: u64,
    /// Bytes held at the peak.
    pub planned_peak_bytes: u64,
    /// The same by category.
    pub peak_by_category: BTreeMap<&'static str, u64>,
    /// Bytes of the arena: what operations work in, reserved at once.
    pub arena_bytes: u64,
    /// By how much the arena is larger than the most that is alive in it at once, as a share.
    pub packing_overhead: f64,
    /// Bytes of the base, mapped and evictable.
    pub mapped_bytes: u64,
    /// The budget, if there is one.
    pub memory_budget: Option<u64>,
    /// Where it comes from.
    pub budget_source: BudgetSource,
    /// Bytes of the base that stay in memory where it is streamed; `None` where it is not.
    pub streamed_bytes: Option<u64>,
    /// The smallest budget that any alternative fits.
    pub smallest_budget: u64,
    /// Everything that was considered, fastest first.
    pub alternatives: Vec<PlanRow>,
    /// Backend that will compute, and its instruction set: `simd/avx2`.
    pub backend: String,
    /// Precision asked for.
    pub precision: &'static str,
    /// Arithmetic of products with packed weights.
    pub compute: &'static str,
    /// Which words the softmax of the training loss runs over.
    pub softmax: String,
    /// How many those are, where they are not all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub union: Option<UnionReport>,
    /// The most of the last tokens that a token sees, where the run limits that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sliding_window: Option<usize>,
    /// Threads it will use.
    pub threads: usize,
    /// What was asked for and will not come to anything.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Warning>,
}

/// One update.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct StepReport {
    /// Number of the update, from 1.
    pub step: u64,
    /// Updates the run will make.
    #[serde(skip)]
    pub steps: u64,
    /// Mean loss over the update's labelled tokens, before the update.
    pub loss: f64,
    /// Learning rate.
    pub lr: f64,
    /// Norm of the whole gradient before clipping; `None` when gradients are applied and freed
    /// block by block without clipping.
    pub grad_norm: Option<f64>,
    /// Tokens of the update.
    pub tokens: u64,
    /// Seconds the update took.
    pub seconds: f64,
    /// Bytes held.
    pub held_bytes: u64,
    /// Pairs of low rank that are trained after it, where some are switched off on the way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pairs: Option<usize>,
    /// How its gradient was come by: `backprop`, or approximately by `mezo` or `partial`.
    pub gradient: &'static str,
    /// Whether `report-every` asks for this one.
    #[serde(skip)]
    pub report: bool,
}

/// `summary.json`. A value that was not measured is `null`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Summary {
    /// Updates made.
    pub steps: u64,
    /// Tokens of all updates.
    pub tokens: u64,
    /// Those that carried loss.
    pub labelled_tokens: u64,
    /// Loss of the first update.
    pub loss_first: Option<f64>,
    /// Loss of the last update.
    pub loss_last: Option<f64>,
    /// Held-out loss before training.
    pub eval_loss_before: Option<f64>,
    /// Held-out loss after training.
    pub eval_loss_after: Option<f64>,
    /// Median time of an update.
    pub seconds_per_step_median: Option<f64>,
    /// Tokens a second over all updates.
    pub tokens_per_second: Option<f64>,
    /// Seconds of rests between updates, which `duty` asks for.
    pub seconds_rested: f64,
    /// Seconds in which the run was paused.
    pub seconds_paused: f64,
    /// Joules that the machine drew from the first evaluation's or update's preparation to the end
    /// of the last evaluation, pauses left out.
    pub energy_joules: Option<f64>,
    /// What counted them: `rapl`, which is the processor, `hwmon energy` or `hwmon power`.
    pub energy_source: Option<String>,
    /// Bytes of the saved adapter's file of weights.
    pub adapter_bytes: u64,
    /// The ranks at the end, where they became smaller on the way.
    pub ranks: Option<RanksLeft>,
    /// Peak as planned.
    pub planned_peak_bytes: u64,
    /// Peak as charged.
    pub peak_bytes: u64,
    /// What was alive at the peak; sums to `peak_bytes`.
    pub peak_by_category: BTreeMap<String, u64>,
    /// Bytes of the base, mapped and evictable.
    pub mapped_bytes: u64,
    /// Whether the base was streamed: read ahead and let go block by block.
    pub stream_weights: bool,
    /// Bytes that were read from storage from the first update's preparation to the end of the last
    /// evaluation.
    pub storage_read_bytes: Option<u64>,
    /// Highest anonymous resident memory seen.
    pub rss_anon_peak_bytes: Option<u64>,
    /// Highest resident memory, the system's own mark.
    pub rss_peak_bytes: Option<u64>,
    /// Backend that computed, and its instruction set: `simd/avx2`.
    pub backend: String,
    /// Precision asked for.
    pub precision: String,
    /// Arithmetic of products with packed weights.
    pub compute: String,
    /// Which words the softmax of the training loss ran over.
    pub softmax: String,
    /// How far that is from the exact one, where it is not.
    pub softmax_error: Option<SoftmaxError>,
    /// The most of the last tokens that a token saw, where the run limited that.
    pub sliding_window: Option<usize>,
    /// Threads used.
    pub threads: usize,
    /// How gradients were come by: `backprop`, or approximately by `mezo` or `partial`.
    #[serde(default)]
    pub gradient: String,
    /// Checkpoint policy.
    pub policy: String,
    /// Checkpoint store.
    #[serde(default)]
    pub store: String,
    /// Rows that a block worked on at a time; none for all.
    #[serde(default)]
    pub tile_rows: Option<usize>,
    /// How gradients were clipped: `off`, `whole`, `two-pass` or `per-block`.
    #[serde(default)]
    pub clipping: String,
    /// Sequences computed at once.
    #[serde(default)]
    pub micro_batch: usize,
    /// Optimizer.
    #[serde(default)]
    pub optimizer: String,
    /// By how much the arena was larger than the most alive in it at once, as a share.
    #[serde(default)]
    pub packing_overhead: f64,
    /// Whether what was reserved was locked in memory.
    #[serde(default)]
    pub mlock: bool,
    /// Trainable numbers.
    pub trainable_parameters: usize,
    /// How often it went back to a good state.
    pub rollbacks: u64,
    /// Losses and gradient norms far above the usual.
    pub spikes: u64,
    /// Whether held-out loss had not become better for as long as `patience` allows.
    pub stopped_early: bool,
    /// Updates made before the adapter that was saved, where the best was kept.
    pub best_step: Option<u64>,
    /// The run was asked to stop before its last update.
    #[serde(skip)]
    pub interrupted: bool,
}

/// Held categories by name, those that are empty left out.
pub(crate) fn by_name(bytes: ByCategory) -> BTreeMap<&'static str, u64> {
    let held = bytes.iter().filter(|(category, n)| *category != Category::Mapped && *n > 0);
    held.map(|(category, n)| (category.name(), n)).collect()
}

/// Where a run's files lie.
pub(crate) fn file(output: &Path, name: &str) -> PathBuf {
    output.join(name)
}
