//! Llama: RMS norms, grouped attention with rotary positions, a gated feed-forward part.

use super::{Family, Stop, TensorVisitor, gguf_keys, hf_keys};
use crate::gguf::Contents;
use crate::json::{Object, required};
use crate::names::NameTable;
use crate::{DocumentError, Hyperparameters, Pairing};

pub(super) static FAMILY: Family = Family {
    model_type: "llama",
    gguf_architecture: "llama",
    block_names: BLOCK_NAMES,
    derived_tensors: &[".rotary_emb.inv_freq"],
    from_hf,
    from_gguf,
    tensors,
};

pub(crate) const BLOCK_NAMES: NameTable = &[
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

/// Metadata of the family, without the prefix `llama.`, that is read below.
const GGUF_KEYS: &[&str] = &[
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "vocab_size",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "rope.dimension_count",
];

fn from_hf(config: Object<'_>) -> Result<Hyperparameters, DocumentError> {
    hf_keys::architecture(config, "LlamaForCausalLM")?;
    hf_keys::refuse_active(config)?;
    let count = |key| required(config.usize(key)?, key, "a whole number");
    let hidden_size = count("hidden_size")?;
    let num_attention_heads = count("num_attention_heads")?;
    let flag = |key| Ok(config.bool(key)?.unwrap_or(false));
    let rope = hf_keys::rope(config, Pairing::Halves)?;
    Hyperparameters {
        architecture: FAMILY.model_type.to_owned(),
        hidden_size,
        intermediate_size: count("intermediate_size")?,
        num_hidden_layers: count("num_hidden_layers")?,
        num_attention_heads,
        num_key_value_heads: config.usize("num_key_value_heads")?.unwrap_or(num_attention_heads),
        head_dim: hf_keys::head_dim(config, hidden_size, num_attention_heads)?,
        vocab_size: count("vocab_size")?,
        max_position_embeddings: config.usize("max_position_embeddings")?.unwrap_or(2048),
        rms_norm_eps: config.f64("rms_norm_eps")?.unwrap_or(1e-6) as f32,
        tie_word_embeddings: flag("tie_word_embeddings")?,
        hidden_act: hf_keys::activation(config, "hidden_act")?,
        attention_bias: flag("attention_bias")?,
        mlp_bias: flag("mlp_bias")?,
        rope,
        qk_permuted: false,
    }
    .checked(|field| hf_keys::key_of(config, field))
}

fn from_gguf(contents: &Contents, bytes: &[u8]) -> Result<Hyperparameters, DocumentError> {
    let keys = gguf_keys::Keys::new(contents, bytes, FAMILY.gguf_architecture);
    keys.refuse_unknown(GGUF_KEYS)?;
    let hidden_size = keys.count("embedding_length")?;
    let num_attention_heads = keys.count("attention.head_count")?;
    let kv_heads = keys.metadata.get_usize(&keys.key("attention.head_count_kv"))?;
    let head_dim = keys.head_dim(hidden_size, num_attention_heads)?;
    let hyper = Hyperparameters {
        architecture: FAMILY.model_type.to_owned(),
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
        hidden_act: crate::Activation::Silu,
        attention_bias: keys.has_tensor("blk.0.attn_q.bias"),
        mlp_bias: keys.has_tensor("blk.0.ffn_gate.bias"),
        rope: keys.rope(Pairing::Adjacent)?,
        qk_permuted: true,
    };
    hyper.checked(|field| keys.key_of(field))
}

fn tensors(hyper: &Hyperparameters, visit: &mut TensorVisitor<'_>) -> Result<(), Stop> {
    let hidden = hyper.hidden_size;
    let (query, key_value) = (hyper.query_size(), hyper.key_value_size());
    let inner = hyper.intermediate_size;
    visit("model.embed_tokens.weight", &[hyper.vocab_size, hidden])?;
    for block in 0..hyper.num_hidden_layers {
        let block = format!("model.layers.{block}");
        let attention = hyper.attention_bias;
        for (module, rows, columns, bias) in [
            ("self_attn.q_proj", query, hidden, attention),
            ("self_attn.k_proj", key_value, hidden, attention),
            ("self_attn.v_proj", key_value, hidden, attention),
            ("self_attn.o_proj", hidden, query, attention),
            ("mlp.gate_proj", inner, hidden, hyper.mlp_bias),
            ("mlp.up_proj", inner, hidden, hyper.mlp_bias),
            ("mlp.down_proj", hidden, inner, hyper.mlp_bias),
        ] {
            visit(&format!("{block}.{module}.weight"), &[rows, columns])?;
            if bias {
                visit(&format!("{block}.{module}.bias"), &[rows])?;
            }
        }
        visit(&format!("{block}.input_layernorm.weight"), &[hidden])?;
        visit(&format!("{block}.post_attention_layernorm.weight"), &[hidden])?;
    }
    visit("model.norm.weight", &[hidden])?;
    if !hyper.tie_word_embeddings {
        visit("lm_head.weight", &[hyper.vocab_size, hidden])?;
    }
    Ok(())
}
