//! A decorator that words broken contracts.

use core::ops::Range;

use lowtide_quant::QMat;
use lowtide_tensor::{Float, Mat, MatMut};

use crate::Backend;
use crate::contract::{self, Op};
use crate::shapes::{
    Activation, AdamHyper, AttentionShape, Caps, Direction, DropoutKey, LionHyper, Moments8,
    Momentum8, OpShape, Pairing, Req, SgdHyper, Span, Stats,
};

/// Verifies every [contract](contract) before it delegates, and lends the backend inside exactly
/// the scratch that its [`req`](Backend::req) asked for, filled with NaN.
///
/// So a caller that breaks a shape, a caller that lends too little, a backend that takes more than
/// it declared and a backend that reads scratch it did not write all show at the first call.
#[derive(Clone, Copy, Debug, Default)]
pub struct Checked<B> {
    inner: B,
}

impl<B> Checked<B> {
    /// Wraps a backend.
    pub const fn new(inner: B) -> Self {
        Self { inner }
    }

    /// The backend inside.
    pub fn inner(&self) -> &B {
        &self.inner
    }

    /// The declared part of the lent scratch.
    fn lend<'s, F: Float>(
        &self,
        name: &'static str,
        op: OpShape,
        scratch: &'s mut [F],
    ) -> &'s mut [F]
    where
        B: Backend<F>,
    {
        let need = self.inner.req(op).scratch;
        let want = format_args!("at least {need} elements");
        Op(name).that(scratch.len() >= need, "scratch", want, scratch.len());
        let lent = &mut scratch[..need];
        lent.fill(F::NAN);
        lent
    }
}

impl<F: Float, B: Backend<F>> Backend<F> for Checked<B> {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn caps(&self) -> Caps {
        self.inner.caps()
    }

    fn req(&self, op: OpShape) -> Req {
        self.inner.req(op)
    }

    fn qmatmul(&self, x: Mat<'_, F>, w: QMat<'_>, y: MatMut<'_, F>, scratch: &mut [F]) {
        contract::qmatmul(x, w, y.as_ref());
        let (rows, out_features, in_features) = (x.rows(), w.rows(), w.cols());
        let op = OpShape::Qmatmul { rows, out_features, in_features };
        self.inner.qmatmul(x, w, y, self.lend("qmatmul", op, scratch));
    }

    fn qmatmul_t(&self, dy: Mat<'_, F>, w: QMat<'_>, dx: MatMut<'_, F>, scratch: &mut [F]) {
        contract::qmatmul_t(dy, w, dx.as_ref());
        let (rows, out_features, in_features) = (dy.rows(), w.rows(), w.cols());
        let op = OpShape::QmatmulT { rows, out_features, in_features };
        self.inner.qmatmul_t(dy, w, dx, self.lend("qmatmul_t", op, scratch));
    }

    fn qdecode(&self, w: QMat<'_>, rows: Range<usize>, out: MatMut<'_, F>) {
        contract::qdecode(w, &rows, out.as_ref());
        self.inner.qdecode(w, rows, out);
    }

    fn qgather(&self, w: QMat<'_>, ids: &[u32], out: MatMut<'_, F>) {
        contract::qgather(w, ids, out.as_ref());
        self.inner.qgather(w, ids, out);
    }

    fn matmul(
        &self,
        alpha: F,
        a: Mat<'_, F>,
        b: Mat<'_, F>,
        beta: F,
        c: MatMut<'_, F>,
        scratch: &mut [F],
    ) {
        contract::matmul(a, b, c.as_ref());
        let op = OpShape::Matmul { m: a.rows(), k: a.cols(), n: b.cols() };
        self.inner.matmul(alpha, a, b, beta, c, self.lend("matmul", op, scratch));
    }

    fn axpby(&self, alpha: F, x: Mat<'_, F>, beta: F, y: MatMut<'_, F>) {
        contract::axpby(x, y.as_ref());
        self.inner.axpby(alpha, x, beta, y);
    }

    fn add_bias(&self, bias: &[F], y: MatMut<'_, F>) {
        contract::add_bias(bias, y.as_ref());
        self.inner.add_bias(bias, y);
    }

    fn sum_rows(&self, x: Mat<'_, F>, dsum: &mut [F]) {
        contract::sum_rows(x, dsum);
        self.inner.sum_rows(x, dsum);
    }

    fn glu(&self, act: Activation, gate: Mat<'_, F>, up: Mat<'_, F>, y: MatMut<'_, F>) {
        contract::glu(gate, up, y.as_ref());
        self.inner.glu(act, gate, up, y);
    }

    fn glu_in_place(&self, act: Activation, gate: MatMut<'_, F>, up: Mat<'_, F>) {
        contract::glu_in_place(gate.as_ref(), up);
        self.inner.glu_in_place(act, gate, up);
    }

    fn glu_vjp(&self, act: Activation, dy: Mat<'_, F>, gate: MatMut<'_, F>, up: MatMut<'_, F>) {
        contract::glu_vjp(dy, gate.as_ref(), up.as_ref());
        self.inner.glu_vjp(act, dy, gate, up);
    }

    fn rmsnorm(&self, x: Mat<'_, F>, w: &[F], eps: F, y: MatMut<'_, F>, rstd: &mut [F]) {
        contract::rmsnorm(x, w, y.as_ref(), rstd);
        self.inner.rmsnorm(x, w, eps, y, rstd);
    }

    fn rmsnorm_vjp(&self, x: Mat<'_, F>, w: &[F], rstd: &[F], dy: Mat<'_, F>, dx: MatMut<'_, F>) {
        contract::rmsnorm_vjp(x, w, rstd, dy, dx.as_ref());
        self.inner.rmsnorm_vjp(x, w, rstd, dy, dx);
    }

