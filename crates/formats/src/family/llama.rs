//! Llama: RMS norms, grouped attention with rotary positions, a gated feed-forward part.

use super::decoder::{self, Defaults};
use super::gguf_keys::Keys;
use super::{Family, Stop, TensorVisitor, hf_keys};
use crate::gguf::View;
use crate::json::Object;
use crate::names::NameTable;
use crate::{DocumentError, Hyperparameters, Pairing};

pub(super) static FAMILY: Family = Family {
    model_type: "llama",
    hf_class: "LlamaForCausalLM",
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

const DEFAULTS: Defaults =
    Defaults { head_dim: None, max_position_embeddings: 2048, tie_word_embeddings: false };

fn from_hf(config: Object<'_>) -> Result<Hyperparameters, DocumentError> {
    hf_keys::architecture(config, FAMILY.hf_class)?;
    hf_keys::refuse_active(config, &[])?;
    let rope = hf_keys::rope(config, 1e4)?;
    decoder::from_hf(config, &FAMILY, &DEFAULTS, rope)?
        .checked(|field| hf_keys::key_of(config, field))
}

/// Files of this family keep the rows of q and k in another order, and rotate neighbours.
pub(super) fn from_gguf(view: &View<'_>) -> Result<Hyperparameters, DocumentError> {
    let keys = Keys::new(view, FAMILY.gguf_architecture);
    keys.refuse_unknown(&[])?;
    decoder::from_gguf(&keys, &FAMILY, Pairing::Adjacent)?.checked(|field| keys.key_of(field))
}

pub(super) fn tensors(hyper: &Hyperparameters, visit: &mut TensorVisitor<'_>) -> Result<(), Stop> {
    decoder::tensors(hyper, &["input_layernorm", "post_attention_layernorm"], &[], visit)
}
