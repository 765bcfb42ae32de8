//! What the numbers must be, in f64.

use lowtide_adapter::Phase;
use lowtide_backend::{Backend, OpShape};
use lowtide_tensor::{Mat, MatMut};

use super::case::{Batch, Case, Grads};
use crate::close::{assert_bits, assert_close};
use crate::draw::Draw;

/// Rows of a call: small, odd, and enough for two sequences.
const ROWS: usize = 7;

/// Half the distance of a central difference: its error is of the order of the square.
const STEP: f64 = 1e-5;

/// What a central difference leaves: `STEP²` from the curve and `1e-16 / STEP` from rounding, times
/// a few tens of terms in the loss.
const FINITE_DIFFERENCE: f64 = 1e-7;

/// Sums of the same numbers in another order.
const ROUNDING: f64 = 1e-12;

/// Backward is the derivative of forward, and adds to what is there.
pub(super) fn check(case: &Case<f64>, be: &dyn Backend<f64>) {
    let batch = Batch::new(ROWS, Phase::Train);
    let mut draw = Draw::new(2);
    let x = draw.vec(ROWS * case.in_features, 1.0);
    let dy = draw.vec(ROWS * case.out_features, 1.0);
    let derived = case.prepare(be, &case.p);
    let zeros = Grads { p: vec![0.0; case.p.len()], x: Some(vec![0.0; x.len()]) };
    let grads = case.vjp(be, &derived, &batch, &x, &dy, zeros.clone());

    // <dy, y> has the gradients that backward returns for dy.
    let loss = |p: &[f64], x: &[f64]| -> f64 {
        let y = case.apply(be, p, &derived, &batch, x);
        y.iter().zip(&dy).map(|(y, dy)| y * dy).sum()
    };
    let want = differences(&case.p, |p| loss(p, &x));
    assert_close(&case.what("gradient of the parameters"), &grads.p, &want, FINITE_DIFFERENCE);
    let want = differences(&x, |x| loss(&case.p, x));
    let dx = grads.x.as_deref().unwrap_or_default();
    assert_close(&case.what("gradient of the input"), dx, &want, FINITE_DIFFERENCE);

    let before = Grads { p: draw.vec(case.p.len(), 1.0), x: Some(draw.vec(x.len(), 1.0)) };
    let after = case.vjp(be, &derived, &batch, &x, &dy, before.clone());
    let what = case.what("gradient of the parameters, added to another");
    assert_close(&what, &after.p, &sum(&before.p, &grads.p), ROUNDING);
    let what = case.what("gradient of the input, added to another");
    let (before_x, after_x) = (before.x.unwrap_or_default(), after.x.unwrap_or_default());
    assert_close(&what, &after_x, &sum(&before_x, dx), ROUNDING);

    let alone = case.vjp(be, &derived, &batch, &x, &dy, Grads { x: None, ..zeros });
    let what = case.what("gradient of the parameters without dx");
    assert_bits(&what, &alone.p, &grads.p);
}

/// At its initial values the method changes nothing.
pub(super) fn check_equals_base(case: &Case<f64>, be: &dyn Backend<f64>) {
    let batch = Batch::new(ROWS, Phase::Train);
    let x = Draw::new(3).vec(ROWS * case.in_features, 1.0);
    let derived = case.prepare(be, &case.initial);
    let adapted = case.apply(be, &case.initial, &derived, &batch, &x);

    let base = case.base();
    let mut y = vec![f64::NAN; ROWS * case.out_features];
    let mut scratch = vec![0.0; base.req(be, ROWS).scratch];
    let x = Mat::new(&x, ROWS, case.in_features);
    base.apply(be, x, MatMut::new(&mut y, ROWS, case.out_features), &mut scratch);
    assert_close(&case.what("output at the initial values"), &adapted, &y, ROUNDING);
}

/// The merged matrix gives the adapter's output, or the method refuses as it declared.
pub(super) fn check_merge(case: &Case<f64>, be: &dyn Backend<f64>) {
    let derived = case.prepare(be, &case.p);
    let merged = case.merge(be, &derived, case.out_features);
    let mergeable = case.adapter.facts().mergeable;
    assert!(
        merged.is_some() == mergeable,
        "{}: declared mergeable: {mergeable}, merged: {}",
        case.label,
        merged.is_some()
    );
    let Some(merged) = merged else { return };
    let tiled = case.merge(be, &derived, 4).unwrap_or_default();
    assert_bits(&case.what("matrix merged in tiles"), &tiled, &merged);

    let batch = Batch::new(ROWS, Phase::Prefill);
    let x = Draw::new(4).vec(ROWS * case.in_features, 1.0);
    let adapted = case.apply(be, &case.p, &derived, &batch, &x);

    let x = Mat::new(&x, ROWS, case.in_features);
    let merged = Mat::new(&merged, case.out_features, case.in_features);
    let mut product = vec![f64::NAN; ROWS * case.out_features];
    let mut y = MatMut::new(&mut product, ROWS, case.out_features);
    let (m, k, n) = (ROWS, case.in_features, case.out_features);
    let mut scratch = vec![0.0; be.req(OpShape::Matmul { m, k, n }).scratch];
    be.matmul(1.0, x, merged.t(), 0.0, y.rb(), &mut scratch);
    be.add_bias(&case.merged_bias(&derived), y);
    assert_close(&case.what("output of the merged matrix"), &product, &adapted, ROUNDING);
}

/// A sequence read call by call gives the same as in one call. A method that needs whole sequences
/// and has a state is given the prompt at once; what comes after has no part in what it makes of
/// the prompt. One that looks ahead promises nothing here.
pub(super) fn check_decoding(case: &Case<f64>, be: &dyn Backend<f64>) {
    let facts = case.adapter.facts();
    let ahead = case.adapter.looks_ahead();
    assert!(!ahead || facts.whole_sequence, "{}: looks ahead in tiles of rows", case.label);
    if ahead || facts.whole_sequence && case.adapter.state() == 0 {
        return;
    }
    let fixed = case.prepare(be, &case.p);
    let x = Draw::new(6).vec(ROWS * case.in_features, 1.0);
    let prompt = 4;
    let batch = Batch::prompted(ROWS, prompt);
    let whole = case.apply(be, &case.p, &fixed, &batch, &x);
    let parts = case.decode(be, &fixed, prompt, &x);
    assert_close(&case.what("output read call by call"), &parts, &whole, ROUNDING);
}

/// Central differences of `f` at `at`, one element after another.
fn differences(at: &[f64], f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let mut moved = at.to_vec();
    (0..at.len())
        .map(|i| {
            moved[i] = at[i] + STEP;
            let above = f(&moved);
            moved[i] = at[i] - STEP;
            let below = f(&moved);
            moved[i] = at[i];
            (above - below) / (2.0 * STEP)
        })
        .collect()
}

fn sum(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}
