//! Plans: the same bytes as the ledger charges and the slabs hold; room for every smaller batch.

use std::num::NonZeroUsize;

use lowtide_backend::{Backend, OpShape, Req, Scalar, spec};
use lowtide_memory::{Budget, ByCategory, Category, Ledger, ReserveError};
use lowtide_quant::{QMat, formats::F32};
use lowtide_tape::{Checkpointing, Executor, Limits, Plan, Policy, Program};
use lowtide_testkit::compare::assert_bits;
use proptest::prelude::*;

use crate::model::{Data, HIDDEN, Model, Trained, params};
use crate::{EVERY_SITE, How, step, with_executor};

const LIMITS: Limits = Limits { tokens: 24, sequences: 3, labelled: 20 };

/// The scalar backend with a library inside that allocates for every packed product.
struct Greedy;

impl Backend<f32> for Greedy {
    fn name(&self) -> &'static str {
        "greedy"
    }

    fn req(&self, op: OpShape) -> Req {
        let library_bytes = if matches!(op, OpShape::Qmatmul { .. }) { 1000 } else { 10 };
        Req { library_bytes, ..spec::req(op) }
    }
}

pub(crate) fn plan(
    program: &Program<'_, f32>,
    limits: Limits,
    how: impl Into<Checkpointing>,
) -> Plan {
    Plan::new(program, &Scalar, limits, how, true)
}

#[test]
fn the_ledger_is_charged_what_the_plan_says() {
    let model = Model::new(3);
    let program = model.program::<f32>(EVERY_SITE);
    for policy in Policy::ALL {
        let plan = Plan::new(&program, &Greedy, LIMITS, policy, true);
        assert_eq!(
            (plan.checkpointing(), plan.limits(), plan.library_bytes()),
            (policy.into(), LIMITS, 1000)
        );
        let bytes = plan.bytes();
        let total = bytes.held() + plan.library_bytes();
        let mut ledger = Ledger::new(Budget::of(total));
        let executor = Executor::reserve(&program, &Greedy, plan, 0, &mut ledger).unwrap();
        assert_eq!(ledger.live(), bytes.with(Category::Scratch, 1000));
        executor.release(&mut ledger);
        assert_eq!((ledger.live().held(), ledger.peak()), (0, total));
    }
}

#[test]
fn over_budget_nothing_stays_reserved() {
    let model = Model::new(3);
    let program = model.program::<f32>(EVERY_SITE);
    let plan = Plan::new(&program, &Greedy, LIMITS, Policy::Store, true);
    let arena = plan.bytes().held() - plan.bytes()[Category::Checkpoint];
    let slabs = plan.bytes().held();
    // Nothing fits; the arena does; both slabs do.
    let budgets = [0, arena - 1, arena, slabs - 1, slabs, slabs + plan.library_bytes() - 1];
    for budget in budgets {
        let mut ledger = Ledger::new(Budget::of(budget));
        let reserved = Executor::reserve(&program, &Greedy, plan.clone(), 0, &mut ledger);
        let refused = reserved.map(|_| ()).unwrap_err();
        assert!(matches!(refused, ReserveError::OverBudget(over) if over.budget == budget));
        assert_eq!(ledger.live(), ByCategory::new());
    }
}

#[test]
fn the_fullest_moment_and_the_packing_loss_make_the_plan() {
    let model = Model::new(3);
    let program = model.program::<f32>(EVERY_SITE);
    for policy in Policy::ALL {
        let plan = plan(&program, LIMITS, policy);
        let phases: Vec<_> = plan.timeline().spans().iter().map(|m| (m.phase, m.segment)).collect();
        let forward = (0..3).map(|i| ("forward", i));
        // With two values at hand, or every second kept, blocks 0 and 1 are a group.
        let again = [("recompute", 0)];
        let grouped = matches!(policy, Policy::Every(_) | Policy::Sqrt);
        let again = if grouped { &again[..] } else { &[] };
        let back = [("backward", 1), ("backward", 0)];
        let top = [("head", 3), ("backward", 2)];
        let want: Vec<_> = forward.chain(top).chain(again.iter().copied()).chain(back).collect();
        assert_eq!(phases, want);

        let fullest = plan.timeline().spans().iter().map(|m| m.live.held()).max().unwrap();
        assert!(fullest <= plan.bytes().held());
        let loss = plan.bytes().held() - fullest;
        assert!(loss * 100 <= fullest * 2, "{policy:?}: {loss} bytes lost of {fullest}");
    }
}

