//! Products with packed matrices, and their rows.

use std::ops::Range;
use std::rc::Rc;

use lowtide_backend::{Backend, OpShape};
use lowtide_quant::{
    BlockFormat, Codes,
    formats::{ALL, F32, INT8, NF4, Q4_1},
};
use lowtide_tensor::Float;

use super::case::{Case, Cx, check};
use super::packed::Packed;
use super::tolerance;

pub(super) fn check_family(be: &dyn Backend) {
    for &format in ALL {
        let block = format.block_len();
        linears(be, format, 5, 33, 3 * block.max(8));
    }
    let with_codes: [&'static dyn Codes; 2] = [&NF4, &INT8];
    for format in with_codes {
        let (rows, outputs, inputs) = (5, 70, 3 * format.block_len());
        every(be, &Linear::new(format, rows, outputs, inputs).apart(format));
    }
    // No row, one row; one output; widths that no tile divides.
    for (rows, outputs, inputs) in [(0, 4, 32), (1, 70, 96), (3, 1, 64), (17, 130, 37), (66, 9, 1)]
    {
        linears(be, &F32, rows, outputs, inputs);
    }
    // Several tiles of everything.
    linears(be, &Q4_1, 130, 600, 352);
    linears(be, &Q4_1, 2, 352, 608);
}

fn linears(
    be: &dyn Backend,
    format: &'static dyn BlockFormat,
    rows: usize,
    outputs: usize,
    inputs: usize,
) {
    every(be, &Linear::new(format, rows, outputs, inputs));
}

fn every(be: &dyn Backend, linear: &Linear) {
    check(be, &Forward(linear.clone()));
    check(be, &Backward(linear.clone()));
    check(be, &Decode(linear.clone()));
    check(be, &Gather(linear.clone()));
}

/// `x [rows, inputs]` and packed `w [outputs, inputs]`.
#[derive(Clone)]
pub(super) struct Linear {
    format: &'static dyn BlockFormat,
    rows: usize,
    outputs: usize,
    inputs: usize,
    /// Packed once, because some formats search long for their codes.
    weights: Rc<Packed>,
}

impl Linear {
    pub(super) fn new(
        format: &'static dyn BlockFormat,
        rows: usize,
        outputs: usize,
        inputs: usize,
    ) -> Self {
        let weights = Rc::new(Packed::new(format, outputs, inputs, 1, 1.0));
        Self { format, rows, outputs, inputs, weights }
    }

    /// The same where the scales lie apart from the codes.
    fn apart(self, format: &'static dyn Codes) -> Self {
        let packed = Packed::new(self.format, self.outputs, self.inputs, 1, 1.0);
        Self { weights: Rc::new(packed.put_apart(format)), ..self }
    }

    fn label(&self, op: &str) -> String {
        let Self { format, rows, outputs, inputs, weights } = self;
        let apart = if weights.is_apart() { " with scales apart" } else { "" };
        format!("{op} of {rows} rows, {} [{outputs}, {inputs}]{apart}", format.name())
    }
}

pub(super) struct Forward(pub(super) Linear);

impl Case for Forward {
    fn label(&self) -> String {
        self.0.label("qmatmul")
    }

    fn rows(&self) -> usize {
        self.0.rows
    }

    fn tolerance(&self) -> f64 {
        tolerance::sum(self.0.inputs)
    }

    fn rounded(&self) -> f64 {
        self.0.format.integers().map_or(0.0, |_| tolerance::rounded_sum(self.0.inputs))
    }

    fn run<F: Float>(&self, cx: &Cx<'_, F>, rows: Range<usize>) -> Vec<F> {
        let Linear { outputs, inputs, .. } = self.0;
        let (w, x) = (&self.0.weights, cx.rows_of(2, &rows, inputs, 1.0));
        let mut y = cx.out(rows.len(), outputs);
        let shape =
            OpShape::Qmatmul { rows: rows.len(), out_features: outputs, in_features: inputs };
        let mut scratch = cx.scratch(shape);
        cx.be.qmatmul(x.get(), w.view(), y.view(), scratch.slice());
        scratch.take("scratch of qmatmul");
        y.take("y of qmatmul")
    }
}

pub(super) struct Backward(pub(super) Linear);

impl Case for Backward {
    fn label(&self) -> String {
        self.0.label("qmatmul_t")
    }

    fn rows(&self) -> usize {
        self.0.rows
    }

    fn tolerance(&self) -> f64 {
        tolerance::sum(self.0.outputs)
    }

    fn rounded(&self) -> f64 {
        self.0.format.integers().map_or(0.0, |_| tolerance::rounded_sum(self.0.outputs))
    }

    fn run<F: Float>(&self, cx: &Cx<'_, F>, rows: Range<usize>) -> Vec<F> {
        let Linear { outputs, inputs, .. } = self.0;
        let (w, dy) = (&self.0.weights, cx.rows_of(3, &rows, outputs, 1.0));
        let mut dx = cx.rows_of(4, &rows, inputs, 1.0);
        let shape =
            OpShape::QmatmulT { rows: rows.len(), out_features: outputs, in_features: inputs };
        let mut scratch = cx.scratch(shape);
        cx.be.qmatmul_t(dy.get(), w.view(), dx.view(), scratch.slice());
        scratch.take("scratch of qmatmul_t");
        dx.take("dx of qmatmul_t")
    }
}

struct Decode(Linear);

impl Case for Decode {
    fn label(&self) -> String {
        self.0.label("qdecode")
    }

    fn rows(&self) -> usize {
        let Linear { outputs, .. } = self.0;
        outputs
    }

    fn tolerance(&self) -> f64 {
        0.0
    }

    fn run<F: Float>(&self, cx: &Cx<'_, F>, rows: Range<usize>) -> Vec<F> {
        let mut out = cx.out(rows.len(), self.0.inputs);
        cx.be.qdecode(self.0.weights.view(), rows, out.view());
        out.take("out of qdecode")
    }
}

pub(super) struct Gather(pub(super) Linear);

impl Case for Gather {
    fn label(&self) -> String {
        self.0.label("qgather")
    }

    fn rows(&self) -> usize {
        self.0.rows
    }

    fn tolerance(&self) -> f64 {
        0.0
    }

    fn run<F: Float>(&self, cx: &Cx<'_, F>, rows: Range<usize>) -> Vec<F> {
        let ids: Vec<u32> = rows.clone().map(|t| (t * 7 % self.0.outputs) as u32).collect();
        let mut out = cx.out(rows.len(), self.0.inputs);
        cx.be.qgather(self.0.weights.view(), &ids, out.view());
        out.take("out of qgather")
    }
}
