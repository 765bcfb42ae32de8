//! Passes that approximate a gradient: two losses in one pass, and backward through some segments.

use std::num::NonZeroUsize;

use lowtide_adapter::Config;
use lowtide_backend::{Scalar, Span};
use lowtide_lora::Lora;
use lowtide_memory::{Budget, Category, Ledger};
use lowtide_quant::QMat;
use lowtide_quant::formats::F32;
use lowtide_tape::ops::{AdaptedLinear, Add};
use lowtide_tape::{
    ApplyNow, Batch, Checkpointing, Embedding, Executor, Graph, Limits, LossHead, LossSum, Pair,
    Plan, Policy, Program, Segment, Store,
};
use lowtide_testkit::compare::assert_bits;

use crate::model::{Data, Model, Trained, params};
use crate::{EVERY_SITE, How, step, stores, with_executor};

/// Two slabs of parameters as they are.
struct Both<'a> {
    slabs: [&'a [f32]; 2],
    program: &'a Program<'a, f32>,
    asked: Vec<(usize, usize)>,
}

impl Pair<f32> for Both<'_> {
    fn params(&mut self, segment: usize, which: usize) -> &[f32] {
        self.asked.push((segment, which));
        &self.slabs[which][self.program.param_ranges()[segment].clone()]
    }
}

#[test]
fn a_pair_of_losses_are_those_of_two_passes() {
    let (model, data) = (Model::new(3), Data::new(4, &[70, 5, 9]));
    let choices: [Trained; 3] =
        [EVERY_SITE, |block, _| block == 2, |block, site| block == 0 && site == "v_proj"];
    for trained in choices {
        let program = model.program::<f32>(trained);
        let one = params(&program);
        let other: Vec<f32> = one.iter().map(|p| 0.9 * p).collect();
        let how = How::tight(Policy::Block, &data);
        let alone = [&one, &other].map(|params| {
            with_executor(&program, how, false, |executor| executor.loss(params, &data.batch()))
        });
        assert_ne!(alone[0].loss, alone[1].loss);
        for tile in [None, NonZeroUsize::new(64)] {
            let plan = Plan::pair(&program, &Scalar, data.limits(), tile);
            let mut ledger = Ledger::new(Budget::of(plan.bytes().held() + plan.library_bytes()));
            let mut executor = Executor::reserve(&program, &Scalar, plan, 7, &mut ledger).unwrap();
            executor.set_poison(true);
            for _ in 0..2 {
                let slabs = [&one[..], &other];
                let mut both = Both { slabs, program: &program, asked: Vec::new() };
                assert_eq!(executor.pair(&mut both, &data.batch()), alone);
                let trained = program.first_trained().unwrap()..3;
                let turns: Vec<_> = trained.flat_map(|i| [(i, 0), (i, 1)]).collect();
                assert_eq!(both.asked, turns);
            }
            executor.release(&mut ledger);
        }
    }
}

#[test]
fn a_pair_takes_one_boundary_value_more_than_an_evaluation() {
    let (model, data) = (Model::new(3), Data::new(4, &[70, 5, 9]));
    let program = model.program::<f32>(EVERY_SITE);
    let (limits, hidden) = (data.limits(), program.hidden());
    let alone = Plan::new(&program, &Scalar, limits, Policy::Block, false);
    let pair = Plan::pair(&program, &Scalar, limits, None);
    let value = 4 * (limits.tokens * hidden) as u64;
    assert_eq!(pair.bytes().held() - alone.bytes().held(), value);
    assert_eq!(pair.bytes()[Category::Checkpoint], 0);
}

/// What came of a step: the loss, and of each segment that was heard of the gradients.
type Heard = (LossSum, Vec<(usize, Vec<f32>)>);

