//! Reversible segments: nothing of theirs is kept, and what comes back is right up to rounding.

use core::num::NonZeroUsize;

use lowtide_backend::Activation;
use lowtide_memory::Category;
use lowtide_tape::ops::Coupling;
use lowtide_tape::{Checkpointing, Graph, Limits, Policy, Program, Segment, Store};
use lowtide_tensor::Float;

use crate::gradients::check_program;
use crate::model::{Data, HIDDEN, Model, params};
use crate::{EVERY_SITE, How, step};

const RANK: usize = 3;

/// The decoder with a coupling above each block, and one more on top.
fn coupled<F: Float>(model: &Model) -> Program<'_, F> {
    let mut program = model.program::<F>(EVERY_SITE);
    let blocks = core::mem::take(&mut program.segments);
    let coupling = || {
        let (mut graph, x) = Graph::new(HIDDEN);
        graph.push(Coupling::new(HIDDEN, RANK, Activation::Silu), &[x]);
        Segment::new(graph)
    };
    program.segments = blocks.into_iter().flat_map(|block| [block, coupling()]).collect();
    program.segments.push(coupling());
    program
}

/// Policies under which inputs are made from outputs, and forms of keeping the others.
fn undone() -> impl Iterator<Item = Checkpointing> {
    let tile = NonZeroUsize::new(64).unwrap();
    let file = Checkpointing::new(Policy::Block, Store::File);
    let tiled = Checkpointing::from(Policy::Block).tiled(tile);
    [Policy::Store, Policy::Selective { bytes: 4000 }, Policy::Block]
        .map(Checkpointing::from)
        .into_iter()
        .chain([file, tiled])
}

#[test]
fn gradients_are_those_of_finite_differences() {
    check_program(&coupled(&Model::new(2)), 31);
}

#[test]
fn what_is_undone_gives_the_same_gradient_up_to_rounding() {
    let (model, data) = (Model::new(3), Data::new(1, &[37, 40]));
    let program = coupled::<f32>(&model);
    // Gates square what they are given, so parameters as large as elsewhere would overflow.
    let at: Vec<f32> = params(&program).into_iter().map(|p: f32| 0.3 * p).collect();
    // Here every input is kept, those of reversible segments too.
    let kept = Policy::Every(NonZeroUsize::MIN);
    let (want_sum, want) = step(&program, &at, &data, How::tight(kept, &data));
    let norm = |of: &[f32]| of.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
    let mut first: Option<Vec<f32>> = None;
    for checkpointing in undone() {
        let (sum, grads) = step(&program, &at, &data, How::tight(checkpointing, &data));
        assert_eq!(sum, want_sum, "{checkpointing:?}: forward is the same");
        let off: Vec<f32> = grads.iter().zip(&want).map(|(got, want)| got - want).collect();
        let error = norm(&off) / norm(&want);
        assert!(error > 0.0 && error < 1e-6, "{checkpointing:?}: {error}");
        let first = first.get_or_insert_with(|| grads.clone());
        assert!(*first == grads, "{checkpointing:?}: all undo the same bits");
    }
}

#[test]
fn reversible_segments_keep_nothing() {
    let model = Model::new(3);
    let limits = Limits { tokens: 96, sequences: 2, labelled: 90 };
    let checkpoints = |program: &Program<'_, f32>, policy: Policy| {
        crate::plans::plan(program, limits, policy).bytes()[Category::Checkpoint]
    };
    let (plain, coupled) = (model.program::<f32>(EVERY_SITE), coupled::<f32>(&model));
    let value = (limits.tokens * HIDDEN * size_of::<f32>()) as u64;
    let block = checkpoints(&plain, Policy::Block);
    assert_eq!(block, 3 * value);
    // Four couplings, of which the topmost keeps its input: no segment above keeps its output.
    assert_eq!(checkpoints(&coupled, Policy::Block), block + value);
    assert_eq!(checkpoints(&coupled, Policy::Every(NonZeroUsize::MIN)), 7 * value);
    assert!(coupled.segments[1].is_reversible() && !coupled.segments[0].is_reversible());
}
