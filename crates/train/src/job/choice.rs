//! The choice among all ways to run: policies, stores, tiles, sequences at once, ways to clip and
//! states.

use lowtide_backend::Backend;
use lowtide_model::Model;
use lowtide_optim::Optimizer;

use super::Job;
use crate::clipping::Clipping;
use crate::planner::{Candidate, choose};
use crate::prepare::{Extremes, limits_of};
use crate::room::Allowed;
use crate::softmax::{Neighbours, Union, UnionBytes};
use crate::state_place::StatePlace;
use crate::{Needs, PlanRow, RunPlan, SettingsError, TrainError};

/// A plan that fits, and what it was chosen among.
pub(super) struct Choice<'j> {
    pub(super) way: Candidate,
    pub(super) plan: RunPlan,
    pub(super) optimizer: &'j dyn Optimizer,
    /// Where its limits come from.
    pub(super) found: Extremes,
    /// The most words of a micro-batch that the softmax runs over, where these are not all.
    pub(super) words: Option<usize>,
    /// Everything that was considered with its optimizer.
    pub(super) rows: Vec<PlanRow>,
}

/// What plans for so many sequences at once have to have room for.
struct Size {
    micro_batch: usize,
    /// Gradients aside.
    needs: Needs,
    found: Extremes,
    words: Option<usize>,
    union: UnionBytes,
}

impl Job<'_> {
    /// The first way that fits, with the first optimizer, and its states where, that any fits with;
    /// also the bytes of the leanest of all.
    pub(super) fn choose(
        &self,
        model: &Model<'_, f32>,
        be: &dyn Backend<f32>,
        allowed: &Allowed,
        neighbours: Option<&Neighbours>,
    ) -> Result<(Choice<'_>, u64), TrainError> {
        let (sizes, ways) = (self.sizes(model, neighbours)?, self.ways()?);
        let pairs = self.adaptive_rank(model)?.map_or(0, |course| course.start);
        let size = |way: Candidate| {
            let size = sizes.iter().find(|size| size.micro_batch == way.micro_batch);
            size.expect("every size is among them")
        };
        let in_bf16 = self.settings.in_bf16(self.codes())?;
        let mut choice = None;
        let (mut smallest, mut policy) = (u64::MAX, String::new());
        let places = self.settings.state_places()?.into_iter();
        for (place, optimizer) in places.flat_map(|p| self.optimizers.iter().map(move |o| (p, o))) {
            let optimizer = optimizer.as_ref();
            let (chosen, rows) = choose(&ways, allowed.bytes, |way| {
                let parts = self.settings.per_update().div_ceil(way.micro_batch);
                let apply_and_free = way.clipping.frees(parts);
                let &Size { needs, union, .. } = size(way);
                let needs = Needs { apply_and_free, ..needs };
                let plan = RunPlan::new(model, be, optimizer, needs, way.checkpointing);
                let plan = if in_bf16 { plan.with_bf16_parameters(model) } else { plan };
                let plan = match place {
                    StatePlace::Ram => plan,
                    StatePlace::File => plan.with_filed_states(model, optimizer),
                };
                RunPlan { union, pairs, ..plan }
            });
            let least = rows.iter().min_by_key(|row| row.peak_bytes);
            if let Some(row) = least.filter(|row| row.peak_bytes < smallest) {
                (smallest, policy) = (row.peak_bytes, row.policy.clone());
            }
            if let (None, Some((way, plan))) = (&choice, chosen) {
                let &Size { found, words, .. } = size(way);
                choice = Some(Choice { way, plan, optimizer, found, words, rows });
            }
        }
        let (budget, from) = (allowed.bytes.unwrap_or(0), allowed.source);
        let refused = || TrainError::NoPlanFits { budget, smallest, policy, from };
        Ok((choice.ok_or_else(refused)?, smallest))
    }

    /// Everything worth planning.
    ///
    /// Parts of a batch under a fast policy are faster than the whole under a leaner one. But with
    /// `fit`, the whole comes before all parts, so that bits change only where they must.
    fn ways(&self) -> Result<Vec<Candidate>, SettingsError> {
        let (clippings, sizes) = (self.settings.clippings()?, self.settings.micro_batches()?);
        let mut ways = Vec::new();
        for clipping in clippings {
            // Gradients of parts add up, so that all are held.
            let sizes = if clipping == Clipping::TwoPass { &sizes[..1] } else { &sizes };
            for &checkpointing in &self.candidates {
                ways.extend(sizes.iter().map(|&micro_batch| {
                    let late = self.settings.micro_batch == "fit" && micro_batch < sizes[0];
                    Candidate { checkpointing, clipping, micro_batch, late }
                }));
            }
        }
        Ok(ways)
    }

    fn sizes(
        &self,
        model: &Model<'_, f32>,
        neighbours: Option<&Neighbours>,
    ) -> Result<Vec<Size>, TrainError> {
        let datasets = || [Some(&self.data.train), self.data.valid.as_ref()].into_iter().flatten();
        let longest = datasets().map(|data| data.stats().longest).max().unwrap_or(0);
        let data_bytes: u64 = datasets().map(|data| data.heap_bytes() as u64).sum();
        let data_bytes = data_bytes + self.batches_bytes();
        let trained = model.tensors_per_segment().iter().filter(|&&tensors| tensors > 0).count();
        let gradient = self.settings.gradient_for(trained)?;
        let size = |micro_batch| {
            let (limits, found) = limits_of(datasets(), micro_batch)?;
            let needs =
                Needs { limits, longest, data_bytes, apply_and_free: false, train: true, gradient };
            let words =
                neighbours.map(|n| n.words_max(&self.data.train, micro_batch)).transpose()?;
            let union = neighbours.zip(words).map(|(neighbours, words)| {
                Union::bytes(neighbours, model.program.head.weight, words, limits.labelled)
            });
            let union = union.unwrap_or_default();
            Ok(Size { micro_batch, needs, found, words, union })
        };
        self.settings.micro_batches()?.into_iter().map(size).collect()
    }
}
