//! What the checks of all operations share: a case, its surroundings, and the comparisons that
//! every case goes through.

use std::ops::Range;

use lowtide_backend::{Backend, OpShape, Scalar};
use lowtide_tensor::Float;

use super::tolerance;
use crate::close::{assert_bits, assert_close};
use crate::draw::Draw;
use crate::guarded::Guarded;

/// One operation on one shape with fixed inputs.
pub(super) trait Case {
    /// Operation and shape, for messages.
    fn label(&self) -> String;

    /// Rows of the result that may be computed in separate calls; 0 where no cut is allowed.
    fn rows(&self) -> usize;

    /// How far results may be from the reference.
    fn tolerance(&self) -> f64;

    /// How much farther they may be where products with packed weights are computed in integers, in
    /// steps of [`tolerance::rounding`].
    fn rounded(&self) -> f64 {
        0.0
    }

    /// The results for some rows, all of them where no cut is allowed; what belongs to a row is
    /// adjacent.
    fn run<F: Float>(&self, cx: &Cx<'_, F>, rows: Range<usize>) -> Vec<F>;
}

/// What a case runs on and in.
pub(super) struct Cx<'a, F: Float> {
    /// The backend.
    pub(super) be: &'a dyn Backend<F>,
    /// What memory that is to be overwritten holds before.
    poison: F,
    /// Whether rows have gaps between them.
    gaps: bool,
}

impl<'a, F: Float> Cx<'a, F> {
    pub(super) fn new(be: &'a dyn Backend<F>) -> Self {
        Self { be, poison: F::NAN, gaps: false }
    }

    /// Memory to be overwritten.
    pub(super) fn out(&self, rows: usize, cols: usize) -> Guarded<F> {
        if self.gaps {
            Guarded::filled(rows, cols, self.poison)
        } else {
            Guarded::touching(rows, cols, self.poison)
        }
    }

    /// Values, uniform in `±bound`.
    pub(super) fn values(&self, seed: u64, rows: usize, cols: usize, bound: f32) -> Guarded<F> {
        self.out(rows, cols).with(&Draw::new(seed).vec(rows * cols, bound))
    }

    /// Some rows of [`Cx::values`], with the values they have among all rows.
    pub(super) fn rows_of(
        &self,
        seed: u64,
        rows: &Range<usize>,
        cols: usize,
        bound: f32,
    ) -> Guarded<F> {
        let all: Vec<F> = Draw::new(seed).vec(rows.end * cols, bound);
        self.out(rows.len(), cols).with(&all[rows.start * cols..])
    }

    /// Scratch of exactly the size that the backend asks for.
    pub(super) fn scratch(&self, op: OpShape) -> Guarded<F> {
        Guarded::touching(1, self.be.req(op).scratch, self.poison)
    }
}

/// Compares a case with the specification in double precision, then with itself.
pub(super) fn check(be: &dyn Backend, case: &impl Case) {
    let rows = 0..case.rows();
    let want = case.run(&Cx::<f64>::new(&Scalar), rows);
    check_values(be, case, &want);
}

/// As [`check`], with the specification in single precision, for operations whose meaning includes
/// a rounding.
pub(super) fn check_single(be: &dyn Backend, case: &impl Case) {
    let rows = 0..case.rows();
    let want: Vec<f64> =
        case.run(&Cx::<f32>::new(&Scalar), rows).iter().map(|&x| x.into()).collect();
    check_values(be, case, &want);
}

fn check_values(be: &dyn Backend, case: &impl Case, want: &[f64]) {
    let what = format!("{}: {}", be.name(), case.label());
    let rows = case.rows();
    let tolerance = case.tolerance() + case.rounded() * tolerance::rounding(be.caps().compute);
    let widen = |values: &[f32]| values.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();

    let got = case.run(&Cx::new(be), 0..rows);
    assert_close(&what, &widen(&got), want, tolerance);

    let other = Cx { poison: 1e30, ..Cx::new(be) };
    assert_bits(&format!("{what}: again, over other memory"), &case.run(&other, 0..rows), &got);

    let gapped = case.run(&Cx { gaps: true, ..Cx::new(be) }, 0..rows);
    let label = format!("{what}: with gaps between rows");
    assert_close(&label, &widen(&gapped), want, tolerance);

    let mut cuts = vec![1, 2, rows / 3, rows / 2, rows.saturating_sub(1)];
    cuts.retain(|&cut| 0 < cut && cut < rows);
    cuts.sort_unstable();
    cuts.dedup();
    for cut in cuts {
        let mut joined = case.run(&Cx::new(be), 0..cut);
        joined.extend(case.run(&Cx::new(be), cut..rows));
        assert_bits(&format!("{what}: rows cut at {cut}"), &joined, &got);
    }
}

/// Puts the rows of several results side by side, so that what belongs to a row is adjacent.
pub(super) fn beside<F: Float>(rows: usize, parts: &[Vec<F>]) -> Vec<F> {
    let row = |part: &'_ Vec<F>, i: usize| {
        let width = part.len() / rows;
        part[i * width..(i + 1) * width].to_vec()
    };
    (0..rows).flat_map(|i| parts.iter().flat_map(move |part| row(part, i))).collect()
}
