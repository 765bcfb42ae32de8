//! Root-mean-square normalisation.

use std::ops::Range;

use lowtide_backend::Backend;
use lowtide_tensor::Float;

use super::case::{Case, Cx, beside, check};
use super::tolerance;

const EPS: f64 = 1e-5;

pub(super) fn check_family(be: &dyn Backend) {
    for (rows, cols) in [(0, 4), (1, 1), (3, 17), (70, 64), (40, 577)] {
        check(be, &Rmsnorm { rows, cols });
        check(be, &RmsnormVjp { rows, cols });
    }
}

pub(super) struct Rmsnorm {
    pub(super) rows: usize,
    pub(super) cols: usize,
}

impl Rmsnorm {
    /// `y` and `rstd`.
    fn forward<F: Float>(&self, cx: &Cx<'_, F>, rows: &Range<usize>) -> (Vec<F>, Vec<F>) {
        let (x, mut w) = (cx.rows_of(1, rows, self.cols, 1.0), cx.values(2, 1, self.cols, 1.0));
        let (mut y, mut rstd) = (cx.out(rows.len(), self.cols), cx.out(1, rows.len()));
        cx.be.rmsnorm(x.get(), w.slice(), F::from_f64(EPS), y.view(), rstd.slice());
        (y.take("y of rmsnorm"), rstd.take("rstd of rmsnorm"))
    }
}

impl Case for Rmsnorm {
    fn label(&self) -> String {
        format!("rmsnorm [{}, {}]", self.rows, self.cols)
    }

    fn rows(&self) -> usize {
        self.rows
    }

    /// All terms of the sum are positive, so it errs less than any.
    fn tolerance(&self) -> f64 {
        tolerance::sum(self.cols)
    }

    fn run<F: Float>(&self, cx: &Cx<'_, F>, rows: Range<usize>) -> Vec<F> {
        let (y, rstd) = self.forward(cx, &rows);
        beside(rows.len(), &[y, rstd])
    }
}

pub(super) struct RmsnormVjp {
    pub(super) rows: usize,
    pub(super) cols: usize,
}

impl Case for RmsnormVjp {
    fn label(&self) -> String {
        format!("rmsnorm_vjp [{}, {}]", self.rows, self.cols)
    }

    fn rows(&self) -> usize {
        self.rows
    }

    fn tolerance(&self) -> f64 {
        tolerance::sum(self.cols)
    }

    fn run<F: Float>(&self, cx: &Cx<'_, F>, rows: Range<usize>) -> Vec<F> {
        let cols = self.cols;
        let (_, rstd) = Rmsnorm { rows: self.rows, cols }.forward(cx, &rows);
        let (x, mut w) = (cx.rows_of(1, &rows, cols, 1.0), cx.values(2, 1, cols, 1.0));
        let dy = cx.rows_of(3, &rows, cols, 1.0);
        let mut dx = cx.rows_of(4, &rows, cols, 1.0);
        cx.be.rmsnorm_vjp(x.get(), w.slice(), &rstd, dy.get(), dx.view());
        dx.take("dx of rmsnorm_vjp")
    }
}