/// Steps of the given choices, each from the same parameters.
fn chosen(
    program: &Program<'_, f32>,
    data: &Data,
    how: Checkpointing,
    choices: &[&[usize]],
) -> Vec<Heard> {
    let most = choices.iter().map(|choice| choice.len()).max().unwrap();
    let plan = Plan::partial(program, &Scalar, data.limits(), how, most);
    let mut ledger = Ledger::new(Budget::of(plan.bytes().held() + plan.library_bytes()));
    let mut executor = Executor::reserve(program, &Scalar, plan, 7, &mut ledger).unwrap();
    executor.set_poison(true);
    if executor.plan().file().is_some() {
        executor.set_file(Box::new(stores::InMemory::default()));
    }
    let (mut params, ranges) = (params(program), program.param_ranges());
    let mut room = vec![0.0; params.len()];
    let steps = choices.iter().map(|choice| {
        executor.choose(choice);
        let mut heard = Vec::new();
        let update = |segment, _: &mut [f32], g: &[f32]| heard.push((segment, g.to_vec()));
        let mut sink = ApplyNow { grads: &mut room, ranges: &ranges, update };
        let sum = executor.step(&mut params, &data.batch(), 1.0, &mut sink).unwrap();
        (sum, heard)
    });
    let steps = steps.collect();
    executor.release(&mut ledger);
    steps
}

const CHOICES: [&[usize]; 4] = [&[3], &[1, 2], &[0, 3], &[0]];

#[test]
fn only_segments_that_are_chosen_get_gradients() {
    let (model, data) = (Model::new(4), Data::new(3, &[70, 4]));
    let program = model.program::<f32>(EVERY_SITE);
    let want = chosen(&program, &data, Policy::Block.into(), &CHOICES);
    for ((_, heard), choice) in want.iter().zip(CHOICES) {
        let segments: Vec<_> = heard.iter().rev().map(|(segment, _)| *segment).collect();
        assert_eq!(segments, choice);
    }
    // Nothing lies above the topmost, so its gradient is the exact one.
    let (sum, exact) = step(&program, &params(&program), &data, How::tight(Policy::Block, &data));
    let top = program.param_ranges()[3].clone();
    assert_eq!(want[0].0, sum);
    assert_bits("the top", &want[0].1[0].1, &exact[top.clone()]);
    assert_bits("the top beside another", &want[2].1[0].1, &exact[top]);
    let tile = NonZeroUsize::new(64).unwrap();
    for how in [
        Checkpointing::new(Policy::Block, Store::File),
        Checkpointing::from(Policy::Block).tiled(tile),
    ] {
        assert!(chosen(&program, &data, how, &CHOICES) == want, "{how:?}");
    }
}

#[test]
fn all_segments_chosen_are_exact_backward() {
    let (model, data) = (Model::new(3), Data::new(3, &[5, 4]));
    let choices: [Trained; 2] = [EVERY_SITE, |block, site| block > 0 && site == "up_proj"];
    for trained in choices {
        let program = model.program::<f32>(trained);
        let all: Vec<usize> = (program.first_trained().unwrap()..3).collect();
        let (want, exact) =
            step(&program, &params(&program), &data, How::tight(Policy::Block, &data));
        let (sum, heard) = chosen(&program, &data, Policy::Block.into(), &[&all]).pop().unwrap();
        assert_eq!(sum, want);
        let grads: Vec<f32> = heard.into_iter().rev().flat_map(|(_, g)| g).collect();
        assert_bits("gradients", &grads, &exact);
    }
}

#[test]
fn inputs_are_kept_of_as_many_segments_as_are_chosen() {
    let (model, data) = (Model::new(4), Data::new(3, &[9]));
    let program = model.program::<f32>(EVERY_SITE);
    let value = 4 * (data.limits().tokens * program.hidden()) as u64;
    for most in 1..=4 {
        let plan = Plan::partial(&program, &Scalar, data.limits(), Policy::Store, most);
        assert_eq!(plan.checkpointing().policy, Policy::Block);
        assert_eq!(plan.bytes()[Category::Checkpoint], most as u64 * value);
    }
}

