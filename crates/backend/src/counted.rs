//! A decorator that counts calls and multiply-adds.

use core::array;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use lowtide_quant::QMat;
use lowtide_tensor::{Float, Mat, MatMut};

use crate::Backend;
use crate::shapes::{
    Activation, AdamHyper, AttentionShape, Caps, Direction, DropoutKey, LionHyper, Moments8,
    Momentum8, OpShape, Pairing, Req, SgdHyper, Span, Stats,
};

/// An operation of [`Backend`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Op {
    /// [`Backend::qmatmul`].
    Qmatmul,
    /// [`Backend::qmatmul_t`].
    QmatmulT,
    /// [`Backend::qdecode`].
    Qdecode,
    /// [`Backend::qgather`].
    Qgather,
    /// [`Backend::matmul`].
    Matmul,
    /// [`Backend::axpby`].
    Axpby,
    /// [`Backend::add_bias`].
    AddBias,
    /// [`Backend::sum_rows`].
    SumRows,
    /// [`Backend::glu`].
    Glu,
    /// [`Backend::glu_in_place`].
    GluInPlace,
    /// [`Backend::glu_vjp`].
    GluVjp,
    /// [`Backend::rmsnorm`].
    Rmsnorm,
    /// [`Backend::rmsnorm_vjp`].
    RmsnormVjp,
    /// [`Backend::rope`].
    Rope,
    /// [`Backend::attention`].
    Attention,
    /// [`Backend::attention_vjp`].
    AttentionVjp,
    /// [`Backend::xent_head`].
    XentHead,
    /// [`Backend::xent_head_vjp`].
    XentHeadVjp,
    /// [`Backend::xent_head_grad`].
    XentHeadGrad,
    /// [`Backend::stats`].
    Stats,
    /// [`Backend::dropout`].
    Dropout,
    /// [`Backend::adamw`].
    Adamw,
    /// [`Backend::adamw8`].
    Adamw8,
    /// [`Backend::sgd`].
    Sgd,
    /// [`Backend::sgd_momentum`].
    SgdMomentum,
    /// [`Backend::lion`].
    Lion,
    /// [`Backend::lion8`].
    Lion8,
}

/// Number of operations.
const OPS: usize = Op::ALL.len();

impl Op {
    /// All operations, in the order of the trait.
    pub const ALL: [Self; 27] = [
        Self::Qmatmul,
        Self::QmatmulT,
        Self::Qdecode,
        Self::Qgather,
        Self::Matmul,
        Self::Axpby,
        Self::AddBias,
        Self::SumRows,
        Self::Glu,
        Self::GluInPlace,
        Self::GluVjp,
        Self::Rmsnorm,
        Self::RmsnormVjp,
        Self::Rope,
        Self::Attention,
        Self::AttentionVjp,
        Self::XentHead,
        Self::XentHeadVjp,
        Self::XentHeadGrad,
        Self::Stats,
        Self::Dropout,
        Self::Adamw,
        Self::Adamw8,
        Self::Sgd,
        Self::SgdMomentum,
        Self::Lion,
        Self::Lion8,
    ];
}

/// What passed through a [`Counted`] backend.
///
/// Multiply-adds are those of the contractions an operation is defined by, whatever the backend did
/// to get there: masked scores and decoding count nothing, neither does element-wise work. Backward
/// operations that recompute count what they recompute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    calls: [u64; OPS],
    multiply_adds: [u64; OPS],
}

impl Counts {
    /// Calls of one operation.
    #[must_use]
    pub fn calls(&self, op: Op) -> u64 {
        self.calls[op as usize]
    }

    /// Multiply-adds of one operation.
    #[must_use]
    pub fn multiply_adds(&self, op: Op) -> u64 {
        self.multiply_adds[op as usize]
    }

    /// Calls of all operations.
    #[must_use]
    pub fn calls_total(&self) -> u64 {
        self.calls.iter().sum()
    }

