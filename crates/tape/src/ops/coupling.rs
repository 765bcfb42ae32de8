//! A reversible bottleneck adapter on the residual stream.

use alloc::vec::Vec;

use lowtide_backend::{Activation, Backend, OpShape, Req};
use lowtide_tensor::{Float, Mat, MatMut, QUANTUM, quanta};

use super::given;
use crate::{Cx, Facts, Forward, GradRule, Limits, MAX_INPUTS, Op, Vjp};

/// Two gated bottlenecks that couple the halves of the residual stream, `x = [a, b]`:
///
/// ```text
/// a' = a + f(b)      f(z) = (act(z Gᵀ) ⊙ z Vᵀ) Uᵀ
/// b' = b + g(a')     g of the same form, with parameters of its own
/// ```
///
/// `G`, `V [rank, D / 2]` and `U [D / 2, rank]` of `f`, then those of `g`. With `U` zero it changes
/// nothing, which is how to start it. Its inverse is `b = b' - g(a')`, `a = a' - f(b)`: additive
/// coupling, as in reversible residual networks (Gomez et al. 2017). What comes back differs from
/// the input by rounding alone. With a rank of at most 64, a product is added in one step: `b` is
/// off by at most a unit in the last place of the larger of `b`, `b'` and the product, `a` by as
/// much and what `f` makes of the error in `b`. A larger rank adds in steps of 64, each of which
/// rounds.
///
/// As a segment of its own it takes no checkpoint: see
/// [`Segment::is_reversible`](crate::Segment::is_reversible).
#[derive(Clone, Copy, Debug)]
pub struct Coupling {
    /// Columns of a half.
    half: usize,
    /// Inner width.
    rank: usize,
    act: Activation,
}

/// The parameters of one bottleneck, or their gradients as [`MatMut`]s.
struct Factors<M> {
    gate: M,
    up: M,
    down: M,
}

impl Coupling {
    /// A coupling of a stream of `hidden` columns.
    ///
    /// # Panics
    /// When `hidden` is odd or one of the two is zero.
    #[must_use]
    pub fn new(hidden: usize, rank: usize, act: Activation) -> Self {
        assert!(hidden > 0 && hidden.is_multiple_of(2), "a coupling of {hidden} columns");
        assert!(rank > 0, "a coupling of rank 0");
        Self { half: hidden / 2, rank, act }
    }

    /// Parameters of one bottleneck.
    fn each(&self) -> usize {
        3 * self.rank * self.half
    }

