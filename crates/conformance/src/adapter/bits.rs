//! What must not change a bit, in f32.

use lowtide_adapter::Phase;
use lowtide_backend::Backend;
use lowtide_tensor::{Float, QUANTUM};

use super::Pair;
use super::case::{Batch, Case, Grads};
use crate::close::{assert_bits, assert_close};
use crate::draw::Draw;

/// Rows of a call: two whole quanta and a part of one.
const ROWS: usize = 2 * QUANTUM + 22;

/// What f32 leaves of sums of a few hundred terms of size one.
const SINGLE: f64 = 1e-3;

/// Repetition and splitting of rows.
pub(super) fn check(case: &Case<f32>, be: &dyn Backend<f32>) {
    for rows in [0, 1, QUANTUM - 1, QUANTUM, ROWS] {
        let (few, more) = (case.scratch_len(be, rows), case.scratch_len(be, rows + 1));
        assert!(few <= more, "{}: scratch {few} for {rows} rows, {more} for one more", case.label);
    }
    let derived = case.prepare(be, &case.p);
    assert_bits(&case.what("derived values, again"), &case.prepare(be, &case.p), &derived);
    for phase in [Phase::Train, Phase::Prefill] {
        let whole = Run::new(case, phase);
        let (y, grads) = whole.in_parts(case, be, &derived, &[]);
        let same = |what: &str, cuts: &[usize]| {
            let (y_parts, grads_parts) = whole.in_parts(case, be, &derived, cuts);
            let what = |thing| case.what(&format!("{thing}, {what}"));
            assert_bits(&what("output"), &y_parts, &y);
            assert_bits(&what("gradient of the parameters"), &grads_parts.p, &grads.p);
            let (dx_parts, dx) = (grads_parts.x.unwrap_or_default(), grads.x.as_deref());
            assert_bits(&what("gradient of the input"), &dx_parts, dx.unwrap_or_default());
        };
        same("computed again", &[]);
        if !case.adapter.facts().whole_sequence {
            same("rows split after the first quantum", &[QUANTUM]);
            same("rows split after the second quantum", &[2 * QUANTUM]);
            same("rows split after every quantum", &[QUANTUM, 2 * QUANTUM]);
        }
    }
}

/// f32 is f64 but for rounding.
pub(super) fn check_close(pair: &Pair, be: &dyn Backend<f32>, be_double: &dyn Backend<f64>) {
    let Pair { single, double } = pair;
    let derived = (single.prepare(be, &single.p), double.prepare(be_double, &double.p));
    let run = Run::new(single, Phase::Train);
    let (y, grads) = run.in_parts(single, be, &derived.0, &[]);
    let run = Run::new(double, Phase::Train);
    let (y_double, grads_double) = run.in_parts(double, be_double, &derived.1, &[]);
    let close = |what: &str, single_values: &[f32], double_values: &[f64]| {
        let widened: Vec<f64> = single_values.iter().copied().map(f64::from).collect();
        assert_close(&single.what(what), &widened, double_values, SINGLE);
    };
    close("output in f32", &y, &y_double);
    close("gradient of the parameters in f32", &grads.p, &grads_double.p);
    let (dx, dx_double) = (grads.x.unwrap_or_default(), grads_double.x.unwrap_or_default());
    close("gradient of the input in f32", &dx, &dx_double);
}

/// The operands of a call of [`ROWS`] rows.
struct Run<F> {
    batch: Batch,
    /// What the gradient of the parameters holds before.
    p: Vec<F>,
    x: Vec<F>,
    dy: Vec<F>,
}

impl<F: Float> Run<F> {
    fn new(case: &Case<F>, phase: Phase) -> Self {
        let mut draw = Draw::new(5);
        let x = draw.vec(ROWS * case.in_features, 1.0);
        let dy = draw.vec(ROWS * case.out_features, 1.0);
        let p = draw.vec(case.p.len(), 1.0);
        Self { batch: Batch::new(ROWS, phase), p, x, dy }
    }

    /// Output and gradients when the rows come in several calls, cut before these rows.
    fn in_parts(
        &self,
        case: &Case<F>,
        be: &dyn Backend<F>,
        derived: &[F],
        cuts: &[usize],
    ) -> (Vec<F>, Grads<F>) {
        let (mut y, mut dx) = (Vec::new(), Vec::new());
        let mut p = self.p.clone();
        let starts = [0].into_iter().chain(cuts.iter().copied());
        let ends = cuts.iter().copied().chain([ROWS]);
        for range in starts.zip(ends).map(|(start, end)| start..end) {
            let batch = self.batch.part(&range);
            let x = &self.x[range.start * case.in_features..range.end * case.in_features];
            let dy = &self.dy[range.start * case.out_features..range.end * case.out_features];
            y.extend(case.apply(be, &case.p, derived, &batch, x));
            let before = Grads { p, x: Some(vec![F::ZERO; x.len()]) };
            let after = case.vjp(be, derived, &batch, x, dy, before);
            p = after.p;
            dx.extend(after.x.unwrap_or_default());
        }
        (y, Grads { p, x: Some(dx) })
    }
}
