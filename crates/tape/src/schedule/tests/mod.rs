//! Schedules of random graphs against a naive reference, and what must hold for any schedule.

mod mesp;
mod ops;
mod pack;
mod reference;

use alloc::vec;
use alloc::vec::Vec;

use lowtide_adapter::Phase;
use lowtide_backend::Scalar;
use lowtide_testkit::rng::Rng;
use proptest::prelude::*;

use self::ops::{Kind, TestOp};
use self::reference::Reference;
use super::pack::aligned;
use super::{Action, Keep, Operands, Place, Schedule, Slot};
use crate::operands::Memory;
use crate::segment::Values;
use crate::{Cx, Graph, Limits, Segment};

const LIMITS: Limits = Limits { tokens: 7, sequences: 1, labelled: 1 };
const COLS: usize = 6;

/// A node of a random graph: what it computes and which values it reads.
#[derive(Clone, Debug)]
pub(super) struct Recipe {
    kind: Kind,
    inputs: Vec<usize>,
    cols: usize,
}

/// Recipes from arbitrary picks; inputs prefer recent values. The last one gives `COLS` columns.
fn recipes(picks: &[(usize, [usize; 4])]) -> Vec<Recipe> {
    let mut widths = vec![COLS];
    let mut recipes = Vec::new();
    for (n, (kind, inputs)) in picks.iter().enumerate() {
        let last = n + 1 == picks.len();
        let mut kind = Kind::ALL[kind % Kind::ALL.len()];
        let mut cols = widths[widths.len() - 1 - inputs[0] % widths.len().min(4)];
        if last {
            cols = COLS;
        }
        if kind == Kind::Widen && (cols > COLS || last) || kind == Kind::Narrow && cols % 4 != 0 {
            kind = Kind::Sum2;
        }
        if last && kind == Kind::Narrow {
            kind = Kind::Tanh;
        }
        let fitting: Vec<usize> = (0..widths.len()).rev().filter(|&v| widths[v] == cols).collect();
        let inputs = inputs[..kind.arity()].iter().map(|pick| fitting[pick % fitting.len()]);
        recipes.push(Recipe { kind, inputs: inputs.collect(), cols });
        widths.push(kind.cols(cols));
    }
    recipes
}

fn segment(recipes: &[Recipe]) -> Segment<'static, f64> {
    let (mut graph, x) = Graph::new(COLS);
    let mut values = vec![x];
    for Recipe { kind, inputs, cols } in recipes {
        let inputs: Vec<_> = inputs.iter().map(|&v| values[v]).collect();
        values.push(graph.push(TestOp { kind: *kind, cols: *cols }, &inputs));
    }
    Segment::new(graph)
}

/// What a segment gives for one batch.
#[derive(Debug, PartialEq)]
struct Outcome {
    y: Vec<f64>,
    dx: Option<Vec<f64>>,
    grads: Vec<f64>,
}

/// Runs both directions in memory that starts as NaN, on two rows fewer than the limit.
/// Of what backward reads, the values whose bits are set in `kept` are kept.
fn run(recipes: &[Recipe], want_dx: bool, kept: u32, poison: bool, tile: usize) -> Outcome {
    let segment = segment(recipes);
    let needs = segment.needs(want_dx);
    let mut keep = Keep::nothing(needs.read.len());
    let values = (0..needs.read.len()).filter(|&v| needs.read[v] && kept >> v & 1 == 1);
    values.for_each(|v| keep.add(v));
    let there = segment.plan_forward(keep.any().then_some(&keep), &Scalar, LIMITS, tile);
    let kept = keep.any().then_some((&keep, &there));
    let back = segment.plan_backward(&needs, kept, &Scalar, LIMITS, tile);
    check_schedule(&there);
    check_schedule(&back);

    let rows = LIMITS.tokens - 2;
    let Inputs { x, dy, params } = Inputs::of(&segment, rows);
    let positions = [0; LIMITS.tokens];
    let cx = Cx {
        past: 0,
        be: &Scalar,
        spans: &[],
        row0: 0,
        positions: &positions[..rows],
        seed: 0,
        counter: 0,
        phase: Phase::Train,
    };
    let nan = |len: usize| vec![f64::NAN; len];
    let boundary = aligned(LIMITS.tokens * COLS);
    let (mut arena, mut kept, mut output) =
        (nan(there.arena.max(back.arena)), nan(there.kept), nan(boundary));
    let mut gradient = nan(boundary);
    gradient[..dy.len()].copy_from_slice(&dy);
    let mut input = nan(boundary);
    input[..x.len()].copy_from_slice(&x);

    let (arena, kept, input) = (&mut arena[..], &mut kept[..], &input[..]);
    let mut memory = Memory { arena, kept, input, output: &mut output, gradient: &mut [] };
    let values = Values { params: &params, fixed: &[] };
    segment.run(&there, &cx, values, &mut [], &mut memory, poison);
    let y = memory.output[..x.len()].to_vec();
    memory.output.fill(f64::NAN);
    memory.arena.fill(f64::NAN);
    memory.output = &mut [];
    memory.gradient = &mut gradient;
    let mut grads = vec![0.0; params.len()];
    segment.run(&back, &cx, values, &mut grads, &mut memory, poison);
    let dx = want_dx.then(|| gradient[..x.len()].to_vec());
    Outcome { y, dx, grads }
}

