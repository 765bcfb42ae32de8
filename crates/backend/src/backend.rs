//! The [`Backend`] trait; each default is the scalar specification, or made of other methods.

use core::ops::Range;

use lowtide_quant::QMat;
use lowtide_tensor::{Float, Mat, MatMut};

use crate::shapes::{
    Activation, AdamHyper, AttentionShape, Caps, Direction, DropoutKey, LionHyper, Moments8,
    Momentum8, OpShape, Pairing, Req, SgdHyper, Span, Stats,
};
use crate::{contract, spec};

/// Coarse, object-safe operations over borrowed views.
///
/// Letters in shapes: `T` tokens (rows), `I`/`O` width in and out of a linear, `F` feed-forward
/// width, `H`/`K` query and key/value heads, `d` head width, `V` vocabulary, `N` labelled rows.
/// `scratch` holds at least `req(..).scratch` elements for the call's shape; its contents mean
/// nothing before and after.
pub trait Backend<F: Float = f32>: Send + Sync {
    /// A short name for reports.
    fn name(&self) -> &'static str;

    /// Facts for reports.
    fn caps(&self) -> Caps {
        Caps { threads: 1, isa: "generic", compute: "f32" }
    }

    /// Scratch a call of this shape needs.
    fn req(&self, op: OpShape) -> Req {
        spec::req(op)
    }

    /// `y = x Wᵀ`: `x [T, I]`, packed `w [O, I]`, `y [T, O]`.
    fn qmatmul(&self, x: Mat<'_, F>, w: QMat<'_>, y: MatMut<'_, F>, scratch: &mut [F]) {
        spec::qmatmul(x, w, y, scratch);
    }

    /// `dx += dy W`: `dy [T, O]`, packed `w [O, I]`, `dx [T, I]`; from the same bytes as
    /// [`Backend::qmatmul`], a tile at a time.
    fn qmatmul_t(&self, dy: Mat<'_, F>, w: QMat<'_>, dx: MatMut<'_, F>, scratch: &mut [F]) {
        spec::qmatmul_t(dy, w, dx, scratch);
    }

    /// Rows `rows` of a packed matrix as floats: `out [rows.len(), I]`.
    fn qdecode(&self, w: QMat<'_>, rows: Range<usize>, out: MatMut<'_, F>) {
        spec::qdecode(w, rows, out);
    }

    /// Rows `ids` of a packed matrix as floats: `out [T, D]`. An embedding without a dense table.
    fn qgather(&self, w: QMat<'_>, ids: &[u32], out: MatMut<'_, F>) {
        spec::qgather(w, ids, out);
    }

    /// `c = alpha a b + beta c`: `a [M, K]`, `b [K, N]`, `c [M, N]`, any strides. With `beta` zero,
    /// `c` is overwritten even where it holds NaN. `c` is scaled first; then each partial sum over
    /// a quantum of `K`, times `alpha`, is added in ascending order. So cutting `K` at a multiple
    /// of the quantum and going on with `beta` one changes no bit.
    fn matmul(
        &self,
        alpha: F,
        a: Mat<'_, F>,
        b: Mat<'_, F>,
        beta: F,
        c: MatMut<'_, F>,
        scratch: &mut [F],
    ) {
        spec::matmul(alpha, a, b, beta, c, scratch);
    }

    /// `y = alpha x + beta y`; with `beta` zero, `y` is overwritten even where it holds NaN.
    fn axpby(&self, alpha: F, x: Mat<'_, F>, beta: F, y: MatMut<'_, F>) {
        spec::axpby(alpha, x, beta, y);
    }

    /// `y[t, o] += bias[o]`, in place.
    fn add_bias(&self, bias: &[F], y: MatMut<'_, F>) {
        spec::add_bias(bias, y);
    }

    /// `dsum[c] += Σ_t x[t, c]`.
    fn sum_rows(&self, x: Mat<'_, F>, dsum: &mut [F]) {
        spec::sum_rows(x, dsum);
    }

    /// `y = act(gate) ⊙ up`, all `[T, F]`.
    fn glu(&self, act: Activation, gate: Mat<'_, F>, up: Mat<'_, F>, y: MatMut<'_, F>) {
        spec::glu(act, gate, up, y);
    }

