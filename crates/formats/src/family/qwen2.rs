//! Qwen2 and Qwen2.5: a Llama whose q, k and v always have biases.

use super::decoder::{self, Defaults};
use super::gguf_keys::Keys;
use super::{Family, Stop, TensorVisitor, hf_keys, llama};
use crate::gguf::View;
use crate::json::Object;
use crate::{DocumentError, Hyperparameters, Pairing};

pub(super) static FAMILY: Family = Family {
    model_type: "qwen2",
    hf_class: "Qwen2ForCausalLM",
    gguf_architecture: "qwen2",
    block_names: llama::BLOCK_NAMES,
    derived_tensors: &[".rotary_emb.inv_freq"],
    from_hf,
    from_gguf,
    tensors,
};

const DEFAULTS: Defaults =
    Defaults { head_dim: None, max_position_embeddings: 32_768, tie_word_embeddings: false };

fn from_hf(config: Object<'_>) -> Result<Hyperparameters, DocumentError> {
    hf_keys::architecture(config, FAMILY.hf_class)?;
    // The window is idle unless `use_sliding_window`, which is refused.
    hf_keys::refuse_active(config, &["sliding_window"])?;
    let rope = hf_keys::rope(config, 1e4)?;
    let decoder = decoder::from_hf(config, &FAMILY, &DEFAULTS, rope)?;
    Hyperparameters { attention_bias: true, attention_output_bias: false, ..decoder }
        .checked(|field| hf_keys::key_of(config, field))
}

fn from_gguf(view: &View<'_>) -> Result<Hyperparameters, DocumentError> {
    let keys = Keys::new(view, FAMILY.gguf_architecture);
    keys.refuse_unknown(&[])?;
    let decoder = decoder::from_gguf(&keys, &FAMILY, Pairing::Halves)?;
    Hyperparameters { attention_bias: true, ..decoder }.checked(|field| keys.key_of(field))
}

fn tensors(hyper: &Hyperparameters, visit: &mut TensorVisitor<'_>) -> Result<(), Stop> {
    decoder::tensors(hyper, &["input_layernorm", "post_attention_layernorm"], &[], visit)
}
