//! [`Simd`] and what it overrides of the specification.

use std::ops::Range;

use lowtide_backend::{AttentionShape, Backend, Caps, OpShape, Req, Span, spec};
use lowtide_kernels::Kernels;
use lowtide_quant::QMat;
use lowtide_tensor::{Mat, MatMut};

use crate::{attention, attention_vjp, matmul, qmatmul};

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
            OpShape::AttentionVjp { rows, shape } => attention_vjp::req(self, rows, shape),
            other => spec::req(other),
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
}
