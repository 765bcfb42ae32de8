//! Attention and its gradient.

use std::ops::Range;

use lowtide_backend::{AttentionShape, Backend, OpShape, Span};
use lowtide_tensor::{Float, QUANTUM};

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
        (4, 2, 16, Some(50), vec![70, 0, 1, 250, 8]),
        (3, 1, 20, None, vec![100, 5, 230]),
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
        check_tiles(be, &AttentionVjp(case));
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

    /// `o` and `lse` of rows `queries` over the keys and values of rows `keys`, which end with the
    /// queries.
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

/// Results of both passes over all rows, each with its name.
type Passes<F> = [(&'static str, Vec<F>); 5];

impl AttentionVjp {
    /// Both passes, `tile` rows at a time: each call has its own queries, and all rows so far as
    /// keys.
    fn passes<F: Float>(&self, cx: &Cx<'_, F>, tile: usize) -> Passes<F> {
        let (shape, tokens, spans) = (self.0.shape, self.0.tokens(), self.0.spans());
        let (wide, narrow) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
        let (mut o, mut lse) = (Vec::new(), Vec::new());
        let mut dq = cx.rows_of(5, &(0..tokens), wide, 1.0);
        let mut dk = cx.rows_of(6, &(0..tokens), narrow, 1.0);
        let mut dv = cx.rows_of(7, &(0..tokens), narrow, 1.0);
        for start in (0..tokens.max(1)).step_by(tile) {
            let queries = start..tokens.min(start.saturating_add(tile));
            let keys = 0..queries.end;
            let (own_o, own_lse) = self.0.forward(cx, &queries, &keys, &spans);
            let Inputs { q, dout, .. } = self.0.inputs(cx, &queries);
            let Inputs { k, v, .. } = self.0.inputs(cx, &keys);
            let op = OpShape::AttentionVjp { queries: queries.len(), keys: keys.len(), shape };
            let mut scratch = cx.scratch(op);
            cx.be.attention_vjp(
                q.get(),
                k.get(),
                v.get(),
                own_o.get(),
                own_lse.get(),
                dout.get(),
                shape,
                &spans,
                dq.view().rows_range(queries),
                dk.view().rows_range(keys.clone()),
                dv.view().rows_range(keys),
                scratch.slice(),
            );
            scratch.take("scratch of attention_vjp");
            o.extend(own_o.take("o of attention"));
            lse.extend(own_lse.take("lse of attention"));
        }
        let (dq, dk, dv) = (dq.take("dq"), dk.take("dk"), dv.take("dv"));
        [("o", o), ("lse", lse), ("dq", dq), ("dk", dk), ("dv", dv)]
    }
}

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
        let [_, _, (_, dq), (_, dk), (_, dv)] = self.passes(cx, usize::MAX);
        [dq, dk, dv].concat()
    }
}

/// Tiles of rows, one call after another, give the bits of one call over all rows.
fn check_tiles(be: &dyn Backend, case: &AttentionVjp) {
    let cx = Cx::new(be);
    let whole = case.passes(&cx, usize::MAX);
    for quanta in 1..=3 {
        let tile = quanta * QUANTUM;
        if tile < case.0.tokens() {
            for ((name, got), (_, want)) in case.passes(&cx, tile).iter().zip(&whole) {
                let what = format!("{}: {}: {name} in tiles of {tile}", be.name(), case.label());
                assert_bits(&what, got, want);
            }
        }
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
    let spans = case.spans();
    let (o, lse) = case.forward(&cx, &(0..len), &(0..len), &spans);
    let (o, lse) = (o.take("o of attention"), lse.take("lse of attention"));
    for queries in [1, 2, len / 3].into_iter().filter(|queries| (1..len).contains(queries)) {
        let (own_o, own_lse) = case.forward(&cx, &(len - queries..len), &(0..len), &spans);
        let what = format!("{}: {}: the last {queries} cached", be.name(), case.label());
        let width = case.shape.heads * case.shape.head_dim;
        assert_bits(&what, &own_o.take(&what), &o[(len - queries) * width..]);
        assert_bits(&what, &own_lse.take(&what), &lse[(len - queries) * case.shape.heads..]);
    }
}
