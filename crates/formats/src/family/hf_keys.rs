//! Fields of HF configs that families share.
//!
//! transformers 4 writes `rope_theta` and `rope_scaling`, transformers 5 one `rope_parameters`;
//! both are read, and where a file has both they must agree.

use serde_json::Value;

use crate::document::shown;
use crate::json::{Object, required, shown_value};
use crate::{Activation, DocumentError, Pairing, Rope, RopeScaling};

/// Settings that change the forward pass and are not computed, each with the number that turns it
/// off, if there is one. `null`, `false` and empty lists and objects always count as off.
const SETTINGS: &[(&str, Option<f64>)] = &[
    ("add_cross_attention", None),
    ("alibi", None),
    ("attention_dropout", Some(0.0)),
    ("attention_multiplier", None),
    ("attn_logit_softcapping", None),
    ("chunk_size_feed_forward", Some(0.0)),
    ("clip_qkv", None),
    ("dim_model_base", None),
    ("embd_pdrop", Some(0.0)),
    ("embedding_multiplier", Some(1.0)),
    ("embedding_scale", Some(1.0)),
    ("final_logit_softcapping", None),
    ("hidden_dropout", Some(0.0)),
    ("is_encoder_decoder", None),
    ("logit_scale", Some(1.0)),
    ("logits_scaling", Some(1.0)),
    ("mrope_section", None),
    ("n_routed_experts", Some(0.0)),
    ("no_rope_layers", None),
    ("num_experts", Some(0.0)),
    ("num_local_experts", Some(0.0)),
    ("partial_rotary_factor", Some(1.0)),
    ("pretraining_tp", Some(1.0)),
    ("pruned_heads", None),
    ("qk_norm", None),
    ("query_pre_attn_scalar", None),
    ("resid_pdrop", Some(0.0)),
    ("residual_multiplier", Some(1.0)),
    ("residual_scale", Some(1.0)),
    ("rope_local_base_freq", None),
    ("rotary_pct", Some(1.0)),
    ("scale_depth", None),
    ("scale_emb", Some(1.0)),
    ("use_bidirectional_attention", None),
    ("use_qk_norm", None),
    ("use_sliding_window", None),
];

/// Refuses every setting that is on and not computed; the family itself reads those in `read`.
pub(super) fn refuse_active(config: Object<'_>, read: &[&str]) -> Result<(), DocumentError> {
    for &(key, off) in SETTINGS.iter().filter(|(key, _)| !read.contains(key)) {
        if let Some(value) = config.get(key).filter(|value| !is_off(value, off)) {
            let supported = off.map_or_else(|| "none".to_owned(), |off| off.to_string());
            return Err(DocumentError::unsupported(key, shown_value(value), supported));
        }
    }
    // Where `use_sliding_window` is there and got this far it is false, and the width is idle.
    let idle = config.get("use_sliding_window").is_some() || read.contains(&"sliding_window");
    if let Some(value) = config.get("sliding_window").filter(|v| !idle && !is_off(v, None)) {
        return Err(DocumentError::unsupported("sliding_window", shown_value(value), "none"));
    }
    let local = layer_types(config)?.filter(|_| !read.contains(&LAYER_TYPES));
    if local.is_some_and(|local| local.contains(&true)) {
        return Err(DocumentError::unsupported(LAYER_TYPES, shown(SLIDING), shown(FULL)));
    }
    refuse_own_code(config)
}

/// The kind of attention of each layer.
pub(super) const LAYER_TYPES: &str = "layer_types";
/// A layer whose queries see every key before them.
pub(super) const FULL: &str = "full_attention";
/// A layer whose queries see a window of keys.
pub(super) const SLIDING: &str = "sliding_attention";

