//! Loss, perplexity and accuracy of a base, or of a base with an adapter.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Instant;

use lowtide_adapter::Registry;
use lowtide_backend::Backend;
use lowtide_memory::{Budget, Ledger};
use lowtide_optim::Sgd;
use lowtide_runtime::{LoadedAdapter, OpenBase, WeightParts, registry};
use lowtide_tape::{Checkpointing, LossSum, Policy};
use serde::Serialize;

use crate::checkpointing::TILES;
use crate::prepare::limits_of;
use crate::room::{Allowed, Room, cache_bytes};
use crate::{Event, Gradient, Needs, Phase, Prepared, RunPlan, StreamWeights, TrainError, Trainer};

/// What an evaluation is told.
#[derive(Clone, Debug, PartialEq)]
pub struct EvalSettings {
    /// HF folder or `.gguf` file.
    pub model: PathBuf,
    /// Adapter folder; `None` for the bare base.
    pub adapter: Option<PathBuf>,
    /// `.jsonl`, `.txt`, or a folder (its `test.jsonl`, else `valid.jsonl`, else `train.jsonl`).
    pub data: PathBuf,
    /// Tokens of the longest sequence; longer examples are truncated.
    pub max_seq_len: usize,
    /// Sequences in a batch.
    pub batch_size: usize,
    /// Several examples in one sequence of up to `max_seq_len` tokens.
    pub packing: bool,
    /// Loss on responses only, for chat and completion data.
    pub mask_prompt: bool,
    /// The most of the last tokens that a token sees, itself included; as the base has it when
    /// `None`.
    pub sliding_window: Option<usize>,
    /// Heap that may be held; `None` for what a control group leaves, or no limit.
    pub memory_budget: Option<u64>,
    /// Whether weights are read ahead and let go block by block.
    pub stream_weights: StreamWeights,
}

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    /// Mean loss of a labelled token, in nats.
    pub loss: f64,
    /// e to the power of the loss.
    pub perplexity: f64,
    /// Share of labelled tokens that were the most likely.
    pub accuracy: f64,
    /// Tokens read.
    pub tokens: u64,
    /// Tokens that carried loss.
    pub labelled_tokens: u64,
    /// Seconds it took.
    pub seconds: f64,
}

impl Evaluation {
    /// From the sums of all batches.
    pub(crate) fn of(sum: LossSum, tokens: u64, seconds: f64) -> Self {
        let loss = sum.mean();
        Self {
            loss,
            perplexity: loss.exp(),
            accuracy: sum.correct as f64 / sum.labelled as f64,
            tokens,
            labelled_tokens: sum.labelled as u64,
            seconds,
        }
    }
}

/// Measures a base, or a base with an adapter, on data.
///
/// # Errors
/// When a file is unsound, the adapter is of another base, or the budget is too small.
pub fn evaluate(settings: &EvalSettings, be: &dyn Backend<f32>) -> Result<Evaluation, TrainError> {
    evaluate_telling(settings, be, &mut |_| ())
}

/// As [`evaluate`], with [`Event::Progress`] after each batch.
///
/// # Errors
/// As [`evaluate`].
pub fn evaluate_telling(
    settings: &EvalSettings,
    be: &dyn Backend<f32>,
    on_event: &mut dyn FnMut(&Event),
) -> Result<Evaluation, TrainError> {
    evaluate_with(&registry(), settings, be, on_event)
}

/// As [`evaluate_telling`], where the adapter's method is one of `methods`.
///
/// # Errors
/// As [`evaluate`].
pub fn evaluate_with(
    methods: &Registry<f32>,
    settings: &EvalSettings,
    be: &dyn Backend<f32>,
    on_event: &mut dyn FnMut(&Event),
) -> Result<Evaluation, TrainError> {
    let base = OpenBase::open(&settings.model)?.with_window(settings.sliding_window)?;
    let base = base.with_budget(settings.memory_budget);
    let adapter = settings.adapter.as_deref().map(LoadedAdapter::open).transpose()?;
    let prepared = Prepared {
        max_seq_len: settings.max_seq_len,
        mask_prompt: settings.mask_prompt,
        needs_prompt: false,
        val_split: 0.0,
        packing: settings.packing,
        seed: 0,
    };
    let build = || match &adapter {
        Some(adapter) => base.build_adapted(methods, adapter),
        None => base.build(None),
    };
    // An adapter that does not fit its base is told before data is read, which may take long.
    build()?;
    let data = prepared.for_evaluation(&base, &settings.data)?;
    let model = build()?;

    let sequences = settings.batch_size.max(1);
    let (limits, _) = limits_of([&data].into_iter(), sequences)?;
    let longest = data.stats().longest;
    let data_bytes = data.heap_bytes() as u64;
    let needs = Needs {
        limits,
        longest,
        data_bytes,
        apply_and_free: false,
        train: false,
        gradient: Gradient::Backprop,
    };
    let optimizer = Sgd::default();
    let (parts, room) = (WeightParts::of(&base), Room::now());
    let allowed = Allowed::of(settings.memory_budget, &room, cache_bytes(&parts));
    let plan = fastest(&allowed, |checkpointing| {
        RunPlan::new(&model, be, &optimizer, needs, checkpointing)
    })?;
    let held = plan.bytes().held();
    let mut ledger = Ledger::new(allowed.bytes.map_or(Budget::UNLIMITED, Budget::of));
    let mut trainer = Trainer::reserve(&model, be, &optimizer, plan, 0.0, 0, &mut ledger)?;
    if let Some(room) = settings.stream_weights.room_for(&parts, &room, held) {
        trainer.stream_weights(parts, room);
    }
    if let Some(adapter) = &adapter {
        adapter.fill(base.file().hyper(), &model.sites, trainer.values_mut())?;
    }
    let start = Instant::now();
    let total = data.len();
    let mut tell = |done| {
        on_event(&Event::Progress { phase: Phase::Evaluation, done, total });
        true
    };
    let (sum, _) = trainer.evaluate_while(&data, sequences, &mut tell)?;
    let seconds = start.elapsed().as_secs_f64();
    trainer.release(&mut ledger);
    if !sum.loss.is_finite() {
        base.file().check_finite()?;
        let path = settings.model.clone();
        return Err(TrainError::LossNotFinite { path, loss: sum.mean() });
    }
    Ok(Evaluation::of(sum, data.stats().tokens, seconds))
}

/// The plan with the largest tiles that fits: all rows, then fewer.
fn fastest(
    allowed: &Allowed,
    plan: impl Fn(Checkpointing) -> RunPlan,
) -> Result<RunPlan, TrainError> {
    let mut smallest = u64::MAX;
    for tile in [None].into_iter().chain(TILES.map(NonZeroUsize::new)) {
        let planned = plan(Checkpointing { tile, ..Policy::Block.into() });
        let held = planned.bytes().held();
        if allowed.bytes.is_none_or(|budget| held <= budget) {
            return Ok(planned);
        }
        smallest = smallest.min(held);
    }
    let (budget, policy) = (allowed.bytes.unwrap_or(0), Policy::Block.to_string());
    Err(TrainError::NoPlanFits { budget, smallest, policy, from: allowed.source })
}
