//! A reserved run: slabs, executor and optimizer, one update at a time.

mod drawn;
mod mezo;
mod params;
mod pruning;
mod rates;
mod state;
mod states;
mod update;

use std::ops::Range;
use std::path::Path;

use lowtide_backend::Backend;
use lowtide_data::{DataError, Dataset};
use lowtide_memory::{ByCategory, Category, Charge, Ledger, LockError, ReserveError, Slab};
use lowtide_model::{Model, SiteValues};
use lowtide_optim::Optimizer;
use lowtide_tape::{Executor, LossSum, Observer, Params};

use self::drawn::Drawn;
use self::params::Parameters;
use self::rates::Rates;
pub(crate) use self::state::Bytes;
use self::states::States;
use crate::checkpoint_file::ScratchCheckpoints;
use crate::groups::{Group, lora_plus};
use crate::init::initialise;
use crate::ranks::Ranks;
use crate::softmax::{Neighbours, Union};
use crate::{BatchBuffers, Clip, Gradient, Needs, RunPlan, SoftmaxError, TrainError};

/// What one update did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Update {
    /// Loss over the update's labelled tokens, before it.
    pub sum: LossSum,
    /// Tokens read.
    pub tokens: u64,
    /// Norm of the gradient before clipping; `None` when it was applied block by block, unclipped.
    pub grad_norm: Option<f64>,
    /// Gradients that are infinite or NaN. Then no parameter was updated with them; where gradients
    /// are applied block by block, the blocks above were.
    pub non_finite: usize,
}

/// A model in training inside the memory that its plan foretold.
pub struct Trainer<'p, 'w> {
    model: &'p Model<'w, f32>,
    be: &'p dyn Backend<f32>,
    optimizer: &'p dyn Optimizer,
    executor: Executor<'p, 'w, f32>,
    held: Held,
    batch: BatchBuffers,
    tensor_lens: Vec<usize>,
    rates: Rates,
    /// Where each segment's parameters lie.
    ranges: Vec<Range<usize>>,
    /// Of each segment: where its tensors are in `tensor_lens`, and its state in the slab.
    segments: Vec<(Range<usize>, Range<usize>)>,
    apply_and_free: bool,
    clip: Clip,
    /// Of each segment, the sum of its gradients' squares.
    squares: Vec<f64>,
    micro_batches: u64,
    gradient: Gradient,
    /// Which blocks an update goes through, where it does not go through all.
    drawn: Option<Drawn>,
    /// Which pairs of low rank are trained, where some are switched off on the way.
    ranks: Option<Ranks>,
    seed: u64,
    /// Which words the softmax of training runs over, where that is not all.
    union: Option<Union<'p, 'w>>,
    /// Of each tensor, whether it had a gradient that was not zero in one of the first updates.
    seen: Vec<bool>,
}

impl<'p, 'w> Trainer<'p, 'w> {
    /// Reserves everything the plan says. Parameters are zero and the optimizer's state is fresh.
    /// `clip` is what gradients are scaled down to: a [`Clip`], or the norm of all together.
    ///
    /// # Errors
    /// [`ReserveError`] when the ledger or the system refuses; nothing stays reserved then.
    pub fn reserve(
        model: &'p Model<'w, f32>,
        be: &'p dyn Backend<f32>,
        optimizer: &'p dyn Optimizer,
        plan: RunPlan,
        clip: impl Into<Clip>,
        seed: u64,
        ledger: &mut Ledger,
    ) -> Result<Self, ReserveError> {
        let held = Held::reserve(&plan, ledger)?;
        let batch = BatchBuffers::new(plan.needs.limits, plan.needs.longest);
        let Needs { apply_and_free, train, gradient, .. } = plan.needs;
        let executor = match Executor::reserve(&model.program, be, plan.exec, seed, ledger) {
            Ok(executor) => executor,
            Err(error) => {
                held.release(ledger);
                return Err(error);
            }
        };
        let tensor_lens = model.tensor_lens();
        let segments = match train {
            true => segments(model, optimizer, &tensor_lens),
            false => Vec::new(),
        };
        let seen = vec![false; tensor_lens.len()];
        let ranges = model.program.param_ranges();
        let drawn = match gradient {
            Gradient::Partial { blocks } => Some(Drawn::new(&ranges, blocks, seed)),
            Gradient::Backprop | Gradient::Mezo { .. } => None,
        };
        let mut trainer = Self {
            model,
            be,
            optimizer,
            executor,
            held,
            batch,
            tensor_lens,
            rates: Rates::default(),
            ranges,
            segments,
            apply_and_free,
            clip: clip.into(),
            squares: vec![0.0; model.program.segments.len()],
            micro_batches: 0,
            gradient,
            drawn,
            ranks: None,
            seed,
            union: None,
            seen,
        };
        if trainer.held.states.are_open() {
            let made = trainer.init_states();
            debug_assert!(made.is_ok(), "memory does not fail");
        }
        Ok(trainer)
    }