/// Whether each layer slides, where the config lists it.
pub(super) fn layer_types(config: Object<'_>) -> Result<Option<Vec<bool>>, DocumentError> {
    let Some(value) = config.get(LAYER_TYPES) else { return Ok(None) };
    let kinds = value
        .as_array()
        .ok_or_else(|| config.wrong_type(LAYER_TYPES, "a list of kinds of attention", value))?;
    let slides = |kind: &Value| match kind.as_str() {
        Some(FULL) => Ok(false),
        Some(SLIDING) => Ok(true),
        _ => {
            let supported = format!("{}, {}", shown(FULL), shown(SLIDING));
            Err(DocumentError::unsupported(LAYER_TYPES, shown_value(kind), supported))
        }
    };
    kinds.iter().map(slides).collect::<Result<_, _>>().map(Some)
}

/// Refuses configs whose model is defined by Python code in the folder.
fn refuse_own_code(config: Object<'_>) -> Result<(), DocumentError> {
    let Some(map) = config.object("auto_map")? else { return Ok(()) };
    for (class, code) in map.fields() {
        if class.starts_with("AutoModel") || class == "AutoConfig" {
            let key = map.path(class);
            let supported = "models defined by transformers itself";
            return Err(DocumentError::unsupported(key, shown_value(code), supported));
        }
    }
    Ok(())
}

fn is_off(value: &Value, off: Option<f64>) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) | Value::String(_) => false,
        Value::Number(number) => off.is_some_and(|off| number.as_f64() == Some(off)),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

/// Refuses a config for another kind of model than `expected`, such as a classifier.
pub(super) fn architecture(config: Object<'_>, expected: &str) -> Result<(), DocumentError> {
    let Some(value) = config.get("architectures") else { return Ok(()) };
    let names = value
        .as_array()
        .ok_or_else(|| config.wrong_type("architectures", "a list of class names", value))?;
    match names.iter().find(|name| *name != expected) {
        Some(name) => {
            let supported = shown(expected);
            Err(DocumentError::unsupported("architectures", shown_value(name), supported))
        }
        None => Ok(()),
    }
}

/// Width of a head that an even split of the hidden size gives.
pub(super) fn even_head_dim(hidden_size: usize, heads: usize) -> Result<usize, DocumentError> {
    match hidden_size.checked_rem(heads) {
        Some(0) => Ok(hidden_size / heads),
        _ => {
            let expected = format!("a divisor of hidden_size {hidden_size}, or head_dim to be set");
            Err(DocumentError::out_of_range("num_attention_heads", heads, expected))
        }
    }
}

/// The activation of that field.
pub(super) fn activation(
    config: Object<'_>,
    key: &str,
) -> Result<Option<Activation>, DocumentError> {
    match config.str(key)? {
        None => Ok(None),
        Some("silu" | "swish") => Ok(Some(Activation::Silu)),
        Some("gelu_pytorch_tanh" | "gelu_new") => Ok(Some(Activation::GeluTanh)),
        Some(other) => {
            let supported = "\"silu\", \"gelu_pytorch_tanh\"";
            Err(DocumentError::unsupported(key, shown(other), supported))
        }
    }
}

const THETA: &str = "rope_theta";
const NEW_STYLE: &str = "rope_parameters";
const OLD_STYLE: &str = "rope_scaling";

/// Where a config of the old style keeps a position encoding.
pub(super) struct OldRope {
    pub(super) theta: &'static str,
    pub(super) scaling: Option<&'static str>,
    /// What holds where no style says a base.
    pub(super) theta_default: f64,
}

impl OldRope {
    /// The usual fields.
    pub(super) const fn with_default(theta_default: f64) -> Self {
        Self { theta: THETA, scaling: Some(OLD_STYLE), theta_default }
    }
}

/// Position encoding of all layers, in either style.
pub(super) fn rope(config: Object<'_>, theta_default: f64) -> Result<Rope, DocumentError> {
    rope_of(config, config.object(NEW_STYLE)?, &OldRope::with_default(theta_default))
}

