//! Llama: a norm, attention, a sum; a norm, a gated feed-forward part, a sum.

use lowtide_tape::ValueId;
use lowtide_tensor::Float;

use crate::ModelError;
use crate::block::Block;

pub(super) fn record<F: Float>(b: &mut Block<'_, '_, '_, F>, x: ValueId) -> Result<(), ModelError> {
    let n = b.norm("input_layernorm", x)?;
    let (q, k, v) = b.queries_keys_values(n)?;
    let (q, k) = (b.rope(q), b.rope(k));
    let o = b.attention(q, k, v)?;
    let h = b.add("self_attn", x, o);

    let n = b.norm("post_attention_layernorm", h)?;
    let m = b.feed_forward(n)?;
    b.add("mlp", h, m);
    Ok(())
}
