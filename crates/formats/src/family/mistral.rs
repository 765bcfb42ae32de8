//! Mistral: wired as a Llama, with attention over a window of keys in all layers or in none. Its
//! GGUF files say that they are Llamas, so those are read as such, without a window.

use super::decoder::{self, Defaults};
use super::{Family, hf_keys, llama};
use crate::json::Object;
use crate::{DocumentError, Hyperparameters, LocalAttention};

pub(super) static FAMILY: Family = Family {
    model_type: "mistral",
    hf_class: "MistralForCausalLM",
    gguf_architecture: "llama",
    block_names: llama::BLOCK_NAMES,
    derived_tensors: &[".rotary_emb.inv_freq"],
    from_hf,
    from_gguf: llama::from_gguf,
    tensors: llama::tensors,
};

const DEFAULTS: Defaults =
    Defaults { head_dim: None, max_position_embeddings: 131_072, tie_word_embeddings: false };
/// Heads of keys and values, and keys that a query sees, where the config does not speak of them.
const KEY_VALUE_HEADS: usize = 8;
const WINDOW_KEYS: usize = 4096;

const WINDOW: &str = "sliding_window";

fn from_hf(config: Object<'_>) -> Result<Hyperparameters, DocumentError> {
    hf_keys::architecture(config, FAMILY.hf_class)?;
    hf_keys::refuse_active(config, &[WINDOW])?;
    let rope = hf_keys::rope(config, 1e4)?;
    let mut decoder = decoder::from_hf(config, &FAMILY, &DEFAULTS, rope)?;
    if config.get("num_key_value_heads").is_none() {
        decoder.num_key_value_heads = KEY_VALUE_HEADS;
    }
    let key = |field| hf_keys::key_of(config, field);
    // Checked before a list as long as its number of layers is made.
    let hyper = decoder.checked(key)?;
    if config.is_null(WINDOW) {
        return Ok(hyper);
    }
    let window = config.usize(WINDOW)?.unwrap_or(WINDOW_KEYS);
    let layers = vec![true; hyper.num_hidden_layers];
    let local = Some(LocalAttention { window, rope: hyper.rope.clone(), layers });
    Hyperparameters { local, ..hyper }.checked(key)
}
