//! The shapes each operation demands, as functions that panic with words.
//!
//! Every function here is named after its operation and takes its operands. It returns when they
//! fit together and panics otherwise, naming the operation, the operand, what was expected and what
//! was found. The scalar specification calls them at its door, [`Checked`](crate::Checked) in front
//! of any backend; a backend of your own may do either. Scratch is not looked at here, because only
//! a backend knows its [`req`](crate::Backend::req).
//!
//! That operands do not overlap needs no check: one is borrowed mutably, which the compiler sees
//! to.
//!
//! # Panics
//! Everything here, on a broken contract; that is its purpose.
#![allow(clippy::missing_panics_doc, reason = "the module documentation says it for all of them")]

use core::fmt::Display;
use core::ops::Range;

use lowtide_quant::{QMat, dynamic8};
use lowtide_tensor::{Float, Mat};

use crate::shapes::{AdamHyper, AttentionShape, Moments8, Momentum8, Span};

/// Most values that a block of a packed matrix may hold.
pub const BLOCK_LEN_MAX: usize = 256;

/// `x [T, I]`, `w [O, I]`, `y [T, O]`.
pub fn qmatmul<F: Float>(x: Mat<'_, F>, w: QMat<'_>, y: Mat<'_, F>) {
    let op = Op("qmatmul");
    op.packed(w);
    op.rows_of("x", x, x.rows(), w.cols());
    op.rows_of("y", y, x.rows(), w.rows());
}

/// `dy [T, O]`, `w [O, I]`, `dx [T, I]`.
pub fn qmatmul_t<F: Float>(dy: Mat<'_, F>, w: QMat<'_>, dx: Mat<'_, F>) {
    let op = Op("qmatmul_t");
    op.packed(w);
    op.rows_of("dy", dy, dy.rows(), w.rows());
    op.rows_of("dx", dx, dy.rows(), w.cols());
}

/// `rows` inside `w [O, I]`, `out [rows.len(), I]`.
pub fn qdecode<F: Float>(w: QMat<'_>, rows: &Range<usize>, out: Mat<'_, F>) {
    let op = Op("qdecode");
    op.packed(w);
    op.that(
        rows.start <= rows.end && rows.end <= w.rows(),
        "rows",
        format_args!("a range within 0..{}", w.rows()),
        format_args!("{}..{}", rows.start, rows.end),
    );
    op.rows_of("out", out, rows.len(), w.cols());
}

/// `ids [T]` below the rows of `w [V, D]`, `out [T, D]`.
pub fn qgather<F: Float>(w: QMat<'_>, ids: &[u32], out: Mat<'_, F>) {
    let op = Op("qgather");
    op.packed(w);
    op.below("ids", ids, w.rows());
    op.rows_of("out", out, ids.len(), w.cols());
}

/// `a [M, K]`, `b [K, N]`, `c [M, N]`, any strides.
pub fn matmul<F: Float>(a: Mat<'_, F>, b: Mat<'_, F>, c: Mat<'_, F>) {
    let op = Op("matmul");
    op.shape("b", b, a.cols(), b.cols());
    op.shape("c", c, a.rows(), b.cols());
}

/// `x` and `y` of one shape, any strides.
pub fn axpby<F: Float>(x: Mat<'_, F>, y: Mat<'_, F>) {
    Op("axpby").shape("y", y, x.rows(), x.cols());
}

/// `bias [O]`, `y [T, O]`.
pub fn add_bias<F: Float>(bias: &[F], y: Mat<'_, F>) {
    let op = Op("add_bias");
    op.len("bias", bias.len(), y.cols());
    op.adjacent("y", y);
}

/// `x [T, C]`, `dsum [C]`.
pub fn sum_rows<F: Float>(x: Mat<'_, F>, dsum: &[F]) {
    let op = Op("sum_rows");
    op.adjacent("x", x);
    op.len("dsum", dsum.len(), x.cols());
}

/// `gate`, `up`, `y [T, F]`.
pub fn glu<F: Float>(gate: Mat<'_, F>, up: Mat<'_, F>, y: Mat<'_, F>) {
    let op = Op("glu");
    op.adjacent("gate", gate);
    op.rows_of("up", up, gate.rows(), gate.cols());
    op.rows_of("y", y, gate.rows(), gate.cols());
}

