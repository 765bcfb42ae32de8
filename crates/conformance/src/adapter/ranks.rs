//! What a method says of its ranks.

use lowtide_adapter::{ParamSpec, Phase};
use lowtide_backend::Backend;

use super::case::{Batch, Case, Grads};
use crate::draw::Draw;

/// Rows of the call.
const ROWS: usize = 9;

/// Tensors with a rank axis have one rank. With the last pair at zero, its gradients are exactly
/// zero. The case is another one afterwards.
pub(super) fn check(case: &mut Case<f32>, be: &dyn Backend<f32>) {
    let (params, frozen) = (case.adapter.params().to_vec(), case.adapter.frozen().to_vec());
    let ranks = params.iter().chain(&frozen).filter_map(|spec| rank(&case.label, spec));
    let ranks: Vec<usize> = ranks.collect();
    let Some(&rank) = ranks.first() else { return };
    assert!(ranks.iter().all(|other| *other == rank), "{}: ranks of {ranks:?}", case.label);
    for_each_of_pair(&params, rank - 1, |_, at| case.p[at] = 0.0);
    for_each_of_pair(&frozen, rank - 1, |_, at| case.frozen[at] = 0.0);
    let fixed = case.prepare(be, &case.p);
    let mut draw = Draw::new(8);
    let x = draw.vec(ROWS * case.in_features, 1.0);
    let dy = draw.vec(ROWS * case.out_features, 1.0);
    let grads = Grads { p: vec![0.0; case.p.len()], x: None };
    let batch = Batch::new(ROWS, Phase::Train);
    let grads = case.vjp(be, &fixed, &batch, &x, &dy, grads).p;
    for_each_of_pair(&params, rank - 1, |spec, at| {
        let (label, ParamSpec { name, shape, .. }) = (&case.label, spec);
        let gradient = grads[at];
        assert!(
            gradient == 0.0,
            "{label}: {name} {shape:?} has a gradient of {gradient} where its pair is zero"
        );
    });
}

fn rank(label: &str, spec: &ParamSpec) -> Option<usize> {
    let axis = spec.rank_axis?;
    let rank = spec.shape.get(axis);
    assert!(rank.is_some(), "{label}: {} has no axis {axis} for its ranks", spec.name);
    rank.copied()
}

/// Every element of a pair, by its place among all values of these tensors.
fn for_each_of_pair(specs: &[ParamSpec], pair: usize, mut each: impl FnMut(&ParamSpec, usize)) {
    let mut first = 0;
    for spec in specs {
        spec.pair(pair).for_each(|at| each(spec, first + at));
        first += spec.len();
    }
}
