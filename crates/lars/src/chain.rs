//! From a pooled vector to a bias, and back: everything in the space of the rank.

use lowtide_adapter::{Phase, Rows};
use lowtide_backend::{Activation, Backend, DropoutKey, OpShape, Req};
use lowtide_tensor::{Float, Mat, MatMut};

use crate::slab::{Grads, Weights, Widths, next};

/// Keeps the norm away from a division by zero, as in PyTorch.
const EPS: f64 = 1e-5;

/// The dropout of a call.
#[derive(Clone, Copy)]
pub(crate) struct Drop {
    p: f64,
    key: DropoutKey,
}

impl Drop {
    /// The dropout of these rows, if there is any.
    pub(crate) fn of(p: f64, rows: &Rows<'_>) -> Option<Self> {
        (p > 0.0 && rows.phase == Phase::Train).then_some(Self { p, key: rows.key })
    }
}

/// The values of one pooled vector on the way to its bias. All have `r` elements unless said
/// otherwise.
pub(crate) struct Chain<'s, F> {
    /// `h`, centred and of unit variance.
    unit: &'s mut [F],
    rstd: F,
    n: &'s mut [F],
    /// `p Wxᵀ` and `n Whᵀ`.
    gate_in: [&'s mut [F]; 2],
    gate: &'s mut [F],
    h1: &'s mut [F],
    h2: &'s mut [F],
    h3: &'s mut [F],
    /// `U1 h2 + c1` `[4r]`.
    inner: &'s mut [F],
    /// Its GELU `[4r]`.
    act: &'s mut [F],
    /// Room `[4r]`.
    wide: [&'s mut [F]; 2],
    /// Room.
    grads: [&'s mut [F]; 4],
}

/// A vector as a row.
fn row<F: Float>(v: &[F]) -> Mat<'_, F> {
    Mat::new(v, 1, v.len())
}

/// A vector as a row, to write.
fn row_mut<F: Float>(v: &mut [F]) -> MatMut<'_, F> {
    let len = v.len();
    MatMut::new(v, 1, len)
}

fn dot<F: Float>(a: &[F], b: &[F]) -> F {
    let mut sum = F::ZERO;
    a.iter().zip(b).for_each(|(&a, &b)| sum += a * b);
    sum
}

fn add<F: Float>(values: &[F], sums: &mut [F]) {
    sums.iter_mut().zip(values).for_each(|(sum, &value)| *sum += value);
}

impl<'s, F: Float> Chain<'s, F> {
    /// Elements that a chain takes of the scratch.
    pub(crate) fn len(rank: usize) -> usize {
        12 * rank + 16 * rank
    }

    /// What the products need.
    pub(crate) fn req(be: &dyn Backend<F>, widths: Widths) -> Req {
        let Widths { inputs: i, outputs: o, rank: r } = widths;
        let shapes = [(i, r), (o, r), (4 * r, r), (r, r)];
        shapes.into_iter().fold(Req::default(), |req, (wide, narrow)| {
            let matmul = |m, k, n| be.req(OpShape::Matmul { m, k, n });
            req.max(matmul(1, wide, narrow))
                .max(matmul(1, narrow, wide))
                .max(matmul(wide, 1, narrow))
                .max(matmul(narrow, 1, wide))
        })
    }

    /// A chain in the front of the scratch.
    pub(crate) fn cut(rank: usize, scratch: &mut &'s mut [F]) -> Self {
        let mut narrow = || next(scratch, rank);
        let (unit, n, gate) = (narrow(), narrow(), narrow());
        let gate_in = [narrow(), narrow()];
        let (h1, h2, h3) = (narrow(), narrow(), narrow());
        let grads = [narrow(), narrow(), narrow(), narrow()];
        let mut wide = || next(scratch, 4 * rank);
        let (inner, act, wide) = (wide(), wide(), [wide(), wide()]);
        Self { unit, rstd: F::ZERO, n, gate_in, gate, h1, h2, h3, inner, act, wide, grads }
    }

    /// Everything up to `h3`, of the pooled vector `p [I]`, whose bias is for rows from `at` on.
    pub(crate) fn forward(
        &mut self,
        be: &dyn Backend<F>,
        w: &Weights<'_, F>,
        p: &[F],
        drop: Option<Drop>,
        at: usize,
        rest: &mut [F],
    ) {
        be.matmul(F::ONE, row(p), w.a.t(), F::ZERO, row_mut(self.unit), rest);
        self.norm(w);
        let [px, nh] = &mut self.gate_in;
        be.matmul(F::ONE, row(p), w.wx.t(), F::ZERO, row_mut(px), rest);
        be.matmul(F::ONE, row(self.n), w.wh.t(), F::ZERO, row_mut(nh), rest);
        for (gate, (&px, &nh)) in self.gate.iter_mut().zip(px.iter().zip(nh.iter())) {
            *gate = F::ONE / (F::ONE + (-(w.tau1 * px + w.tau2 * nh)).exp());
        }
        self.h1.copy_from_slice(self.n);
        be.matmul(F::ONE, row(self.gate), w.m, F::ONE, row_mut(self.h1), rest);
        dropped(be, drop, at, self.h1, self.h2);

        self.inner.copy_from_slice(w.c1);
        be.matmul(F::ONE, row(self.h2), w.u1.t(), F::ONE, row_mut(self.inner), rest);
        let [ones, _] = &mut self.wide;
        ones.fill(F::ONE);
        be.glu(Activation::GeluTanh, row(self.inner), row(ones), row_mut(self.act));
        self.h3.copy_from_slice(w.c2);
        add(self.h2, self.h3);
        be.matmul(F::ONE, row(self.act), w.u2.t(), F::ONE, row_mut(self.h3), rest);
    }

