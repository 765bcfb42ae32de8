//! Dense products.

use std::ops::Range;

use lowtide_backend::{Backend, OpShape};
use lowtide_tensor::{Float, Mat, MatMut, QUANTUM};

use super::case::{Case, Cx, check};
use super::tolerance;
use crate::close::assert_bits;
use crate::guarded::Guarded;

pub(super) fn check_family(be: &dyn Backend) {
    let shapes =
        [(1, 1, 1), (0, 5, 3), (4, 0, 3), (7, 9, 5), (130, 70, 8), (33, 8, 300), (8, 200, 130)];
    for (m, k, n) in shapes {
        for (alpha, beta) in [(1.0, 0.0), (1.0, 1.0), (0.3, 0.0), (-1.7, 0.6)] {
            for turned in [[false; 3], [true, false, false], [false, true, false], [true; 3]] {
                let case = Product { m, k, n, alpha, beta, turned };
                check(be, &case);
                check_columns(be, &case);
                check_quanta(be, &case);
            }
        }
    }
}

/// `alpha a [m, k] b [k, n] + beta c`; `turned` operands are transposed views.
#[derive(Clone, Copy)]
pub(super) struct Product {
    pub(super) m: usize,
    pub(super) k: usize,
    pub(super) n: usize,
    pub(super) alpha: f32,
    pub(super) beta: f32,
    pub(super) turned: [bool; 3],
}

impl Product {
    /// Multiplies some of everything. The contracted length is cut at `cuts`.
    fn product<F: Float>(
        &self,
        cx: &Cx<'_, F>,
        rows: Range<usize>,
        cols: Range<usize>,
        cuts: &[usize],
    ) -> Vec<F> {
        let Self { m, k, n, .. } = *self;
        let a = self.operand(cx, 0, m, k);
        let b = self.operand(cx, 1, k, n);
        let mut c = if self.beta == 0.0 {
            let (rows, cols) = if self.turned[2] { (n, m) } else { (m, n) };
            cx.out(rows, cols)
        } else {
            self.operand(cx, 2, m, n)
        };
        let a = self.turn(0, a.get()).rows_range(rows.clone());
        let b = self.turn(1, b.get()).cols_range(cols.clone());
        let mut beta = F::from_f32(self.beta);
        let edges = cuts.iter().copied().chain([k]);
        let mut from = 0;
        for to in edges {
            let (a, b) = (a.cols_range(from..to), b.rows_range(from..to));
            let c = turn_mut(self.turned[2], c.view());
            let c = c.rows_range(rows.clone()).cols_range(cols.clone());
            let shape = OpShape::Matmul { m: rows.len(), k: to - from, n: cols.len() };
            let mut scratch = cx.scratch(shape);
            cx.be.matmul(F::from_f32(self.alpha), a, b, beta, c, scratch.slice());
            scratch.take("scratch of matmul");
            (from, beta) = (to, F::ONE);
        }
        let part = turn_mut(self.turned[2], c.view()).rows_range(rows).cols_range(cols).into_ref();
        let values = (0..part.rows()).flat_map(|i| (0..part.cols()).map(move |j| part.get(i, j)));
        let values = values.collect();
        c.take("c of matmul");
        values
    }

    fn operand<F: Float>(
        &self,
        cx: &Cx<'_, F>,
        which: usize,
        rows: usize,
        cols: usize,
    ) -> Guarded<F> {
        let (rows, cols) = if self.turned[which] { (cols, rows) } else { (rows, cols) };
        cx.values(10 + which as u64, rows, cols, 1.0)
    }

    fn turn<'a, F: Float>(&self, which: usize, x: Mat<'a, F>) -> Mat<'a, F> {
        if self.turned[which] { x.t() } else { x }
    }
}

fn turn_mut<F: Float>(turned: bool, x: MatMut<'_, F>) -> MatMut<'_, F> {
    if turned { x.t() } else { x }
}

impl Case for Product {
    fn label(&self) -> String {
        let Self { m, k, n, alpha, beta, turned } = self;
        format!("matmul [{m}, {k}] [{k}, {n}], alpha {alpha}, beta {beta}, transposed {turned:?}")
    }

    fn rows(&self) -> usize {
        self.m
    }

    fn tolerance(&self) -> f64 {
        tolerance::sum(self.k)
    }

    fn run<F: Float>(&self, cx: &Cx<'_, F>, rows: Range<usize>) -> Vec<F> {
        self.product(cx, rows, 0..self.n, &[])
    }
}

/// Any cut of the columns gives the bits of the whole.
fn check_columns(be: &dyn Backend, case: &Product) {
    let cx = Cx::new(be);
    let whole = case.product(&cx, 0..case.m, 0..case.n, &[]);
    let cut = case.n / 3;
    for cols in [0..cut, cut..case.n] {
        let part = case.product(&cx, 0..case.m, cols.clone(), &[]);
        let want: Vec<f32> =
            whole.chunks(case.n).flat_map(|row| row[cols.clone()].to_vec()).collect();
        let what = format!("{}: {}: columns {cols:?}", be.name(), case.label());
        assert_bits(&what, &part, &want);
    }
}

/// A cut of the contracted length at a multiple of the quantum gives the bits of the whole.
fn check_quanta(be: &dyn Backend, case: &Product) {
    let cx = Cx::new(be);
    let whole = case.product(&cx, 0..case.m, 0..case.n, &[]);
    let all: Vec<usize> = (QUANTUM..case.k).step_by(QUANTUM).collect();
    let cuts = all.iter().map(|&cut| vec![cut]).chain([all.clone()]);
    for cuts in cuts {
        let got = case.product(&cx, 0..case.m, 0..case.n, &cuts);
        let what = format!("{}: {}: contraction cut at {cuts:?}", be.name(), case.label());
        assert_bits(&what, &got, &whole);
    }
}
