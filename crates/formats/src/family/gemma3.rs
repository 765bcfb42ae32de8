//! Gemma 3, the text model: norms before and after attention and the feed-forward part, normed
//! queries and keys, scaled embeddings, and sliding layers with a rotary base of their own.
//!
//! HF folders store norm weights less 1, GGUF files as they are. GGUF files rarely say which
//! layers slide, their rotary base, or the scale of the scores: those are known constants.

use super::decoder::{self, Defaults, attention_scale};
use super::gguf_keys::Keys;
use super::hf_keys::{self, FULL, LAYER_TYPES, OldRope, SLIDING};
use super::{Family, Stop, TensorVisitor};
use crate::gguf::View;
use crate::json::{Object, required, shown_value};
use crate::names::NameTable;
use crate::{
    Activation, DocumentError, Hyperparameters, LocalAttention, Pairing, Rope, RopeScaling,
};

pub(super) static FAMILY: Family = Family {
    model_type: "gemma3_text",
    hf_class: "Gemma3ForCausalLM",
    gguf_architecture: "gemma3",
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
    ("post_attention_layernorm", "post_attention_norm"),
    ("pre_feedforward_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
];

const DEFAULTS: Defaults =
    Defaults { head_dim: Some(256), max_position_embeddings: 131_072, tie_word_embeddings: true };
/// Rotary base of full and of sliding layers.
const THETA: f64 = 1e6;
pub(super) const LOCAL_THETA: f64 = 1e4;
/// Of so many layers the last is full, the others slide.
pub(super) const PERIOD: usize = 6;
/// Divisor of the squared scores, where the config is silent.
const QUERY_PRE_ATTN_SCALAR: f64 = 256.0;
/// Layers of the one size whose heads are not as wide as its scale says.
const LAYERS_27B: usize = 62;

const SCALAR: &str = "query_pre_attn_scalar";
const WINDOW: &str = "sliding_window";
const ROPE: &str = "rope_parameters";
const ROPE_FULL: &str = "rope_parameters.full_attention";
const ROPE_SLIDING: &str = "rope_parameters.sliding_attention";
/// Where the old style keeps the rotary base of sliding layers.
const OLD_LOCAL: OldRope =
    OldRope { theta: "rope_local_base_freq", scaling: None, theta_default: LOCAL_THETA };

/// What both kinds of file leave unsaid.
fn family(decoder: Hyperparameters) -> Hyperparameters {
    let embedding_scale = (decoder.hidden_size as f32).sqrt();
    Hyperparameters { hidden_act: Activation::GeluTanh, embedding_scale, ..decoder }
}

fn from_hf(config: Object<'_>) -> Result<Hyperparameters, DocumentError> {
    hf_keys::architecture(config, FAMILY.hf_class)?;
    hf_keys::refuse_active(config, &[SCALAR, WINDOW, LAYER_TYPES, OLD_LOCAL.theta])?;
    let key = |field| hf_key(config, field);
    let (rope, local_rope) = ropes(config)?;
    let decoder = family(decoder::from_hf(config, &FAMILY, &DEFAULTS, rope)?);
    let scalar = config.f64(SCALAR)?.unwrap_or(QUERY_PRE_ATTN_SCALAR);
    if !(scalar > 0.0 && scalar <= f64::from(f32::MAX)) {
        return Err(DocumentError::out_of_range(SCALAR, scalar, "a finite number above 0"));
    }
    // Checked before a list as long as its number of layers is made.
    let hyper = Hyperparameters {
        hidden_act: hf_keys::activation(config, "hidden_activation")?.unwrap_or(decoder.hidden_act),
        attention_scale: attention_scale(scalar),
        norm_offset: 1.0,
        ..decoder
    }
    .checked(key)?;
    let layers = sliding_layers(config, hyper.num_hidden_layers)?;
    if !layers.contains(&true) {
        return Ok(hyper);
    }
    let window = required(config.usize(WINDOW)?, WINDOW, "a whole number")?;
    let local = Some(LocalAttention { window, rope: local_rope, layers });
    Hyperparameters { local, ..hyper }.checked(key)
}

/// Which layers slide: listed, or all but every so-manieth.
fn sliding_layers(config: Object<'_>, layers: usize) -> Result<Vec<bool>, DocumentError> {
    if let Some(listed) = hf_keys::layer_types(config)? {
        let (found, expected) = (format!("a list of {}", listed.len()), format!("{layers} kinds"));
        let fits = listed.len() == layers;
        return fits
            .then_some(listed)
            .ok_or_else(|| DocumentError::out_of_range(LAYER_TYPES, found, expected));
    }
    let mut period = PERIOD;
    for key in ["sliding_window_pattern", "_sliding_window_pattern"] {
        if let Some(said) = config.usize(key)? {
            period = positive(key, said)?;
        }
    }
    Ok(every(period, layers))
}

fn positive(key: &str, period: usize) -> Result<usize, DocumentError> {
    let expected = "a whole number of at least 1";
    (period > 0).then_some(period).ok_or_else(|| DocumentError::out_of_range(key, period, expected))
}

/// All layers slide but the last of every `period`.
pub(super) fn every(period: usize, layers: usize) -> Vec<bool> {
    (1..=layers).map(|layer| !layer.is_multiple_of(period)).collect()
}

/// Position encoding of full and of sliding layers, in either style.
fn ropes(config: Object<'_>) -> Result<(Rope, Rope), DocumentError> {
    let old = OldRope::with_default(THETA);
    let Some(both) = config.object(ROPE)? else {
        let full = hf_keys::rope_of(config, None, &old)?;
        return Ok((full, hf_keys::rope_of(config, None, &OLD_LOCAL)?));
    };
    if let Some((key, value)) = both.fields().find(|(key, _)| ![FULL, SLIDING].contains(key)) {
        let supported = format!("{FULL}, {SLIDING}");
        return Err(DocumentError::unsupported(both.path(key), shown_value(value), supported));
    }
    let full = hf_keys::rope_of(config, both.object_named(FULL, ROPE_FULL)?, &old)?;
    let sliding = both.object_named(SLIDING, ROPE_SLIDING)?;
    Ok((full, hf_keys::rope_of(config, sliding, &OLD_LOCAL)?))
}

/// Under which name a field of [`Hyperparameters`] stands in the config.
fn hf_key(config: Object<'_>, field: &'static str) -> String {
    let new_style = config.get(ROPE).is_some();
    match field {
        "rope_local_base_freq" if new_style => format!("{ROPE_SLIDING}.rope_theta"),
        "attention_scale" => SCALAR.to_owned(),
        field => hf_keys::key_of(config, field).replacen(ROPE, ROPE_FULL, 1),
    }
}

/// Metadata that only this family reads.
const GGUF_KEYS: &[&str] = &[
    "attention.scale",
    "attention.sliding_window",
    "attention.sliding_window_pattern",
    "rope.freq_base_swa",
];

fn from_gguf(view: &View<'_>) -> Result<Hyperparameters, DocumentError> {
    let keys = Keys::new(view, FAMILY.gguf_architecture);
    keys.refuse_unknown(GGUF_KEYS)?;
    // Other families have a default that would be wrong here.
    keys.float("rope.freq_base")?;
    let decoder = family(decoder::from_gguf(&keys, &FAMILY, Pairing::Halves)?);
    let scale = keys.metadata.get_f32(&keys.key("attention.scale"))?.map(f64::from);
    let attention_scale = scale.unwrap_or_else(|| unsaid_scale(&decoder));
    let hyper =
        Hyperparameters { attention_scale, ..decoder }.checked(|field| keys.key_of(field))?;
    let local = gguf_local(&keys, hyper.num_hidden_layers)?;
    Hyperparameters { local, ..hyper }.checked(|field| keys.key_of(field))
}

/// The scale of the scores where a GGUF file says none.
pub(super) fn unsaid_scale(hyper: &Hyperparameters) -> f64 {
    let width = match hyper.num_hidden_layers {
        LAYERS_27B => hyper.hidden_size as f64 / hyper.num_attention_heads as f64,
        _ => hyper.head_dim as f64,
    };
    attention_scale(width)
}

fn gguf_local(keys: &Keys<'_>, layers: usize) -> Result<Option<LocalAttention>, DocumentError> {
    let window = keys.metadata.get_usize(&keys.key("attention.sliding_window"))?;
    let Some(window) = window.filter(|window| *window > 0) else { return Ok(None) };
    let pattern = keys.key("attention.sliding_window_pattern");
    let layers = if keys.metadata.is_array(&pattern) {
        keys.metadata.bools(&pattern)?.into_iter().flatten().collect()
    } else {
        let period = keys.metadata.get_usize(&pattern)?.unwrap_or(PERIOD);
        every(positive(&pattern, period)?, layers)
    };
    let theta = keys.metadata.get_f32(&keys.key("rope.freq_base_swa"))?;
    let theta = theta.map_or(LOCAL_THETA, f64::from);
    // Stretching the context stretches full layers only.
    let rope = Rope { theta, scaling: RopeScaling::Default, pairing: Pairing::Halves };
    Ok(Some(LocalAttention { window, rope, layers }))
}

fn tensors(hyper: &Hyperparameters, visit: &mut TensorVisitor<'_>) -> Result<(), Stop> {
    let norms = [
        "input_layernorm",
        "post_attention_layernorm",
        "pre_feedforward_layernorm",
        "post_feedforward_layernorm",
    ];
    decoder::tensors(hyper, &norms, &["self_attn.q_norm", "self_attn.k_norm"], visit)
}
