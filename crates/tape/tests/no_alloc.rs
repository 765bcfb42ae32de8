//! Once reserved, an executor allocates nothing, not even in its first step. Alone in its binary,
//! because the allocator counts for the whole process.

use lowtide_backend::Scalar;
use lowtide_memory::{Budget, Ledger};
use lowtide_tape::{Accumulate, ApplyNow, Executor, Plan, Policy};
use lowtide_testkit::alloc::TestAlloc;

use self::model::{Data, Model, VOCAB, lora, params};

#[path = "program/model.rs"]
#[allow(dead_code, reason = "the tests of the program use all of it")]
mod model;

#[global_allocator]
static ALLOC: TestAlloc = TestAlloc::new();

#[test]
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
                    executor.step(&mut at, &batch, 1.0, &mut sink);
                    let update = |_, params: &mut [f32], grads: &[f32]| {
                        params.iter_mut().zip(grads).for_each(|(p, g)| *p -= 1e-3 * g);
                    };
                    let mut sink = ApplyNow { grads: &mut grads, ranges: &ranges, update };
                    executor.step(&mut at, &batch, 1.0, &mut sink);
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
