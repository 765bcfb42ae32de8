//! Small Llama models with deterministic weights, written as Hugging Face folders.

use std::borrow::Cow;
use std::path::Path;

use safetensors::tensor::{Dtype, View};
use serde_json::{Value, json};

use crate::golden::{Array, Arrays};
use crate::rng::Rng;

/// Sizes and seed of a tiny Llama. The default is the shape of the reference models: hidden 64, two
/// blocks, four heads over two key-value heads, vocabulary 256, tied.
#[derive(Clone, Debug, PartialEq)]
pub struct TinyLlama {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Width of the feed-forward layer.
    pub intermediate: usize,
    /// Number of tokens.
    pub vocab: usize,
    /// Whether the head is the embedding table.
    pub tied: bool,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Added to the mean square in every norm.
    pub rms_norm_eps: f64,
    /// Seed of the weights; each tensor draws from its own stream, keyed by its name.
    pub seed: u64,
}

impl Default for TinyLlama {
    fn default() -> Self {
        Self {
            hidden: 64,
            layers: 2,
            heads: 4,
            kv_heads: 2,
            head_dim: 16,
            intermediate: 128,
            vocab: 256,
            tied: true,
            rope_theta: 1e4,
            rms_norm_eps: 1e-5,
            seed: 0,
        }
    }
}

impl TinyLlama {
    /// The `config.json` of the folder.
    #[must_use]
    pub fn config(&self) -> Value {
        json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "intermediate_size": self.intermediate,
            "vocab_size": self.vocab,
            "max_position_embeddings": 2048,
            "hidden_act": "silu",
            "rms_norm_eps": self.rms_norm_eps,
            "rope_theta": self.rope_theta,
            "rope_scaling": null,
            "attention_bias": false,
            "mlp_bias": false,
            "tie_word_embeddings": self.tied,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "torch_dtype": "float32",
        })
    }

    /// The weights under their Hugging Face names: projections N(0, 0.15), embeddings and head
    /// N(0, 0.35), norm weights 1 + N(0, 0.2).
    #[must_use]
    pub fn tensors(&self) -> Arrays {
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let (d, f) = (self.hidden, self.intermediate);
        let mut arrays = Arrays::new();
        let mut add = |name: String, shape: &[usize], mean: f32, std: f32| {
            let mut data = Rng::named(self.seed, &name).normal_vec(shape.iter().product(), std);
            data.iter_mut().for_each(|value| *value += mean);
            arrays.insert(name, Array { shape: shape.to_vec(), data });
        };
        add("model.embed_tokens.weight".into(), &[self.vocab, d], 0.0, 0.35);
        for layer in 0..self.layers {
            let linears = [
                ("self_attn.q_proj", q, d),
                ("self_attn.k_proj", kv, d),
                ("self_attn.v_proj", kv, d),
                ("self_attn.o_proj", d, q),
                ("mlp.gate_proj", f, d),
                ("mlp.up_proj", f, d),
                ("mlp.down_proj", d, f),
            ];
            for (site, rows, columns) in linears {
                add(format!("model.layers.{layer}.{site}.weight"), &[rows, columns], 0.0, 0.15);
            }
            for norm in ["input_layernorm", "post_attention_layernorm"] {
                add(format!("model.layers.{layer}.{norm}.weight"), &[d], 1.0, 0.2);
            }
        }
        add("model.norm.weight".into(), &[d], 1.0, 0.2);
        if !self.tied {
            add("lm_head.weight".into(), &[self.vocab, d], 0.0, 0.35);
        }
        arrays
    }
}

/// Writes `config.json` and `model.safetensors` (f32) into `dir`, which is created when absent.
///
/// # Panics
/// When a file cannot be written.
pub fn tiny_llama_folder(dir: &Path, model: &TinyLlama) {
    std::fs::create_dir_all(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let config = dir.join("config.json");
    let text = format!("{:#}\n", model.config());
    std::fs::write(&config, text).unwrap_or_else(|e| panic!("{}: {e}", config.display()));
    write_safetensors(&dir.join("model.safetensors"), &model.tensors());
}

/// Writes arrays as an f32 safetensors file.
///
/// # Panics
/// When the file cannot be written.
pub fn write_safetensors(path: &Path, arrays: &Arrays) {
    let metadata = Some([("format".to_owned(), "pt".to_owned())].into());
    safetensors::serialize_to_file(arrays.iter().map(|(k, v)| (k, Stored(v))), metadata, path)
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

/// An array as the safetensors crate wants to see it.
struct Stored<'a>(&'a Array);

impl View for Stored<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.0.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.0.data.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into()
    }

    fn data_len(&self) -> usize {
        self.0.data.len() * size_of::<f32>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::{load_json, load_safetensors};

    #[test]
    fn the_folder_holds_what_was_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let model = TinyLlama { tied: false, layers: 3, vocab: 40, ..TinyLlama::default() };
        tiny_llama_folder(dir.path(), &model);
        let read = load_safetensors(&dir.path().join("model.safetensors"));
        assert_eq!(read, model.tensors());
        assert_eq!(read.len(), 1 + 3 * 9 + 1 + 1);
        assert_eq!(read["lm_head.weight"].shape, [40, 64]);
        assert_eq!(read["model.layers.2.self_attn.k_proj.weight"].shape, [32, 64]);
        assert_eq!(load_json(&dir.path().join("config.json")), model.config());
    }

    #[test]
    fn a_tensor_depends_on_seed_and_name_only() {
        let name = "model.layers.0.mlp.down_proj.weight";
        let small = TinyLlama::default().tensors();
        let deeper = TinyLlama { layers: 5, tied: false, ..TinyLlama::default() }.tensors();
        assert_eq!(small[name], deeper[name]);
        let other = TinyLlama { seed: 1, ..TinyLlama::default() }.tensors();
        assert_ne!(small[name], other[name]);
        assert!(!small.contains_key("lm_head.weight"));
    }
}