    fn rope(
        &self,
        x: MatMut<'_, F>,
        head_dim: usize,
        pos: &[u32],
        inv_freq: &[F],
        pairing: Pairing,
        direction: Direction,
    ) {
        contract::rope(x.as_ref(), head_dim, pos, inv_freq);
        self.inner.rope(x, head_dim, pos, inv_freq, pairing, direction);
    }

    fn attention(
        &self,
        q: Mat<'_, F>,
        k: Mat<'_, F>,
        v: Mat<'_, F>,
        shape: AttentionShape,
        spans: &[Span],
        o: MatMut<'_, F>,
        lse: MatMut<'_, F>,
        scratch: &mut [F],
    ) {
        contract::attention(q, k, v, shape, spans, o.as_ref(), lse.as_ref());
        let op = OpShape::Attention { queries: q.rows(), keys: k.rows(), shape };
        let scratch = self.lend("attention", op, scratch);
        self.inner.attention(q, k, v, shape, spans, o, lse, scratch);
    }

    fn attention_vjp(
        &self,
        q: Mat<'_, F>,
        k: Mat<'_, F>,
        v: Mat<'_, F>,
        o: Mat<'_, F>,
        lse: Mat<'_, F>,
        dout: Mat<'_, F>,
        shape: AttentionShape,
        spans: &[Span],
        dq: MatMut<'_, F>,
        dk: MatMut<'_, F>,
        dv: MatMut<'_, F>,
        scratch: &mut [F],
    ) {
        let grads = [dq.as_ref(), dk.as_ref(), dv.as_ref()];
        contract::attention_vjp([q, k, v], o, lse, dout, shape, spans, grads);
        let op = OpShape::AttentionVjp { queries: q.rows(), keys: k.rows(), shape };
        let scratch = self.lend("attention_vjp", op, scratch);
        self.inner.attention_vjp(q, k, v, o, lse, dout, shape, spans, dq, dk, dv, scratch);
    }

    fn xent_head(
        &self,
        h: Mat<'_, F>,
        w: QMat<'_>,
        targets: &[u32],
        loss: &mut [F],
        lse: &mut [F],
        argmax: &mut [u32],
        scratch: &mut [F],
    ) {
        contract::xent_head(h, w, targets, loss, lse, argmax);
        let (rows, vocab_size, hidden_size) = (h.rows(), w.rows(), w.cols());
        let op = OpShape::XentHead { rows, vocab_size, hidden_size };
        let scratch = self.lend("xent_head", op, scratch);
        self.inner.xent_head(h, w, targets, loss, lse, argmax, scratch);
    }

    fn xent_head_vjp(
        &self,
        h: Mat<'_, F>,
        w: QMat<'_>,
        targets: &[u32],
        lse: &[F],
        scale: F,
        dh: MatMut<'_, F>,
        scratch: &mut [F],
    ) {
        contract::xent_head_vjp(h, w, targets, lse, dh.as_ref());
        let (rows, vocab_size, hidden_size) = (h.rows(), w.rows(), w.cols());
        let op = OpShape::XentHeadVjp { rows, vocab_size, hidden_size };
        let scratch = self.lend("xent_head_vjp", op, scratch);
        self.inner.xent_head_vjp(h, w, targets, lse, scale, dh, scratch);
    }

    fn xent_head_grad(
        &self,
        h: Mat<'_, F>,
        w: QMat<'_>,
        targets: &[u32],
        scale: F,
        loss: &mut [F],
        lse: &mut [F],
        argmax: &mut [u32],
        grad: MatMut<'_, F>,
        scratch: &mut [F],
    ) {
        contract::xent_head_grad(h, w, targets, loss, lse, argmax, grad.as_ref());
        let (rows, vocab_size, hidden_size) = (h.rows(), w.rows(), w.cols());
        let op = OpShape::XentHeadGrad { rows, vocab_size, hidden_size };
        let scratch = self.lend("xent_head_grad", op, scratch);
        self.inner.xent_head_grad(h, w, targets, scale, loss, lse, argmax, grad, scratch);
    }

    fn stats(&self, x: &[F]) -> Stats {
        self.inner.stats(x)
    }

    fn dropout(&self, x: Mat<'_, F>, p: f64, key: DropoutKey, row0: usize, y: MatMut<'_, F>) {
        contract::dropout(x, p, y.as_ref());
        self.inner.dropout(x, p, key, row0, y);
    }

    fn adamw(&self, p: &mut [F], g: &[F], m: &mut [F], v: &mut [F], hyper: &AdamHyper) {
        contract::adamw(p, g, m, v, hyper);
        self.inner.adamw(p, g, m, v, hyper);
    }

    fn adamw8(&self, p: &mut [F], g: &[F], moments: Moments8<'_>, hyper: &AdamHyper) {
        contract::adamw8(p, g, &moments, hyper);
        self.inner.adamw8(p, g, moments, hyper);
    }

    fn sgd(&self, p: &mut [F], g: &[F], hyper: &SgdHyper) {
        contract::sgd(p, g);
        self.inner.sgd(p, g, hyper);
    }

    fn sgd_momentum(&self, p: &mut [F], g: &[F], m: &mut [F], momentum: f64, hyper: &SgdHyper) {
        contract::sgd_momentum(p, g, m);
        self.inner.sgd_momentum(p, g, m, momentum, hyper);
    }

    fn lion(&self, p: &mut [F], g: &[F], m: &mut [F], hyper: &LionHyper) {
        contract::lion(p, g, m);
        self.inner.lion(p, g, m, hyper);
    }

    fn lion8(&self, p: &mut [F], g: &[F], momentum: Momentum8<'_>, hyper: &LionHyper) {
        contract::lion8(p, g, &momentum);
        self.inner.lion8(p, g, momentum, hyper);
    }
}