/// Numbers to run a segment on.
struct Inputs {
    x: Vec<f64>,
    dy: Vec<f64>,
    params: Vec<f64>,
}

impl Inputs {
    fn of(segment: &Segment<'_, f64>, rows: usize) -> Self {
        let mut rng = Rng::new(9);
        let mut draw = |len| rng.normal_vec_f64(len, 0.7);
        Self { x: draw(rows * COLS), dy: draw(rows * COLS), params: draw(segment.params()) }
    }
}

/// All runs agree to the bit, whatever is kept and however rows are tiled, and with the reference
/// up to rounding.
fn check(recipes: &[Recipe], want_dx: bool) {
    check_kept(recipes, want_dx, 0x5555_5555);
}

/// The same, with some of what backward reads kept besides all and nothing.
fn check_kept(recipes: &[Recipe], want_dx: bool, some: u32) {
    let all = LIMITS.tokens;
    let outcome = run(recipes, want_dx, 0, false, all);
    for (kept, poison) in
        [(0, true), (u32::MAX, false), (u32::MAX, true), (some, false), (some, true), (!some, true)]
    {
        let other = run(recipes, want_dx, kept, poison, all);
        assert_eq!(other, outcome, "kept {kept:b}, poison {poison}");
    }
    for tile in [1, 2, 3, all - 2] {
        for poison in [false, true] {
            let other = run(recipes, want_dx, 0, poison, tile);
            assert_eq!(other, outcome, "tiles of {tile}, poison {poison}");
        }
    }
    let inputs = Inputs::of(&segment(recipes), LIMITS.tokens - 2);
    let want = Reference::run(recipes, &inputs.x, &inputs.dy, &inputs.params);
    let close = |name: &str, got: &[f64], want: &[f64]| {
        lowtide_testkit::compare::assert_close(name, got, want, 1e-10, 1e-10);
    };
    close("y", &outcome.y, &want.y);
    close("grads", &outcome.grads, &want.grads);
    if let Some(dx) = outcome.dx {
        close("dx", &dx, &want.dx);
    }
}

/// What holds for every schedule: buffers alive together lie apart and inside the arena, every step
/// stays within the lifetimes of what it names, and what is written is named once.
fn check_schedule(schedule: &Schedule) {
    let placed: Vec<_> = schedule
        .buffers
        .iter()
        .filter_map(|b| match b.place {
            Place::Arena(at) if b.birth <= b.death => Some((at, b)),
            _ => None,
        })
        .collect();
    for (i, (at, a)) in placed.iter().enumerate() {
        assert!(at + a.len <= schedule.arena, "a buffer reaches beyond the arena");
        for (other, b) in &placed[..i] {
            let together = a.birth <= b.death && b.birth <= a.death;
            let apart = at + a.len <= *other || other + b.len <= *at;
            assert!(!together || apart, "{a:?} and {b:?} overlap");
        }
    }
    for (i, step) in schedule.steps.iter().enumerate() {
        let (written, read) = effects(step);
        for slot in written.iter().chain(&read) {
            let buffer = schedule.buffers[*slot];
            assert!((buffer.birth..=buffer.death).contains(&i), "step {i} outside a lifetime");
        }
        for (n, slot) in written.iter().enumerate() {
            let named = written[..n].contains(slot) || read.contains(slot);
            assert!(!named, "step {i} names what it writes twice: {step:?}");
        }
    }
    assert!(schedule.live_at_peak.held() <= schedule.arena as u64);
}

