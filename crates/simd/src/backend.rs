//! [`Simd`] and what it overrides of the specification.

use std::ops::Range;

use lowtide_backend::{
    Activation, AdamHyper, AttentionShape, Backend, Caps, Direction, DropoutKey, LionHyper,
    Moments8, Momentum8, OpShape, Pairing, Req, SgdHyper, Span, Stats,
};
use lowtide_kernels::Kernels;
use lowtide_quant::QMat;
use lowtide_tensor::{Mat, MatMut};

use crate::{
    attention, attention_vjp, elementwise, glu, head, head_grad, matmul, optim, qmatmul, rmsnorm,
    rope,
};

/// Arithmetic of products with packed weights. Everything else is always computed in f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Compute {
    /// Decoded weights, f32 multiply-adds.
    #[default]
    F32,
    /// Integer dot products: activations and gradients as integers of about 15 bits (two 8-bit
    /// digits) with a scale for each 32, weights as they are. Weights that are not small integers
    /// are computed in f32.
    Int8x2,
    /// The same with one 8-bit digit: quick, and visibly rounded.
    Int8,
}

impl Compute {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::F32, Self::Int8x2, Self::Int8];

    /// The name it goes by in flags and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Int8x2 => "int8x2",
            Self::Int8 => "int8",
        }
    }
}

/// The fast backend.
///
/// Run it inside the rayon pool whose threads it may use. Results do not depend on the pool, nor on
/// the number of threads given here; they may differ in the last bits between instruction sets.
#[derive(Clone, Copy, Debug)]
pub struct Simd {
    kernels: &'static Kernels,
    threads: usize,
    compute: Compute,
}

impl Simd {
    /// A backend on the fastest instruction set of this processor, that shares work over at most
    /// `threads` threads and asks for scratch for as many; zero counts as one.
    #[must_use]
    pub fn new(threads: usize) -> Self {
        Self::with(Kernels::best(), threads)
    }

    /// The same on a table of your choice.
    #[must_use]
    pub fn with(kernels: &'static Kernels, threads: usize) -> Self {
        Self { kernels, threads: threads.max(1), compute: Compute::F32 }
    }

    /// The same with other arithmetic for packed weights.
    #[must_use]
    pub fn computing(self, compute: Compute) -> Self {
        Self { compute, ..self }
    }

    /// Arithmetic of products with packed weights.
    #[must_use]
    pub fn compute(&self) -> Compute {
        self.compute
    }

    /// The table it runs on.
    #[must_use]
    pub fn kernels(&self) -> &'static Kernels {
        self.kernels
    }

    /// Threads that work is shared over.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.threads
    }
}