    /// Makes the optimizer's states what they are before the first update.
    fn init_states(&mut self) -> Result<(), TrainError> {
        for (tensors, words) in &self.segments {
            let lens = &self.tensor_lens[tensors.clone()];
            self.held.states.with(words.clone(), |state| self.optimizer.init(lens, state))?;
        }
        Ok(())
    }

    /// Lends the optimizer's states to `visit`, wherever they are: those of one block at a time,
    /// from the lowest, with the words they have, which may hold any bits. What it makes of them
    /// stays.
    ///
    /// # Errors
    /// When `visit` fails, or the file that they are in.
    pub fn for_each_state(
        &mut self,
        visit: &mut dyn FnMut(&mut [f32]) -> Result<(), TrainError>,
    ) -> Result<(), TrainError> {
        for (_, words) in self.segments.iter().filter(|(_, words)| !words.is_empty()) {
            self.held.states.with(words.clone(), &mut *visit)??;
        }
        Ok(())
    }

    /// Takes room in `folder` for what the plan keeps in files, if it keeps anything there; needed
    /// before the first update. States of an optimizer that come to lie there are fresh.
    ///
    /// # Errors
    /// When the folder, the ledger or the system refuses.
    pub fn open_scratch(&mut self, folder: &Path, ledger: &mut Ledger) -> Result<(), TrainError> {
        if let Some((count, elements)) = self.executor.plan().file() {
            let file = ScratchCheckpoints::reserve(folder, count, elements, ledger)?;
            self.executor.set_file(Box::new(file));
        }
        if !self.held.states.are_open() {
            self.held.states.open(folder)?;
            self.init_states()?;
        }
        Ok(())
    }

    /// Locks adapter, gradients, states, the rows of a softmax over some words and all that the
    /// executor works in, so that the system never swaps them out.
    ///
    /// # Errors
    /// [`LockError`] when the system refuses, as it does beyond `RLIMIT_MEMLOCK`, or cannot.
    pub fn lock(&self) -> Result<(), LockError> {
        let Held { params, grads, states, scores, .. } = &self.held;
        [grads, scores].into_iter().try_for_each(Slab::lock)?;
        params.lock()?;
        states.lock()?;
        self.union.iter().try_for_each(Union::lock)?;
        self.executor.lock()
    }

    /// Lets the softmax of training run over `neighbours` only, with up to `words` of them in a
    /// micro-batch.
    ///
    /// # Errors
    /// When the ledger or the system refuses.
    pub(crate) fn set_neighbours(
        &mut self,
        neighbours: &'p Neighbours,
        words: usize,
        ledger: &mut Ledger,
    ) -> Result<(), ReserveError> {
        let (head, limits) = (self.model.program.head.weight, self.executor.plan().limits());
        self.union = Some(Union::reserve(neighbours, head, words, limits.labelled, ledger)?);
        Ok(())
    }

    /// How far the softmax of training is from the exact one on a micro-batch of some sequences;
    /// `None` where it is exact.
    ///
    /// # Errors
    /// When a temporary file cannot be read.
    pub(crate) fn softmax_error(
        &mut self,
        data: &Dataset,
        sequences: impl Iterator<Item = usize>,
    ) -> Result<Option<SoftmaxError>, TrainError> {
        let Some(union) = &mut self.union else { return Ok(None) };
        let exact = self.batch.fill(data, sequences, 0)?;
        let batch = union.over(exact)?;
        let gap = self.executor.head_gap_with(&mut self.held.params, &batch, exact.targets);
        let words = batch.words.map_or(0, |words| words.rows());
        let vocabulary = self.model.program.head.weight.rows();
        Ok(Some(SoftmaxError::of(&gap, words, vocabulary)))
    }

