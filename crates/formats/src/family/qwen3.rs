//! Qwen3: a Llama that norms each head of q and k before it is rotated.

use super::decoder::{self, Defaults};
use super::gguf_keys::Keys;
use super::{Family, Stop, TensorVisitor, hf_keys};
use crate::gguf::View;
use crate::json::Object;
use crate::names::NameTable;
use crate::{DocumentError, Hyperparameters, Pairing};

pub(super) static FAMILY: Family = Family {
    model_type: "qwen3",
    hf_class: "Qwen3ForCausalLM",
    gguf_architecture: "qwen3",
    block_names: BLOCK_NAMES,
    derived_tensors: &[".rotary_emb.inv_freq"],
    from_hf,
    from_gguf,
    tensors,
};

const BLOCK_NAMES: NameTable = &[
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("self_attn.o_proj", "attn_output"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

const DEFAULTS: Defaults =
    Defaults { head_dim: Some(128), max_position_embeddings: 32_768, tie_word_embeddings: false };

fn from_hf(config: Object<'_>) -> Result<Hyperparameters, DocumentError> {
    hf_keys::architecture(config, FAMILY.hf_class)?;
    // The window is idle unless `use_sliding_window`, which is refused.
    hf_keys::refuse_active(config, &["sliding_window"])?;
    let rope = hf_keys::rope(config, 1e4)?;
    decoder::from_hf(config, &FAMILY, &DEFAULTS, rope)?
        .checked(|field| hf_keys::key_of(config, field))
}

fn from_gguf(view: &View<'_>) -> Result<Hyperparameters, DocumentError> {
    let keys = Keys::new(view, FAMILY.gguf_architecture);
    keys.refuse_unknown(&[])?;
    decoder::from_gguf(&keys, &FAMILY, Pairing::Halves)?.checked(|field| keys.key_of(field))
}

fn tensors(hyper: &Hyperparameters, visit: &mut TensorVisitor<'_>) -> Result<(), Stop> {
    let norms = ["input_layernorm", "post_attention_layernorm"];
    decoder::tensors(hyper, &norms, &["self_attn.q_norm", "self_attn.k_norm"], visit)
}
