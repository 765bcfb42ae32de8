//! Metadata that families share in GGUF files.

use crate::document::shown;
use crate::gguf::{Metadata, View};
use crate::json::required;
use crate::{DocumentError, Pairing, Rope, RopeScaling};

/// Metadata, without the family's prefix, that is read by [`Keys::rope`].
const ROPE_KEYS: &[&str] = &["rope.freq_base", "rope.scaling.type", "rope.scaling.factor"];
/// Metadata, without the family's prefix, that every decoder has and [`decoder`](super::decoder)
/// reads.
const DECODER_KEYS: &[&str] = &[
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
/// Metadata that says nothing about the forward pass.
const IDLE_KEYS: &[&str] = &[
    "rope.scaling.original_context_length",
    "rope.scaling.finetuned",
    // How the tensors were laid out before conversion.
    "tensor_data_layout",
    "pooling_type",
];
/// Metadata that changes the forward pass, with the number that turns it off.
const SETTINGS: &[(&str, f32)] = &[
    ("expert_count", 0.0),
    ("expert_used_count", 0.0),
    ("attention.sliding_window", 0.0),
    ("attention.clamp_kqv", 0.0),
    ("attention.max_alibi_bias", 0.0),
    ("attn_logit_softcapping", 0.0),
    ("embedding_scale", 1.0),
    ("final_logit_softcapping", 0.0),
    ("logit_scale", 1.0),
    ("residual_scale", 1.0),
    ("rope.scale_linear", 1.0),
    ("rope.scaling.attn_factor", 1.0),
];
const THETA_DEFAULT: f32 = 10_000.0;
/// The tensor that holds [`RopeScaling::Factors`].
pub(crate) const ROPE_FACTORS: &str = "rope_freqs.weight";

/// The metadata of one family, keys without its prefix, and tensors that hold settings.
#[derive(Debug)]
pub(super) struct Keys<'a> {
    pub(super) metadata: Metadata<'a>,
    view: &'a View<'a>,
    prefix: &'static str,
}

impl<'a> Keys<'a> {
    pub(super) fn new(view: &'a View<'a>, prefix: &'static str) -> Self {
        Self { metadata: view.metadata(), view, prefix }
    }