    /// Gives it someone to tell what it is at.
    pub(crate) fn set_observer(&mut self, observer: Box<dyn Observer>) {
        self.executor.set_observer(observer);
    }

    /// Gives everything back.
    pub fn release(self, ledger: &mut Ledger) {
        if let Some(union) = self.union {
            union.release(ledger);
        }
        self.executor.release(ledger);
        self.held.release(ledger);
    }

    /// The model in training.
    #[must_use]
    pub fn model(&self) -> &'p Model<'w, f32> {
        self.model
    }

    /// The adapter's parameters, as the sites' ranges divide them.
    ///
    /// # Panics
    /// Where they lie in bf16: see [`Trainer::with_values`].
    #[must_use]
    pub fn params(&self) -> &[f32] {
        self.held.params.plain()
    }

    /// Whether every parameter is a finite number.
    #[must_use]
    pub fn is_finite(&mut self) -> bool {
        let (be, params) = (self.be, &mut self.held.params);
        self.ranges.iter().all(|range| be.stats(params.get(range.clone())).non_finite == 0)
    }

    /// The adapter's parameters, to set.
    ///
    /// # Panics
    /// Where they lie in bf16.
    #[must_use]
    pub fn params_mut(&mut self) -> &mut [f32] {
        self.executor.params_changed();
        self.held.params.plain_mut()
    }

    /// Lends all of the adapter's tensors, whatever their parameters lie in, and keeps what
    /// `change` makes of them: as it is, or as the nearest bf16.
    pub fn with_values<R>(&mut self, change: impl FnOnce(SiteValues<'_>) -> R) -> R {
        let Held { params, grads, view, .. } = &mut self.held;
        let ((arena, fixed), count) = (self.executor.idle(), self.model.program.params());
        let (grads, view) = (grads.get_mut::<f32>(), view.get_mut::<f32>());
        let room = [grads, arena, view].into_iter().find(|room| room.len() >= count);
        let room = room.unwrap_or_default();
        params.with_all(room, |params| change(SiteValues { params, fixed }))
    }

    /// What goes with the parameters and is not trained, as the sites' ranges divide it.
    #[must_use]
    pub fn fixed(&self) -> &[f32] {
        self.executor.fixed()
    }

    /// All of the adapter's tensors, to set.
    ///
    /// # Panics
    /// Where parameters lie in bf16: see [`Trainer::with_values`].
    #[must_use]
    pub fn values_mut(&mut self) -> SiteValues<'_> {
        let Self { held, executor, .. } = self;
        SiteValues { params: held.params.plain_mut(), fixed: executor.fixed_mut() }
    }

    /// Lets the second factors of low-rank updates, `lora_B`, learn with `ratio` times the learning
    /// rate of all other tensors (LoRA+). `false` where the method trains none; then nothing has
    /// changed.
    pub fn set_lora_plus(&mut self, ratio: f64) -> bool {
        let Some(groups) = lora_plus(&self.model.sites, ratio) else { return false };
        self.set_groups(&groups, |_| unreachable!("the run's decay holds for all"));
        true
    }

    /// Gives each trained tensor the rate and the decay of its group; `with_decay` makes the run's
    /// optimizer with another decay.
    pub(crate) fn set_groups(
        &mut self,
        groups: &[Group],
        with_decay: impl FnMut(f64) -> Box<dyn Optimizer>,
    ) {
        self.rates = Rates::of(groups, with_decay);
    }

    /// Lets the adapter start as its method wants it to.
    pub fn initialise(&mut self, seed: u64) {
        let model = self.model;
        self.with_values(|values| initialise(&model.sites, seed, values));
        self.executor.start_with(&mut self.held.params);
    }

    /// Names of the tensors that had no gradient but zero in the first updates.
    pub(crate) fn without_gradient(&self) -> Vec<String> {
        if self.gradient != Gradient::Backprop {
            return Vec::new();
        }
        let specs = self.model.sites.iter().flat_map(|site| {
            let name = &site.info.name;
            site.params.iter().map(move |spec| (name, spec.name))
        });
        let without = specs.zip(&self.seen).filter(|(_, seen)| !**seen);
        without.map(|((site, tensor), _)| format!("{site}.{tensor}")).collect()
    }

    /// The gradients of the last update, where they are kept.
    #[must_use]
    pub fn grads(&self) -> &[f32] {
        self.held.grads.get()
    }

