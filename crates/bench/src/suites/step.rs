//! Whole steps of training, and the forward pass alone.

use std::num::NonZeroUsize;
use std::path::Path;

use lowtide_data::{Dataset, DatasetBuilder, DatasetOptions};
use lowtide_memory::{Budget, Ledger};
use lowtide_model::Model;
use lowtide_optim::{AdamW, Optimizer, Sgd, StepHyper};
use lowtide_tape::{Checkpointing, Limits, Policy};
use lowtide_tensor::QUANTUM;
use lowtide_train::{Gradient, Needs, RunPlan, Trainer};

use super::{Base, cost};
use crate::stand::Task;
use crate::{BenchError, Contender, Row, Stand};

/// Gradients are clipped as a run does unless told otherwise.
const CLIP: f64 = 1.0;

/// The smallest tile of rows: what the leanest plan works on at a time.
pub(super) const TILE: NonZeroUsize = NonZeroUsize::new(QUANTUM).expect("a quantum has rows");

/// Times a forward pass over the bare base, and a training step (LoRA of rank 8 on every linear,
/// AdamW, one sequence of `tokens` tokens that all carry loss) under every policy.
///
/// # Errors
/// When `tokens` is no length for the base, or memory or a temporary file is refused.
pub fn step(stand: &Stand<'_>, base: &Base, tokens: usize) -> Result<Vec<Row>, BenchError> {
    base.check(tokens)?;
    let data = sequence(base, tokens)?;
    let bare = base.bare()?;
    let mut rows = vec![forward(stand, base, &bare, &data, tokens)?];
    let adapted = base.adapted()?;
    let leanest = Checkpointing::from(Policy::Sqrt).tiled(TILE);
    let kept = [Policy::Store, Policy::Block, Policy::Sqrt].map(Checkpointing::from);
    let tiled = [leanest].into_iter().filter(|_| tokens > TILE.get());
    for checkpointing in kept.into_iter().chain(tiled) {
        rows.push(train(stand, base, &adapted, &data, tokens, checkpointing)?);
    }
    Ok(rows)
}

fn forward(
    stand: &Stand<'_>,
    base: &Base,
    model: &Model<'_, f32>,
    data: &Dataset,
    tokens: usize,
) -> Result<Row, BenchError> {
    let optimizer = Sgd::default();
    let needs = needs(data, tokens, false);
    let mut runs = reserve(stand, model, &optimizer, needs, Policy::Block)?;
    let name = format!("forward {tokens}");
    let work = cost::forward(base, tokens, tokens - 1);
    let row = timed(stand, ("step", &name), work, tokens, &mut runs, &mut |run| {
        Ok(run.trainer.loss_of(data, 0)?.mean())
    });
    runs.into_iter().for_each(Running::release);
    row
}

fn train(
    stand: &Stand<'_>,
    base: &Base,
    model: &Model<'_, f32>,
    data: &Dataset,
    tokens: usize,
    checkpointing: Checkpointing,
) -> Result<Row, BenchError> {
    let optimizer = AdamW::default();
    let needs = needs(data, tokens, true);
    let mut runs = reserve(stand, model, &optimizer, needs, checkpointing)?;
    let Checkpointing { policy, tile, .. } = checkpointing;
    let tile = tile.map_or_else(String::new, |rows| format!(", {rows} rows"));
    let name = format!("train {tokens} {policy}{tile}");
    let work = cost::train(base, tokens, tokens - 1);
    let row = timed(stand, ("step", &name), work, tokens, &mut runs, &mut |run| run.update(data));
    runs.into_iter().for_each(Running::release);
    row
}

