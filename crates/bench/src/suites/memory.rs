//! What is planned, what is charged, and by how much the process grows.

use lowtide_memory::release_free_heap;
use lowtide_model::Model;
use lowtide_optim::{AdamW, Sgd};
use lowtide_tape::Policy;
use lowtide_train::{Needs, RunPlan, Watch, memory_now};

use super::Base;
use super::step::{Running, needs, sequence};
use crate::report::named;
use crate::{BenchError, Contender, MemoryRow, Stand};

/// After the second update nothing is touched for the first time.
const UPDATES: usize = 2;

/// Measures what an evaluation and a training step under each policy hold, over sequences of
/// `tokens` tokens, one contender after the other.
///
/// # Errors
/// As [`step`](super::step).
pub fn memory(stand: &Stand<'_>, base: &Base, tokens: usize) -> Result<Vec<MemoryRow>, BenchError> {
    base.check(tokens)?;
    let data = sequence(base, tokens)?;
    let (bare, adapted) = (base.bare()?, base.adapted()?);
    let mut rows = Vec::new();
    for contender in stand.contenders {
        let label = |name: &str| (stand.on_start)(&format!("memory, {}: {name}", contender.label));
        // Stacks of the threads and what a library keeps for itself are there before it counts.
        contender.within(|| ());
        let name = format!("forward {tokens}");
        label(&name);
        let held = Held { contender, model: &bare, needs: needs(&data, tokens, false) };
        rows.push(
            held.measure(name, Policy::Block, &mut |run| {
                Ok(run.trainer.loss_of(&data, 0)?.mean())
            })?,
        );
        // What `selective` keeps depends on a budget; here is none.
        let fixed = |policy: &Policy| !matches!(policy, Policy::Selective { .. });
        for policy in Policy::ALL.into_iter().filter(fixed) {
            let name = format!("train {tokens} {policy}");
            label(&name);
            let needs = needs(&data, tokens, true);
            let held = Held { contender, model: &adapted, needs };
            rows.push(held.measure(name, policy, &mut |run| run.update(&data))?);
        }
    }
    Ok(rows)
}

/// Something that is run.
type Pass<'a> = dyn FnMut(&mut Running<'_, '_>) -> Result<f64, BenchError> + Send + 'a;

/// Who runs what.
struct Held<'a> {
    contender: &'a Contender<'a>,
    model: &'a Model<'a, f32>,
    needs: Needs,
}

impl Held<'_> {
    fn measure(
        &self,
        name: String,
        policy: Policy,
        pass: &mut Pass<'_>,
    ) -> Result<MemoryRow, BenchError> {
        let Self { contender, model, needs } = *self;
        let (adamw, sgd) = (AdamW::default(), Sgd::default());
        let optimizer: &dyn lowtide_optim::Optimizer = if needs.train { &adamw } else { &sgd };
        release_free_heap();
        let before = memory_now().anon_bytes;
        let watch = Watch::start();
        let plan = RunPlan::new(model, contender.backend, optimizer, needs, policy).bytes();
        let mut run = Running::reserve(contender, model, optimizer, needs, policy)?;
        let passed = contender.within(|| {
            let mut passes = (0..UPDATES).map(|_| pass(&mut run));
            passes.try_for_each(|loss| loss.map(drop))
        });
        watch.look();
        let after = watch.peak();
        let charged_bytes = run.ledger.peak();
        run.release();
        passed?;
        Ok(MemoryRow {
            name,
            contender: contender.label.to_owned(),
            planned_bytes: plan.held(),
            charged_bytes,
            grown_bytes: before.zip(after).map(|(before, after)| after.saturating_sub(before)),
            by_category: named(plan),
        })
    }
}
