//! [`NdArray`] and what it overrides of the specification.

use std::ops::Range;

use lowtide_backend::{
    Activation, AdamHyper, AttentionShape, Backend, Caps, Direction, DropoutKey, LionHyper,
    Moments8, Momentum8, OpShape, Pairing, Req, SgdHyper, Span,
};
use lowtide_quant::QMat;
use lowtide_tensor::{Mat, MatMut};

use crate::attention_vjp::{Forward, Gradients};
use crate::{
    attention, attention_vjp, elementwise, glu, head, matmul, optim, qmatmul, rmsnorm, rope,
};

/// The backend on ndarray, matrixmultiply and rayon.
///
/// Run it inside the rayon pool whose threads it may use. Results do not depend on the pool, nor on
/// the number of threads given here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NdArray {
    threads: usize,
}

impl NdArray {
    /// A backend that shares work over at most `threads` threads and asks for scratch for as many;
    /// zero counts as one.
    #[must_use]
    pub fn new(threads: usize) -> Self {
        Self { threads: threads.max(1) }
    }

    /// Threads that work is shared over.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.threads
    }
}

/// One thread.
impl Default for NdArray {
    fn default() -> Self {
        Self::new(1)
    }
}

impl Backend for NdArray {
    fn name(&self) -> &'static str {
        "ndarray"
    }

    fn caps(&self) -> Caps {
        Caps { threads: self.threads, isa: "matrixmultiply", compute: "f32" }
    }

    fn req(&self, op: OpShape) -> Req {
        let lanes = self.threads;
        match op {
            OpShape::Qmatmul { rows, out_features, in_features } => {
                qmatmul::req(lanes, rows, out_features, in_features)
            }
            OpShape::QmatmulT { rows, out_features, in_features } => {
                qmatmul::req_t(lanes, rows, out_features, in_features)
            }
            OpShape::Matmul { m, k, n } => matmul::req(lanes, m, k, n),
            OpShape::Attention { queries, keys, shape } => {
                attention::req(lanes, queries, keys, shape)
            }
            OpShape::AttentionVjp { queries, keys, shape } => {
                attention_vjp::req(lanes, queries, keys, shape)
            }
            OpShape::XentHead { rows, vocab_size, hidden_size } => {
                head::req(lanes, rows, vocab_size, hidden_size)
            }
            OpShape::XentHeadVjp { rows, vocab_size, hidden_size } => {
                head::req_vjp(lanes, rows, vocab_size, hidden_size)
            }
            OpShape::XentHeadGrad { rows, vocab_size, hidden_size } => {
                let there = head::req(lanes, rows, vocab_size, hidden_size);
                there.max(head::req_vjp(lanes, rows, vocab_size, hidden_size))
            }
        }
    }

    fn qmatmul(&self, x: Mat<'_, f32>, w: QMat<'_>, y: MatMut<'_, f32>, scratch: &mut [f32]) {
        qmatmul::qmatmul(self.threads, x, w, y, scratch);
    }

    fn qmatmul_t(&self, dy: Mat<'_, f32>, w: QMat<'_>, dx: MatMut<'_, f32>, scratch: &mut [f32]) {
        qmatmul::qmatmul_t(self.threads, dy, w, dx, scratch);
    }

    fn qdecode(&self, w: QMat<'_>, rows: Range<usize>, out: MatMut<'_, f32>) {
        qmatmul::qdecode(self.threads, w, rows, out);
    }

    fn qgather(&self, w: QMat<'_>, ids: &[u32], out: MatMut<'_, f32>) {
        qmatmul::qgather(self.threads, w, ids, out);
    }

    fn matmul(
        &self,
        alpha: f32,
        a: Mat<'_, f32>,
        b: Mat<'_, f32>,
        beta: f32,
        c: MatMut<'_, f32>,
        scratch: &mut [f32],
    ) {
        matmul::matmul(self.threads, alpha, a, b, beta, c, scratch);
    }

    fn axpby(&self, alpha: f32, x: Mat<'_, f32>, beta: f32, y: MatMut<'_, f32>) {
        elementwise::axpby(self.threads, alpha, x, beta, y);
    }

    fn add_bias(&self, bias: &[f32], y: MatMut<'_, f32>) {
        elementwise::add_bias(self.threads, bias, y);
    }

    fn glu(&self, act: Activation, gate: Mat<'_, f32>, up: Mat<'_, f32>, y: MatMut<'_, f32>) {
        glu::glu(self.threads, act, gate, up, y);
    }

    fn glu_in_place(&self, act: Activation, gate: MatMut<'_, f32>, up: Mat<'_, f32>) {
        glu::glu_in_place(self.threads, act, gate, up);
    }

    fn glu_vjp(
        &self,
        act: Activation,
        dy: Mat<'_, f32>,
        gate: MatMut<'_, f32>,
        up: MatMut<'_, f32>,
    ) {
        glu::glu_vjp(self.threads, act, dy, gate, up);
    }

    fn rmsnorm(&self, x: Mat<'_, f32>, w: &[f32], eps: f32, y: MatMut<'_, f32>, rstd: &mut [f32]) {
        rmsnorm::rmsnorm(self.threads, x, w, eps, y, rstd);
    }

    fn rmsnorm_vjp(
        &self,
        x: Mat<'_, f32>,
        w: &[f32],
        rstd: &[f32],
        dy: Mat<'_, f32>,
        dx: MatMut<'_, f32>,
    ) {
        rmsnorm::rmsnorm_vjp(self.threads, x, w, rstd, dy, dx);
    }

    fn rope(
        &self,
        x: MatMut<'_, f32>,
        head_dim: usize,
        pos: &[u32],
        inv_freq: &[f32],
        pairing: Pairing,
        direction: Direction,
    ) {
        rope::rope(self.threads, x, head_dim, pos, inv_freq, pairing, direction);
    }

    fn attention(
        &self,
        q: Mat<'_, f32>,
        k: Mat<'_, f32>,
        v: Mat<'_, f32>,
        shape: AttentionShape,
        spans: &[Span],
        o: MatMut<'_, f32>,
        lse: MatMut<'_, f32>,
        scratch: &mut [f32],
    ) {
        attention::attention(self.threads, q, k, v, shape, spans, o, lse, scratch);
    }

    fn attention_vjp(
        &self,
        q: Mat<'_, f32>,
        k: Mat<'_, f32>,
        v: Mat<'_, f32>,
        o: Mat<'_, f32>,
        lse: Mat<'_, f32>,
        dout: Mat<'_, f32>,
        shape: AttentionShape,
        spans: &[Span],
        dq: MatMut<'_, f32>,
        dk: MatMut<'_, f32>,
        dv: MatMut<'_, f32>,
        scratch: &mut [f32],
    ) {
        let forward = Forward { q, k, v, o, lse, dout };
        let gradients = Gradients { dq, dk, dv };
        attention_vjp::attention_vjp(self.threads, forward, shape, spans, gradients, scratch);
    }

    fn xent_head(
        &self,
        h: Mat<'_, f32>,
        w: QMat<'_>,
        targets: &[u32],
        loss: &mut [f32],
        lse: &mut [f32],
        argmax: &mut [u32],
        scratch: &mut [f32],
    ) {
        head::xent_head(self.threads, h, w, targets, loss, lse, argmax, scratch);
    }

    fn xent_head_vjp(
        &self,
        h: Mat<'_, f32>,
        w: QMat<'_>,
        targets: &[u32],
        lse: &[f32],
        scale: f32,
        dh: MatMut<'_, f32>,
        scratch: &mut [f32],
    ) {
        head::xent_head_vjp(self.threads, h, w, targets, lse, scale, dh, scratch);
    }

    fn dropout(&self, x: Mat<'_, f32>, p: f64, key: DropoutKey, row0: usize, y: MatMut<'_, f32>) {
        elementwise::dropout(self.threads, x, p, key, row0, y);
    }

    fn adamw(&self, p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], hyper: &AdamHyper) {
        optim::adamw(self.threads, p, g, m, v, hyper);
    }

    fn adamw8(&self, p: &mut [f32], g: &[f32], moments: Moments8<'_>, hyper: &AdamHyper) {
        optim::adamw8(self.threads, p, g, moments, hyper);
    }

    fn sgd(&self, p: &mut [f32], g: &[f32], hyper: &SgdHyper) {
        optim::sgd(self.threads, p, g, hyper);
    }

    fn sgd_momentum(
        &self,
        p: &mut [f32],
        g: &[f32],
        m: &mut [f32],
        momentum: f64,
        hyper: &SgdHyper,
    ) {
        optim::sgd_momentum(self.threads, p, g, m, momentum, hyper);
    }

    fn lion(&self, p: &mut [f32], g: &[f32], m: &mut [f32], hyper: &LionHyper) {
        optim::lion(self.threads, p, g, m, hyper);
    }

    fn lion8(&self, p: &mut [f32], g: &[f32], momentum: Momentum8<'_>, hyper: &LionHyper) {
        optim::lion8(self.threads, p, g, momentum, hyper);
    }
}