/// `gate`, `up [T, F]`.
pub fn glu_in_place<F: Float>(gate: Mat<'_, F>, up: Mat<'_, F>) {
    let op = Op("glu_in_place");
    op.adjacent("gate", gate);
    op.rows_of("up", up, gate.rows(), gate.cols());
}

/// `dy`, `gate`, `up [T, F]`.
pub fn glu_vjp<F: Float>(dy: Mat<'_, F>, gate: Mat<'_, F>, up: Mat<'_, F>) {
    let op = Op("glu_vjp");
    op.adjacent("dy", dy);
    op.rows_of("gate", gate, dy.rows(), dy.cols());
    op.rows_of("up", up, dy.rows(), dy.cols());
}

/// `x [T, D]`, `w [D]`, `y [T, D]`, `rstd [T]`.
pub fn rmsnorm<F: Float>(x: Mat<'_, F>, w: &[F], y: Mat<'_, F>, rstd: &[F]) {
    let op = Op("rmsnorm");
    op.adjacent("x", x);
    op.len("w", w.len(), x.cols());
    op.rows_of("y", y, x.rows(), x.cols());
    op.len("rstd", rstd.len(), x.rows());
}

/// `x [T, D]`, `w [D]`, `rstd [T]`, `dy`, `dx [T, D]`.
pub fn rmsnorm_vjp<F: Float>(x: Mat<'_, F>, w: &[F], rstd: &[F], dy: Mat<'_, F>, dx: Mat<'_, F>) {
    let op = Op("rmsnorm_vjp");
    op.adjacent("x", x);
    op.len("w", w.len(), x.cols());
    op.len("rstd", rstd.len(), x.rows());
    op.rows_of("dy", dy, x.rows(), x.cols());
    op.rows_of("dx", dx, x.rows(), x.cols());
}

/// `x [T, H * d]`, `pos [T]`, at most `d / 2` frequencies.
pub fn rope<F: Float>(x: Mat<'_, F>, head_dim: usize, pos: &[u32], inv_freq: &[F]) {
    let op = Op("rope");
    op.adjacent("x", x);
    let whole = head_dim > 0 && x.cols().is_multiple_of(head_dim);
    op.that(whole, "x", format_args!("whole heads of {head_dim} columns"), x.cols());
    op.len("pos", pos.len(), x.rows());
    let most = format_args!("at most {} frequencies for heads of {head_dim}", head_dim / 2);
    op.that(inv_freq.len() <= head_dim / 2, "inv_freq", most, inv_freq.len());
}

/// `q`, `o [Tq, H * d]`, `k`, `v [Tk, K * d]`, `lse [Tq, H]`; spans as the trait says.
pub fn attention<F: Float>(
    q: Mat<'_, F>,
    k: Mat<'_, F>,
    v: Mat<'_, F>,
    shape: AttentionShape,
    spans: &[Span],
    o: Mat<'_, F>,
    lse: Mat<'_, F>,
) {
    let op = Op("attention");
    op.heads(q, k, v, shape);
    op.rows_of("o", o, q.rows(), q.cols());
    op.shape("lse", lse, q.rows(), shape.heads);
    op.spans(spans, k.rows());
}