    /// The whole key.
    pub(super) fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.prefix)
    }

    pub(super) fn count(&self, key: &str) -> Result<usize, DocumentError> {
        let key = self.key(key);
        required(self.metadata.get_usize(&key)?, &key, "a whole number")
    }

    pub(super) fn float(&self, key: &str) -> Result<f32, DocumentError> {
        let key = self.key(key);
        required(self.metadata.get_f32(&key)?, &key, "a float")
    }

    pub(super) fn has_tensor(&self, name: &str) -> bool {
        self.view.info(name).is_some()
    }

    /// Refuses every key of the family that is neither read nor switched off: what nobody reads
    /// could change the result. The family itself reads those in `own`.
    pub(super) fn refuse_unknown(&self, own: &[&str]) -> Result<(), DocumentError> {
        for key in self.metadata.keys() {
            let Some(short) = key.strip_prefix(self.prefix).and_then(|k| k.strip_prefix('.'))
            else {
                continue;
            };
            if [own, DECODER_KEYS, ROPE_KEYS, IDLE_KEYS].iter().any(|keys| keys.contains(&short)) {
                continue;
            }
            let off = SETTINGS.iter().find(|(setting, _)| *setting == short);
            match off {
                Some(&(_, off)) => {
                    let value = self.number(key)?;
                    if value != off {
                        return Err(DocumentError::unsupported(key, value, off.to_string()));
                    }
                }
                None if self.is_harmless(short, key)? => {}
                None => return Err(self.unknown(key)),
            }
        }
        Ok(())
    }

    /// Truth values whose usual answer is what is computed anyway.
    fn is_harmless(&self, short: &str, key: &str) -> Result<bool, DocumentError> {
        Ok(match short {
            "attention.causal" => self.metadata.get_bool(key)? == Some(true),
            "use_parallel_residual" => self.metadata.get_bool(key)? == Some(false),
            _ => false,
        })
    }

    fn unknown(&self, key: &str) -> DocumentError {
        let value =
            match (self.metadata.get_str(key), self.number(key), self.metadata.get_bool(key)) {
                (Ok(Some(text)), ..) => shown(text),
                (_, Ok(number), _) => number.to_string(),
                (.., Ok(Some(truth))) => truth.to_string(),
                _ => "set".to_owned(),
            };
        let supported = format!("files without this key of `{}`", self.prefix);
        DocumentError::unsupported(key, value, supported)
    }

    /// A whole number or a float.
    fn number(&self, key: &str) -> Result<f32, DocumentError> {
        match self.metadata.get_f32(key) {
            Ok(value) => required(value, key, "a number"),
            Err(_) => required(self.metadata.get_u64(key)?, key, "a number").map(|n| n as f32),
        }
    }

    /// Width of a head; everything that says it must agree.
    pub(super) fn head_dim(&self, hidden: usize, heads: usize) -> Result<usize, DocumentError> {
        let said: Vec<(String, usize)> =
            ["attention.key_length", "attention.value_length", "rope.dimension_count"]
                .into_iter()
                .map(|key| self.key(key))
                .filter_map(|key| {
                    self.metadata.get_usize(&key).transpose().map(|v| v.map(|v| (key, v)))
                })
                .collect::<Result<_, _>>()?;
        let even = || match hidden.checked_rem(heads) {
            Some(0) => Ok(hidden / heads),
            _ => {
                let key = self.key("attention.head_count");
                let expected = format!("a divisor of the embedding length {hidden}");
                Err(DocumentError::out_of_range(key, heads, expected))
            }
        };
        // Rotary positions over a part of a head would show here, when only they are said.
        let length = said.iter().find(|(key, _)| !key.ends_with("rope.dimension_count"));
        let head_dim = length.map_or_else(even, |(_, length)| Ok(*length))?;
        match said.iter().find(|(_, said)| *said != head_dim) {
            Some((key, said)) => {
                let supported = format!("{head_dim}, the whole head");
                Err(DocumentError::unsupported(key, said, supported))
            }
            None => Ok(head_dim),
        }
    }

    /// The number of token ids: the rows of the token embedding, with which the metadata agrees.
    pub(super) fn vocab_size(&self) -> Result<usize, DocumentError> {
        let key = self.key("vocab_size");
        let said = self.metadata.get_usize(&key)?;
        let rows = self.view.info("token_embd.weight").and_then(|t| t.shape.first().copied());
        match (said, rows) {
            (Some(said), Some(rows)) if said != rows => {
                Err(DocumentError::conflict(key, said, "rows of token_embd.weight", rows))
            }
            (said, rows) => required(said.or(rows), &key, "a whole number"),
        }
    }

    /// Position encoding.
    pub(super) fn rope(&self, pairing: Pairing) -> Result<Rope, DocumentError> {
        let theta = self.metadata.get_f32(&self.key("rope.freq_base"))?.unwrap_or(THETA_DEFAULT);
        let (type_key, factor_key) =
            (self.key("rope.scaling.type"), self.key("rope.scaling.factor"));
        let factor = self.metadata.get_f32(&factor_key)?;
        let scaling = match self.metadata.get_str(&type_key)? {
            None | Some("none") => {
                if let Some(factor) = factor.filter(|f| *f != 1.0 && *f != 0.0) {
                    let other = "absent, so the factor has no meaning";
                    return Err(DocumentError::conflict(factor_key, factor, type_key, other));
                }
                RopeScaling::Default
            }
            Some("linear") => {
                let factor = f64::from(required(factor, &factor_key, "a float")?);
                RopeScaling::Linear { factor }
            }
            Some(other) => {
                let supported = "\"none\", \"linear\"";
                return Err(DocumentError::unsupported(type_key, shown(other), supported));
            }
        };
        let scaling = match (self.view.tensor(ROPE_FACTORS), scaling) {
            (None, scaling) => scaling,
            (Some(factors), RopeScaling::Default) if factors.len() <= ROPE_FACTORS_MAX => {
                RopeScaling::Factors(factors.to_f32_vec())
            }
            (Some(factors), RopeScaling::Default) => {
                let expected = format!("at most {ROPE_FACTORS_MAX} values");
                let found = format!("{} values", factors.len());
                return Err(DocumentError::out_of_range(ROPE_FACTORS, found, expected));
            }
            (Some(_), _) => {
                return Err(DocumentError::conflict(type_key, "linear", ROPE_FACTORS, "there too"));
            }
        };
        Ok(Rope { theta: f64::from(theta), scaling, pairing })
    }

    /// Under which name a field of [`Hyperparameters`](crate::Hyperparameters) stands in the file.
    pub(super) fn key_of(&self, field: &'static str) -> String {
        self.key(match field {
            "hidden_size" => "embedding_length",
            "intermediate_size" => "feed_forward_length",
            "num_hidden_layers" => "block_count",
            "num_attention_heads" => "attention.head_count",
            "num_key_value_heads" => "attention.head_count_kv",
            "head_dim" => "attention.key_length",
            "vocab_size" => "vocab_size",
            "max_position_embeddings" => "context_length",
            "rms_norm_eps" => "attention.layer_norm_rms_epsilon",
            "attention_scale" => "attention.scale",
            "sliding_window" => "attention.sliding_window",
            "layer_types" => "attention.sliding_window_pattern",
            "rope_theta" => "rope.freq_base",
            "rope_local_base_freq" => "rope.freq_base_swa",
            "factor" => "rope.scaling.factor",
            "factors" => return ROPE_FACTORS.to_owned(),
            other => other,
        })
    }
}

/// Half of the widest head believed, so that a hostile file cannot ask for a large table.
const ROPE_FACTORS_MAX: usize = 1 << 12;
