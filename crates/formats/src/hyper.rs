//! What a base is, in numbers: the same for GGUF files and HF folders.

use crate::DocumentError;

/// The neutral description of a decoder base.
///
/// Whoever holds one may rely on it: counts are at least 1 and bounded so that their products fit
/// in 64 bits with room to spare, heads divide evenly, floats are finite and positive.
#[derive(Clone, Debug, PartialEq)]
pub struct Hyperparameters {
    /// The family, by its HF `model_type`, such as `"llama"`.
    pub architecture: String,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward part.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Number of query heads.
    pub num_attention_heads: usize,
    /// Number of key and value heads; divides the query heads.
    pub num_key_value_heads: usize,
    /// Width of a head; even. Need not be `hidden_size / num_attention_heads`.
    pub head_dim: usize,
    /// Number of token ids.
    pub vocab_size: usize,
    /// The longest sequence the base was trained for.
    pub max_position_embeddings: usize,
    /// Epsilon of the RMS norms.
    pub rms_norm_eps: f32,
    /// Whether the output head is the token embedding.
    pub tie_word_embeddings: bool,
    /// Activation of the gate.
    pub hidden_act: Activation,
    /// Whether q, k and v have biases.
    pub attention_bias: bool,
    /// Whether o has a bias.
    pub attention_output_bias: bool,
    /// Whether gate, up and down have biases.
    pub mlp_bias: bool,
    /// Factor on attention scores, in most families `1 / sqrt(head_dim)`.
    pub attention_scale: f64,
    /// Factor on token embeddings, 1 in most families.
    pub embedding_scale: f32,
    /// Added to the weights of norms as they are stored: Gemma's HF folders keep them less 1.
    pub norm_offset: f32,
    /// Position encoding, of all layers that are not local.
    pub rope: Rope,
    /// The layers that attend to their neighbourhood only, if there are any.
    pub local: Option<LocalAttention>,
    /// Whether the rows of q and k are stored in the order of [`rows`](crate::rows). Then
    /// `rope.pairing` is [`Pairing::Adjacent`].
    pub qk_permuted: bool,
}

/// Activation of the feed-forward gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// GELU in its tanh form.
    GeluTanh,
}

/// Sliding-window attention, in some of the layers.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalAttention {
    /// Keys that a query sees, itself included.
    pub window: usize,
    /// Position encoding of the local layers.
    pub rope: Rope,
    /// Whether each layer is local; as many as there are layers.
    pub layers: Vec<bool>,
}

/// Rotary position encoding.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies: pair `i` turns by `theta^(-2i / head_dim)` a position.
    pub theta: f64,
    /// What is done to the frequencies.
    pub scaling: RopeScaling,
    /// Which two values of a head make a pair.
    pub pairing: Pairing,
}

/// What is done to the rotary frequencies.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Nothing.
    Default,
    /// All are divided by `factor`.
    Linear {
        /// At least 1.
        factor: f64,
    },
    /// Llama 3: low frequencies are divided, high ones kept, those between blended.
    Llama3 {
        /// What low frequencies are divided by.
        factor: f64,
        /// Wavelengths above `original_max_position_embeddings / low_freq_factor` are low.
        low_freq_factor: f64,
        /// Wavelengths below `original_max_position_embeddings / high_freq_factor` are high.
        high_freq_factor: f64,
        /// The context length before scaling.
        original_max_position_embeddings: usize,
    },
    /// Frequency `i` is divided by value `i`: GGUF's `rope_freqs.weight`, `head_dim / 2` values.
    Factors(Vec<f32>),
}

/// Which two values of a head rotate together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// `i` and `i + head_dim / 2`: HF, and what GGUF calls NEOX.
    Halves,
    /// `2i` and `2i + 1`: Llama files in GGUF.
    Adjacent,
}

/// Largest counts believed. All sizes in a step are products of a few of them, and those stay
/// far below `u64::MAX`.
mod most {
    pub(super) const WIDTH: usize = 1 << 20;
    pub(super) const LAYERS: usize = 1 << 12;
    pub(super) const HEADS: usize = 1 << 14;
    pub(super) const HEAD_DIM: usize = 1 << 13;
    pub(super) const VOCAB: usize = 1 << 24;
    pub(super) const POSITIONS: usize = 1 << 31;
}