/// Lets all runs do a pass of a suite in turns, under a name; a pass gives its loss.
pub(super) fn timed<'p, 'w>(
    stand: &Stand<'_>,
    (suite, name): (&'static str, &str),
    work: crate::Work,
    tokens: usize,
    runs: &mut [Running<'p, 'w>],
    pass: &mut (dyn FnMut(&mut Running<'p, 'w>) -> Result<f64, BenchError> + Send),
) -> Result<Row, BenchError> {
    let planned: Vec<_> = runs.iter().map(|run| run.planned).collect();
    let task = Task { suite, name, work, tokens: Some(tokens as u64), planned: &planned };
    let mut failed = None;
    let row = stand.time(&task, &mut |index, calls| {
        let (contender, run) = (&stand.contenders[index], &mut runs[index]);
        for _ in 0..calls {
            let loss = contender.within(|| pass(run));
            let label = || contender.label.to_owned();
            let told = match loss {
                Ok(loss) if loss.is_finite() => continue,
                Ok(loss) => BenchError::Loss { contender: label(), loss },
                Err(error) => error,
            };
            failed.get_or_insert(told);
        }
    });
    failed.map_or(Ok(row), Err)
}

/// A trainer with its ledger.
pub(super) struct Running<'p, 'w> {
    pub(super) trainer: Trainer<'p, 'w>,
    pub(super) ledger: Ledger,
    /// Bytes of the plan.
    pub(super) planned: u64,
    updates: u64,
}

impl<'p, 'w> Running<'p, 'w> {
    pub(super) fn reserve(
        contender: &Contender<'p>,
        model: &'p Model<'w, f32>,
        optimizer: &'p dyn Optimizer,
        needs: Needs,
        how: impl Into<Checkpointing>,
    ) -> Result<Self, BenchError> {
        let backend = contender.backend;
        let plan = RunPlan::new(model, backend, optimizer, needs, how);
        let planned = plan.bytes().held();
        let mut ledger = Ledger::new(Budget::UNLIMITED);
        let trainer = Trainer::reserve(model, backend, optimizer, plan, CLIP, 0, &mut ledger);
        let mut trainer = trainer.map_err(|source| BenchError::Reserve {
            contender: contender.label.to_owned(),
            source,
        })?;
        trainer.initialise(0);
        Ok(Self { trainer, ledger, planned, updates: 0 })
    }

    /// One update; gives the loss before it.
    pub(super) fn update(&mut self, data: &Dataset) -> Result<f64, BenchError> {
        self.updates += 1;
        let hyper = StepHyper { lr: 1e-4, step: self.updates, grad_scale: 1.0 };
        let labelled = data.stats().labelled as usize;
        Ok(self.trainer.update(data, 0..1, 1, labelled, hyper)?.sum.mean())
    }

    pub(super) fn release(self) {
        let Self { trainer, mut ledger, .. } = self;
        trainer.release(&mut ledger);
    }
}

fn reserve<'p, 'w>(
    stand: &Stand<'p>,
    model: &'p Model<'w, f32>,
    optimizer: &'p dyn Optimizer,
    needs: Needs,
    how: impl Into<Checkpointing>,
) -> Result<Vec<Running<'p, 'w>>, BenchError> {
    let (contenders, how) = (stand.contenders.iter(), how.into());
    contenders.map(|c| Running::reserve(c, model, optimizer, needs, how)).collect()
}

/// One sequence of ids without a pattern.
pub(super) fn sequence(base: &Base, tokens: usize) -> Result<Dataset, BenchError> {
    of_ids(&ids(base, tokens))
}

/// One sequence of these ids.
pub(super) fn of_ids(ids: &[u32]) -> Result<Dataset, BenchError> {
    let options = DatasetOptions { max_seq_len: ids.len(), ..DatasetOptions::default() };
    let record = serde_json::json!({ "input_ids": ids }).to_string();
    let mut builder = DatasetBuilder::new(&options, None, None)?;
    builder.add_jsonl(Path::new("ids"), record.as_bytes())?;
    Ok(builder.finish()?)
}

/// Ids all over the vocabulary, always the same.
pub(super) fn ids(base: &Base, tokens: usize) -> Vec<u32> {
    let vocab = base.config().vocab_size as u64;
    let id = |t: u64| t.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
    (1..=tokens as u64).map(|t| (id(t) % vocab) as u32).collect()
}

pub(super) fn needs(data: &Dataset, tokens: usize, train: bool) -> Needs {
    Needs {
        limits: Limits { tokens, sequences: 1, labelled: data.stats().labelled as usize },
        longest: tokens,
        data_bytes: data.heap_bytes() as u64,
        apply_and_free: false,
        train,
        gradient: Gradient::Backprop,
    }
}
