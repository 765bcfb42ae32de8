//! Causal grouped-query attention.

use alloc::vec::Vec;

use lowtide_backend::{AttentionShape, Backend, OpShape, Req};
use lowtide_tensor::Float;

use super::given;
use crate::{Cx, Facts, Forward, GradRule, Limits, MAX_INPUTS, Op, Vjp};

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
            grads: [GradRule::Accumulate; MAX_INPUTS],
        }
    }

    fn req(&self, be: &dyn Backend<F>, limits: Limits) -> Req {
        let (rows, shape) = (limits.tokens, self.shape);
        let there = be.req(OpShape::Attention { queries: rows, keys: rows, shape });
        there.max(be.req(OpShape::AttentionVjp { rows, shape }))
    }

    fn forward(&self, cx: &Cx<'_, F>, operands: Forward<'_, F>) {
        let [q, k, v, _] = operands.x.map(|x| x.unwrap_or_else(|| empty()));
        let [o, lse] = operands.y;
        let (o, lse) = (given(o, "attention's output"), given(lse, "attention's log-sum-exp"));
        cx.be.attention(q, k, v, self.shape, cx.spans, o, lse, operands.scratch);
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

fn empty<'a, F: Float>() -> lowtide_tensor::Mat<'a, F> {
    lowtide_tensor::Mat::new(&[], 0, 0)
}