/// `q`, `o`, `dout`, `dq [Tq, H * d]`, `k`, `v`, `dk`, `dv [Tk, K * d]`, `lse [Tq, H]`; spans as
/// the trait says.
pub fn attention_vjp<F: Float>(
    [q, k, v]: [Mat<'_, F>; 3],
    o: Mat<'_, F>,
    lse: Mat<'_, F>,
    dout: Mat<'_, F>,
    shape: AttentionShape,
    spans: &[Span],
    [dq, dk, dv]: [Mat<'_, F>; 3],
) {
    let op = Op("attention_vjp");
    op.heads(q, k, v, shape);
    op.rows_of("o", o, q.rows(), q.cols());
    op.shape("lse", lse, q.rows(), shape.heads);
    op.rows_of("dout", dout, q.rows(), q.cols());
    op.rows_of("dq", dq, q.rows(), q.cols());
    op.rows_of("dk", dk, k.rows(), k.cols());
    op.rows_of("dv", dv, k.rows(), k.cols());
    op.spans(spans, k.rows());
}

/// `h [N, D]`, `w [V, D]`, `targets [N]` below `V`, `loss`, `lse`, `argmax [N]`.
pub fn xent_head<F: Float>(
    h: Mat<'_, F>,
    w: QMat<'_>,
    targets: &[u32],
    loss: &[F],
    lse: &[F],
    argmax: &[u32],
) {
    Op("xent_head").head(h, w, targets, loss, lse, argmax);
}

/// `h [N, D]`, `w [V, D]`, `targets [N]` below `V`, `lse [N]`, `dh [N, D]`.
pub fn xent_head_vjp<F: Float>(
    h: Mat<'_, F>,
    w: QMat<'_>,
    targets: &[u32],
    lse: &[F],
    dh: Mat<'_, F>,
) {
    let op = Op("xent_head_vjp");
    op.packed(w);
    op.rows_of("h", h, h.rows(), w.cols());
    op.len("targets", targets.len(), h.rows());
    op.below("targets", targets, w.rows());
    op.len("lse", lse.len(), h.rows());
    op.rows_of("dh", dh, h.rows(), h.cols());
}

/// As [`xent_head`], and `grad [N, D]`.
pub fn xent_head_grad<F: Float>(
    h: Mat<'_, F>,
    w: QMat<'_>,
    targets: &[u32],
    loss: &[F],
    lse: &[F],
    argmax: &[u32],
    grad: Mat<'_, F>,
) {
    let op = Op("xent_head_grad");
    op.head(h, w, targets, loss, lse, argmax);
    op.rows_of("grad", grad, h.rows(), h.cols());
}

/// `x`, `y [T, C]`, `p` in `[0, 1)`.
pub fn dropout<F: Float>(x: Mat<'_, F>, p: f64, y: Mat<'_, F>) {
    let op = Op("dropout");
    op.that((0.0..1.0).contains(&p), "p", "a probability in [0, 1)", p);
    op.adjacent("x", x);
    op.rows_of("y", y, x.rows(), x.cols());
}

/// `p`, `g`, `m`, `v` of one length; steps count from 1.
pub fn adamw<F: Float>(p: &[F], g: &[F], m: &[F], v: &[F], hyper: &AdamHyper) {
    let op = Op("adamw");
    op.len("g", g.len(), p.len());
    op.len("m", m.len(), p.len());
    op.len("v", v.len(), p.len());
    op.that(hyper.step >= 1, "step", "a count from 1", hyper.step);
}

/// `p`, `g` and codes of one length, an absmax for each block; steps count from 1.
pub fn adamw8<F: Float>(p: &[F], g: &[F], moments: &Moments8<'_>, hyper: &AdamHyper) {
    let op = Op("adamw8");
    let blocks = dynamic8::blocks(p.len());
    op.len("g", g.len(), p.len());
    op.len("m", moments.m.len(), p.len());
    op.len("v", moments.v.len(), p.len());
    op.len("m_absmax", moments.m_absmax.len(), blocks);
    op.len("v_absmax", moments.v_absmax.len(), blocks);
    op.that(hyper.step >= 1, "step", "a count from 1", hyper.step);
}

/// `p`, `g` of one length.
pub fn sgd<F: Float>(p: &[F], g: &[F]) {
    Op("sgd").len("g", g.len(), p.len());
}

/// `p`, `g`, `m` of one length.
pub fn sgd_momentum<F: Float>(p: &[F], g: &[F], m: &[F]) {
    let op = Op("sgd_momentum");
    op.len("g", g.len(), p.len());
    op.len("m", m.len(), p.len());
}

/// `p`, `g`, `m` of one length.
pub fn lion<F: Float>(p: &[F], g: &[F], m: &[F]) {
    let op = Op("lion");
    op.len("g", g.len(), p.len());
    op.len("m", m.len(), p.len());
}

/// `p`, `g` and codes of one length, an absmax for each block.
pub fn lion8<F: Float>(p: &[F], g: &[F], momentum: &Momentum8<'_>) {
    let op = Op("lion8");
    op.len("g", g.len(), p.len());
    op.len("m", momentum.m.len(), p.len());
    op.len("absmax", momentum.absmax.len(), dynamic8::blocks(p.len()));
}

/// The operation whose contract is read.
#[derive(Clone, Copy)]
pub(crate) struct Op(pub(crate) &'static str);

impl Op {
    /// The panic itself.
    #[track_caller]
    pub(crate) fn that(self, holds: bool, operand: &str, want: impl Display, got: impl Display) {
        assert!(holds, "{}: {operand}: expected {want}, found {got}", self.0);
    }

    fn len(self, operand: &str, got: usize, want: usize) {
        self.that(got == want, operand, format_args!("{want} elements"), got);
    }

    fn shape<F: Float>(self, operand: &str, got: Mat<'_, F>, rows: usize, cols: usize) {
        let holds = (got.rows(), got.cols()) == (rows, cols);
        let found = format_args!("[{}, {}]", got.rows(), got.cols());
        self.that(holds, operand, format_args!("[{rows}, {cols}]"), found);
    }

    /// Activations: rows are slices.
    fn adjacent<F: Float>(self, operand: &str, got: Mat<'_, F>) {
        let holds = got.cols() <= 1 || got.col_stride() == 1;
        self.that(holds, operand, "rows of adjacent columns", got.col_stride());
    }

    fn rows_of<F: Float>(self, operand: &str, got: Mat<'_, F>, rows: usize, cols: usize) {
        self.shape(operand, got, rows, cols);
        self.adjacent(operand, got);
    }

    fn packed(self, w: QMat<'_>) {
        let len = w.format().block_len();
        let most = format_args!("blocks of at most {BLOCK_LEN_MAX} values");
        self.that(len <= BLOCK_LEN_MAX, "w", most, len);
    }

    fn below(self, operand: &str, ids: &[u32], bound: usize) {
        if let Some(at) = ids.iter().position(|&id| id as usize >= bound) {
            let want = format_args!("ids below {bound}");
            self.that(false, operand, want, format_args!("{} at {at}", ids[at]));
        }
    }

    fn head<F: Float>(
        self,
        h: Mat<'_, F>,
        w: QMat<'_>,
        targets: &[u32],
        loss: &[F],
        lse: &[F],
        argmax: &[u32],
    ) {
        self.packed(w);
        self.rows_of("h", h, h.rows(), w.cols());
        self.len("targets", targets.len(), h.rows());
        self.below("targets", targets, w.rows());
        self.len("loss", loss.len(), h.rows());
        self.len("lse", lse.len(), h.rows());
        self.len("argmax", argmax.len(), h.rows());
    }

    fn heads<F: Float>(self, q: Mat<'_, F>, k: Mat<'_, F>, v: Mat<'_, F>, shape: AttentionShape) {
        let AttentionShape { heads, kv_heads, head_dim, window, .. } = shape;
        self.that(head_dim > 0, "head_dim", "at least 1", head_dim);
        let whole = kv_heads > 0 && heads.is_multiple_of(kv_heads);
        self.that(whole, "kv_heads", format_args!("a divisor of {heads} heads"), kv_heads);
        self.that(window != Some(0), "window", "at least the query itself", 0);
        self.rows_of("q", q, q.rows(), heads * head_dim);
        self.rows_of("k", k, k.rows(), kv_heads * head_dim);
        self.rows_of("v", v, k.rows(), kv_heads * head_dim);
        let enough = format_args!("at least as many rows as q has, {}", q.rows());
        self.that(k.rows() >= q.rows(), "k", enough, k.rows());
    }

    /// Spans without gaps from row 0 to row `rows` or beyond.
    fn spans(self, spans: &[Span], rows: usize) {
        let mut next = 0;
        for span in spans {
            let want = format_args!("a span from row {next} on");
            let holds = span.start == next && span.start <= span.end;
            self.that(holds, "spans", want, format_args!("{}..{}", span.start, span.end));
            next = span.end;
        }
        let want = format_args!("an end at row {rows} or beyond");
        self.that(next >= rows, "spans", want, next);
    }
}
