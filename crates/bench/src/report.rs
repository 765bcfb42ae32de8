//! What a run found, as values that are told in a table, in JSON and on a page.

use std::path::Path;

use lowtide_formats::{ScratchFile, atomic};
use lowtide_memory::ByCategory;
use serde::{Deserialize, Serialize};

use crate::{BenchError, Ceiling, Limit, Peer, Spread, Timing, Work};

/// The version of what `--json` writes; it grows when a field changes its meaning or goes.
pub const SCHEMA: u32 = 1;

/// Everything a run found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Version of Lowtide.
    pub lowtide: String,
    /// Where it ran.
    pub machine: Machine,
    /// The base, where a suite needed one.
    pub model: Option<String>,
    /// Who took turns, in order; ratios are to the first.
    pub contenders: Vec<About>,
    /// What the machine can do at best, by threads.
    pub ceilings: Vec<Ceiling>,
    /// What was timed.
    pub rows: Vec<Row>,
    /// What was held.
    pub memory: Vec<MemoryRow>,
    /// How far gradients are from the exact one.
    #[serde(default)]
    pub gradients: Vec<GradientRow>,
    /// What published tables say, and ours.
    #[serde(default)]
    pub papers: Vec<PaperRow>,
    /// What short runs held and learned, with one lever moved at a time.
    #[serde(default)]
    pub tradeoff: Vec<TradeoffRow>,
    /// Adapter methods beside each other.
    #[serde(default)]
    pub methods: Vec<MethodRow>,
    /// What they make of small tasks.
    #[serde(default)]
    pub tasks: Vec<TaskRow>,
    /// What others reached.
    pub peers: Vec<Peer>,
}

/// Where a run took place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Name of the processor, where the system tells it.
    pub processor: Option<String>,
    /// Processors that this process may use.
    pub cores: usize,
    /// Architecture: `x86_64`.
    pub arch: String,
    /// Operating system: `linux`.
    pub os: String,
}

/// A contender as reports tell it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// What it is called.
    pub label: String,
    /// Name of the backend.
    pub backend: String,
    /// Instruction set.
    pub isa: String,
    /// Threads it shares work over.
    pub threads: usize,
}

/// One thing that was timed, and how the contenders did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// `kernels`, `step` or `generate`.
    pub suite: String,
    /// What was timed.
    pub name: String,
    /// What one call does.
    pub work: Work,
    /// Tokens of one call, where it has tokens.
    pub tokens: Option<u64>,
    /// One a contender, in their order.
    pub results: Vec<Measured>,
}

/// What was measured of one contender.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Its label.
    pub contender: String,
    /// Seconds a call.
    pub seconds: Spread,
    /// Seconds over those of the first contender in the same round: below 1 is faster.
    pub ratio: Spread,
    /// Calls of one turn.
    pub calls: usize,
    /// Floating-point operations of the plain algorithm a second.
    pub flops_per_second: f64,
    /// Bytes of operands a second.
    pub bytes_per_second: f64,
    /// Tokens a second, where there are tokens.
    pub tokens_per_second: Option<f64>,
    /// The limit that binds, and the share of it that was reached.
    pub limit: Option<Limit>,
    /// See `limit`; 1 is the limit itself.
    pub share: Option<f64>,
    /// Bytes that were planned to be held, where something is planned.
    pub planned_bytes: Option<u64>,
}

/// What one contender held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryRow {
    /// What was run.
    pub name: String,
    /// Its label.
    pub contender: String,
    /// Bytes that were planned.
    pub planned_bytes: u64,
    /// Bytes charged to the ledger at its peak.
    pub charged_bytes: u64,
    /// By how much the process grew, as the system tells it, where it does.
    pub grown_bytes: Option<u64>,
    /// What the plan is made of, by category.
    pub by_category: Vec<(String, u64)>,
}

/// A way to come by a gradient, beside the exact one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GradientRow {
    /// What is kept, and what is approximate.
    pub name: String,
    /// The contender's label.
    pub contender: String,
    /// Cosine with the exact gradient.
    pub cosine: f64,
    /// Length of the difference from it, in lengths of it.
    pub relative_error: f64,
    /// Seconds of an update; of all draws, where several are averaged.
    pub seconds: f64,
    /// Bytes that were planned, with an optimizer without state.
    pub planned_bytes: u64,
    /// Bytes charged to the ledger at its peak.
    pub charged_bytes: u64,
}

/// A setting of a published table, and the leanest plan of one contender for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PaperRow {
    /// Whose terms, and which.
    pub terms: String,
    /// The model whose shape it is.
    pub model: String,
    /// Tokens of the one sequence.
    pub tokens: usize,
    /// The contender's label.
    pub contender: String,
    /// Bytes that the paper states, where it does.
    pub published_bytes: Option<u64>,
    /// Checkpoint policy.
    pub policy: String,
    /// Checkpoint store.
    pub store: String,
    /// Rows that a block works on at a time; none for all.
    pub tile_rows: Option<usize>,
    /// Bytes that were planned.
    pub planned_bytes: u64,
    /// What the plan is made of, by category.
    pub by_category: Vec<(String, u64)>,
    /// One update, where it was run.
    pub run: Option<PaperRun>,
}