impl Hyperparameters {
    /// Rows of `q_proj`: all query heads side by side.
    pub fn query_size(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Rows of `k_proj` and of `v_proj`: all key heads side by side.
    pub fn key_value_size(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }

    /// How many heads the rows of `module` are permuted in, `None` where rows are in HF order.
    ///
    /// `module` is an HF module name such as `model.layers.0.self_attn.q_proj`. Where the answer
    /// is `Some(heads)`, outputs of adapters trained on this base are in the order of
    /// [`rows`](crate::rows) and must be brought to HF order before they are saved.
    pub fn permuted_heads(&self, module: &str) -> Option<usize> {
        if !self.qk_permuted {
            return None;
        }
        match module.rsplit('.').next()? {
            "q_proj" => Some(self.num_attention_heads),
            "k_proj" => Some(self.num_key_value_heads),
            _ => None,
        }
    }

    /// Checks every promise of the type; `key` maps a field of ours to its name in the file.
    pub(crate) fn checked(
        self,
        key: impl Fn(&'static str) -> String,
    ) -> Result<Self, DocumentError> {
        let counts = [
            ("hidden_size", self.hidden_size, most::WIDTH),
            ("intermediate_size", self.intermediate_size, most::WIDTH),
            ("num_hidden_layers", self.num_hidden_layers, most::LAYERS),
            ("num_attention_heads", self.num_attention_heads, most::HEADS),
            ("num_key_value_heads", self.num_key_value_heads, most::HEADS),
            ("head_dim", self.head_dim, most::HEAD_DIM),
            ("vocab_size", self.vocab_size, most::VOCAB),
            ("max_position_embeddings", self.max_position_embeddings, most::POSITIONS),
        ];
        for (name, value, max) in counts {
            if value == 0 || value > max {
                let expected = format!("a whole number from 1 to {max}");
                return Err(DocumentError::out_of_range(key(name), value, expected));
            }
        }
        if !self.head_dim.is_multiple_of(2) {
            let expected = "an even number, because rotary positions turn pairs";
            return Err(DocumentError::out_of_range(key("head_dim"), self.head_dim, expected));
        }
        if self.query_size() > most::WIDTH {
            let expected =
                format!("at most {} with {} heads", most::WIDTH, self.num_attention_heads);
            return Err(DocumentError::out_of_range(key("head_dim"), self.head_dim, expected));
        }
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            let expected = format!("a divisor of the {} query heads", self.num_attention_heads);
            let kv = self.num_key_value_heads;
            return Err(DocumentError::out_of_range(key("num_key_value_heads"), kv, expected));
        }
        if !(self.rms_norm_eps > 0.0 && self.rms_norm_eps < 1.0) {
            let eps = self.rms_norm_eps;
            let expected = "a number above 0 and below 1";
            return Err(DocumentError::out_of_range(key("rms_norm_eps"), eps, expected));
        }
        if !(self.attention_scale > 0.0 && self.attention_scale <= f64::from(f32::MAX)) {
            let (name, scale) = (key("attention_scale"), self.attention_scale);
            return Err(DocumentError::out_of_range(name, scale, "a finite number above 0"));
        }
        self.rope.check(self.head_dim, &key)?;
        self.check_local(&key)?;
        Ok(self)
    }

    fn check_local(&self, key: &impl Fn(&'static str) -> String) -> Result<(), DocumentError> {
        let Some(local) = &self.local else { return Ok(()) };
        if local.window == 0 || local.window > most::POSITIONS {
            let expected = format!("a whole number from 1 to {}", most::POSITIONS);
            return Err(DocumentError::out_of_range(key("sliding_window"), local.window, expected));
        }
        if local.layers.len() != self.num_hidden_layers {
            let expected = format!("one a layer, of which there are {}", self.num_hidden_layers);
            let found = format!("a list of {}", local.layers.len());
            return Err(DocumentError::out_of_range(key("layer_types"), found, expected));
        }
        local.rope.check(self.head_dim, &|field| match field {
            "rope_theta" => key("rope_local_base_freq"),
            field => key(field),
        })
    }
}

impl Rope {
    /// What each frequency is divided by, `[head_dim / 2]`, where that differs from one to another.
    ///
    /// GGUF keeps these numbers; a config of Llama 3 keeps the four that they come from.
    pub fn factors(&self, head_dim: usize) -> Option<Vec<f32>> {
        let (factor, low, high, original) = match &self.scaling {
            RopeScaling::Default | RopeScaling::Linear { .. } => return None,
            RopeScaling::Factors(factors) => return Some(factors.clone()),
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => (*factor, *low_freq_factor, *high_freq_factor, *original_max_position_embeddings),
        };
        let of_pair = |pair: usize| {
            let frequency = self.theta.powf(-2.0 * pair as f64 / head_dim as f64);
            // How often the pair turns within the context that the model was first trained for.
            let turns = original as f64 * frequency / std::f64::consts::TAU;
            let divisor = if turns > high {
                1.0
            } else if turns < low {
                factor
            } else {
                let kept = (turns - low) / (high - low);
                1.0 / ((1.0 - kept) / factor + kept)
            };
            divisor as f32
        };
        Some((0..head_dim / 2).map(of_pair).collect())
    }

    fn check(
        &self,
        head_dim: usize,
        key: &impl Fn(&'static str) -> String,
    ) -> Result<(), DocumentError> {
        let at_least_one = |name, value: f64| {
            if value >= 1.0 && value <= f64::from(f32::MAX) {
                return Ok(());
            }
            Err(DocumentError::out_of_range(key(name), value, "a finite number of at least 1"))
        };
        at_least_one("rope_theta", self.theta)?;
        match &self.scaling {
            RopeScaling::Default => Ok(()),
            RopeScaling::Linear { factor } => at_least_one("factor", *factor),
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings: original,
            } => {
                at_least_one("factor", *factor)?;
                at_least_one("low_freq_factor", *low_freq_factor)?;
                if !(high_freq_factor > low_freq_factor && high_freq_factor.is_finite()) {
                    let expected = format!("a finite number above {low_freq_factor}");
                    let name = key("high_freq_factor");
                    return Err(DocumentError::out_of_range(name, high_freq_factor, expected));
                }
                if *original == 0 || *original > most::POSITIONS {
                    let expected = format!("a whole number from 1 to {}", most::POSITIONS);
                    let name = key("original_max_position_embeddings");
                    return Err(DocumentError::out_of_range(name, original, expected));
                }
                Ok(())
            }
            RopeScaling::Factors(factors) => {
                if factors.len() != head_dim / 2 {
                    let expected = format!("{} values, half of head_dim", head_dim / 2);
                    let found = format!("{} values", factors.len());
                    return Err(DocumentError::out_of_range(key("factors"), found, expected));
                }
                match factors.iter().find(|f| !(f.is_finite() && **f > 0.0)) {
                    Some(f) => {
                        let expected = "finite numbers above 0";
                        Err(DocumentError::out_of_range(key("factors"), f, expected))
                    }
                    None => Ok(()),
                }
            }
        }
    }
}
