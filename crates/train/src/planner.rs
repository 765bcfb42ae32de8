//! Every byte of a run, for each way to run it, and the choice among them.

use std::num::NonZeroUsize;

use lowtide_backend::Backend;
use lowtide_memory::{ByCategory, Category, Timeline};
use lowtide_model::Model;
use lowtide_optim::Optimizer;
use lowtide_tape::{Checkpointing, Limits, Plan, Policy};

use crate::checkpoint_file::BUFFERS;
use crate::{BatchBuffers, PlanRow};

/// What does not depend on the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// The largest micro-batch.
    pub limits: Limits,
    /// Tokens of the longest example.
    pub longest: usize,
    /// Bytes that datasets keep on the heap.
    pub data_bytes: u64,
    /// Gradients of a block are applied as soon as they are complete, and freed.
    pub apply_and_free: bool,
    /// Training, or evaluation only.
    pub train: bool,
}

/// A way to run, with every byte it will hold.
#[derive(Clone, Debug)]
pub struct RunPlan {
    /// The executor's part.
    pub exec: Plan,
    /// What does not depend on the policy.
    pub needs: Needs,
    /// Trainable numbers.
    pub parameters: usize,
    /// Gradients held at once.
    pub gradients: usize,
    /// Words of optimizer state.
    pub state_words: usize,
    /// Bytes of norms and biases that the model holds as floats.
    pub resident_bytes: u64,
}

impl RunPlan {
    /// Plans one policy, or a policy and a store.
    #[must_use]
    pub fn new(
        model: &Model<'_, f32>,
        be: &dyn Backend<f32>,
        optimizer: &dyn Optimizer,
        needs: Needs,
        checkpointing: impl Into<Checkpointing>,
    ) -> Self {
        let ranges = model.program.param_ranges();
        let parameters = model.program.params();
        let widest = ranges.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
        let (gradients, state_words) = match (needs.train, needs.apply_and_free) {
            (false, _) => (0, 0),
            (true, true) => (widest, optimizer.state_words(&model.tensor_lens())),
            (true, false) => (parameters, optimizer.state_words(&model.tensor_lens())),
        };
        let exec = Plan::new(&model.program, be, needs.limits, checkpointing, needs.train);
        let resident_bytes = model.resident_bytes;
        Self { exec, needs, parameters, gradients, state_words, resident_bytes }
    }

    /// Bytes at the peak, by category.
    #[must_use]
    pub fn bytes(&self) -> ByCategory {
        let words = |n: usize| (n * size_of::<f32>()) as u64;
        self.exec
            .bytes()
            .with(Category::Scratch, self.exec.library_bytes())
            .with(Category::Checkpoint, self.file_bytes())
            .with(Category::Adapter, words(self.parameters))
            .with(Category::Gradient, words(self.gradients))
            .with(Category::Optimizer, words(self.state_words))
            .with(Category::Workspace, self.resident_bytes)
            .with(Category::Data, self.batch_bytes())
    }

    /// Bytes of the buffers between the executor and its checkpoint file.
    fn file_bytes(&self) -> u64 {
        let elements = self.exec.file().map_or(0, |(_, elements)| BUFFERS * elements);
        (elements * size_of::<f32>()) as u64
    }

    /// The course of a step, all categories: what is held throughout, and on top of it what the
    /// executor has alive in each stretch.
    #[must_use]
    pub fn timeline(&self) -> Timeline {
        let mut throughout = self.bytes();
        for (category, bytes) in self.exec.bytes().iter() {
            throughout[category] -= bytes;
        }
        self.exec.timeline().clone().over(throughout)
    }

    /// Bytes of batches and datasets.
    #[must_use]
    pub fn batch_bytes(&self) -> u64 {
        BatchBuffers::bytes(self.needs.limits, self.needs.longest) + self.needs.data_bytes
    }
}

/// Plans all `candidates` and takes the fastest that fits the budget; also how each of them fares,
/// fastest first. `None` when none fits.
pub(crate) fn choose(
    candidates: &[Checkpointing],
    budget: Option<u64>,
    mut plan: impl FnMut(Checkpointing) -> RunPlan,
) -> (Option<RunPlan>, Vec<PlanRow>) {
    let mut plans: Vec<RunPlan> =
        candidates.iter().map(|&candidate| fitted(candidate, budget, &mut plan)).collect();
    // With nothing but inputs kept, `selective` is `block`, which is a candidate of its own.
    let is = |plan: &RunPlan, f: fn(Policy) -> bool| f(plan.exec.checkpointing().policy);
    if plans.iter().any(|plan| is(plan, |policy| policy == Policy::Block)) {
        let selective = |policy| matches!(policy, Policy::Selective { .. });
        plans.retain(|plan| plan.exec.kept_columns() > 0 || !is(plan, selective));
    }
    // A file costs disk traffic, and wears what it is written to: it comes last.
    plans.sort_by_key(|plan| (plan.exec.file().is_some(), plan.exec.work()));
    let least = plans.iter().map(|plan| plan.exec.work()).min().unwrap_or(1) as f64;
    let mut chosen = None;
    let mut rows = Vec::new();
    for candidate in plans {
        let peak_bytes = candidate.bytes().held();
        // What is slower and holds no less is no alternative.
        if rows.iter().any(|row: &PlanRow| row.peak_bytes <= peak_bytes) {
            continue;
        }
        let fits = budget.is_none_or(|budget| peak_bytes <= budget);
        let take = fits && chosen.is_none();
        let Checkpointing { policy, store, tile } = candidate.exec.checkpointing();
        let (policy, store) = (policy.to_string(), store.name());
        let tile_rows = tile.map(NonZeroUsize::get);
        let time = candidate.exec.work() as f64 / least;
        rows.push(PlanRow { policy, store, tile_rows, time, peak_bytes, fits, chosen: take });
        if take {
            chosen = Some(candidate);
        }
    }
    (chosen, rows)
}

/// The plan of a candidate. What `selective` keeps is as much as the budget leaves room for.
fn fitted(
    candidate: Checkpointing,
    budget: Option<u64>,
    plan: &mut impl FnMut(Checkpointing) -> RunPlan,
) -> RunPlan {
    let (Policy::Selective { .. }, Some(budget)) = (candidate.policy, budget) else {
        return plan(candidate);
    };
    let mut with = |bytes| plan(Checkpointing { policy: Policy::Selective { bytes }, ..candidate });
    let (mut room, mut best) = (0, with(0));
    // Where more is kept, less is in the arena, which leaves room for more.
    for _ in 0..FITTINGS {
        let spare = budget.saturating_sub(best.bytes().held());
        let next = with(room + spare);
        if next.bytes().held() > budget || next.exec.work() >= best.exec.work() {
            break;
        }
        (room, best) = (room + spare, next);
    }
    best
}

/// How often what a budget leaves is filled up.
const FITTINGS: usize = 4;
