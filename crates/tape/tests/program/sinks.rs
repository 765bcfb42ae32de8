//! Where gradients go: at once into the parameters, or into one slab for all.

use lowtide_backend::{Backend, Scalar, SgdHyper};
use lowtide_tape::{Accumulate, ApplyNow, Policy};
use lowtide_testkit::compare::assert_bits;

use crate::model::{Data, Model, Trained, params};
use crate::{EVERY_SITE, How, step, with_executor};

fn sgd(params: &mut [f32], grads: &[f32]) {
    let hyper = SgdHyper { lr: 0.05, weight_decay: 0.01, grad_scale: 0.5 };
    Scalar.sgd(params, grads, &hyper);
}

#[test]
fn applying_at_once_equals_accumulating_first() {
    let (model, data) = (Model::new(3), Data::new(1, &[5, 4]));
    let choices: [Trained; 2] =
        [EVERY_SITE, |block, site| block == 2 || (block == 1 && site == "o_proj")];
    for trained in choices {
        let program = model.program::<f32>(trained);
        let ranges = program.param_ranges();
        for policy in Policy::ALL {
            let how = How::tight(policy, &data);
            let mut later = params(&program);
            let (want, grads) = step(&program, &later, &data, how);
            sgd(&mut later, &grads);

            let mut at_once = params(&program);
            let mut order = Vec::new();
            let widest = ranges.iter().map(std::ops::Range::len).max().unwrap();
            let mut grads = vec![f32::NAN; widest];
            let sum = with_executor(&program, how, true, |executor| {
                assert_eq!(executor.param_ranges(), ranges);
                let update = |segment, params: &mut [f32], grads: &[f32]| {
                    order.push(segment);
                    sgd(params, grads);
                };
                let mut sink = ApplyNow { grads: &mut grads, ranges: &ranges, update };
                executor.step(&mut at_once, &data.batch(), 1.0, &mut sink).unwrap()
            });
            assert_eq!(sum, want);
            let first = program.first_trained().unwrap();
            assert_eq!(order, (first..3).rev().collect::<Vec<_>>());
            assert_bits("parameters", &at_once, &later);
        }
    }
}

#[test]
fn gradients_are_scaled_and_added_to_what_is_there() {
    let (model, data) = (Model::new(2), Data::new(1, &[5, 4]));
    let program = model.program::<f32>(EVERY_SITE);
    let (mut at, ranges) = (params(&program), program.param_ranges());
    let how = How::tight(Policy::Block, &data);
    let (_, once) = step(&program, &at, &data, how);
    let mut twice = vec![0.0; at.len()];
    with_executor(&program, how, true, |executor| {
        // Powers of two, so that scaling changes no bit.
        for scale in [0.5, 0.5, 1.0] {
            let mut sink = Accumulate { grads: &mut twice, ranges: &ranges };
            executor.step(&mut at, &data.batch(), scale, &mut sink).unwrap();
        }
    });
    let doubled: Vec<f32> = once.iter().map(|g| 2.0 * g).collect();
    assert_bits("gradients", &twice, &doubled);
}