/// A value of `LIMITS.tokens` rows, in bytes; widths here need no rounding up.
fn value(cols: usize) -> u64 {
    (LIMITS.tokens * cols * size_of::<f32>()) as u64
}

#[test]
fn checkpoints_are_one_value_for_each_differentiated_segment() {
    let model = Model::new(4);
    let choices: [(Trained, u64); 4] = [
        (EVERY_SITE, 4),
        (|block, _| block == 1, 3),
        (|block, _| block == 3, 1),
        (|_, _| false, 0),
    ];
    for (trained, slots) in choices {
        let program = model.program::<f32>(trained);
        let block = plan(&program, LIMITS, Policy::Block).bytes();
        assert_eq!(block[Category::Checkpoint], slots * value(HIDDEN));
        let store = plan(&program, LIMITS, Policy::Store).bytes();
        assert!(store[Category::Checkpoint] > block[Category::Checkpoint] || slots == 0);
        let evaluation = Plan::new(&program, &Scalar, LIMITS, Policy::Store, false);
        assert_eq!(evaluation.bytes()[Category::Checkpoint], 0);
    }
}

#[test]
fn tiles_bound_what_grows_with_the_rows() {
    let model = Model::new(3);
    let program = model.program::<f32>(EVERY_SITE);
    let held = |tokens: usize, tile: Option<usize>| {
        let limits = Limits { tokens, sequences: 1, labelled: 64 };
        let tile = tile.and_then(NonZeroUsize::new);
        let checkpointing = Checkpointing { tile, ..Policy::Block.into() };
        plan(&program, limits, checkpointing).bytes()[Category::Workspace]
    };
    let (few, many) = (1024, 4096);
    for tokens in [few, many] {
        assert_eq!(held(tokens, Some(tokens)), held(tokens, None), "one tile is no tile");
        assert!(held(tokens, Some(64)) < held(tokens, Some(256)));
        assert!(held(tokens, Some(256)) < held(tokens, None) / 2);
    }
    // What grows: the gradient that travels down, keys, values and their gradients, and what waits
    // for these below them.
    let (kv, f32s) = (16, size_of::<f32>());
    let grown = held(many, Some(64)) - held(few, Some(64));
    assert_eq!(grown, ((many - few) * (2 * HIDDEN + 4 * kv) * f32s) as u64);
}

#[test]
#[should_panic(expected = "tiles of 65 rows are not of whole quanta of 64")]
fn tiles_are_of_whole_quanta() {
    let model = Model::new(1);
    let tile = NonZeroUsize::new(65).unwrap();
    let checkpointing = Checkpointing::from(Policy::Block).tiled(tile);
    plan(&model.program(EVERY_SITE), Limits { tokens: 66, ..LIMITS }, checkpointing);
}

#[test]
fn a_plan_grows_with_its_limits() {
    let model = Model::new(2);
    let program = model.program::<f32>(EVERY_SITE);
    let held = |tokens, labelled, policy| {
        let limits = Limits { tokens, sequences: 1, labelled };
        plan(&program, limits, policy).bytes().held()
    };
    // With `selective`, less may fit into the same room when values are larger.
    let fixed = |policy: &Policy| !matches!(policy, Policy::Selective { .. });
    for policy in Policy::ALL.into_iter().filter(fixed) {
        for tokens in (1..260).step_by(3) {
            let (small, large) = (held(tokens, 1, policy), held(tokens + 3, 1, policy));
            assert!(small <= large, "{policy:?}: {tokens} tokens take {small}, more take {large}");
            let labelled = held(tokens, tokens, policy);
            assert!(small <= labelled, "{policy:?}: {tokens} labelled");
        }
    }
}

#[test]
fn the_head_takes_the_largest_tile_that_costs_nothing() {
    let model = Model::new(1);
    let program = model.program::<f32>(EVERY_SITE);
    let tile = |tokens, labelled| {
        plan(&program, Limits { tokens, sequences: 1, labelled }, Policy::Block).head_tile()
    };
    assert_eq!((tile(1, 1), tile(1, 1000), tile(1000, 1)), (64, 64, 64));
    assert_eq!((tile(1000, 129), tile(1000, 1000)), (192, 512));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_batch_within_the_limits_runs(
        lengths in prop::collection::vec(0..8_usize, 0..4),
        seed: u64,
        store: bool,
    ) {
        let model = Model::new(2);
        let program = model.program::<f32>(EVERY_SITE);
        let data = Data::new(seed, &lengths);
        let policy = if store { Policy::Store } else { Policy::Block };
        let tight = How::tight(policy, &data);
        let (want_sum, want) = step(&program, &params(&program), &data, tight);
        let how = How { limits: LIMITS, ..tight };
        let (sum, grads) = step(&program, &params(&program), &data, how);
        prop_assert_eq!(sum, want_sum);
        assert_bits("gradients", &grads, &want);
    }
}