    fn factors<'p, F: Float>(&self, p: &'p [F]) -> [Factors<Mat<'p, F>>; 2] {
        let (f, g) = p.split_at(self.each());
        [f, g].map(|p| {
            let (gate, rest) = p.split_at(self.rank * self.half);
            let (up, down) = rest.split_at(self.rank * self.half);
            let wide = |m| Mat::new(m, self.rank, self.half);
            Factors { gate: wide(gate), up: wide(up), down: Mat::new(down, self.half, self.rank) }
        })
    }

    fn gradients<'p, F: Float>(&self, grad: &'p mut [F]) -> [Factors<MatMut<'p, F>>; 2] {
        let (f, g) = grad.split_at_mut(self.each());
        [f, g].map(|grad| {
            let (gate, rest) = grad.split_at_mut(self.rank * self.half);
            let (up, down) = rest.split_at_mut(self.rank * self.half);
            let (rank, half) = (self.rank, self.half);
            Factors {
                gate: MatMut::new(gate, rank, half),
                up: MatMut::new(up, rank, half),
                down: MatMut::new(down, half, rank),
            }
        })
    }

    /// `to += alpha f(from)`, a quantum of rows at a time; `room` holds two `[rows, rank]`.
    fn add<F: Float>(
        &self,
        be: &dyn Backend<F>,
        alpha: F,
        of: &Factors<Mat<'_, F>>,
        from: Mat<'_, F>,
        to: MatMut<'_, F>,
        scratch: &mut [F],
    ) {
        let (room, scratch) = scratch.split_at_mut(2 * from.rows() * self.rank);
        let [mut gate, mut up] = cut(room, from.rows(), self.rank);
        be.matmul(F::ONE, from, of.gate.t(), F::ZERO, gate.rb(), scratch);
        be.matmul(F::ONE, from, of.up.t(), F::ZERO, up.rb(), scratch);
        be.glu_in_place(self.act, gate.rb(), up.as_ref());
        be.matmul(alpha, gate.as_ref(), of.down.t(), F::ONE, to, scratch);
    }

    /// Backward of `z + f(from)` but for what it passes on: adds to the parameters' gradients and,
    /// `f`'s Jacobian applied to `dy`, to `dfrom`. `inner` holds gate, up and their product.
    fn add_vjp<F: Float>(
        &self,
        be: &dyn Backend<F>,
        of: &Factors<Mat<'_, F>>,
        grad: &mut Factors<MatMut<'_, F>>,
        from: Mat<'_, F>,
        dy: Mat<'_, F>,
        [mut gate, mut up, mut product]: [MatMut<'_, F>; 3],
        dfrom: Option<MatMut<'_, F>>,
        scratch: &mut [F],
    ) {
        be.matmul(F::ONE, dy.t(), product.as_ref(), F::ONE, grad.down.rb(), scratch);
        be.matmul(F::ONE, dy, of.down, F::ZERO, product.rb(), scratch);
        be.glu_vjp(self.act, product.as_ref(), gate.rb(), up.rb());
        be.matmul(F::ONE, gate.as_ref().t(), from, F::ONE, grad.gate.rb(), scratch);
        be.matmul(F::ONE, up.as_ref().t(), from, F::ONE, grad.up.rb(), scratch);
        if let Some(mut dfrom) = dfrom {
            be.matmul(F::ONE, gate.as_ref(), of.gate, F::ONE, dfrom.rb(), scratch);
            be.matmul(F::ONE, up.as_ref(), of.up, F::ONE, dfrom, scratch);
        }
    }
}

/// `[rows, cols]` several times from the front of `room`.
fn cut<F: Float, const N: usize>(room: &mut [F], rows: usize, cols: usize) -> [MatMut<'_, F>; N] {
    let mut parts = room.chunks_exact_mut((rows * cols).max(1));
    core::array::from_fn(|_| {
        let part = parts.next().unwrap_or(&mut []);
        MatMut::new(&mut part[..rows * cols], rows, cols)
    })
}