    /// `gate = act(gate) ⊙ up`, in place; the same bits as [`Backend::glu`].
    fn glu_in_place(&self, act: Activation, gate: MatMut<'_, F>, up: Mat<'_, F>) {
        spec::glu_in_place(act, gate, up);
    }

    /// Replaces `gate` by its gradient and `up` by its gradient, given `dy [T, F]`. In place: the
    /// two values are overwritten, not accumulated into.
    fn glu_vjp(&self, act: Activation, dy: Mat<'_, F>, gate: MatMut<'_, F>, up: MatMut<'_, F>) {
        spec::glu_vjp(act, dy, gate, up);
    }

    /// `y = x ⊙ rstd ⊙ w`, `rstd[t] = 1 / sqrt(mean(x[t]²) + eps)`: `x`, `y [T, D]`, `w [D]`,
    /// `rstd [T]`.
    fn rmsnorm(&self, x: Mat<'_, F>, w: &[F], eps: F, y: MatMut<'_, F>, rstd: &mut [F]) {
        spec::rmsnorm(x, w, eps, y, rstd);
    }

    /// `dx += ∂rmsnorm`, given the forward's `x`, `w` and `rstd`.
    fn rmsnorm_vjp(&self, x: Mat<'_, F>, w: &[F], rstd: &[F], dy: Mat<'_, F>, dx: MatMut<'_, F>) {
        spec::rmsnorm_vjp(x, w, rstd, dy, dx);
    }

    /// Rotates the first `2 * inv_freq.len()` elements of each head of `x [T, H * d]` in place, by
    /// the angle `pos[t] * inv_freq[i]`, rounded to `F`. Elements beyond those are left alone.
    fn rope(
        &self,
        x: MatMut<'_, F>,
        head_dim: usize,
        pos: &[u32],
        inv_freq: &[F],
        pairing: Pairing,
        direction: Direction,
    ) {
        spec::rope(x, head_dim, pos, inv_freq, pairing, direction);
    }