fn run_over(limits: Limits) {
    let model = Model::new(1);
    let program = model.program::<f32>(EVERY_SITE);
    let data = Data::new(1, &[4, 3]);
    let how = How { checkpointing: Policy::Block.into(), limits, poison: false };
    step(&program, &params(&program), &data, how);
}

#[test]
#[should_panic(expected = "7 tokens in 2 sequences exceed")]
fn more_tokens_than_planned_are_refused() {
    run_over(Limits { tokens: 6, sequences: 2, labelled: 7 });
}

#[test]
#[should_panic(expected = "7 tokens in 2 sequences exceed")]
fn more_sequences_than_planned_are_refused() {
    run_over(Limits { tokens: 7, sequences: 1, labelled: 7 });
}

#[test]
#[should_panic(expected = "5 labelled rows exceed")]
fn more_labels_than_planned_are_refused() {
    run_over(Limits { tokens: 7, sequences: 2, labelled: 4 });
}

#[test]
#[should_panic(expected = "this plan is for evaluation")]
fn an_evaluation_plan_takes_no_step() {
    let model = Model::new(1);
    let program = model.program::<f32>(|_, _| false);
    let data = Data::new(1, &[4]);
    step(&program, &[], &data, How::tight(Policy::Block, &data));
}

#[test]
#[should_panic(expected = "a plan for 2 segments, a program of 3")]
fn a_plan_of_another_program_is_refused() {
    let (two, three) = (Model::new(2), Model::new(3));
    let plan = plan(&two.program(EVERY_SITE), LIMITS, Policy::Block);
    let ledger = &mut Ledger::new(Budget::UNLIMITED);
    let _ = Executor::reserve(&three.program::<f32>(EVERY_SITE), &Scalar, plan, 0, ledger);
}

#[test]
#[should_panic(expected = "labelled rows ascend below 4")]
fn labels_out_of_order_are_refused() {
    let model = Model::new(1);
    let program = model.program::<f32>(EVERY_SITE);
    let data = Data::new(1, &[4]);
    let mut batch = data.batch();
    batch.labelled = &[2, 1, 3];
    with_executor(&program, How::tight(Policy::Block, &data), true, |executor| {
        executor.loss(&params(&program), &batch)
    });
}

#[test]
#[should_panic(expected = "the final norm has 32 columns, the head 31, the embedding 32")]
fn parts_of_different_widths_are_refused() {
    let (model, bytes) = (Model::new(1), [0; 31 * 4]);
    let mut program = model.program(EVERY_SITE);
    program.head.weight = QMat::new(&F32, 1, 31, &bytes).unwrap();
    plan(&program, LIMITS, Policy::Block);
}

#[test]
#[should_panic(expected = "4294967297 tokens")]
fn limits_beyond_what_positions_can_count_are_refused() {
    let model = Model::new(1);
    plan(&model.program(EVERY_SITE), Limits { tokens: (1 << 32) + 1, ..LIMITS }, Policy::Block);
}

#[test]
fn what_is_selected_fits_its_room_and_spares_work() {
    let model = Model::new(4);
    let program = model.program::<f32>(EVERY_SITE);
    let of = |policy: Policy| plan(&program, LIMITS, policy);
    let selective = |bytes| of(Policy::Selective { bytes });
    let (block, store) = (of(Policy::Block), of(Policy::Store));
    assert_eq!(selective(0).bytes(), block.bytes());
    assert_eq!(selective(u64::MAX).work(), store.work());
    let inputs = block.bytes()[Category::Checkpoint];
    let mut before = selective(0);
    for bytes in [4_000, 20_000, 40_000, 80_000, 160_000] {
        let plan = selective(bytes);
        assert!(plan.bytes()[Category::Checkpoint] <= inputs + bytes, "{bytes}");
        assert!(plan.bytes().held() <= block.bytes().held() + bytes, "{bytes}");
        assert!(plan.kept_columns() > before.kept_columns(), "{bytes}");
        assert!(plan.work() < before.work() && plan.work() >= store.work(), "{bytes}");
        before = plan;
    }
    let of_all = [Policy::Store, Policy::Block, Policy::ALL[3], Policy::Sqrt].map(|p| of(p).work());
    assert!(of_all.is_sorted(), "fastest first: {of_all:?}");
}