impl<F: Float> Op<F> for Coupling {
    fn name(&self) -> &'static str {
        "coupling"
    }

    fn out_cols(&self, in_cols: &[usize]) -> Vec<usize> {
        assert!(in_cols == [2 * self.half], "a coupling of widths {in_cols:?}");
        in_cols.to_vec()
    }

    fn facts(&self) -> Facts {
        Facts {
            reads_inputs: 0b1,
            reads_outputs: 0,
            in_place: 0b1,
            history: 0,
            grads: [GradRule::Accumulate; MAX_INPUTS],
        }
    }

    fn params(&self) -> usize {
        2 * self.each()
    }

    fn req(&self, be: &dyn Backend<F>, rows: usize, _limits: Limits) -> Req {
        let (n, r, h) = (rows.min(QUANTUM), self.rank, self.half);
        let matmul = |m, k, n| be.req(OpShape::Matmul { m, k, n });
        let shapes = [(n, h, r), (n, r, h), (h, n, r), (r, n, h)];
        let inside = shapes.into_iter().map(|(m, k, n)| matmul(m, k, n));
        let inside = inside.reduce(Req::max).unwrap_or_default();
        inside.plus(n * (2 * h + 6 * r))
    }

    fn forward(&self, cx: &Cx<'_, F>, operands: Forward<'_, F>) {
        let [x, ..] = operands.x;
        let [y, ..] = operands.y;
        let mut y = given(y, "the coupling's output");
        if let Some(x) = x {
            y.copy_from(x);
        }
        let [f, g] = self.factors(operands.p);
        for range in quanta(0..y.rows()) {
            let (mut a, mut b) = y.rb().rows_range(range).split_cols(self.half);
            self.add(cx.be, F::ONE, &f, b.as_ref(), a.rb(), operands.scratch);
            self.add(cx.be, F::ONE, &g, a.as_ref(), b.rb(), operands.scratch);
        }
    }

    fn is_reversible(&self) -> bool {
        true
    }

    fn inverse(&self, cx: &Cx<'_, F>, mut y: MatMut<'_, F>, p: &[F], scratch: &mut [F]) {
        let [f, g] = self.factors(p);
        for range in quanta(0..y.rows()) {
            let (mut a, mut b) = y.rb().rows_range(range).split_cols(self.half);
            self.add(cx.be, -F::ONE, &g, a.as_ref(), b.rb(), scratch);
            self.add(cx.be, -F::ONE, &f, b.as_ref(), a.rb(), scratch);
        }
    }

    fn vjp(&self, cx: &Cx<'_, F>, operands: Vjp<'_, F>) {
        let Vjp { x: [x, ..], dx: [mut dx, ..], p, grad, scratch, .. } = operands;
        let x = given(x, "the coupling's input");
        let dy = given(operands.dy, "the coupling's gradient");
        let ([f, g], [mut df, mut dg]) = (self.factors(p), self.gradients(grad));
        for range in quanta(0..x.rows()) {
            let (n, h) = (range.len(), self.half);
            let (wide, rest) = scratch.split_at_mut(2 * n * h);
            let [mut y, mut da] = cut(wide, n, h);
            let (narrow, rest) = rest.split_at_mut(6 * n * self.rank);
            let [mut gate, mut up, mut product, mut gate2, mut up2, mut product2] =
                cut(narrow, n, self.rank);
            let (x, dy) = (x.rows_range(range.clone()), dy.rows_range(range.clone()));
            let (a, b) = (x.cols_range(0..h), x.cols_range(h..2 * h));
            let inner = |of: &Factors<Mat<'_, F>>,
                         from: Mat<'_, F>,
                         [gate, up, product]: [&mut MatMut<'_, F>; 3],
                         rest: &mut [F]| {
                cx.be.matmul(F::ONE, from, of.gate.t(), F::ZERO, gate.rb(), rest);
                cx.be.matmul(F::ONE, from, of.up.t(), F::ZERO, up.rb(), rest);
                cx.be.glu(self.act, gate.as_ref(), up.as_ref(), product.rb());
            };
            inner(&f, b, [&mut gate, &mut up, &mut product], rest);
            y.copy_from(a);
            cx.be.matmul(F::ONE, product.as_ref(), f.down.t(), F::ONE, y.rb(), rest);
            inner(&g, y.as_ref(), [&mut gate2, &mut up2, &mut product2], rest);

            let db = dy.cols_range(h..2 * h);
            da.copy_from(dy.cols_range(0..h));
            let inner = [gate2, up2, product2];
            self.add_vjp(cx.be, &g, &mut dg, y.as_ref(), db, inner, Some(da.rb()), rest);
            let (mut dxa, mut dxb) = match &mut dx {
                Some(dx) => {
                    let (a, b) = dx.rb().rows_range(range).split_cols(h);
                    (Some(a), Some(b))
                }
                None => (None, None),
            };
            let inner = [gate, up, product];
            let into = dxb.as_mut().map(MatMut::rb);
            self.add_vjp(cx.be, &f, &mut df, b, da.as_ref(), inner, into, rest);
            if let (Some(dxa), Some(dxb)) = (&mut dxa, &mut dxb) {
                cx.be.axpby(F::ONE, da.as_ref(), F::ONE, dxa.rb());
                cx.be.axpby(F::ONE, db, F::ONE, dxb.rb());
            }
        }
    }
}