impl Backend for Simd {
    fn name(&self) -> &'static str {
        "simd"
    }

    fn caps(&self) -> Caps {
        Caps { threads: self.threads, isa: self.kernels.isa().name(), compute: self.compute.name() }
    }

    fn req(&self, op: OpShape) -> Req {
        match op {
            OpShape::Qmatmul { rows, out_features, in_features } => {
                qmatmul::req(self, rows, out_features, in_features)
            }
            OpShape::QmatmulT { rows, out_features, in_features } => {
                qmatmul::req_t(self, rows, out_features, in_features)
            }
            OpShape::Matmul { m, k, n } => matmul::req(self, m, k, n),
            OpShape::Attention { queries, keys, shape } => {
                attention::req(self, queries, keys, shape)
            }
            OpShape::AttentionVjp { queries, keys, shape } => {
                attention_vjp::req(self, queries, keys, shape)
            }
            OpShape::XentHead { rows, vocab_size, hidden_size } => {
                head::req(self, rows, vocab_size, hidden_size)
            }
            OpShape::XentHeadVjp { rows, vocab_size, hidden_size } => {
                head::req_vjp(self, rows, vocab_size, hidden_size)
            }
            OpShape::XentHeadGrad { rows, vocab_size, hidden_size } => {
                head_grad::req(self, rows, vocab_size, hidden_size)
            }
        }
    }

    fn qmatmul(&self, x: Mat<'_, f32>, w: QMat<'_>, y: MatMut<'_, f32>, scratch: &mut [f32]) {
        qmatmul::qmatmul(self, x, w, y, scratch);
    }

    fn qmatmul_t(&self, dy: Mat<'_, f32>, w: QMat<'_>, dx: MatMut<'_, f32>, scratch: &mut [f32]) {
        qmatmul::qmatmul_t(self, dy, w, dx, scratch);
    }

    fn qdecode(&self, w: QMat<'_>, rows: Range<usize>, out: MatMut<'_, f32>) {
        qmatmul::qdecode(self, w, rows, out);
    }

    fn qgather(&self, w: QMat<'_>, ids: &[u32], out: MatMut<'_, f32>) {
        qmatmul::qgather(self, w, ids, out);
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
        matmul::matmul(self, alpha, a, b, beta, c, scratch);
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
        attention::attention(self, q, k, v, shape, spans, o, lse, scratch);
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
        let forward = attention_vjp::Forward { q, k, v, o, lse, dout };
        let gradients = attention_vjp::Gradients { dq, dk, dv };
        attention_vjp::attention_vjp(self, forward, shape, spans, gradients, scratch);
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
        head::xent_head(self, h, w, targets, loss, lse, argmax, scratch);
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
        head::xent_head_vjp(self, h, w, targets, lse, scale, dh, scratch);
    }

    fn xent_head_grad(
        &self,
        h: Mat<'_, f32>,
        w: QMat<'_>,
        targets: &[u32],
        scale: f32,
        loss: &mut [f32],
        lse: &mut [f32],
        argmax: &mut [u32],
        grad: MatMut<'_, f32>,
        scratch: &mut [f32],
    ) {
        let losses = head_grad::Losses { loss, lse, argmax };
        head_grad::xent_head_grad(self, h, w, targets, scale, losses, grad, scratch);
    }

    fn axpby(&self, alpha: f32, x: Mat<'_, f32>, beta: f32, y: MatMut<'_, f32>) {
        elementwise::axpby(self, alpha, x, beta, y);
    }

    fn add_bias(&self, bias: &[f32], y: MatMut<'_, f32>) {
        elementwise::add_bias(self, bias, y);
    }

    fn sum_rows(&self, x: Mat<'_, f32>, dsum: &mut [f32]) {
        elementwise::sum_rows(self, x, dsum);
    }

    fn dropout(&self, x: Mat<'_, f32>, p: f64, key: DropoutKey, row0: usize, y: MatMut<'_, f32>) {
        elementwise::dropout(self, x, p, key, row0, y);
    }

    fn stats(&self, x: &[f32]) -> Stats {
        elementwise::stats(self, x)
    }

    fn glu(&self, act: Activation, gate: Mat<'_, f32>, up: Mat<'_, f32>, y: MatMut<'_, f32>) {
        glu::glu(self, act, gate, up, y);
    }

    fn glu_in_place(&self, act: Activation, gate: MatMut<'_, f32>, up: Mat<'_, f32>) {
        glu::glu_in_place(self, act, gate, up);
    }

    fn glu_vjp(
        &self,
        act: Activation,
        dy: Mat<'_, f32>,
        gate: MatMut<'_, f32>,
        up: MatMut<'_, f32>,
    ) {
        glu::glu_vjp(self, act, dy, gate, up);
    }

    fn rmsnorm(&self, x: Mat<'_, f32>, w: &[f32], eps: f32, y: MatMut<'_, f32>, rstd: &mut [f32]) {
        rmsnorm::rmsnorm(self, x, w, eps, y, rstd);
    }

    fn rmsnorm_vjp(
        &self,
        x: Mat<'_, f32>,
        w: &[f32],
        rstd: &[f32],
        dy: Mat<'_, f32>,
        dx: MatMut<'_, f32>,
    ) {
        rmsnorm::rmsnorm_vjp(self, x, w, rstd, dy, dx);
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
        rope::rope(self, x, head_dim, pos, inv_freq, pairing, direction);
    }

    fn adamw(&self, p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], hyper: &AdamHyper) {
        optim::adamw(self, p, g, m, v, hyper);
    }

    fn adamw8(&self, p: &mut [f32], g: &[f32], moments: Moments8<'_>, hyper: &AdamHyper) {
        optim::adamw8(self, p, g, moments, hyper);
    }

    fn sgd(&self, p: &mut [f32], g: &[f32], hyper: &SgdHyper) {
        optim::sgd(self, p, g, hyper);
    }

    fn sgd_momentum(
        &self,
        p: &mut [f32],
        g: &[f32],
        m: &mut [f32],
        momentum: f64,
        hyper: &SgdHyper,
    ) {
        optim::sgd_momentum(self, p, g, m, momentum, hyper);
    }

    fn lion(&self, p: &mut [f32], g: &[f32], m: &mut [f32], hyper: &LionHyper) {
        optim::lion(self, p, g, m, hyper);
    }

    fn lion8(&self, p: &mut [f32], g: &[f32], momentum: Momentum8<'_>, hyper: &LionHyper) {
        optim::lion8(self, p, g, momentum, hyper);
    }
}
