//! A whole program through the public interface: plan, reserve, run.

mod approximate;
mod decoding;
mod gain;
mod gradients;
mod model;
mod observing;
mod plans;
mod policies;
mod random_graphs;
mod reversible;
mod sinks;
mod some_words;
mod stores;
mod weights;

use lowtide_backend::{Backend, Scalar};
use lowtide_memory::{Budget, Ledger};
use lowtide_tape::{Accumulate, Checkpointing, Executor, Limits, LossSum, Plan, Program};
use lowtide_tensor::Float;

use self::model::{Data, Trained};

const EVERY_SITE: Trained = |_, _| true;

/// How a step is run.
#[derive(Clone, Copy, Debug)]
struct How {
    checkpointing: Checkpointing,
    limits: Limits,
    poison: bool,
}

impl How {
    /// In exactly the room that `data` needs, with poison.
    fn tight(checkpointing: impl Into<Checkpointing>, data: &Data) -> Self {
        Self { checkpointing: checkpointing.into(), limits: data.limits(), poison: true }
    }
}

/// Reserves an executor and works with it; the ledger must be empty afterwards.
fn with_executor<F: Float, R>(
    program: &Program<'_, F>,
    how: How,
    train: bool,
    work: impl FnOnce(&mut Executor<'_, '_, F>) -> R,
) -> R
where
    Scalar: Backend<F>,
{
    let mut ledger = Ledger::new(Budget::UNLIMITED);
    let plan = Plan::new(program, &Scalar, how.limits, how.checkpointing, train);
    let mut executor = Executor::reserve(program, &Scalar, plan, 7, &mut ledger).unwrap();
    executor.set_poison(how.poison);
    if executor.plan().file().is_some() {
        executor.set_file(Box::new(stores::InMemory::default()));
    }
    let result = work(&mut executor);
    executor.release(&mut ledger);
    assert_eq!(ledger.live().held(), 0, "everything is given back");
    result
}

/// Loss and gradient of one batch.
fn step<F: Float>(
    program: &Program<'_, F>,
    params: &[F],
    data: &Data,
    how: How,
) -> (LossSum, Vec<F>) {
    let (mut params, before) = (params.to_vec(), params);
    let ranges = program.param_ranges();
    let mut grads = vec![F::ZERO; params.len()];
    let sum = with_executor(program, how, true, |executor| {
        let mut sink = Accumulate { grads: &mut grads, ranges: &ranges };
        executor.step(&mut params, &data.batch(), F::ONE, &mut sink).unwrap()
    });
    assert_eq!(params, before, "accumulating changes no parameter");
    (sum, grads)
}