#[test]
#[should_panic(expected = "[1, 2]: expected up to 1 ascending segments from 0 on")]
fn more_segments_than_were_planned_are_refused() {
    let (model, data) = (Model::new(3), Data::new(3, &[5]));
    let program = model.program::<f32>(EVERY_SITE);
    chosen(&program, &data, Policy::Block.into(), &[&[1]]);
    let plan = Plan::partial(&program, &Scalar, data.limits(), Policy::Block, 1);
    let mut ledger = Ledger::new(Budget::UNLIMITED);
    Executor::reserve(&program, &Scalar, plan, 7, &mut ledger).unwrap().choose(&[1, 2]);
}

/// Two segments `x + a x` and `x + b x`: the gradient of `a` is `(1 + b) x` times that of the
/// output, and `x` times it where the second segment passes for the identity.
#[test]
fn a_segment_that_is_passed_over_counts_as_the_identity() {
    let (a, b) = (0.25_f32, 0.75_f32);
    let zeros = [0; 16];
    let nothing = QMat::new(&F32, 2, 2, &zeros).unwrap();
    let segment = |site| {
        let (mut graph, x) = Graph::new(2);
        let config = Config { rank: 2, alpha: 2.0, ..Config::default() };
        let lora = Lora::new(2, 2, &config).unwrap();
        let linear = AdaptedLinear::new(nothing, None, Some(Box::new(lora)), site);
        let y = graph.push(linear, &[x]);
        graph.push(Add, &[x, y]);
        Segment::new(graph)
    };
    let rows = [1.0_f32, 0.5, -0.5, 1.0, -1.0, 0.25];
    let bytes: Vec<u8> = rows.iter().flat_map(|w| w.to_le_bytes()).collect();
    let table = QMat::new(&F32, 3, 2, &bytes).unwrap();
    let program: Program<'_, f32> = Program {
        embedding: Embedding { table, scale: 1.0 },
        segments: vec![segment(0), segment(1)],
        head: LossHead { norm: [1.0; 2].into(), eps: 1e-6, weight: table },
    };
    // A is a multiple of the identity and B the identity.
    let mut params = vec![a, 0.0, 0.0, a, 1.0, 0.0, 0.0, 1.0, b, 0.0, 0.0, b, 1.0, 0.0, 0.0, 1.0];
    let batch = Batch {
        ids: &[0, 1, 2],
        positions: &[0, 1, 2],
        spans: &[Span { start: 0, prompt_end: 0, end: 3 }],
        labelled: &[0, 1, 2],
        targets: &[1, 2, 0],
        words: None,
        counter: 0,
    };
    let limits = Limits { tokens: 3, sequences: 1, labelled: 3 };
    let mut lowest = |choice: &[usize]| {
        let mut ledger = Ledger::new(Budget::UNLIMITED);
        let plan = Plan::partial(&program, &Scalar, limits, Policy::Block, choice.len());
        let mut executor = Executor::reserve(&program, &Scalar, plan, 0, &mut ledger).unwrap();
        executor.choose(choice);
        let (mut found, mut room) = (Vec::new(), [0.0; 8]);
        let ranges = program.param_ranges();
        let update = |_, _: &mut [f32], g: &[f32]| found = g.to_vec();
        let mut sink = ApplyNow { grads: &mut room, ranges: &ranges, update };
        executor.step(&mut params, &batch, 1.0, &mut sink).unwrap();
        executor.release(&mut ledger);
        found
    };
    let (exact, partial) = (lowest(&[0, 1]), lowest(&[0]));
    assert!(exact[..4].iter().any(|g| g.abs() > 0.01), "{exact:?}");
    for (exact, partial) in exact.iter().zip(&partial) {
        assert!((exact - (1.0 + b) * partial).abs() < 1e-6, "{exact} beside {partial}");
    }
}