/// Buffers a step writes, and those it reads.
fn effects(step: &Action) -> (Vec<usize>, Vec<usize>) {
    let ids = |slots: &[Option<Slot>]| -> Vec<usize> {
        slots.iter().flatten().map(|slot| slot.buffer).collect()
    };
    match step {
        Action::Forward(Operands { x, y, scratch, .. }) => {
            (ids(y).into_iter().chain(*scratch).collect(), ids(x))
        }
        Action::Vjp(Operands { x, y, dy, dx, scratch, .. }) => {
            let written = ids(dx).into_iter().chain(*scratch).collect();
            (written, [ids(x), ids(y), ids(&[*dy])].concat())
        }
        Action::Zero(slot) => (vec![slot.buffer], vec![]),
        Action::Copy { from, to } | Action::Add { from, to } => {
            (vec![to.buffer], vec![from.buffer])
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn random_graphs_give_the_gradients_of_the_naive_reference(
        picks in prop::collection::vec((0..1000_usize, prop::array::uniform4(0..6_usize)), 1..14),
        want_dx: bool,
        some: u32,
    ) {
        check_kept(&recipes(&picks), want_dx, some);
    }
}

/// A graph by hand: each node's kind and inputs, where value 0 is the input and value `n` the
/// output of the `n`th node.
fn by_hand(nodes: &[(Kind, &[usize])]) -> Vec<Recipe> {
    let mut widths = vec![COLS];
    let mut recipes = Vec::new();
    for (kind, inputs) in nodes {
        let cols = widths[inputs[0]];
        recipes.push(Recipe { kind: *kind, inputs: inputs.to_vec(), cols });
        widths.push(kind.cols(cols));
    }
    recipes
}

#[test]
fn a_value_added_to_itself_gets_twice_the_gradient() {
    check(&by_hand(&[(Kind::Weigh, &[0]), (Kind::Sum2, &[1, 1])]), true);
    check(&by_hand(&[(Kind::Weigh, &[0]), (Kind::Sum4, &[1, 0, 1, 1])]), true);
    check(&by_hand(&[(Kind::Sum2, &[0, 0])]), true);
}

#[test]
fn an_operation_may_take_one_value_twice() {
    for kind in [Kind::Mul, Kind::Gate, Kind::HalfGate, Kind::Mixed] {
        check(&by_hand(&[(Kind::Weigh, &[0]), (kind, &[1, 1])]), true);
        check(&by_hand(&[(kind, &[0, 0]), (Kind::Weigh, &[1])]), true);
        check(&by_hand(&[(Kind::Bias, &[0]), (kind, &[1, 1]), (Kind::Sum2, &[1, 2])]), false);
    }
}

#[test]
fn an_output_that_backward_reads_survives_the_segment() {
    check(&by_hand(&[(Kind::Weigh, &[0]), (Kind::Tanh, &[1])]), true);
    check(&by_hand(&[(Kind::Weigh, &[0]), (Kind::Halve, &[1]), (Kind::Tanh, &[2])]), false);
}

#[test]
fn an_operation_that_passes_gradients_through_can_be_trained() {
    check(&by_hand(&[(Kind::Bias, &[0])]), true);
    check(&by_hand(&[(Kind::Bias, &[0]), (Kind::Bias, &[1]), (Kind::Sum2, &[1, 2])]), false);
}

#[test]
fn passed_gradients_are_shared_until_one_of_their_owners_changes_them() {
    // The same gradient reaches four values; two of them change it in place.
    let recipe = by_hand(&[
        (Kind::Weigh, &[0]),
        (Kind::Halve, &[1]),
        (Kind::Weigh, &[1]),
        (Kind::Sum4, &[0, 1, 2, 3]),
        (Kind::Sum2, &[4, 2]),
    ]);
    check(&recipe, true);
    check(&recipe, false);
}

#[test]
fn branches_that_lead_nowhere_cost_nothing() {
    let recipe = by_hand(&[(Kind::Sin, &[0]), (Kind::Weigh, &[1]), (Kind::Tanh, &[0])]);
    check(&recipe, true);
    let segment = segment(&recipe);
    let needs = segment.needs(true);
    assert_eq!(needs.active, [false, false, true]);
    let back = segment.plan_backward(&needs, None, &Scalar, LIMITS, LIMITS.tokens);
    assert!(back.steps.iter().all(|step| match step {
        Action::Forward(o) | Action::Vjp(o) => o.node == 2,
        _ => true,
    }));
}

#[test]
fn histories_may_be_the_input_be_shared_and_follow_each_other() {
    let running = Kind::Running;
    for want_dx in [false, true] {
        check(&by_hand(&[(Kind::Weigh, &[0]), (running, &[1, 0]), (Kind::Sum2, &[2, 0])]), want_dx);
        check(&by_hand(&[(Kind::Weigh, &[0]), (running, &[1, 1]), (running, &[2, 1])]), want_dx);
        check(
            &by_hand(&[
                (Kind::Bias, &[0]),
                (Kind::Tanh, &[1]),
                (running, &[1, 2]),
                (Kind::Mul, &[3, 1]),
                (running, &[2, 4]),
                (Kind::Sum4, &[5, 0, 2, 4]),
            ]),
            want_dx,
        );
    }
}

#[test]
fn tiles_take_a_loop_for_each_history_and_little_room() {
    let recipe = by_hand(&[
        (Kind::Weigh, &[0]),
        (Kind::Tanh, &[1]),
        (Kind::Running, &[1, 2]),
        (Kind::Sin, &[3]),
        (Kind::Sum2, &[4, 0]),
    ]);
    let segment = segment(&recipe);
    let needs = segment.needs(true);
    let plan = |tile| segment.plan_backward(&needs, None, &Scalar, LIMITS, tile);
    let (all, tiled) = (plan(LIMITS.tokens), plan(1));
    assert_eq!((all.loops.len(), tiled.loops.len()), (1, 2));
    // The history, its gradient, and what waits for that below it; everything else is a tile's.
    let whole = tiled.buffers.iter().filter(|b| b.whole && matches!(b.place, Place::Arena(_)));
    assert_eq!(whole.map(|b| b.len).collect::<Vec<_>>(), [LIMITS.tokens * COLS; 3]);
}
