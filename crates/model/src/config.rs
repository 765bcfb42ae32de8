//! The numbers that make a decoder of a family a particular model.

use alloc::vec::Vec;

use lowtide_backend::{Activation, Pairing};

use crate::Family;

/// A decoder's shape and constants, named as in Hugging Face configurations. Whoever makes one has
/// checked that counts are positive and bounded and that heads divide.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// How a block is wired.
    pub family: Family,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward part.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; divides the query heads.
    pub num_key_value_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Rows of the embedding and of the head.
    pub vocab_size: usize,
    /// Added to mean squares.
    pub rms_norm_eps: f32,
    /// The head is the embedding.
    pub tie_word_embeddings: bool,
    /// Activation of the gate.
    pub hidden_act: Activation,
    /// q, k and v have biases.
    pub attention_bias: bool,
    /// o has a bias.
    pub attention_output_bias: bool,
    /// gate, up and down have biases.
    pub mlp_bias: bool,
    /// Factor on attention scores.
    pub attention_scale: f64,
    /// Factor on token embeddings.
    pub embedding_scale: f32,
    /// Added to the weights of norms.
    pub norm_offset: f32,
    /// Rotary embedding, of all layers that are not local.
    pub rope: Rope,
    /// Layers that attend to their neighbourhood only.
    pub local: Option<LocalAttention>,
    /// The most keys that a query may see in any layer, itself included: asked for by whoever
    /// builds the model, not part of what the base was trained with. `None` for no such limit.
    pub sliding_window: Option<usize>,
}

/// Sliding-window attention, in some of the layers.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalAttention {
    /// Keys a query may see, itself included.
    pub window: usize,
    /// Rotary embedding of the local layers.
    pub rope: Rope,
    /// Whether each layer is local, one a layer.
    pub layers: Vec<bool>,
}

impl Config {
    /// What is different in local layers, where `layer` is one.
    pub(crate) fn local(&self, layer: usize) -> Option<&LocalAttention> {
        self.local.as_ref().filter(|local| local.layers[layer])
    }

    /// Keys that a query may see in `layer`: the smaller of the layer's own window and the one that
    /// is asked for; `None` for all keys.
    pub(crate) fn window(&self, layer: usize) -> Option<usize> {
        let own = self.local(layer).map(|local| local.window);
        own.into_iter().chain(self.sliding_window).min()
    }
}

/// Rotary embedding: base frequency, scaling, pairing.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the geometric series of wavelengths.
    pub theta: f64,
    /// What is done to the frequencies.
    pub scaling: RopeScaling,
    /// Which elements of a head rotate together.
    pub pairing: Pairing,
}

/// What is done to rotary frequencies to stretch the context.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Nothing.
    Default,
    /// All divided by a factor.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3: long wavelengths divided, short ones kept, a ramp between.
    Llama3 {
        /// The divisor of long wavelengths.
        factor: f64,
        /// Wavelengths above `original_max_position_embeddings / low_freq_factor` are long.
        low_freq_factor: f64,
        /// Wavelengths below `original_max_position_embeddings / high_freq_factor` are short.
        high_freq_factor: f64,
        /// Context length before stretching.
        original_max_position_embeddings: usize,
    },
    /// One divisor a frequency, as GGUF's `rope_freqs.weight` holds them.
    Factors(Vec<f32>),
}
