//! Every byte of a run, for each way to run it, and the choice among them.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::ops::Range;

use lowtide_backend::Backend;
use lowtide_memory::{ByCategory, Category, Timeline};
use lowtide_model::Model;
use lowtide_optim::Optimizer;
use lowtide_tape::{Checkpointing, Limits, Plan, Policy};

use crate::checkpoint_file::BUFFERS;
use crate::clipping::Clipping;
use crate::ranks::Score;
use crate::{BatchBuffers, Gradient, PlanRow, UnionBytes};

/// What does not depend on the policy.
#[derive(Clone, Copy, Debug, PartialEq)]
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
    /// How gradients are come by in training.
    pub gradient: Gradient,
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
    /// Parameters of a block that is widened, where they lie in bf16; `None` where they are f32.
    pub widened: Option<usize>,
    /// Room to show all parameters in at once, where they lie in bf16 and nothing that is idle
    /// between updates has it.
    pub view: usize,
    /// Gradients held at once.
    pub gradients: usize,
    /// Words of optimizer state in memory.
    pub state_words: usize,
    /// Words of optimizer state in a file, where they are there: then those in memory are the
    /// states of one block.
    pub state_words_filed: usize,
    /// Bytes of norms and biases that the model holds as floats.
    pub resident_bytes: u64,
    /// What a softmax over some words takes; nothing for the exact one.
    pub union: UnionBytes,
    /// Pairs of low rank whose scores are held, where some are switched off on the way; else none.
    pub pairs: usize,
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
        let state = || optimizer.state_words(&model.tensor_lens());
        let (gradients, state_words) = match (needs.train, needs.gradient) {
            (false, _) => (0, 0),
            (true, _) if needs.apply_and_free => (widest(&ranges, 1), state()),
            (true, Gradient::Backprop) => (parameters, state()),
            (true, Gradient::Mezo { .. }) => (widest(&ranges, 1), state()),
            (true, Gradient::Partial { blocks }) => (widest(&ranges, blocks.get()), state()),
        };
        let (program, limits) = (&model.program, needs.limits);
        let checkpointing: Checkpointing = checkpointing.into();
        let exec = match needs.gradient {
            Gradient::Mezo { .. } if needs.train => {
                Plan::pair(program, be, limits, checkpointing.tile)
            }
            Gradient::Partial { blocks } if needs.train => {
                Plan::partial(program, be, limits, checkpointing, blocks.get())
            }
            _ => Plan::new(program, be, limits, checkpointing, needs.train),
        };
        let resident_bytes = model.resident_bytes;
        let union = UnionBytes::default();
        let pairs = 0;
        let state_words_filed = 0;
        Self {
            exec,
            needs,
            parameters,
            widened: None,
            view: 0,
            gradients,
            state_words,
            state_words_filed,
            resident_bytes,
            union,
            pairs,
        }
    }

    /// The same with parameters in bf16.
    #[must_use]
    pub fn with_bf16_parameters(self, model: &Model<'_, f32>) -> Self {
        let widened = Some(widest(&model.program.param_ranges(), 1));
        let idle = self.gradients.max(self.exec.arena_bytes() as usize / size_of::<f32>());
        let view = if idle >= self.parameters { 0 } else { self.parameters };
        Self { widened, view, ..self }
    }

    /// Words that parameters take.
    pub(crate) fn parameter_words(&self) -> usize {
        match self.widened {
            None => self.parameters,
            Some(block) => self.parameters.div_ceil(2) + block + self.view,
        }
    }

    /// The same with the optimizer's states in a file, and those of one block in memory.
    #[must_use]
    pub fn with_filed_states(self, model: &Model<'_, f32>, optimizer: &dyn Optimizer) -> Self {
        let lens = model.tensor_lens();
        let mut rest = &lens[..];
        let of_blocks = model.tensors_per_segment().into_iter().map(|count| {
            let (block, above) = rest.split_at(count);
            rest = above;
            optimizer.state_words(block)
        });
        let widest = of_blocks.max().unwrap_or(0);
        match self.state_words {
            // Of an optimizer without state, or in evaluation.
            0 => self,
            all => Self { state_words: widest, state_words_filed: all, ..self },
        }
    }

    /// Bytes of states that an update reads from a file and writes to it.
    #[must_use]
    pub fn state_traffic(&self) -> u64 {
        (2 * self.state_words_filed * size_of::<f32>()) as u64
    }

    /// What is kept between forward and backward: a policy's name, or `none`.
    #[must_use]
    pub fn policy(&self) -> String {
        match self.needs.train && self.needs.gradient.keeps_nothing() {
            true => "none".into(),
            false => self.exec.checkpointing().policy.to_string(),
        }
    }

    /// Bytes at the peak, by category.
    #[must_use]
    pub fn bytes(&self) -> ByCategory {
        let words = |n: usize| (n * size_of::<f32>()) as u64;
        self.exec
            .bytes()
            .with(Category::Scratch, self.exec.library_bytes())
            .with(Category::Checkpoint, self.file_bytes())
            .with(Category::Adapter, words(self.parameter_words()))
            .with(Category::Gradient, words(self.gradients))
            .with(Category::Optimizer, words(self.state_words + self.score_words()))
            .with(Category::Workspace, self.resident_bytes)
            .with(Category::Data, self.batch_bytes() + self.union.data)
            .with(Category::Head, self.union.head)
    }

    /// Words of the scores of pairs.
    #[must_use]
    pub fn score_words(&self) -> usize {
        self.pairs * size_of::<Score>() / size_of::<f32>()
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

/// Parameters of the `count` segments that have most.
fn widest(ranges: &[Range<usize>], count: usize) -> usize {
    let mut lens: Vec<usize> = ranges.iter().map(ExactSizeIterator::len).collect();
    lens.sort_unstable_by_key(|&len| Reverse(len));
    lens.iter().take(count).sum()
}

/// What a plan is made for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Candidate {
    pub(crate) checkpointing: Checkpointing,
    pub(crate) clipping: Clipping,
    /// Sequences at once.
    pub(crate) micro_batch: usize,
    /// Comes after what is not, however fast.
    pub(crate) late: bool,
}