    /// Multiply-adds of all operations.
    #[must_use]
    pub fn multiply_adds_total(&self) -> u64 {
        self.multiply_adds.iter().sum()
    }

    /// What came after an earlier reading of the same counter.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            calls: array::from_fn(|i| self.calls[i] - earlier.calls[i]),
            multiply_adds: array::from_fn(|i| self.multiply_adds[i] - earlier.multiply_adds[i]),
        }
    }
}

/// Counts calls and multiply-adds for each operation and delegates. Counters are atomic: threads
/// may share one.
#[derive(Debug, Default)]
pub struct Counted<B> {
    inner: B,
    calls: [AtomicU64; OPS],
    multiply_adds: [AtomicU64; OPS],
}

impl<B> Counted<B> {
    /// Wraps a backend, counting from zero.
    pub fn new(inner: B) -> Self {
        let zeros = || array::from_fn(|_| AtomicU64::new(0));
        Self { inner, calls: zeros(), multiply_adds: zeros() }
    }

    /// The backend inside.
    pub fn inner(&self) -> &B {
        &self.inner
    }

    /// What was counted so far.
    pub fn counts(&self) -> Counts {
        Counts {
            calls: array::from_fn(|i| self.calls[i].load(Ordering::Relaxed)),
            multiply_adds: array::from_fn(|i| self.multiply_adds[i].load(Ordering::Relaxed)),
        }
    }

    /// One call whose contractions have these sizes, multiplied together.
    fn count(&self, op: Op, sizes: &[usize]) {
        let multiply_adds =
            if sizes.is_empty() { 0 } else { sizes.iter().map(|&size| size as u64).product() };
        self.calls[op as usize].fetch_add(1, Ordering::Relaxed);
        self.multiply_adds[op as usize].fetch_add(multiply_adds, Ordering::Relaxed);
    }
}

/// Pairs of a query and a key that it sees.
fn pairs(queries: usize, keys: usize, spans: &[Span], window: Option<usize>) -> usize {
    let of_span = |span: &Span| {
        let seen = |row: usize| (row - span.start + 1).min(window.unwrap_or(usize::MAX));
        span.queries(queries, keys).map(seen).sum::<usize>()
    };
    spans.iter().map(of_span).sum()
}

