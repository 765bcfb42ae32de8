//! A model's settings as GGUF metadata: what [`from_gguf`](super::Family::from_gguf) reads, under
//! the names and with the types that llama.cpp expects.

use super::{FAMILIES, gemma3, gguf_keys};
use crate::gguf::Value;
use crate::{DocumentError, Hyperparameters, LocalAttention, RopeScaling, names};

/// Settings of a model in GGUF.
#[derive(Clone, Debug, PartialEq)]
pub struct GgufSettings {
    /// `general.architecture`, and the prefix of the family's keys.
    pub architecture: &'static str,
    /// The family's keys, whole, in the order in which they are written.
    pub metadata: Vec<(String, Value)>,
    /// `rope_freqs.weight`, where frequencies are divided one by one.
    pub rope_factors: Option<Vec<f32>>,
    /// What the file cannot say, or llama.cpp does not read, in words; empty for most models.
    pub beyond_llama_cpp: Vec<String>,
}

/// The tensor that holds [`GgufSettings::rope_factors`].
pub const ROPE_FACTORS: &str = gguf_keys::ROPE_FACTORS;

impl GgufSettings {
    /// The settings of `hyper`.
    ///
    /// # Errors
    /// [`DocumentError::Unsupported`] if the family is not known.
    pub fn of(hyper: &Hyperparameters) -> Result<Self, DocumentError> {
        let family = super::of_model_type(&hyper.architecture)?;
        let architecture = family.gguf_architecture;
        let mut settings = Self {
            architecture,
            metadata: Vec::new(),
            rope_factors: None,
            beyond_llama_cpp: Vec::new(),
        };
        for (key, count) in [
            ("context_length", hyper.max_position_embeddings),
            ("embedding_length", hyper.hidden_size),
            ("block_count", hyper.num_hidden_layers),
            ("feed_forward_length", hyper.intermediate_size),
            ("attention.head_count", hyper.num_attention_heads),
            ("attention.head_count_kv", hyper.num_key_value_heads),
            ("attention.key_length", hyper.head_dim),
            ("attention.value_length", hyper.head_dim),
            ("rope.dimension_count", hyper.head_dim),
            ("vocab_size", hyper.vocab_size),
        ] {
            settings.add(key, count_of(count));
        }
        settings.add("attention.layer_norm_rms_epsilon", hyper.rms_norm_eps.into());
        settings.add("rope.freq_base", (hyper.rope.theta as f32).into());
        match &hyper.rope.scaling {
            RopeScaling::Default => {}
            RopeScaling::Linear { factor } => {
                settings.add("rope.scaling.type", "linear".into());
                settings.add("rope.scaling.factor", (*factor as f32).into());
            }
            RopeScaling::Llama3 { .. } | RopeScaling::Factors(_) => {
                settings.rope_factors = hyper.rope.factors(hyper.head_dim);
            }
        }
        let gemma = architecture == gemma3::FAMILY.gguf_architecture;
        match &hyper.local {
            Some(local) if gemma => settings.add_local(local),
            Some(local) => {
                let window = local.window;
                let note = format!(
                    "GGUF files of this family have no window: texts of more than {window} tokens \
                     are computed otherwise"
                );
                settings.beyond_llama_cpp.push(note);
            }
            None => {}
        }
        if gemma {
            settings.add_scale(hyper);
        }
        Ok(settings)
    }

    fn add(&mut self, key: &str, value: Value) {
        self.metadata.push((format!("{}.{key}", self.architecture), value));
    }

    fn add_local(&mut self, local: &LocalAttention) {
        self.add("attention.sliding_window", count_of(local.window));
        if local.rope.theta != gemma3::LOCAL_THETA {
            self.add("rope.freq_base_swa", (local.rope.theta as f32).into());
        }
        let layers = local.layers.len();
        match (1..=layers + 1).find(|period| gemma3::every(*period, layers) == local.layers) {
            Some(gemma3::PERIOD) => {}
            _ if gemma3::every(gemma3::PERIOD, layers) == local.layers => {}
            Some(period) => self.add("attention.sliding_window_pattern", (period as u32).into()),
            None => {
                let layers = Value::Bools(local.layers.clone());
                self.add("attention.sliding_window_pattern", layers);
            }
        }
    }

    /// The scale of the scores, where it is not the one that readers take unasked.
    fn add_scale(&mut self, hyper: &Hyperparameters) {
        if gemma3::unsaid_scale(hyper) as f32 != hyper.attention_scale as f32 {
            self.add("attention.scale", (hyper.attention_scale as f32).into());
            let note = "llama.cpp reads no scale of the attention scores for this family and takes \
                        its own: its results differ";
            self.beyond_llama_cpp.push(note.to_owned());
        }
    }
}

/// Checked hyperparameters are far below the limit.
fn count_of(count: usize) -> Value {
    u32::try_from(count).unwrap_or(u32::MAX).into()
}

/// The `general.architecture` of models of the HF type `architecture`.
pub fn gguf_architecture(architecture: &str) -> Option<&'static str> {
    super::of_model_type(architecture).ok().map(|family| family.gguf_architecture)
}

/// The GGUF name of the tensor that HF calls `name` in models of the HF type `architecture`.
pub fn gguf_tensor_name(architecture: &str, name: &str) -> Option<String> {
    let family = FAMILIES.iter().find(|family| family.model_type == architecture)?;
    names::to_gguf(family.block_names, name)
}

/// The HF name of the tensor that GGUF calls `name` in models of the HF type `architecture`.
pub fn hf_tensor_name(architecture: &str, name: &str) -> Option<String> {
    let family = FAMILIES.iter().find(|family| family.model_type == architecture)?;
    names::to_hf(family.block_names, name)
}
