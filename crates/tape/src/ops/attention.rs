//! Causal grouped-query attention.

use alloc::vec::Vec;

use lowtide_backend::{AttentionShape, Backend, OpShape, Req, Span};
use lowtide_tensor::{Float, Mat, QUANTUM};

use super::given;
use crate::{Cx, DecodeLimits, Facts, Forward, GradRule, Limits, MAX_INPUTS, Op, State, Vjp, Work};

/// `o = softmax(q kᵀ scale + mask) v` per head. Output 1 is `[T, H]`, the log-sum-exp of the
/// scores: with it backward makes the probabilities again, tile by tile.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// Heads, widths, scale and reach.
    pub shape: AttentionShape,
}

impl<F: Float> Op<F> for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn out_cols(&self, in_cols: &[usize]) -> Vec<usize> {
        let AttentionShape { heads, kv_heads, head_dim, .. } = self.shape;
        let kv = kv_heads * head_dim;
        assert!(in_cols == [heads * head_dim, kv, kv], "attention of widths {in_cols:?}");
        alloc::vec![heads * head_dim, heads]
    }

    fn facts(&self) -> Facts {
        Facts {
            reads_inputs: 0b111,
            reads_outputs: 0b11,
            in_place: 0,
            history: 0b110,
            grads: [GradRule::Accumulate; MAX_INPUTS],
        }
    }

    fn work(&self, rows: usize, keys: usize, _cols: usize) -> Work {
        let AttentionShape { heads, head_dim, window, .. } = self.shape;
        Work::attention(rows, keys, window, heads * head_dim)
    }

    fn req(&self, be: &dyn Backend<F>, rows: usize, limits: Limits) -> Req {
        let (queries, keys, shape) = (rows, limits.tokens, self.shape);
        let there = be.req(OpShape::Attention { queries, keys, shape });
        there.max(be.req(OpShape::AttentionVjp { queries, keys, shape }))
    }

    fn state(&self, limits: DecodeLimits) -> usize {
        2 * self.kept_rows(limits) * self.shape.kv_heads * self.shape.head_dim
    }

    fn reads_from(&self, tokens: usize) -> usize {
        self.shape.window.map_or(0, |window| (tokens + 1).saturating_sub(window))
    }

    fn decode_req(&self, be: &dyn Backend<F>, limits: DecodeLimits) -> Req {
        let (queries, keys) = (limits.rows, self.kept_rows(limits));
        be.req(OpShape::Attention { queries, keys, shape: self.shape })
    }

    fn forward(&self, cx: &Cx<'_, F>, operands: Forward<'_, F>) {
        let [q, k, v, _] = operands.x.map(|x| x.unwrap_or_else(|| empty()));
        let [o, lse] = operands.y;
        let (o, lse) = (given(o, "attention's output"), given(lse, "attention's log-sum-exp"));
        let whole;
        let (k, v, spans) = match operands.state {
            Some(state) => {
                let (k, v) = self.remember(cx, k, v, state);
                whole = [Span { start: 0, prompt_end: 0, end: k.rows() }];
                (k, v, &whole[..])
            }
            None => (k, v, cx.spans),
        };
        cx.be.attention(q, k, v, self.shape, spans, o, lse, operands.scratch);
    }

    fn vjp(&self, cx: &Cx<'_, F>, operands: Vjp<'_, F>) {
        let [q, k, v, _] = operands.x.map(|x| x.unwrap_or_else(|| empty()));
        let [o, lse] = operands.y;
        let (o, lse) = (given(o, "attention's output"), given(lse, "attention's log-sum-exp"));
        let dout = given(operands.dy, "attention's gradient");
        let [dq, dk, dv, _] = operands.dx;
        // Where only some of the three are wanted the schedule lends room for the others too.
        let (dq, dk, dv) = (given(dq, "dq"), given(dk, "dk"), given(dv, "dv"));
        let scratch = operands.scratch;
        cx.be.attention_vjp(q, k, v, o, lse, dout, self.shape, cx.spans, dq, dk, dv, scratch);
    }
}

/// Tokens that a window can be taken back by although nothing of before it is read.
const SLACK: usize = QUANTUM;

impl Attention {
    /// Keys that are kept at once: all, or with a window those it reaches from the first row of a
    /// call, whole quanta of them and some slack, and those of the call itself.
    fn kept_rows(&self, limits: DecodeLimits) -> usize {
        let window =
            self.shape.window.map(|window| window.saturating_add(SLACK + QUANTUM + limits.rows));
        window.map_or(limits.context, |rows| rows.min(limits.context))
    }

    /// Appends keys and values of a call to those before and gives all that are kept.
    ///
    /// Where a window leaves keys behind they are dropped in whole quanta, so that sums over keys
    /// restart where they always do.
    fn remember<'s, F: Float>(
        &self,
        cx: &Cx<'_, F>,
        k: Mat<'_, F>,
        v: Mat<'_, F>,
        state: State<'s, F>,
    ) -> (Mat<'s, F>, Mat<'s, F>) {
        let State { values: kept, first } = state;
        let (width, past) = (k.cols(), cx.positions.first().map_or(0, |at| *at as usize));
        let (keys, values) = kept.split_at_mut(kept.len() / 2);
        if (past - *first + k.rows()) * width > keys.len() {
            let from = Op::<F>::reads_from(self, past).saturating_sub(SLACK) / QUANTUM * QUANTUM;
            let live = (from - *first) * width..(past - *first) * width;
            keys.copy_within(live.clone(), 0);
            values.copy_within(live, 0);
            *first = from;
        }
        let (before, rows) = (past - *first, past - *first + k.rows());
        for (kept, new) in [(&mut *keys, k), (&mut *values, v)] {
            for row in 0..new.rows() {
                kept[(before + row) * width..][..width].copy_from_slice(new.row(row));
            }
        }
        let whole = |kept: &'s [F]| Mat::new(&kept[..rows * width], rows, width);
        (whole(keys), whole(values))
    }
}

fn empty<'a, F: Float>() -> Mat<'a, F> {
    Mat::new(&[], 0, 0)
}