impl<F: Float, B: Backend<F>> Backend<F> for Counted<B> {
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
        self.count(Op::Qmatmul, &[x.rows(), w.rows(), w.cols()]);
        self.inner.qmatmul(x, w, y, scratch);
    }

    fn qmatmul_t(&self, dy: Mat<'_, F>, w: QMat<'_>, dx: MatMut<'_, F>, scratch: &mut [F]) {
        self.count(Op::QmatmulT, &[dy.rows(), w.rows(), w.cols()]);
        self.inner.qmatmul_t(dy, w, dx, scratch);
    }

    fn qdecode(&self, w: QMat<'_>, rows: Range<usize>, out: MatMut<'_, F>) {
        self.count(Op::Qdecode, &[]);
        self.inner.qdecode(w, rows, out);
    }

    fn qgather(&self, w: QMat<'_>, ids: &[u32], out: MatMut<'_, F>) {
        self.count(Op::Qgather, &[]);
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
        self.count(Op::Matmul, &[a.rows(), a.cols(), b.cols()]);
        self.inner.matmul(alpha, a, b, beta, c, scratch);
    }

    fn axpby(&self, alpha: F, x: Mat<'_, F>, beta: F, y: MatMut<'_, F>) {
        self.count(Op::Axpby, &[]);
        self.inner.axpby(alpha, x, beta, y);
    }

    fn add_bias(&self, bias: &[F], y: MatMut<'_, F>) {
        self.count(Op::AddBias, &[]);
        self.inner.add_bias(bias, y);
    }

    fn sum_rows(&self, x: Mat<'_, F>, dsum: &mut [F]) {
        self.count(Op::SumRows, &[]);
        self.inner.sum_rows(x, dsum);
    }

    fn glu(&self, act: Activation, gate: Mat<'_, F>, up: Mat<'_, F>, y: MatMut<'_, F>) {
        self.count(Op::Glu, &[]);
        self.inner.glu(act, gate, up, y);
    }

    fn glu_in_place(&self, act: Activation, gate: MatMut<'_, F>, up: Mat<'_, F>) {
        self.count(Op::GluInPlace, &[]);
        self.inner.glu_in_place(act, gate, up);
    }

    fn glu_vjp(&self, act: Activation, dy: Mat<'_, F>, gate: MatMut<'_, F>, up: MatMut<'_, F>) {
        self.count(Op::GluVjp, &[]);
        self.inner.glu_vjp(act, dy, gate, up);
    }

    fn rmsnorm(&self, x: Mat<'_, F>, w: &[F], eps: F, y: MatMut<'_, F>, rstd: &mut [F]) {
        self.count(Op::Rmsnorm, &[]);
        self.inner.rmsnorm(x, w, eps, y, rstd);
    }

    fn rmsnorm_vjp(&self, x: Mat<'_, F>, w: &[F], rstd: &[F], dy: Mat<'_, F>, dx: MatMut<'_, F>) {
        self.count(Op::RmsnormVjp, &[]);
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
        self.count(Op::Rope, &[]);
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
        let pairs = pairs(q.rows(), k.rows(), spans, shape.window);
        self.count(Op::Attention, &[2, shape.heads, shape.head_dim, pairs]);
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
        let pairs = pairs(q.rows(), k.rows(), spans, shape.window);
        self.count(Op::AttentionVjp, &[5, shape.heads, shape.head_dim, pairs]);
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
        self.count(Op::XentHead, &[h.rows(), w.rows(), w.cols()]);
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
        self.count(Op::XentHeadVjp, &[2, h.rows(), w.rows(), w.cols()]);
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
        self.count(Op::XentHeadGrad, &[2, h.rows(), w.rows(), w.cols()]);
        self.inner.xent_head_grad(h, w, targets, scale, loss, lse, argmax, grad, scratch);
    }

    fn stats(&self, x: &[F]) -> Stats {
        self.count(Op::Stats, &[]);
        self.inner.stats(x)
    }

    fn dropout(&self, x: Mat<'_, F>, p: f64, key: DropoutKey, row0: usize, y: MatMut<'_, F>) {
        self.count(Op::Dropout, &[]);
        self.inner.dropout(x, p, key, row0, y);
    }

    fn adamw(&self, p: &mut [F], g: &[F], m: &mut [F], v: &mut [F], hyper: &AdamHyper) {
        self.count(Op::Adamw, &[]);
        self.inner.adamw(p, g, m, v, hyper);
    }

    fn adamw8(&self, p: &mut [F], g: &[F], moments: Moments8<'_>, hyper: &AdamHyper) {
        self.count(Op::Adamw8, &[]);
        self.inner.adamw8(p, g, moments, hyper);
    }

    fn sgd(&self, p: &mut [F], g: &[F], hyper: &SgdHyper) {
        self.count(Op::Sgd, &[]);
        self.inner.sgd(p, g, hyper);
    }

    fn sgd_momentum(&self, p: &mut [F], g: &[F], m: &mut [F], momentum: f64, hyper: &SgdHyper) {
        self.count(Op::SgdMomentum, &[]);
        self.inner.sgd_momentum(p, g, m, momentum, hyper);
    }

    fn lion(&self, p: &mut [F], g: &[F], m: &mut [F], hyper: &LionHyper) {
        self.count(Op::Lion, &[]);
        self.inner.lion(p, g, m, hyper);
    }

    fn lion8(&self, p: &mut [F], g: &[F], momentum: Momentum8<'_>, hyper: &LionHyper) {
        self.count(Op::Lion8, &[]);
        self.inner.lion8(p, g, momentum, hyper);
    }
}