    /// The executor, for what tests want to know of it.
    #[must_use]
    pub fn executor_mut(&mut self) -> &mut Executor<'p, 'w, f32> {
        &mut self.executor
    }

    /// Mean loss over all of `data`, `sequences` at a time.
    ///
    /// # Errors
    /// When the data's temporary file cannot be read.
    pub fn evaluate(&mut self, data: &Dataset, sequences: usize) -> Result<LossSum, DataError> {
        self.evaluate_while(data, sequences, &mut |_| true).map(|(sum, _)| sum)
    }

    /// As [`Trainer::evaluate`], telling `go_on` how many sequences are done after each batch; ends
    /// early when it answers no. Also says whether it went through all of `data`.
    ///
    /// # Errors
    /// When the data's temporary file cannot be read.
    pub fn evaluate_while(
        &mut self,
        data: &Dataset,
        sequences: usize,
        go_on: &mut dyn FnMut(usize) -> bool,
    ) -> Result<(LossSum, bool), DataError> {
        let mut sum = LossSum::default();
        let mut start = 0;
        while start < data.len() {
            let end = start.saturating_add(sequences).min(data.len());
            let batch = self.batch.fill(data, start..end, 0)?;
            sum += self.executor.loss_with(&mut self.held.params, &batch);
            start = end;
            if !go_on(end) {
                return Ok((sum, end == data.len()));
            }
        }
        Ok((sum, true))
    }

    /// Loss of one sequence.
    ///
    /// # Errors
    /// When the data's temporary file cannot be read.
    pub fn loss_of(&mut self, data: &Dataset, index: usize) -> Result<LossSum, DataError> {
        let batch = self.batch.fill(data, index..index + 1, 0)?;
        Ok(self.executor.loss_with(&mut self.held.params, &batch))
    }
}

/// What a trainer holds besides its executor.
struct Held {
    params: Parameters,
    /// Where all are shown at once, where nothing else has room for that.
    view: Slab,
    grads: Slab,
    states: States,
    /// What pairs of low rank earn, where some are switched off on the way.
    scores: Slab,
    /// Batches, and what the model and the datasets hold by themselves.
    others: Charge,
}

impl Held {
    /// All of it, or nothing.
    fn reserve(plan: &RunPlan, ledger: &mut Ledger) -> Result<Self, ReserveError> {
        let others = ByCategory::of(Category::Workspace, plan.resident_bytes)
            .with(Category::Data, plan.batch_bytes());
        let others = ledger.charge(others)?;
        let params = match Parameters::reserve(plan, ledger) {
            Ok(params) => params,
            Err(error) => {
                ledger.release(others);
                return Err(error);
            }
        };
        let states = match States::reserve(plan, ledger) {
            Ok(states) => states,
            Err(error) => {
                params.release(ledger);
                ledger.release(others);
                return Err(error);
            }
        };
        let mut slabs = Vec::new();
        for (category, words) in [
            (Category::Adapter, plan.view),
            (Category::Gradient, plan.gradients),
            (Category::Optimizer, plan.score_words()),
        ] {
            let bytes = ByCategory::of(category, (words * size_of::<f32>()) as u64);
            match Slab::reserve(ledger, bytes) {
                Ok(slab) => slabs.push(slab),
                Err(error) => {
                    slabs.into_iter().for_each(|slab| slab.release(ledger));
                    params.release(ledger);
                    states.release(ledger);
                    ledger.release(others);
                    return Err(error);
                }
            }
        }
        let [view, grads, scores] = slabs.try_into().expect("one slab each");
        Ok(Self { params, view, grads, states, scores, others })
    }

    fn release(self, ledger: &mut Ledger) {
        self.params.release(ledger);
        self.view.release(ledger);
        self.grads.release(ledger);
        self.states.release(ledger);
        self.scores.release(ledger);
        ledger.release(self.others);
    }
}

/// Which tensors and which words of state belong to each segment.
fn segments(
    model: &Model<'_, f32>,
    optimizer: &dyn Optimizer,
    lens: &[usize],
) -> Vec<(Range<usize>, Range<usize>)> {
    let (mut tensor, mut word) = (0, 0);
    let counts = model.tensors_per_segment().into_iter();
    counts
        .map(|count| {
            let tensors = tensor..tensor + count;
            let words = word..word + optimizer.state_words(&lens[tensors.clone()]);
            (tensor, word) = (tensors.end, words.end);
            (tensors, words)
        })
        .collect()
}
