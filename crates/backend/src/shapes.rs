//! The plain data that operations take beside their views.

use core::ops::Range;

/// What a backend says about itself, for reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    /// Threads it shares work over.
    pub threads: usize,
    /// Instruction set it was built for or detected.
    pub isa: &'static str,
    /// Arithmetic of products with packed weights: `f32`, or `int8x2` and `int8` for integer dot
    /// products of two and of one 8-bit digit. Everything else is always f32.
    pub compute: &'static str,
}

/// Memory one call of an operation needs beyond its operands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Req {
    /// Elements of the float type, lent by the caller as `scratch`.
    pub scratch: usize,
    /// Bytes a library inside the backend allocates by itself and frees before the call returns.
    /// The planner charges them; a backend without such a library says 0.
    pub library_bytes: usize,
}

impl Req {
    /// Enough for either of two calls, one after the other.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            scratch: self.scratch.max(other.scratch),
            library_bytes: self.library_bytes.max(other.library_bytes),
        }
    }

    /// The same with `scratch` more elements held by the caller around the call.
    #[must_use]
    pub fn plus(self, scratch: usize) -> Self {
        Self { scratch: self.scratch + scratch, ..self }
    }
}

/// An operation and its shape, for [`Backend::req`](crate::Backend::req). Requirements never shrink
/// when a row count grows, so that a plan made for the largest batch holds for every smaller one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpShape {
    /// `x [rows, in_features]` by packed `[out_features, in_features]`.
    Qmatmul {
        /// Rows of `x`.
        rows: usize,
        /// Rows of the packed matrix.
        out_features: usize,
        /// Columns of the packed matrix.
        in_features: usize,
    },
    /// `dy [rows, out_features]` by packed `[out_features, in_features]`.
    QmatmulT {
        /// Rows of `dy`.
        rows: usize,
        /// Rows of the packed matrix.
        out_features: usize,
        /// Columns of the packed matrix.
        in_features: usize,
    },
    /// `a [m, k]` by `b [k, n]`.
    Matmul {
        /// Rows of `a`.
        m: usize,
        /// Contracted length.
        k: usize,
        /// Columns of `b`.
        n: usize,
    },
    /// Attention forward over at most `queries` and `keys` rows.
    Attention {
        /// Rows of `q`.
        queries: usize,
        /// Rows of `k` and `v`.
        keys: usize,
        /// Heads and widths.
        shape: AttentionShape,
    },
    /// Attention backward over at most `queries` and `keys` rows.
    AttentionVjp {
        /// Rows of `q`.
        queries: usize,
        /// Rows of `k` and `v`.
        keys: usize,
        /// Heads and widths.
        shape: AttentionShape,
    },
    /// Loss head forward.
    XentHead {
        /// Labelled rows.
        rows: usize,
        /// Rows of the head matrix.
        vocab_size: usize,
        /// Columns of the head matrix.
        hidden_size: usize,
    },
    /// Loss head backward.
    XentHeadVjp {
        /// Labelled rows.
        rows: usize,
        /// Rows of the head matrix.
        vocab_size: usize,
        /// Columns of the head matrix.
        hidden_size: usize,
    },
    /// Loss head, forward and backward at once.
    XentHeadGrad {
        /// Labelled rows.
        rows: usize,
        /// Rows of the head matrix.
        vocab_size: usize,
        /// Columns of the head matrix.
        hidden_size: usize,
    },
}

/// One sequence inside a batch of rows: rows `start..end`, the prompt ending before `prompt_end`.
///
/// Sequences never see each other: positions restart and attention stays inside a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First row.
    pub start: usize,
    /// First row whose token carries loss: the prompt is `start..prompt_end`. `end` when none does.
    pub prompt_end: usize,
    /// One past the last row.
    pub end: usize,
}

impl Span {
    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether the span has no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The rows of this span that attention is asked for, where queries are the last `queries` of
    /// `keys` rows; empty, within those rows, when it has none there. Counted like the span itself.
    ///
    /// ```
    /// use lowtide_backend::Span;
    /// let span = Span { start: 30, prompt_end: 30, end: 90 };
    /// assert_eq!(span.queries(64, 80), 30..80);
    /// assert_eq!(span.queries(20, 80), 60..80);
    /// assert!(span.queries(10, 110).is_empty());
    /// ```
    #[must_use]
    pub fn queries(&self, queries: usize, keys: usize) -> Range<usize> {
        let place = |row: usize| row.clamp(keys - queries, keys);
        place(self.start)..place(self.end)
    }
}

