//! Attention and its gradient.

use std::ops::Range;

use lowtide_backend::{AttentionShape, Backend, OpShape, Span};
use lowtide_tensor::Float;

use super::case::{Case, Cx, check};
use super::tolerance;
use crate::close::assert_bits;
use crate::guarded::Guarded;

pub(super) fn check_family(be: &dyn Backend) {
    let cases = [
        // Heads, key/value heads, width, window, lengths of the sequences.
        (1, 1, 1, None, vec![1]),
        (2, 2, 8, None, vec![5]),
        (4, 2, 16, None, vec![3, 0, 70, 1]),
        (3, 1, 5, Some(1), vec![9]),
        (6, 2, 8, Some(20), vec![67, 130]),
        (3, 1, 64, None, vec![200]),
        (10, 1, 12, None, vec![140]),
        (2, 2, 32, Some(64), vec![300]),
        (2, 1, 8, None, vec![]),
    ];
    for (heads, kv_heads, head_dim, window, lengths) in cases {
        let scale = 1.0 / (head_dim as f64).sqrt();
        let shape = AttentionShape { heads, kv_heads, head_dim, scale, window };
        let case = Attention { shape, lengths };
        check(be, &case);
        check(be, &AttentionVjp(case.clone()));
        check_alone(be, &case);
        check_cache(be, &case);
    }
}

/// Sequences of these lengths, one after another.
#[derive(Clone)]
pub(super) struct Attention {
    pub(super) shape: AttentionShape,
    pub(super) lengths: Vec<usize>,
}

/// `q`, `k`, `v` of some rows, and the gradient of `o`.
struct Inputs<F> {
    q: Guarded<F>,
    k: Guarded<F>,
    v: Guarded<F>,
    dout: Guarded<F>,
}

impl Attention {
    fn tokens(&self) -> usize {
        self.lengths.iter().sum()
    }

    fn spans(&self) -> Vec<Span> {
        let mut start = 0;
        let span = |&len: &usize| {
            let span = Span { start, prompt_end: start + len / 2, end: start + len };
            start += len;
            span
        };
        self.lengths.iter().map(span).collect()
    }

    fn inputs<F: Float>(&self, cx: &Cx<'_, F>, rows: &Range<usize>) -> Inputs<F> {
        let AttentionShape { heads, kv_heads, head_dim, .. } = self.shape;
        let (wide, narrow) = (heads * head_dim, kv_heads * head_dim);
        Inputs {
            q: cx.rows_of(1, rows, wide, 2.0),
            k: cx.rows_of(2, rows, narrow, 2.0),
            v: cx.rows_of(3, rows, narrow, 1.0),
            dout: cx.rows_of(4, rows, wide, 1.0),
        }
    }

    /// `o` and `lse` of rows `queries` over the keys and values of rows `keys`.
    fn forward<F: Float>(
        &self,
        cx: &Cx<'_, F>,
        queries: &Range<usize>,
        keys: &Range<usize>,
        spans: &[Span],
    ) -> (Guarded<F>, Guarded<F>) {
        let shape = self.shape;
        let Inputs { q, .. } = self.inputs(cx, queries);
        let Inputs { k, v, .. } = self.inputs(cx, keys);
        let mut o = cx.out(queries.len(), shape.heads * shape.head_dim);
        let mut lse = cx.out(queries.len(), shape.heads);
        let op = OpShape::Attention { queries: queries.len(), keys: keys.len(), shape };
        let mut scratch = cx.scratch(op);
        let out = (o.view(), lse.view(), scratch.slice());
        cx.be.attention(q.get(), k.get(), v.get(), shape, spans, out.0, out.1, out.2);
        scratch.take("scratch of attention");
        (o, lse)
    }

    fn longest(&self) -> usize {
        self.lengths.iter().copied().max().unwrap_or(0)
    }
}

impl Case for Attention {
    fn label(&self) -> String {
        let AttentionShape { heads, kv_heads, head_dim, window, .. } = self.shape;
        let lengths = &self.lengths;
        format!(
            "attention {lengths:?}, {heads} / {kv_heads} heads of {head_dim}, window {window:?}"
        )
    }

    fn rows(&self) -> usize {
        0
    }