/// One update of a published setting.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PaperRun {
    /// Bytes charged to the ledger at its peak.
    pub charged_bytes: u64,
    /// By how much the process grew, as the system tells it, where it does.
    pub grown_bytes: Option<u64>,
    /// The most that was resident, the base included, as the system tells it, where it does. The
    /// base is made of random numbers, and lies on the heap.
    #[serde(default)]
    pub resident_bytes: Option<u64>,
    /// Seconds, with all that is touched for the first time.
    pub seconds: f64,
}

/// A method on the same examples as others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MethodRow {
    /// The method, with what it was told.
    pub name: String,
    /// Highest learning rate.
    pub lr: f64,
    /// Numbers that were trained.
    pub trainable_parameters: usize,
    /// Size of the adapter's file of tensors.
    pub adapter_bytes: u64,
    /// Bytes planned where everything is kept for backward, as in the run.
    pub store_bytes: u64,
    /// Bytes of the leanest plan.
    pub leanest_bytes: u64,
    /// Held-out loss before training.
    pub loss_before: Option<f64>,
    /// Held-out loss after it.
    pub loss_after: Option<f64>,
    /// Tokens learned from.
    pub tokens: u64,
    /// Updates made.
    pub updates: u64,
    /// Median seconds of an update.
    pub seconds: Option<f64>,
}

/// A method on a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskRow {
    /// The task.
    pub task: String,
    /// The method, with what it was told.
    pub method: String,
    /// Updates made.
    pub updates: u64,
    /// Share of the tokens of answers that are right.
    pub accuracy: f64,
    /// Mean loss of these.
    pub loss: f64,
}

/// A short run with one lever moved: what it held and what it learned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TradeoffRow {
    /// What was changed; `base` where nothing was.
    pub lever: String,
    /// What it was changed to.
    pub choice: String,
    /// Checkpoint policy, store and tile.
    pub plan: String,
    /// Bytes that were planned.
    pub planned_bytes: u64,
    /// Bytes charged to the ledger at its peak.
    pub charged_bytes: u64,
    /// Bytes of the base, mapped and evictable.
    pub mapped_bytes: u64,
    /// Held-out loss before training.
    pub loss_before: Option<f64>,
    /// Held-out loss after it.
    pub loss_after: Option<f64>,
    /// Updates made.
    pub updates: u64,
    /// Median seconds of an update.
    pub seconds: Option<f64>,
    /// Cosine of the first gradient to the exact one, where the softmax is approximate.
    pub gradient_cosine: Option<f64>,
}

impl Measured {
    /// What a timing means for `work`.
    pub(crate) fn of(
        contender: &str,
        timing: Timing,
        work: Work,
        tokens: Option<u64>,
        ceiling: Option<&Ceiling>,
    ) -> Self {
        let seconds = timing.seconds.median;
        let bound = ceiling.and_then(|ceiling| ceiling.bound(work));
        Self {
            contender: contender.to_owned(),
            seconds: timing.seconds,
            ratio: timing.ratio,
            calls: timing.calls,
            flops_per_second: work.flops as f64 / seconds,
            bytes_per_second: work.bytes as f64 / seconds,
            tokens_per_second: tokens.map(|tokens| tokens as f64 / seconds),
            limit: bound.map(|(_, limit)| limit),
            share: bound.map(|(least, _)| least / seconds),
            planned_bytes: None,
        }
    }
}

impl Report {
    /// The report as text in JSON.
    ///
    /// # Panics
    /// Never: a report is plain values.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("reports are plain values");
        text.push('\n');
        text
    }
}

/// Writes a text whole, or leaves what was there.
///
/// # Errors
/// [`BenchError::Write`], naming the file.
pub fn write(path: &Path, text: &str) -> Result<(), BenchError> {
    atomic::write_file(path, |out| out.write_all(text.as_bytes()))
        .map_err(|source| BenchError::Write { path: path.to_owned(), source: Box::new(source) })
}

/// That a report can be written to `path`, before anything is measured for it.
///
/// # Errors
/// [`BenchError::Write`], naming the file.
pub fn check_writable(path: &Path) -> Result<(), BenchError> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    ScratchFile::reserve(folder, 1)
        .map(drop)
        .map_err(|source| BenchError::Write { path: path.to_owned(), source: Box::new(source) })
}

/// Categories that are not empty, by name.
pub(crate) fn named(bytes: ByCategory) -> Vec<(String, u64)> {
    let held = bytes.iter().filter(|(_, bytes)| *bytes > 0);
    held.map(|(category, bytes)| (category.name().to_owned(), bytes)).collect()
}

impl Machine {
    /// This one.
    #[must_use]
    pub fn this() -> Self {
        Self {
            processor: processor(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            arch: std::env::consts::ARCH.into(),
            os: std::env::consts::OS.into(),
        }
    }
}

/// The processor's own name: x86 tells it a core, many Arm boards tell the board.
fn processor() -> Option<String> {
    let told = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let value = |key: &str| {
        let line = told.lines().find(|line| line.starts_with(key))?;
        let (_, name) = line.split_once(':')?;
        Some(name.trim().to_owned()).filter(|name| !name.is_empty())
    };
    value("model name").or_else(|| value("Model"))
}