    /// The bias `α h3 Bᵀ [O]`, after [`forward`](Self::forward).
    pub(crate) fn bias(
        &self,
        be: &dyn Backend<F>,
        w: &Weights<'_, F>,
        bias: &mut [F],
        rest: &mut [F],
    ) {
        be.matmul(w.alpha, row(self.h3), w.b.t(), F::ZERO, row_mut(bias), rest);
    }

    /// Adds the gradients of the parameters, given that of the bias, `g [O]`, and writes that of
    /// the pooled vector to `dp [I]`; after [`forward`](Self::forward) with the same operands.
    pub(crate) fn backward(
        &mut self,
        be: &dyn Backend<F>,
        w: &Weights<'_, F>,
        (p, g): (&[F], &[F]),
        drop: Option<Drop>,
        at: usize,
        grads: &mut Grads<'_, F>,
        dp: &mut [F],
        rest: &mut [F],
    ) {
        let outer = |scale, a: &[F], b: &[F], sum: MatMut<'_, F>, rest: &mut [F]| {
            be.matmul(scale, row(a).t(), row(b), F::ONE, sum, rest);
        };
        let [dh3, dh2, dh1, dn] = &mut self.grads;
        be.matmul(F::ONE, row(g), w.b, F::ZERO, row_mut(dh3), rest);
        *grads.alpha += dot(dh3, self.h3);
        dh3.iter_mut().for_each(|d| *d *= w.alpha);
        outer(w.alpha, g, self.h3, grads.b.rb(), rest);

        let [ones, d_act] = &mut self.wide;
        be.matmul(F::ONE, row(dh3), w.u2, F::ZERO, row_mut(d_act), rest);
        outer(F::ONE, dh3, self.act, grads.u2.rb(), rest);
        add(dh3, grads.c2);
        ones.fill(F::ONE);
        be.glu_vjp(Activation::GeluTanh, row(d_act), row_mut(self.inner), row_mut(ones));
        let d_inner = &*self.inner;
        outer(F::ONE, d_inner, self.h2, grads.u1.rb(), rest);
        add(d_inner, grads.c1);
        dh2.copy_from_slice(dh3);
        be.matmul(F::ONE, row(d_inner), w.u1, F::ONE, row_mut(dh2), rest);
        dropped(be, drop, at, dh2, dh1);

        outer(F::ONE, self.gate, dh1, grads.m.rb(), rest);
        dn.copy_from_slice(dh1);
        // What enters the sigmoid.
        let e = dh3;
        be.matmul(F::ONE, row(dh1), w.m.t(), F::ZERO, row_mut(e), rest);
        for (e, &gate) in e.iter_mut().zip(self.gate.iter()) {
            *e *= gate * (F::ONE - gate);
        }
        let [px, nh] = &self.gate_in;
        *grads.tau1 += dot(e, px);
        *grads.tau2 += dot(e, nh);
        outer(w.tau1, e, p, grads.wx.rb(), rest);
        outer(w.tau2, e, self.n, grads.wh.rb(), rest);
        be.matmul(w.tau2, row(e), w.wh, F::ONE, row_mut(dn), rest);
        be.matmul(w.tau1, row(e), w.wx, F::ZERO, row_mut(dp), rest);

        add(dn, grads.shift);
        let products = grads.norm.iter_mut().zip(dn.iter().zip(self.unit.iter()));
        products.for_each(|(sum, (&dn, &unit))| *sum += dn * unit);
        dn.iter_mut().zip(w.norm).for_each(|(dn, &norm)| *dn *= norm);
        let dh = dn;
        norm_vjp(self.unit, self.rstd, dh);
        outer(F::ONE, dh, p, grads.a.rb(), rest);
        be.matmul(F::ONE, row(dh), w.a, F::ONE, row_mut(dp), rest);
    }

    /// Centres and scales `unit`, which holds `h`, and fills `n`.
    fn norm(&mut self, w: &Weights<'_, F>) {
        let count = F::from_f64(self.unit.len() as f64);
        let mut sum = F::ZERO;
        self.unit.iter().for_each(|&h| sum += h);
        let mean = sum / count;
        self.unit.iter_mut().for_each(|h| *h -= mean);
        let variance = dot(self.unit, self.unit) / count;
        self.rstd = F::ONE / (variance + F::from_f64(EPS)).sqrt();
        for (c, unit) in self.unit.iter_mut().enumerate() {
            *unit *= self.rstd;
            self.n[c] = *unit * w.norm[c] + w.shift[c];
        }
    }
}

/// `d`, the gradient of the unit values, becomes that of what was centred and scaled.
fn norm_vjp<F: Float>(unit: &[F], rstd: F, d: &mut [F]) {
    let count = F::from_f64(unit.len() as f64);
    let mut sum = F::ZERO;
    d.iter().for_each(|&d| sum += d);
    let (mean, along) = (sum / count, dot(d, unit) / count);
    for (d, &unit) in d.iter_mut().zip(unit) {
        *d = rstd * (*d - mean - unit * along);
    }
}

/// A vector, or what dropout leaves of it.
fn dropped<F: Float>(be: &dyn Backend<F>, drop: Option<Drop>, at: usize, from: &[F], to: &mut [F]) {
    match drop {
        Some(Drop { p, key }) => be.dropout(row(from), p, key, at, row_mut(to)),
        None => to.copy_from_slice(from),
    }
}