    fn tolerance(&self) -> f64 {
        tolerance::attention(self.longest(), self.shape.head_dim)
    }

    fn run<F: Float>(&self, cx: &Cx<'_, F>, _: Range<usize>) -> Vec<F> {
        let all = 0..self.tokens();
        let (o, lse) = self.forward(cx, &all, &all, &self.spans());
        let mut values = o.take("o of attention");
        values.extend(lse.take("lse of attention"));
        values
    }
}

#[derive(Clone)]
pub(super) struct AttentionVjp(pub(super) Attention);

impl Case for AttentionVjp {
    fn label(&self) -> String {
        format!("gradient of {}", self.0.label())
    }

    fn rows(&self) -> usize {
        0
    }

    /// Gradients of keys and values also sum over the query heads of a group.
    fn tolerance(&self) -> f64 {
        let AttentionShape { heads, kv_heads, head_dim, .. } = self.0.shape;
        tolerance::attention(self.0.longest() * heads / kv_heads, head_dim)
    }

    fn run<F: Float>(&self, cx: &Cx<'_, F>, _: Range<usize>) -> Vec<F> {
        let shape = self.0.shape;
        let (all, spans) = (0..self.0.tokens(), self.0.spans());
        let (o, lse) = self.0.forward(cx, &all, &all, &spans);
        let Inputs { q, k, v, dout } = self.0.inputs(cx, &all);
        let (wide, narrow) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
        let mut dq = cx.rows_of(5, &all, wide, 1.0);
        let mut dk = cx.rows_of(6, &all, narrow, 1.0);
        let mut dv = cx.rows_of(7, &all, narrow, 1.0);
        let mut scratch = cx.scratch(OpShape::AttentionVjp { rows: all.len(), shape });
        cx.be.attention_vjp(
            q.get(),
            k.get(),
            v.get(),
            o.get(),
            lse.get(),
            dout.get(),
            shape,
            &spans,
            dq.view(),
            dk.view(),
            dv.view(),
            scratch.slice(),
        );
        scratch.take("scratch of attention_vjp");
        let parts = [dq.take("dq"), dk.take("dk"), dv.take("dv")];
        parts.concat()
    }
}

/// A sequence gives the same bits alone as in a batch.
fn check_alone(be: &dyn Backend, case: &Attention) {
    let cx = Cx::new(be);
    let all = 0..case.tokens();
    let (o, lse) = case.forward(&cx, &all, &all, &case.spans());
    let (o, lse) = (o.take("o of attention"), lse.take("lse of attention"));
    for span in case.spans() {
        let rows = span.start..span.end;
        let own = [Span { start: 0, prompt_end: 0, end: span.len() }];
        let (own_o, own_lse) = case.forward(&cx, &rows, &rows, &own);
        let what = format!("{}: {}: rows {rows:?} alone", be.name(), case.label());
        let part = |all: &[f32], width: usize| all[rows.start * width..rows.end * width].to_vec();
        let shape = case.shape;
        assert_bits(&what, &own_o.take(&what), &part(&o, shape.heads * shape.head_dim));
        assert_bits(&what, &own_lse.take(&what), &part(&lse, shape.heads));
    }
}

/// The last queries of a sequence over its cached keys give the bits they have in the whole.
fn check_cache(be: &dyn Backend, case: &Attention) {
    let [len] = case.lengths[..] else { return };
    let cx = Cx::new(be);
    let whole = [Span { start: 0, prompt_end: 0, end: len }];
    let (o, lse) = case.forward(&cx, &(0..len), &(0..len), &whole);
    let (o, lse) = (o.take("o of attention"), lse.take("lse of attention"));
    for queries in [1, 2, len / 3].into_iter().filter(|queries| (1..len).contains(queries)) {
        let own = [Span { start: 0, prompt_end: 0, end: queries }];
        let (own_o, own_lse) = case.forward(&cx, &(len - queries..len), &(0..len), &own);
        let what = format!("{}: {}: the last {queries} cached", be.name(), case.label());
        let width = case.shape.heads * case.shape.head_dim;
        assert_bits(&what, &own_o.take(&what), &o[(len - queries) * width..]);
        assert_bits(&what, &own_lse.take(&what), &lse[(len - queries) * case.shape.heads..]);
    }
}
