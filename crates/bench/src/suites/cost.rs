//! What a pass through a model takes, counted over the plain algorithm.
//!
//! Counted are the base's linears, attention over the tokens before each one, and the head over the
//! labelled rows. What is computed again under a policy is not: it is the price of the policy, not
//! work that somebody asked for. Nor are adapters, which are a hundredth.

use lowtide_model::Config;

use super::Base;
use crate::Work;

/// Parts of the operations of a forward pass.
struct Parts {
    linears: u64,
    /// One product of attention, forward or backward.
    attention: u64,
    head: u64,
}

impl Parts {
    fn of(config: &Config, tokens: usize, labelled: usize) -> Self {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let query = config.num_attention_heads * config.head_dim;
        let key = config.num_key_value_heads * config.head_dim;
        let block = hidden * (2 * query + 2 * key + 3 * inner);
        let layers = config.num_hidden_layers;
        Self {
            linears: (2 * tokens * block * layers) as u64,
            attention: (tokens * tokens * query * layers) as u64,
            head: (2 * labelled * hidden * config.vocab_size) as u64,
        }
    }
}

/// A forward pass over `tokens` tokens.
pub(super) fn forward(base: &Base, tokens: usize, labelled: usize) -> Work {
    let Parts { linears, attention, head } = Parts::of(base.config(), tokens, labelled);
    let bytes = base.bytes();
    Work { flops: linears + 2 * attention + head, bytes, span: bytes }
}

/// Forward and backward down to the inputs of all linears.
pub(super) fn train(base: &Base, tokens: usize, labelled: usize) -> Work {
    let Parts { linears, attention, head } = Parts::of(base.config(), tokens, labelled);
    let bytes = base.bytes();
    let flops = 2 * linears + 7 * attention + 2 * head;
    Work { flops, bytes: 2 * bytes, span: bytes }
}

/// `tokens` tokens one after the other, after `past` ones.
pub(super) fn decode(base: &Base, past: usize, tokens: usize) -> Work {
    let Parts { linears, head, .. } = Parts::of(base.config(), tokens, tokens);
    let config = base.config();
    let query = config.num_attention_heads * config.head_dim * config.num_hidden_layers;
    let attention = 4 * (past * tokens + tokens * tokens / 2) * query;
    let bytes = base.bytes();
    Work { flops: linears + head + attention as u64, bytes: bytes * tokens as u64, span: bytes }
}

#[cfg(test)]
mod tests {
    use super::super::base::tests::tiny;
    use super::*;

    #[test]
    fn operations_are_two_a_weight_and_token() {
        let base = tiny();
        let weights = 2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 64 * 32);
        let (linears, head) = (2 * 10 * weights, 2 * 9 * 32 * 64);
        let attention = 10 * 10 * 32 * 2;
        let there = forward(&base, 10, 9);
        assert_eq!(there.flops, (linears + head + 2 * attention) as u64);
        assert_eq!((there.bytes, there.span), (base.bytes(), base.bytes()));
        let both = train(&base, 10, 9);
        assert_eq!(both.flops, (2 * linears + 2 * head + 7 * attention) as u64);
        let one = decode(&base, 0, 4);
        assert_eq!(one.bytes, 4 * base.bytes());
        assert_eq!(one.flops, (2 * 4 * weights + 2 * 4 * 32 * 64 + 4 * 8 * 32 * 2) as u64);
    }
}