/// Heads, widths, scale and reach of an attention operation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Factor on the scores, usually `1 / sqrt(head_dim)`.
    pub scale: f64,
    /// Keys a query may see, itself included; `None` for all before it.
    pub window: Option<usize>,
}

impl Eq for AttentionShape {}

/// Element-wise activations, as Hugging Face names them. Both reach their limits: zero with a slope
/// of zero far to the left, `x` with a slope of one far to the right, infinities included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// `gelu_pytorch_tanh`, the tanh approximation of GELU.
    GeluTanh,
}

/// Which way a rotary embedding turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// As in the forward pass.
    Forward,
    /// The inverse rotation: the adjoint, for gradients.
    Backward,
}

/// Which two elements of a head rotate together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// `i` with `i + n/2` (Hugging Face; NEOX in GGUF).
    Halves,
    /// `2i` with `2i + 1` (llama GGUF files, whose q and k rows are permuted to suit).
    Adjacent,
}

/// Identifies a stream of dropout masks. The same key and element position give the same bit, so a
/// mask is never stored: recomputation makes it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropoutKey {
    /// Seed of the run.
    pub seed: u64,
    /// Counter of the micro-batch.
    pub step: u64,
    /// Which site draws: unique per adapted linear.
    pub site: u64,
}

/// What [`Backend::stats`](crate::Backend::stats) finds in a slice.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stats {
    /// Sum of squares of the finite elements, accumulated in f64 in an order that does not depend
    /// on threads.
    pub sum_squares: f64,
    /// Largest absolute value of the finite elements.
    pub max_abs: f64,
    /// Elements that are infinite or NaN.
    pub non_finite: usize,
}

/// AdamW with decoupled decay, as torch does it: `p *= 1 - lr * weight_decay`, then
/// `p -= lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamHyper {
    /// Learning rate of this update.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the denominator.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Number of this update, from 1.
    pub step: u64,
    /// Factor on the gradient before anything else: clipping, averaging.
    pub grad_scale: f64,
}

/// SGD, as torch does it: decay enters the gradient.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SgdHyper {
    /// Learning rate of this update.
    pub lr: f64,
    /// Added to the gradient as `weight_decay * p`.
    pub weight_decay: f64,
    /// Factor on the gradient before anything else.
    pub grad_scale: f64,
}

/// Lion with decoupled decay (Chen et al., "Symbolic Discovery of Optimization Algorithms", 2023):
/// `p *= 1 - lr * weight_decay`, then `p -= lr * sign(beta1 m + (1 - beta1) g)` with the sign of
/// zero zero, and after that `m = beta2 m + (1 - beta2) g`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LionHyper {
    /// Learning rate of this update: how far every parameter moves.
    pub lr: f64,
    /// Share of the momentum in what the direction is taken of.
    pub beta1: f64,
    /// Decay of the momentum.
    pub beta2: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Factor on the gradient before anything else: clipping, averaging.
    pub grad_scale: f64,
}

/// The 8-bit moments of one tensor, in blocks of [`lowtide_quant::dynamic8::BLOCK`].
#[derive(Debug)]
pub struct Moments8<'a> {
    /// Codes of the first moment, one a parameter (signed map).
    pub m: &'a mut [u8],
    /// Codes of the second moment, one a parameter (unsigned map).
    pub v: &'a mut [u8],
    /// Largest magnitude of each block of `m`.
    pub m_absmax: &'a mut [f32],
    /// Largest magnitude of each block of `v`.
    pub v_absmax: &'a mut [f32],
}

/// The 8-bit momentum of one tensor, in blocks of [`lowtide_quant::dynamic8::BLOCK`].
#[derive(Debug)]
pub struct Momentum8<'a> {
    /// Codes, one a parameter (signed map).
    pub m: &'a mut [u8],
    /// Largest magnitude of each block.
    pub absmax: &'a mut [f32],
}
