//! Gated activations.

use std::ops::Range;

use lowtide_backend::{Activation, Backend};
use lowtide_tensor::{Float, Mat, MatMut};

use super::case::{Case, Cx, beside, check};
use super::tolerance;
use crate::close::assert_bits;

pub(super) fn check_family(be: &dyn Backend) {
    for act in [Activation::Silu, Activation::GeluTanh] {
        check_limits(be, act);
        for (rows, cols) in [(0, 4), (1, 1), (3, 17), (40, 50), (130, 160)] {
            for bound in [2.0, 40.0] {
                let gate = Gate { act, rows, cols, bound };
                check(be, &Glu(gate));
                check(be, &GluInPlace(gate));
                check(be, &GluVjp(gate));
                let cx = Cx::new(be);
                let (apart, inside) =
                    (Glu(gate).run(&cx, 0..rows), GluInPlace(gate).run(&cx, 0..rows));
                let what = format!("{}: {}: as apart", be.name(), GluInPlace(gate).label());
                assert_bits(&what, &inside, &apart);
            }
        }
    }
}

/// Gates far out, and what an activation and its slope are there: no product of zero and infinity.
fn check_limits(be: &dyn Backend, act: Activation) {
    const INF: f32 = f32::INFINITY;
    const GATES: [f32; 8] = [-INF, f32::MIN, -1e25, -1e4, 1e4, 1e25, f32::MAX, INF];
    let slopes = GATES.map(|gate| if gate < 0.0 { 0.0 } else { 1.0 });
    let values = GATES.map(|gate| gate.max(0.0));
    // Fills registers, and leaves a rest that is done element by element.
    let times = 5;
    let cols = times * GATES.len();
    let ones = vec![1.0; cols];
    let (mut gate, mut up, mut y) = (GATES.repeat(times), ones.clone(), vec![f32::NAN; cols]);
    be.glu(act, Mat::new(&gate, 1, cols), Mat::new(&ones, 1, cols), MatMut::new(&mut y, 1, cols));
    let dy = Mat::new(&ones, 1, cols);
    be.glu_vjp(act, dy, MatMut::new(&mut gate, 1, cols), MatMut::new(&mut up, 1, cols));
    let name = be.name();
    assert_eq!(y, values.repeat(times), "{name}: {act:?} of {GATES:?}");
    assert_eq!(up, values.repeat(times), "{name}: {act:?} of {GATES:?} in glu_vjp");
    assert_eq!(gate, slopes.repeat(times), "{name}: slope of {act:?} at {GATES:?}");
}

/// Gates uniform in `±bound`: a large one reaches where activations saturate.
#[derive(Clone, Copy)]
pub(super) struct Gate {
    pub(super) act: Activation,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) bound: f32,
}

impl Gate {
    fn label(&self, op: &str) -> String {
        let Self { act, rows, cols, bound } = self;
        format!("{op} {act:?} [{rows}, {cols}], gates to {bound}")
    }
}

struct Glu(Gate);

impl Case for Glu {
    fn label(&self) -> String {
        self.0.label("glu")
    }

    fn rows(&self) -> usize {
        self.0.rows
    }

    fn tolerance(&self) -> f64 {
        tolerance::FUNCTION
    }

    fn run<F: Float>(&self, cx: &Cx<'_, F>, rows: Range<usize>) -> Vec<F> {
        let Gate { act, cols, bound, .. } = self.0;
        let (gate, up) = (cx.rows_of(1, &rows, cols, bound), cx.rows_of(2, &rows, cols, 1.0));
        let mut y = cx.out(rows.len(), cols);
        cx.be.glu(act, gate.get(), up.get(), y.view());
        y.take("y of glu")
    }
}

pub(super) struct GluInPlace(pub(super) Gate);

impl Case for GluInPlace {
    fn label(&self) -> String {
        self.0.label("glu_in_place")
    }

    fn rows(&self) -> usize {
        self.0.rows
    }

    fn tolerance(&self) -> f64 {
        tolerance::FUNCTION
    }

    fn run<F: Float>(&self, cx: &Cx<'_, F>, rows: Range<usize>) -> Vec<F> {
        let Gate { act, cols, bound, .. } = self.0;
        let (mut gate, up) = (cx.rows_of(1, &rows, cols, bound), cx.rows_of(2, &rows, cols, 1.0));
        cx.be.glu_in_place(act, gate.view(), up.get());
        gate.take("gate of glu_in_place")
    }
}

pub(super) struct GluVjp(pub(super) Gate);

impl Case for GluVjp {
    fn label(&self) -> String {
        self.0.label("glu_vjp")
    }

    fn rows(&self) -> usize {
        self.0.rows
    }

    /// A slope multiplies a gate by what its sigmoid lacks to one, which cancels.
    fn tolerance(&self) -> f64 {
        tolerance::FUNCTION * f64::from(self.0.bound)
    }

    fn run<F: Float>(&self, cx: &Cx<'_, F>, rows: Range<usize>) -> Vec<F> {
        let Gate { act, cols, bound, .. } = self.0;
        let dy = cx.rows_of(3, &rows, cols, 1.0);
        let mut gate = cx.rows_of(1, &rows, cols, bound);
        let mut up = cx.rows_of(2, &rows, cols, 1.0);
        cx.be.glu_vjp(act, dy.get(), gate.view(), up.view());
        beside(rows.len(), &[gate.take("gate of glu_vjp"), up.take("up of glu_vjp")])
    }
}
