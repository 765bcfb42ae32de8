//! Every byte of a run, for each way to run it, and the choice among them.

use lowtide_backend::Backend;
use lowtide_memory::{ByCategory, Category, Timeline};
use lowtide_model::Model;
use lowtide_optim::Optimizer;
use lowtide_tape::{Limits, Plan, Policy};

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
    /// Plans one policy.
    #[must_use]
    pub fn new(
        model: &Model<'_, f32>,
        be: &dyn Backend<f32>,
        optimizer: &dyn Optimizer,
        needs: Needs,
        policy: Policy,
    ) -> Self {
        let ranges = model.program.param_ranges();
        let parameters = model.program.params();
        let widest = ranges.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
        let (gradients, state_words) = match (needs.train, needs.apply_and_free) {
            (false, _) => (0, 0),
            (true, true) => (widest, optimizer.state_words(&model.tensor_lens())),
            (true, false) => (parameters, optimizer.state_words(&model.tensor_lens())),
        };
        let exec = Plan::new(&model.program, be, needs.limits, policy, needs.train);
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
            .with(Category::Adapter, words(self.parameters))
            .with(Category::Gradient, words(self.gradients))
            .with(Category::Optimizer, words(self.state_words))
            .with(Category::Workspace, self.resident_bytes)
            .with(Category::Data, self.batch_bytes())
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

/// Plans `policies` in order (fastest first) and takes the first that fits the budget; also how
/// each of them fares. `None` when none fits.
pub(crate) fn choose(
    policies: &[Policy],
    budget: Option<u64>,
    mut plan: impl FnMut(Policy) -> RunPlan,
) -> (Option<RunPlan>, Vec<PlanRow>) {
    let mut chosen = None;
    let mut rows = Vec::new();
    for &policy in policies {
        let candidate = plan(policy);
        let peak_bytes = candidate.bytes().held();
        let fits = budget.is_none_or(|budget| peak_bytes <= budget);
        let take = fits && chosen.is_none();
        rows.push(PlanRow { policy: policy.name(), peak_bytes, fits, chosen: take });
        if take {
            chosen = Some(candidate);
        }
    }
    (chosen, rows)
}
