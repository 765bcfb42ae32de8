//! Once reserved, an executor allocates nothing, not even in its first step. Alone in its binary,
//! because the allocator counts for the whole process.

use lowtide_backend::Scalar;
use lowtide_memory::{Budget, Ledger};
use lowtide_tape::{
    Accumulate, ApplyNow, DecodeLimits, DecodePlan, Decoder, Executor, Plan, Policy,
};
use lowtide_testkit::alloc::TestAlloc;

use self::model::{Data, Model, VOCAB, lora, params};

#[path = "program/model.rs"]
#[allow(dead_code, reason = "the tests of the program use all of it")]
mod model;

#[global_allocator]
static ALLOC: TestAlloc = TestAlloc::new();

/// Without the harness of tests: the allocator counts what its threads do as well.
fn main() {
    a_step_allocates_nothing();
    decoding_allocates_nothing();
}

fn decoding_allocates_nothing() {
    for model in [Model::new(2), Model::ornate(2)] {
        let program = model.program::<f32>(|_, _| true);
        let (at, data) = (params(&program), Data::new(1, &[250]));
        let plan = DecodePlan::new(&program, &Scalar, DecodeLimits { context: 250, rows: 16 });
        let mut ledger = Ledger::new(Budget::UNLIMITED);
        let mut decoder = Decoder::reserve(&program, &Scalar, plan, &mut ledger).unwrap();
        let (_, counts) = ALLOC.counting(1, || {
            let (prompt, rest) = data.batch().ids.split_at(33);
            prompt.chunks(16).for_each(|ids| _ = decoder.extend(&at, ids));
            rest.iter().for_each(|id| _ = decoder.extend(&at, &[*id]));
            decoder.truncate(240);
            decoder.clear();
        });
        assert_eq!(counts.requests, 0, "{:?}", counts.largest().next());
        decoder.release(&mut ledger);
    }
}

fn a_step_allocates_nothing() {
    let model = Model::new(4);
    for dropout in [0.0, 0.2] {
        // Block 0 is not differentiated, so forward passes through every kind of boundary.
        let program = model.program_with::<f32>(|block, _| block > 0, &lora(dropout));
        let (mut at, ranges) = (params(&program), program.param_ranges());
        let (large, small) = (Data::new(1, &[70, 30]), Data::new(2, &[4]));
        let (mut grads, mut logits) = (vec![0.0; at.len()], vec![0.0; VOCAB]);
        for policy in Policy::ALL {
            let mut ledger = Ledger::new(Budget::UNLIMITED);
            let plan = Plan::new(&program, &Scalar, large.limits(), policy, true);
            let mut executor = Executor::reserve(&program, &Scalar, plan, 0, &mut ledger).unwrap();
            let (_, counts) = ALLOC.counting(1, || {
                for data in [&large, &small, &large] {
                    let batch = data.batch();
                    let mut sink = Accumulate { grads: &mut grads, ranges: &ranges };
                    executor.step(&mut at, &batch, 1.0, &mut sink).unwrap();
                    let update = |_, params: &mut [f32], grads: &[f32]| {
                        params.iter_mut().zip(grads).for_each(|(p, g)| *p -= 1e-3 * g);
                    };
                    let mut sink = ApplyNow { grads: &mut grads, ranges: &ranges, update };
                    executor.step(&mut at, &batch, 1.0, &mut sink).unwrap();
                    executor.loss(&at, &batch);
                    let out = lowtide_tensor::MatMut::new(&mut logits, 1, VOCAB);
                    executor.logits(&at, &batch, &[1], out);
                }
            });
            assert_eq!(counts.requests, 0, "{policy:?}: {:?}", counts.largest().next());
            executor.release(&mut ledger);
        }
    }
}