/// Position encoding from `new`, an object of the new style, and from fields of the old one.
pub(super) fn rope_of(
    config: Object<'_>,
    new: Option<Object<'_>>,
    old: &OldRope,
) -> Result<Rope, DocumentError> {
    let outer_theta = config.f64(old.theta)?;
    let inner_theta = new.map(|new| new.f64(THETA)).transpose()?.flatten();
    if let (Some(new), Some(inner), Some(outer)) = (new, inner_theta, outer_theta)
        && inner != outer
    {
        return Err(DocumentError::conflict(new.path(THETA), inner, old.theta, outer));
    }
    let theta = inner_theta.or(outer_theta).unwrap_or(old.theta_default);
    let inner = new.map(scaling).transpose()?;
    let outer = old.scaling.map(|key| config.object(key)).transpose()?.flatten();
    let outer = outer.map(scaling).transpose()?;
    if let (Some(new), Some(inner), Some(outer)) = (new, &inner, &outer)
        && inner != outer
    {
        let (inner, outer) = (format!("{inner:?}"), format!("{outer:?}"));
        return Err(DocumentError::conflict(new.path("rope_type"), inner, OLD_STYLE, outer));
    }
    let scaling = inner.or(outer).unwrap_or(RopeScaling::Default);
    Ok(Rope { theta, scaling, pairing: Pairing::Halves })
}

fn scaling(rope: Object<'_>) -> Result<RopeScaling, DocumentError> {
    let kind = match (rope.str("rope_type")?, rope.str("type")?) {
        (Some(new), Some(old)) if new != old => {
            let (key, other) = (rope.path("rope_type"), rope.path("type"));
            return Err(DocumentError::conflict(key, shown(new), other, shown(old)));
        }
        (new, old) => new.or(old).unwrap_or("default"),
    };
    let number = |key| required(rope.f64(key)?, &rope.path(key), "a number");
    let (scaling, read): (_, &[&str]) = match kind {
        "default" => (RopeScaling::Default, &[]),
        "linear" => (RopeScaling::Linear { factor: number("factor")? }, &["factor"]),
        "llama3" => {
            const ORIGINAL: &str = "original_max_position_embeddings";
            let path = rope.path(ORIGINAL);
            let scaling = RopeScaling::Llama3 {
                factor: number("factor")?,
                low_freq_factor: number("low_freq_factor")?,
                high_freq_factor: number("high_freq_factor")?,
                original_max_position_embeddings: required(
                    rope.usize(ORIGINAL)?,
                    &path,
                    "a whole number",
                )?,
            };
            (scaling, &["factor", "low_freq_factor", "high_freq_factor", ORIGINAL])
        }
        other => {
            let supported = "\"default\", \"linear\", \"llama3\"";
            let key = rope.path("rope_type");
            return Err(DocumentError::unsupported(key, shown(other), supported));
        }
    };
    for (key, value) in rope.fields() {
        let idle = key == "partial_rotary_factor" && is_off(value, Some(1.0));
        let known = ["rope_type", "type", THETA].contains(&key) || read.contains(&key);
        if !known && !idle {
            let supported = format!("with rope type {kind}: {}", list(read));
            return Err(DocumentError::unsupported(rope.path(key), shown_value(value), supported));
        }
    }
    Ok(scaling)
}

fn list(keys: &[&str]) -> String {
    if keys.is_empty() { "nothing else".to_owned() } else { keys.join(", ") }
}

/// Under which name a field of [`Hyperparameters`](crate::Hyperparameters) stands in the config.
pub(super) fn key_of(config: Object<'_>, field: &'static str) -> String {
    let style = if config.get(NEW_STYLE).is_some() { NEW_STYLE } else { OLD_STYLE };
    match field {
        THETA if style == OLD_STYLE => THETA.to_owned(),
        THETA
        | "factor"
        | "low_freq_factor"
        | "high_freq_factor"
        | "original_max_position_embeddings" => format!("{style}.{field}"),
        other => other.to_owned(),
    }
}
