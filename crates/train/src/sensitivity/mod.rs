//! Which sites earn their adapters: gradients of a few batches, measured before training.

mod budget;
mod eigen;
mod measure;
mod proposal;

use lowtide_backend::Backend;
use lowtide_data::Dataset;
use lowtide_data::order::permutation;
use lowtide_memory::{Budget, ByCategory, Category, Ledger, Slab};
use lowtide_model::Model;
use lowtide_optim::{Sgd, StepHyper};
use lowtide_tape::{Checkpointing, Policy, Store};
use serde::Serialize;

pub use self::budget::BudgetReport;
pub(crate) use self::budget::{Chosen, within};
pub(crate) use self::measure::check_ranks;
pub use self::proposal::Proposal;
use crate::job::Job;
use crate::prepare::limits_of;
use crate::{Clip, Gradient, Needs, RunPlan, TrainError, Trainer};

/// Sequences of a probe, at least: the gradients of one or two say little.
const SEQUENCES_MIN: usize = 8;

/// What the gradients of a few batches say of the sites of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SensitivityReport {
    /// Batches whose gradients were taken.
    pub probes: usize,
    /// Sequences of all of them.
    pub sequences: usize,
    /// Labelled tokens of all of them.
    pub labelled_tokens: usize,
    /// Bytes that probing held at its peak.
    pub peak_bytes: u64,
    /// Layers of the model.
    pub layers: usize,
    /// Every site that was asked for, bottom to top.
    pub sites: Vec<SiteSensitivity>,
    /// What to freeze.
    pub proposal: Proposal,
    /// The ranks that fit the budget of an adapter, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<BudgetReport>,
}

/// What one site promises.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SiteSensitivity {
    /// Name of the linear.
    pub name: String,
    /// Its block.
    pub layer: usize,
    /// Trainable numbers.
    pub parameters: usize,
    /// What its adapter promises, as a share of what all promise.
    pub share: f64,
    /// What each rank promises, as such shares, most first; one where the method has no ranks.
    pub shares: Vec<f64>,
    /// Numbers that are saved for each rank.
    #[serde(skip)]
    pub(crate) each: usize,
    /// Numbers that are saved besides, as soon as there is an adapter.
    #[serde(skip)]
    pub(crate) besides: usize,
    /// Those of both that are trained.
    #[serde(skip)]
    pub(crate) trained: (usize, usize),
    /// What is saved: names, shapes, and which axis is the rank, if one is.
    #[serde(skip)]
    pub(crate) tensors: Vec<measure::Saved>,
}

impl SiteSensitivity {
    /// Whether its adapter can have one rank or another.
    pub(crate) fn has_ranks(&self) -> bool {
        self.each > 0
    }
}

/// Takes the gradients of `settings.probes` batches at the parameters where training starts, and
/// changes nothing. `tell` hears how many are done, of how many.
///
/// # Errors
/// When it does not fit the memory budget, or a gradient is not finite.
pub(crate) fn probe(
    job: &Job<'_>,
    model: &Model<'_, f32>,
    be: &dyn Backend<f32>,
    tell: &mut dyn FnMut(usize, usize),
) -> Result<SensitivityReport, TrainError> {
    let settings = job.settings;
    let data = &job.data.train;
    check_ranks(&model.sites)?;
    let plan = probing_plan(job, model, be)?;
    let mut ledger = Ledger::new(settings.budget()?.map_or(Budget::UNLIMITED, Budget::of));
    let optimizer = Sgd::default();
    let words = (plan.parameters * size_of::<f32>()) as u64;
    let mut halves = Vec::new();
    for _ in 0..2 {
        halves.push(Slab::reserve(&mut ledger, ByCategory::of(Category::Gradient, words))?);
    }
    let mut trainer =
        Trainer::reserve(model, be, &optimizer, plan, Clip::Off, settings.seed, &mut ledger)?;
    trainer.initialise(settings.seed);
    let batches = Batches::of(data, settings.per_update().max(SEQUENCES_MIN), settings.seed);
    let (probes, mut labelled_tokens) = (settings.probes, 0);
    for probe in 0..probes {
        tell(probe, probes);
        let sequences = batches.sequences(probe);
        let mut labelled = 0;
        for &sequence in &sequences {
            labelled += data.sequence(sequence)?.labelled;
        }
        labelled_tokens += labelled;
        // At a learning rate of 0, an update leaves the gradients and nothing else.
        let hyper = StepHyper { lr: 0.0, step: 1, grad_scale: 1.0 };
        let update = trainer.update(data, sequences.into_iter(), 1, labelled, hyper)?;
        if update.non_finite > 0 || !update.sum.loss.is_finite() {
            job.base.file().check_finite()?;
            let (path, loss) = (settings.model.clone(), update.sum.mean());
            return Err(TrainError::LossNotFinite { path, loss });
        }
        let half = halves[probe % 2].get_mut::<f32>();
        half.iter_mut().zip(trainer.grads()).for_each(|(sum, g)| *sum += g);
    }
    tell(probes, probes);
    let sites = sites(job, model, halves[0].get(), halves[1].get());
    trainer.release(&mut ledger);
    halves.into_iter().for_each(|half| half.release(&mut ledger));
    lowtide_memory::release_free_heap();
    let layers = model.program.segments.len();
    Ok(SensitivityReport {
        probes,
        sequences: probes * batches.each,
        labelled_tokens,
        peak_bytes: ledger.peak(),
        layers,
        proposal: Proposal::of(&sites, layers, &job.target_modules),
        sites,
        budget: None,
    })
}

