//! Whoever keeps the weights is told of each part before it is read, and of the one after it.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};

use lowtide_adapter::{Adapter, Config};
use lowtide_backend::Scalar;
use lowtide_lora::Dora;
use lowtide_tape::{Accumulate, Checkpointing, Part, Plan, Policy, Store, WeightKeeper};

use crate::model::{Attach, Data, HIDDEN, Model, Trained, lora, params};
use crate::{EVERY_SITE, How, with_executor};

const BLOCKS: usize = 6;

/// What was told, shared with the test.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<(Part, Part)>>>);

impl WeightKeeper for Told {
    fn enter(&mut self, part: Part, next: Part) {
        self.0.lock().unwrap().push((part, next));
    }
}

/// What is told during two steps and an evaluation.
fn told(trained: Trained, checkpointing: impl Into<Checkpointing>) -> Vec<(Part, Part)> {
    let (model, data) = (Model::new(BLOCKS), Data::new(1, &[3, 2]));
    let program = model.program::<f32>(trained);
    let (mut at, ranges) = (params(&program), program.param_ranges());
    let mut grads = vec![0.0; at.len()];
    let keeper = Told::default();
    with_executor(&program, How::tight(checkpointing, &data), true, |executor| {
        executor.set_keeper(Box::new(keeper.clone()));
        for _ in 0..2 {
            let mut sink = Accumulate { grads: &mut grads, ranges: &ranges };
            executor.step(&mut at, &data.batch(), 1.0, &mut sink).unwrap();
        }
        executor.loss(&at, &data.batch());
    });
    keeper.0.lock().map(|told| told.clone()).unwrap()
}

#[test]
fn what_is_told_to_come_next_comes_next() {
    let every = |n| Policy::Every(NonZeroUsize::new(n).unwrap());
    let policies = [Policy::Store, Policy::Block, Policy::Sqrt, every(2), every(4), every(9)];
    for trained in [EVERY_SITE, |block, _| block >= 2, |block, _| block == BLOCKS - 1] {
        for policy in policies {
            for store in [Store::F32, Store::Bf16, Store::File] {
                let told = told(trained, Checkpointing { store, ..policy.into() });
                for pair in told.windows(2) {
                    assert_eq!(pair[0].1, pair[1].0, "{policy}, {store:?}: {told:?}");
                }
                assert_eq!(told.last(), Some(&(Part::Head, Part::Segment(0))));
            }
        }
    }
}

/// DoRA of rank 2, which measures rows of its base at the start and after every update.
fn dora(cols: usize, rows: usize) -> Box<dyn Adapter> {
    let config = Config { rank: 2, ..Config::default() };
    Box::new(Dora::new(cols, rows, &config).unwrap())
}

#[test]
fn what_is_derived_is_derived_while_its_weights_are_there() {
    let (model, data) = (Model::new(3), Data::new(1, &[3, 2]));
    let program = model.program_with::<f32>(|block, _| block >= 1, &dora);
    let (mut at, ranges) = (params(&program), program.param_ranges());
    let mut grads = vec![0.0; at.len()];
    let keeper = Told::default();
    let mut losses = Vec::new();
    with_executor(&program, How::tight(Policy::Block, &data), true, |executor| {
        executor.set_keeper(Box::new(keeper.clone()));
        executor.start(&mut at);
        for _ in 0..2 {
            let mut sink = Accumulate { grads: &mut grads, ranges: &ranges };
            losses.push(executor.step(&mut at, &data.batch(), 1.0, &mut sink).unwrap().loss);
            executor.params_changed();
        }
    });
    let told = keeper.0.lock().unwrap().clone();
    for pair in told.windows(2) {
        assert_eq!(pair[0].1, pair[1].0, "{told:?}");
    }
    let (block, head) = (Part::Segment, Part::Head);
    let step = [block(0), block(1), block(2), head, block(2), block(1)];
    let parts: Vec<Part> = told.iter().map(|(part, _)| *part).collect();
    assert_eq!(parts, [&[block(1), block(2)][..], &step, &step].concat());
    // With poisoned memory, so that what was derived is what both steps read.
    assert!(losses[0] == losses[1] && losses[0].is_finite(), "{losses:?}");
}

#[test]
fn what_is_derived_is_work_once_an_update() {
    let (model, data) = (Model::new(2), Data::new(1, &[3, 2]));
    let work = |attach: &Attach<f32>| {
        let program = model.program_with::<f32>(|_, site| site == "q_proj", attach);
        let plan = Plan::new(&program, &Scalar, data.limits(), Policy::Block, true);
        (1..=3).map(|steps| plan.update_work(steps) - steps * plan.work()).collect::<Vec<_>>()
    };
    // Two linears of HIDDEN by HIDDEN elements: decoded, two products added, squared.
    let derived = 2 * (HIDDEN * HIDDEN * (16 + 2 * 2 + 1)) as u64;
    assert_eq!(work(&dora), [derived; 3]);
    assert_eq!(work(&lora(0.0)), [0; 3]);
}

#[test]
fn a_step_reads_up_and_down_and_again_what_it_computes_again() {
    let (block, head) = (Part::Segment, Part::Head);
    let up = [block(0), block(1), block(2), block(3), block(4), block(5), head];
    let parts = |policy| -> Vec<Part> {
        let told = told(|block, _| block >= 1, policy);
        let step = (told.len() - up.len()) / 2;
        told[..step].iter().map(|(part, _)| *part).collect()
    };
    let down = [block(5), block(4), block(3), block(2), block(1)];
    assert_eq!(parts(Policy::Block), [&up[..], &down].concat());
    let three = Policy::Every(NonZeroUsize::new(3).unwrap());
    // Groups of the blocks 1 to 3 and 4 to 5: the lower one is computed again up to its last input.
    let again = [block(5), block(4), block(1), block(2), block(3), block(2), block(1)];
    assert_eq!(parts(three), [&up[..], &again].concat());
}
