//! Residuals, biases, column sums, dropout, statistics.

use std::ops::Range;

use lowtide_backend::{Backend, DropoutKey, Scalar};
use lowtide_tensor::{Float, QUANTUM};

use super::case::{Case, Cx, check};
use super::tolerance;
use crate::close::assert_bits;
use crate::draw::Draw;

pub(super) fn check_family(be: &dyn Backend) {
    for (rows, cols) in [(0, 3), (1, 1), (5, 7), (70, 33), (131, 200)] {
        for (alpha, beta) in [(1.0, 0.0), (1.0, 1.0), (0.7, 0.0), (-0.4, 1.3)] {
            check(be, &Axpby { rows, cols, alpha, beta });
        }
        check(be, &AddBias { rows, cols });
        for p in [0.0, 0.1, 0.5] {
            check(be, &Dropout { rows, cols, p });
        }
        let sums = SumRows { rows, cols };
        check(be, &sums);
        check_quanta(be, &sums);
    }
    check_streams(be);
    check_stats(be);
}

pub(super) struct Axpby {
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) alpha: f32,
    pub(super) beta: f32,
}

impl Case for Axpby {
    fn label(&self) -> String {
        let Self { rows, cols, alpha, beta } = self;
        format!("axpby [{rows}, {cols}], alpha {alpha}, beta {beta}")
    }

    fn rows(&self) -> usize {
        self.rows
    }

    fn tolerance(&self) -> f64 {
        tolerance::ELEMENT
    }

    fn run<F: Float>(&self, cx: &Cx<'_, F>, rows: Range<usize>) -> Vec<F> {
        let x = cx.rows_of(1, &rows, self.cols, 1.0);
        let mut y = if self.beta == 0.0 {
            cx.out(rows.len(), self.cols)
        } else {
            cx.rows_of(2, &rows, self.cols, 1.0)
        };
        cx.be.axpby(F::from_f32(self.alpha), x.get(), F::from_f32(self.beta), y.view());
        y.take("y of axpby")
    }
}

struct AddBias {
    rows: usize,
    cols: usize,
}

impl Case for AddBias {
    fn label(&self) -> String {
        format!("add_bias [{}, {}]", self.rows, self.cols)
    }

    fn rows(&self) -> usize {
        self.rows
    }

    fn tolerance(&self) -> f64 {
        tolerance::ELEMENT
    }

    fn run<F: Float>(&self, cx: &Cx<'_, F>, rows: Range<usize>) -> Vec<F> {
        let mut bias = cx.values(1, 1, self.cols, 1.0);
        let mut y = cx.rows_of(2, &rows, self.cols, 1.0);
        cx.be.add_bias(bias.slice(), y.view());
        y.take("y of add_bias")
    }
}

struct SumRows {
    rows: usize,
    cols: usize,
}

impl SumRows {
    /// Sums rows in several calls.
    fn sum<F: Float>(&self, cx: &Cx<'_, F>, cuts: &[usize]) -> Vec<F> {
        let x = cx.values(1, self.rows, self.cols, 1.0);
        let mut dsum = cx.values(2, 1, self.cols, 1.0);
        let mut from = 0;
        for to in cuts.iter().copied().chain([self.rows]) {
            cx.be.sum_rows(x.get().rows_range(from..to), dsum.slice());
            from = to;
        }
        dsum.take("dsum of sum_rows")
    }
}

impl Case for SumRows {
    fn label(&self) -> String {
        format!("sum_rows [{}, {}]", self.rows, self.cols)
    }

    fn rows(&self) -> usize {
        0
    }

    fn tolerance(&self) -> f64 {
        tolerance::sum(self.rows)
    }

    fn run<F: Float>(&self, cx: &Cx<'_, F>, _: Range<usize>) -> Vec<F> {
        self.sum(cx, &[])
    }
}

fn check_quanta(be: &dyn Backend, case: &SumRows) {
    let whole = case.sum(&Cx::new(be), &[]);
    let cuts: Vec<usize> = (QUANTUM..case.rows).step_by(QUANTUM).collect();
    let got = case.sum(&Cx::new(be), &cuts);
    let what = format!("{}: {}: rows cut at {cuts:?}", be.name(), case.label());
    assert_bits(&what, &got, &whole);
}

const KEY: DropoutKey = DropoutKey { seed: 7, step: 3, site: 11 };

struct Dropout {
    rows: usize,
    cols: usize,
    p: f64,
}

impl Case for Dropout {
    fn label(&self) -> String {
        format!("dropout [{}, {}], p {}", self.rows, self.cols, self.p)
    }

    fn rows(&self) -> usize {
        self.rows
    }

    fn tolerance(&self) -> f64 {
        tolerance::ELEMENT
    }

    fn run<F: Float>(&self, cx: &Cx<'_, F>, rows: Range<usize>) -> Vec<F> {
        // Away from zero, so that a wrong mask is far from the tolerance.
        let mut x = cx.rows_of(1, &rows, self.cols, 0.5);
        for i in 0..rows.len() {
            x.view().row_mut(i).iter_mut().for_each(|x| *x += F::ONE);
        }
        let mut y = cx.out(rows.len(), self.cols);
        cx.be.dropout(x.get(), self.p, KEY, 100 + rows.start, y.view());
        y.take("y of dropout")
    }
}

/// Another key, another mask; about as many elements survive as should.
fn check_streams(be: &dyn Backend) {
    let (rows, cols) = (64, 64);
    let cx = Cx::new(be);
    let mask = |key: DropoutKey| {
        let x = cx.out(rows, cols).with(&vec![1.0; rows * cols]);
        let mut y = cx.out(rows, cols);
        be.dropout(x.get(), 0.25, key, 0, y.view());
        y.take("y of dropout")
    };
    let first = mask(KEY);
    let kept = first.iter().filter(|&&y| y != 0.0).count();
    let what = format!("{}: dropout, p 0.25", be.name());
    assert!((2900..3250).contains(&kept), "{what}: {kept} of 4096 elements survive");
    let others = [
        DropoutKey { seed: 8, ..KEY },
        DropoutKey { step: 4, ..KEY },
        DropoutKey { site: 12, ..KEY },
    ];
    for key in others {
        assert!(mask(key) != first, "{what}: {key:?} draws the mask of {KEY:?}");
    }
}

fn check_stats(be: &dyn Backend) {
    let mut x: Vec<f32> = Draw::new(5).vec(1003, 3.0);
    for slices in [&x[..0], &x[..1], &x[..]] {
        compare_stats(be, slices);
    }
    (x[3], x[500], x[1002]) = (f32::NAN, f32::INFINITY, f32::NEG_INFINITY);
    compare_stats(be, &x);
}

fn compare_stats(be: &dyn Backend, x: &[f32]) {
    let (got, want) = (be.stats(x), Backend::<f32>::stats(&Scalar, x));
    let what = format!("{}: stats of {} elements", be.name(), x.len());
    assert!(
        (got.sum_squares - want.sum_squares).abs() <= 1e-12 * want.sum_squares,
        "{what}: {got:?}, expected {want:?}"
    );
    assert!(
        (got.max_abs, got.non_finite) == (want.max_abs, want.non_finite),
        "{what}: {got:?}, expected {want:?}"
    );
}
