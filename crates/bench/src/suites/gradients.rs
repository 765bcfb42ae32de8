//! How far gradients are from the exact one where something is approximate, and what that saves.
//!
//! The exact gradient is that of the first contender under the policy `block`, with block inputs
//! kept as they are. All others are of the same batch at the same parameters: a text, and an
//! adapter that has learned a little, since one side of a fresh LoRA has no gradient at all.

use std::num::NonZeroUsize;
use std::time::Duration;

use lowtide_backend::Backend;
use lowtide_data::Dataset;
use lowtide_memory::{Budget, Ledger};
use lowtide_model::Model;
use lowtide_optim::{AdamW, Optimizer, StepHyper};
use lowtide_tape::{Checkpointing, Policy, Store};
use lowtide_train::{Gradient, Needs, RunPlan, Trainer};

use super::Base;
use super::step::{needs, of_ids, sequence};
use crate::{BenchError, Contender, GradientRow, Stand};

/// Updates before anything is measured.
const LEARNED: u64 = 4;

/// Draws of MeZO whose mean has a row.
const DRAWS: u64 = 16;

/// How often each row is timed, at most.
const ROUNDS: usize = 3;

/// English of no particular style, written for this.
const TEXT: &str = include_str!("text.txt");

/// A way to come by a gradient.
struct Way {
    name: String,
    checkpointing: Checkpointing,
    gradient: Gradient,
    /// Updates whose gradients are averaged.
    draws: u64,
}

/// What is put beside the exact gradient, for a contender of such arithmetic and a model of so many
/// trained blocks. To measure something else, add a row here.
fn ways(compute: &str, trained: usize) -> Vec<Way> {
    let kept = |store: Store| Way {
        name: format!("block, {}", store.name()),
        checkpointing: Checkpointing::new(Policy::Block, store),
        gradient: Gradient::Backprop,
        draws: 1,
    };
    let exact = |name: String, gradient, draws| Way { name, gradient, draws, ..kept(Store::F32) };
    let mut ways: Vec<Way> =
        Store::ALL.into_iter().filter(|&s| s != Store::File).map(kept).collect();
    if compute != "f32" {
        return ways;
    }
    for share in [2, 4] {
        let blocks = NonZeroUsize::new(trained.div_ceil(share)).unwrap_or(NonZeroUsize::MIN);
        let name = format!("partial, {blocks} of {trained} blocks");
        ways.push(exact(name, Gradient::Partial { blocks }, 1));
    }
    for eps in [1e-2, 1e-3] {
        ways.push(exact(format!("mezo, eps {eps}"), Gradient::Mezo { eps }, 1));
    }
    let name = format!("mezo, mean of {DRAWS} draws");
    ways.push(exact(name, Gradient::Mezo { eps: 1e-2 }, DRAWS));
    ways
}

/// Measures the gradients of one batch of `tokens` tokens, which all carry loss, in every way that
/// is worth a row, for each contender.
///
/// # Errors
/// As [`step`](super::step).
pub fn gradients(
    stand: &Stand<'_>,
    base: &Base,
    tokens: usize,
) -> Result<Vec<GradientRow>, BenchError> {
    base.check(tokens)?;
    let data = match base.ids_of(TEXT)? {
        Some(ids) => {
            let ids: Vec<u32> = ids.into_iter().cycle().take(tokens).collect();
            of_ids(&ids)?
        }
        None => sequence(base, tokens)?,
    };
    let model = base.adapted()?;
    let Some(first) = stand.contenders.first() else { return Ok(Vec::new()) };
    let needs = needs(&data, tokens, true);
    let batch = Batch { stand, model: &model, data: &data, needs };
    let start = batch.learned(first)?;
    let plain = ways("none", 0).swap_remove(0);
    let exact = batch.taken(first, &plain, &start)?.gradient;
    let mut rows = Vec::new();
    let trained = model.tensors_per_segment().iter().filter(|&&tensors| tensors > 0).count();
    for contender in stand.contenders {
        for way in ways(contender.backend.caps().compute, trained) {
            (stand.on_start)(&format!("{}, {}", way.name, contender.label));
            let seen = batch.taken(contender, &way, &start)?;
            let Seen { gradient, planned_bytes, charged_bytes, seconds } = seen;
            let (cosine, relative_error) = beside(&gradient, &exact);
            rows.push(GradientRow {
                name: way.name,
                contender: contender.label.to_owned(),
                cosine,
                relative_error,
                seconds,
                planned_bytes,
                charged_bytes,
            });
        }
    }
    Ok(rows)
}

/// Cosine of two gradients, and the length of their difference in lengths of the exact one.
fn beside(found: &[f32], exact: &[f32]) -> (f64, f64) {
    let mut sums = [0.0_f64; 4];
    for (f, e) in found.iter().zip(exact) {
        let (f, e) = (f64::from(*f), f64::from(*e));
        let terms = [f * e, f * f, e * e, (f - e) * (f - e)];
        sums.iter_mut().zip(terms).for_each(|(sum, term)| *sum += term);
    }
    let [both, found, exact, off] = sums;
    (both / (found * exact).sqrt(), (off / exact).sqrt())
}