/// The fastest exact way to hold all gradients, and two sums of them.
fn probing_plan(
    job: &Job<'_>,
    model: &Model<'_, f32>,
    be: &dyn Backend<f32>,
) -> Result<RunPlan, TrainError> {
    let data = &job.data.train;
    let (limits, _) = limits_of(std::iter::once(data), 1)?;
    let needs = Needs {
        limits,
        longest: data.stats().longest,
        data_bytes: data.heap_bytes() as u64,
        apply_and_free: false,
        train: true,
        gradient: Gradient::Backprop,
    };
    let tile = std::num::NonZeroUsize::new(64);
    let ways = [(Policy::Store, None), (Policy::Block, None), (Policy::Sqrt, tile)];
    let budget = job.settings.budget()?.unwrap_or(u64::MAX);
    let mut smallest = u64::MAX;
    for (policy, tile) in ways {
        let checkpointing = Checkpointing { policy, store: Store::F32, tile };
        let plan = RunPlan::new(model, be, &Sgd::default(), needs, checkpointing);
        let bytes = plan.bytes().held() + 2 * (plan.parameters * size_of::<f32>()) as u64;
        if bytes <= budget {
            return Ok(plan);
        }
        smallest = smallest.min(bytes);
    }
    Err(TrainError::ProbesDoNotFit { budget, smallest })
}

/// Which sequences a probe is of: other orders than training's, all different where there are
/// enough.
struct Batches<'d> {
    data: &'d Dataset,
    each: usize,
    seed: u64,
}

impl<'d> Batches<'d> {
    fn of(data: &'d Dataset, sequences: usize, seed: u64) -> Self {
        Self { data, each: sequences.min(data.len()), seed }
    }

    fn sequences(&self, probe: usize) -> Vec<usize> {
        let (first, len) = (probe * self.each, self.data.len());
        let at = |i: usize| permutation(len, self.seed, u64::MAX - (i / len) as u64).at(i % len);
        (first..first + self.each).map(at).collect()
    }
}

fn sites(
    job: &Job<'_>,
    model: &Model<'_, f32>,
    first: &[f32],
    second: &[f32],
) -> Vec<SiteSensitivity> {
    let gains = |site: &lowtide_model::Site| {
        let config = job.patterns.config_of(&site.info.name, &job.config);
        let config = config.expect("a site that was built");
        let range = site.range.clone();
        measure::gains(site, &config, &first[range.clone()], &second[range])
    };
    let gains: Vec<Vec<f64>> = model.sites.iter().map(gains).collect();
    let all: f64 = gains.iter().flatten().sum();
    let share = |gain: &f64| if all > 0.0 { gain / all } else { 0.0 };
    let site = |(site, gains): (&lowtide_model::Site, &Vec<f64>)| {
        let tensors = measure::tensors(site);
        let (each, besides) = measure::numbers(&tensors);
        let trained = measure::numbers(&tensors[..site.params.len()]);
        let shares: Vec<f64> = gains.iter().map(share).collect();
        SiteSensitivity {
            name: site.info.name.clone(),
            layer: site.info.layer,
            parameters: site.range.len(),
            share: shares.iter().sum(),
            shares,
            each,
            besides,
            trained,
            tensors,
        }
    };
    model.sites.iter().zip(&gains).map(site).collect()
}
