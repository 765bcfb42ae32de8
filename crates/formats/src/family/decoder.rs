//! What every family here is: RMS norms, grouped attention with rotary positions, a gated
//! feed-forward part. Its fields in both kinds of file, and its tensors.

use super::gguf_keys::Keys;
use super::{Family, Stop, TensorVisitor, hf_keys};
use crate::json::{Object, required};
use crate::{Activation, DocumentError, Hyperparameters, Pairing, Rope};

/// What transformers takes where a config is silent.
pub(super) struct Defaults {
    /// Width of a head; `None` for an even split of the hidden size.
    pub(super) head_dim: Option<usize>,
    pub(super) max_position_embeddings: usize,
    pub(super) tie_word_embeddings: bool,
}

/// Reads the fields that HF configs of all families have. What a family says otherwise, it changes
/// in the answer, which is not checked.
pub(super) fn from_hf(
    config: Object<'_>,
    family: &Family,
    defaults: &Defaults,
    rope: Rope,
) -> Result<Hyperparameters, DocumentError> {
    let count = |key| required(config.usize(key)?, key, "a whole number");
    let flag = |key| Ok(config.bool(key)?.unwrap_or(false));
    let hidden_size = count("hidden_size")?;
    let num_attention_heads = count("num_attention_heads")?;
    let head_dim = match (config.usize("head_dim")?, defaults.head_dim) {
        (Some(head_dim), _) | (None, Some(head_dim)) => head_dim,
        (None, None) => hf_keys::even_head_dim(hidden_size, num_attention_heads)?,
    };
    let attention_bias = flag("attention_bias")?;
    let positions = config.usize("max_position_embeddings")?;
    let tied = config.bool("tie_word_embeddings")?;
    Ok(Hyperparameters {
        architecture: family.model_type.to_owned(),
        hidden_size,
        intermediate_size: count("intermediate_size")?,
        num_hidden_layers: count("num_hidden_layers")?,
        num_attention_heads,
        num_key_value_heads: config.usize("num_key_value_heads")?.unwrap_or(num_attention_heads),
        head_dim,
        vocab_size: count("vocab_size")?,
        max_position_embeddings: positions.unwrap_or(defaults.max_position_embeddings),
        rms_norm_eps: config.f64("rms_norm_eps")?.unwrap_or(1e-6) as f32,
        tie_word_embeddings: tied.unwrap_or(defaults.tie_word_embeddings),
        hidden_act: hf_keys::activation(config, "hidden_act")?.unwrap_or(Activation::Silu),
        attention_bias,
        attention_output_bias: attention_bias,
        mlp_bias: flag("mlp_bias")?,
        attention_scale: attention_scale(head_dim as f64),
        embedding_scale: 1.0,
        norm_offset: 0.0,
        rope,
        local: None,
        qk_permuted: false,
    })
}

/// Reads the metadata that GGUF files of all families have; as [`from_hf`].
pub(super) fn from_gguf(
    keys: &Keys<'_>,
    family: &Family,
    pairing: Pairing,
) -> Result<Hyperparameters, DocumentError> {
    let hidden_size = keys.count("embedding_length")?;
    let num_attention_heads = keys.count("attention.head_count")?;
    let kv_heads = keys.metadata.get_usize(&keys.key("attention.head_count_kv"))?;
    let head_dim = keys.head_dim(hidden_size, num_attention_heads)?;
    Ok(Hyperparameters {
        architecture: family.model_type.to_owned(),
        hidden_size,
        intermediate_size: keys.count("feed_forward_length")?,
        num_hidden_layers: keys.count("block_count")?,
        num_attention_heads,
        num_key_value_heads: kv_heads.unwrap_or(num_attention_heads),
        head_dim,
        vocab_size: keys.vocab_size()?,
        max_position_embeddings: keys.count("context_length")?,
        rms_norm_eps: keys.float("attention.layer_norm_rms_epsilon")?,
        tie_word_embeddings: !keys.has_tensor("output.weight"),
        hidden_act: Activation::Silu,
        attention_bias: keys.has_tensor("blk.0.attn_q.bias"),
        attention_output_bias: keys.has_tensor("blk.0.attn_output.bias"),
        mlp_bias: keys.has_tensor("blk.0.ffn_gate.bias"),
        attention_scale: attention_scale(head_dim as f64),
        embedding_scale: 1.0,
        norm_offset: 0.0,
        rope: keys.rope(pairing)?,
        local: None,
        qk_permuted: pairing == Pairing::Adjacent,
    })
}

/// Factor on scores of products of `width` terms.
pub(super) fn attention_scale(width: f64) -> f64 {
    1.0 / width.sqrt()
}

/// Visits the tensors of a decoder: embedding, linears, the norms of each block, the last norm, an
/// untied head. `norms` are as wide as the residual stream, `head_norms` as one head.
pub(super) fn tensors(
    hyper: &Hyperparameters,
    norms: &[&str],
    head_norms: &[&str],
    visit: &mut TensorVisitor<'_>,
) -> Result<(), Stop> {
    let hidden = hyper.hidden_size;
    let (query, key_value) = (hyper.query_size(), hyper.key_value_size());
    let inner = hyper.intermediate_size;
    visit("model.embed_tokens.weight", &[hyper.vocab_size, hidden])?;
    for block in 0..hyper.num_hidden_layers {
        let block = format!("model.layers.{block}");
        for (module, rows, columns, bias) in [
            ("self_attn.q_proj", query, hidden, hyper.attention_bias),
            ("self_attn.k_proj", key_value, hidden, hyper.attention_bias),
            ("self_attn.v_proj", key_value, hidden, hyper.attention_bias),
            ("self_attn.o_proj", hidden, query, hyper.attention_output_bias),
            ("mlp.gate_proj", inner, hidden, hyper.mlp_bias),
            ("mlp.up_proj", inner, hidden, hyper.mlp_bias),
            ("mlp.down_proj", hidden, inner, hyper.mlp_bias),
        ] {
            visit(&format!("{block}.{module}.weight"), &[rows, columns])?;
            if bias {
                visit(&format!("{block}.{module}.bias"), &[rows])?;
            }
        }
        for norm in head_norms {
            visit(&format!("{block}.{norm}.weight"), &[hyper.head_dim])?;
        }
        for norm in norms {
            visit(&format!("{block}.{norm}.weight"), &[hidden])?;
        }
    }
    visit("model.norm.weight", &[hidden])?;
    if !hyper.tie_word_embeddings {
        visit("lm_head.weight", &[hyper.vocab_size, hidden])?;
    }
    Ok(())
}