    /// Causal grouped-query attention: `q [Tq, H * d]`, `k`, `v [Tk, K * d]` → `o [Tq, H * d]`,
    /// `lse [Tq, H]` (log-sum-exp of the scaled scores: all that backward needs of the
    /// probabilities).
    ///
    /// Queries are the last `Tq <= Tk` rows: query `i` stands at row `Tk - Tq + i`. That is a whole
    /// batch, a tile of its rows with all rows so far as keys, or a KV cache.
    ///
    /// Each span attends within itself. Spans are counted in rows of `k`, follow each other without
    /// gaps from row 0 and cover every row; an empty one is allowed. What reaches beyond `Tk` is
    /// cut off there, so that a tile is given the spans of the whole batch; a span that ends before
    /// the first query matters to nobody. A KV cache is one span over all keys.
    ///
    /// Keys are merged in tiles of a quantum counted from the first key of the span, by the online
    /// softmax; so a query gives the same bits in any tile of queries, and with a cache.
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
        spec::attention(q, k, v, shape, spans, o, lse, scratch);
    }

    /// `dq [Tq, H * d] +=`, `dk`, `dv [Tk, K * d] +=`, given the forward's operands and results;
    /// rows and spans as in [`Backend::attention`].
    ///
    /// `dq` sums over tiles of keys, ascending: quanta counted from the first key of the span.
    /// `dk` and `dv` sum over tiles of queries, ascending, and within each over the query heads of
    /// the group, ascending: what of the span lies in the same quantum of rows, counted from row 0
    /// of `k`. Each partial sum starts from zero and is then added to the gradient. So calls for
    /// tiles of queries that begin at multiples of the quantum, ascending, each with all keys up to
    /// its last query, give the bits of one call for all rows.
    ///
    /// A backend may join the partial sums of a group's heads, as long as this last sentence holds.
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
        spec::attention_vjp(q, k, v, o, lse, dout, shape, spans, dq, dk, dv, scratch);
    }

    /// Cross-entropy of `softmax(h Wᵀ)` without the logits: `h [N, D]`, packed `w [V, D]`,
    /// `targets [N]` → `loss [N]`, `lse [N]`, `argmax [N]` (the first of equal maxima).
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
        spec::xent_head(h, w, targets, loss, lse, argmax, scratch);
    }

    /// `dh += scale * (softmax(h Wᵀ) - onehot(targets)) W`, given the forward's `lse`. Logits are
    /// made again, a tile of the vocabulary at a time; the contraction over words is that of
    /// [`Backend::qmatmul_t`].
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
        spec::xent_head_vjp(h, w, targets, lse, scale, dh, scratch);
    }

    /// Both at once: `loss`, `lse` and `argmax` to the bits of [`Backend::xent_head`], and
    /// `grad = scale * (softmax(h Wᵀ) - onehot(targets)) W`, which is overwritten.
    ///
    /// The default calls the two above, with the scratch of this call: a backend that asks for more
    /// for one of them, and keeps this default, asks for the larger of both here too.
    fn xent_head_grad(
        &self,
        h: Mat<'_, F>,
        w: QMat<'_>,
        targets: &[u32],
        scale: F,
        loss: &mut [F],
        lse: &mut [F],
        argmax: &mut [u32],
        mut grad: MatMut<'_, F>,
        scratch: &mut [F],
    ) {
        contract::xent_head_grad(h, w, targets, loss, lse, argmax, grad.as_ref());
        self.xent_head(h, w, targets, loss, lse, argmax, scratch);
        grad.fill(F::ZERO);
        self.xent_head_vjp(h, w, targets, lse, scale, grad, scratch);
    }

    /// Sum of squares, largest magnitude and number of non-finite elements.
    fn stats(&self, x: &[F]) -> Stats {
        spec::stats(x)
    }

    /// `y = x ⊙ mask / (1 - p)`: element `(t, c)` keeps its value when the counter `(row0 + t, c)`
    /// of `key` draws at least `p`; otherwise it is zero, whatever it held. The draws are those of
    /// [`spec::dropout`], bit for bit, in every backend: a mask is part of a run, not of the
    /// machine it runs on. `p` lies in `[0, 1)`.
    fn dropout(&self, x: Mat<'_, F>, p: f64, key: DropoutKey, row0: usize, y: MatMut<'_, F>) {
        spec::dropout(x, p, key, row0, y);
    }

    /// One AdamW update of one tensor, in place.
    fn adamw(&self, p: &mut [F], g: &[F], m: &mut [F], v: &mut [F], hyper: &AdamHyper) {
        spec::adamw(p, g, m, v, hyper);
    }

    /// One AdamW update of one tensor with 8-bit moments, in place, a block at a time: no f32 copy
    /// of the moments exists.
    fn adamw8(&self, p: &mut [F], g: &[F], moments: Moments8<'_>, hyper: &AdamHyper) {
        spec::adamw8(p, g, moments, hyper);
    }

    /// One SGD update of one tensor, in place.
    fn sgd(&self, p: &mut [F], g: &[F], hyper: &SgdHyper) {
        spec::sgd(p, g, hyper);
    }

    /// One SGD update of one tensor with momentum `m`, in place: `m = momentum m + step`, where
    /// `step` is what [`Backend::sgd`] takes times the rate from `p`, and `p -= lr m`.
    fn sgd_momentum(&self, p: &mut [F], g: &[F], m: &mut [F], momentum: f64, hyper: &SgdHyper) {
        spec::sgd_momentum(p, g, m, momentum, hyper);
    }

    /// One Lion update of one tensor with momentum `m`, in place.
    fn lion(&self, p: &mut [F], g: &[F], m: &mut [F], hyper: &LionHyper) {
        spec::lion(p, g, m, hyper);
    }

    /// One Lion update of one tensor with an 8-bit momentum, in place, a block at a time.
    fn lion8(&self, p: &mut [F], g: &[F], momentum: Momentum8<'_>, hyper: &LionHyper) {
        spec::lion8(p, g, momentum, hyper);
    }
}

/// The specification itself as a backend: slow, portable, for every [`Float`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Scalar;

impl<F: Float> Backend<F> for Scalar {
    fn name(&self) -> &'static str {
        "scalar"
    }
}