/// What came of a way.
struct Seen {
    gradient: Vec<f32>,
    planned_bytes: u64,
    charged_bytes: u64,
    /// Of an update.
    seconds: f64,
}

/// What all rows share.
struct Batch<'a> {
    stand: &'a Stand<'a>,
    model: &'a Model<'a, f32>,
    data: &'a Dataset,
    needs: Needs,
}

impl Batch<'_> {
    /// Parameters after a few updates.
    fn learned(&self, contender: &Contender<'_>) -> Result<Vec<f32>, BenchError> {
        let (optimizer, way) = (AdamW::default(), Policy::Block.into());
        self.reserved(contender, &optimizer, way, Gradient::Backprop, |trainer, _| {
            trainer.initialise(0);
            for step in 1..=LEARNED {
                self.update(contender, trainer, 1e-3, step)?;
            }
            Ok(trainer.params().to_vec())
        })
    }

    /// The gradient that a way comes to.
    fn taken(
        &self,
        contender: &Contender<'_>,
        way: &Way,
        start: &[f32],
    ) -> Result<Seen, BenchError> {
        let ranges = self.model.program.param_ranges();
        let timed = way.draws.max(self.stand.pace.rounds.min(ROUNDS) as u64);
        let (how, gradient) = (way.checkpointing, way.gradient);
        self.reserved(contender, &Taken, how, gradient, |trainer, bytes| {
            let mut mean = vec![0.0; start.len()];
            let mut times = Vec::new();
            for step in 1..=timed {
                trainer.params_mut().copy_from_slice(start);
                let before = self.stand.clock.now();
                // Only the first draws differ; what follows is for the clock.
                self.update(contender, trainer, 1.0, if step > way.draws { 1 } else { step })?;
                times.push(self.stand.clock.now() - before);
                let params = trainer.params();
                // The adapter of a block that was passed over stays as it was.
                let touched = ranges.iter().filter(|r| params[(*r).clone()] != start[(*r).clone()]);
                for i in touched.filter(|_| step <= way.draws).flat_map(Clone::clone) {
                    mean[i] += params[i] / way.draws as f32;
                }
            }
            times.sort_unstable();
            let median: Duration = times[times.len() / 2];
            let seconds = way.draws as f64 * median.as_secs_f64();
            let (planned_bytes, charged_bytes) = bytes;
            Ok(Seen { gradient: mean, planned_bytes, charged_bytes, seconds })
        })
    }

    /// Works with a trainer, and is told what was planned and what is charged for it.
    fn reserved<T>(
        &self,
        contender: &Contender<'_>,
        optimizer: &dyn Optimizer,
        how: Checkpointing,
        gradient: Gradient,
        work: impl FnOnce(&mut Trainer<'_, '_>, (u64, u64)) -> Result<T, BenchError>,
    ) -> Result<T, BenchError> {
        let needs = Needs { gradient, ..self.needs };
        let (model, backend) = (self.model, contender.backend);
        let plan = RunPlan::new(model, backend, optimizer, needs, how);
        let planned = plan.bytes().held();
        let mut ledger = Ledger::new(Budget::UNLIMITED);
        let trainer = Trainer::reserve(model, backend, optimizer, plan, 0.0, 0, &mut ledger);
        let refused = |source| BenchError::Reserve { contender: contender.label.into(), source };
        let mut trainer = trainer.map_err(refused)?;
        let result = work(&mut trainer, (planned, ledger.peak()));
        trainer.release(&mut ledger);
        result
    }

    fn update(
        &self,
        contender: &Contender<'_>,
        trainer: &mut Trainer<'_, '_>,
        lr: f64,
        step: u64,
    ) -> Result<(), BenchError> {
        let hyper = StepHyper { lr, step, grad_scale: 1.0 };
        let labelled = self.data.stats().labelled as usize;
        let update = contender.within(|| trainer.update(self.data, 0..1, 1, labelled, hyper))?;
        let loss = update.sum.mean();
        match loss.is_finite() {
            true => Ok(()),
            false => Err(BenchError::Loss { contender: contender.label.to_owned(), loss }),
        }
    }
}

/// Leaves gradients where the parameters were, for whoever wants to look at them.
struct Taken;

impl Optimizer for Taken {
    fn name(&self) -> &'static str {
        "taken"
    }

    fn state_words(&self, _tensors: &[usize]) -> usize {
        0
    }

    fn update(
        &self,
        _be: &dyn Backend<f32>,
        _tensors: &[usize],
        p: &mut [f32],
        g: &[f32],
        _state: &mut [f32],
        step: &StepHyper,
    ) {
        p.iter_mut().zip(g).for_each(|(p, g)| *p = step.grad_scale as f32 * g);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closeness_is_of_directions_and_of_lengths() {
        assert_eq!(beside(&[3.0, 4.0], &[3.0, 4.0]), (1.0, 0.0));
        assert_eq!(beside(&[0.0, 10.0], &[5.0, 0.0]), (0.0, 5.0_f64.sqrt()));
        assert_eq!(beside(&[-6.0, -8.0], &[3.0, 4.0]), (-1.0, 3.0));
    }
}