impl Candidate {
    /// How often a step is computed.
    pub(crate) fn passes(&self) -> u64 {
        if self.clipping == Clipping::TwoPass { 2 } else { 1 }
    }
}

/// Plans all `candidates` and takes the fastest that fits the budget; also how each of them fares,
/// in the order in which they are taken. `None` when none fits.
pub(crate) fn choose(
    candidates: &[Candidate],
    budget: Option<u64>,
    mut plan: impl FnMut(Candidate) -> RunPlan,
) -> (Option<(Candidate, RunPlan)>, Vec<PlanRow>) {
    // What times are compared with does not depend on the budget. Where there is `store`, it does
    // no more work than `selective` without a bound.
    let mut least = BTreeMap::new();
    let selective = |c: &Candidate| matches!(c.checkpointing.policy, Policy::Selective { .. });
    for candidate in candidates.iter().filter(|_| candidates.iter().all(selective)) {
        least.entry(candidate.micro_batch).or_insert_with(|| plan(*candidate).exec.work());
    }
    let mut plans: Vec<(Candidate, RunPlan)> = candidates
        .iter()
        .map(|&candidate| (candidate, fitted(candidate, budget, &mut plan)))
        .collect();
    // With nothing but inputs kept, `selective` is `block`, which is a candidate of its own.
    if plans.iter().any(|(candidate, _)| candidate.checkpointing.policy == Policy::Block) {
        plans.retain(|(c, plan)| plan.exec.kept_columns() > 0 || !selective(c));
    }
    let mut chosen = None;
    let mut rows = Vec::new();
    for (time, candidate, planned) in timed(plans, least) {
        let peak_bytes = planned.bytes().held();
        // What is slower and holds no less is no alternative.
        if rows.iter().any(|row: &PlanRow| row.peak_bytes <= peak_bytes) {
            continue;
        }
        let fits = budget.is_none_or(|budget| peak_bytes <= budget);
        let take = fits && chosen.is_none();
        let Checkpointing { store, tile, .. } = candidate.checkpointing;
        rows.push(PlanRow {
            policy: planned.policy(),
            store: store.name(),
            tile_rows: tile.map(NonZeroUsize::get),
            clipping: candidate.clipping.name(),
            micro_batch: candidate.micro_batch,
            time,
            peak_bytes,
            fits,
            chosen: take,
        });
        if take {
            chosen = Some((candidate, planned));
        }
    }
    (chosen, rows)
}

/// Plans with their times over the fastest's, in the order in which they are taken.
///
/// A batch in parts takes nearly the time of the whole under the same policy: the rows are the
/// same, and decoding weights once more for each part was measured to cost nothing with 512 tokens
/// a sequence and a tenth with 128. So work is compared among plans of as many sequences at once.
///
/// `least` is the work of the fastest of each size, as far as it is known.
fn timed(
    plans: Vec<(Candidate, RunPlan)>,
    mut least: BTreeMap<usize, u64>,
) -> Vec<(f64, Candidate, RunPlan)> {
    for (candidate, plan) in &plans {
        let work = least.entry(candidate.micro_batch).or_insert(u64::MAX);
        *work = plan.exec.work().clamp(1, *work);
    }
    let time = |(candidate, plan): (Candidate, RunPlan)| {
        let work = candidate.passes() * plan.exec.work();
        (work as f64 / least[&candidate.micro_batch] as f64, candidate, plan)
    };
    let mut timed: Vec<_> = plans.into_iter().map(time).collect();
    // A file costs disk traffic, and wears what it is written to.
    let last = |(_, c, plan): &(f64, Candidate, RunPlan)| {
        (c.late, c.clipping == Clipping::TwoPass, plan.exec.file().is_some())
    };
    timed.sort_by(|a, b| {
        let sequences = b.1.micro_batch.cmp(&a.1.micro_batch);
        last(a).cmp(&last(b)).then(a.0.total_cmp(&b.0)).then(sequences)
    });
    timed
}

/// The plan of a candidate. What `selective` keeps is as much as the budget leaves room for.
fn fitted(
    candidate: Candidate,
    budget: Option<u64>,
    plan: &mut impl FnMut(Candidate) -> RunPlan,
) -> RunPlan {
    let checkpointing = candidate.checkpointing;
    let (Policy::Selective { .. }, Some(budget)) = (checkpointing.policy, budget) else {
        return plan(candidate);
    };
    let mut with = |bytes| {
        let policy = Policy::Selective { bytes };
        plan(Candidate { checkpointing: Checkpointing { policy, ..checkpointing }, ..candidate })
    };
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
