//! A model's settings as an HF `config.json`: what [`from_hf`](super::Family::from_hf) reads, in
//! the style of transformers 4, which version 5 reads as well.

use serde_json::{Map, Number, Value, json};

use super::{gemma3, hf_keys};
use crate::{Activation, DocumentError, Hyperparameters, Pairing, Rope, RopeScaling};

/// The `config.json` of `hyper`, without token ids and without a type of the weights.
///
/// # Errors
/// [`DocumentError`], naming a setting that such a config cannot say: single factors of rotary
/// frequencies that no known scaling gives.
pub fn hf_config(hyper: &Hyperparameters) -> Result<Map<String, Value>, DocumentError> {
    let family = super::of_model_type(&hyper.architecture)?;
    let activation = match hyper.hidden_act {
        Activation::Silu => "silu",
        Activation::GeluTanh => "gelu_pytorch_tanh",
    };
    let gemma = family.model_type == gemma3::FAMILY.model_type;
    let Value::Object(mut config) = json!({
        "architectures": [family.hf_class],
        "model_type": family.model_type,
        "hidden_size": hyper.hidden_size,
        "intermediate_size": hyper.intermediate_size,
        "num_hidden_layers": hyper.num_hidden_layers,
        "num_attention_heads": hyper.num_attention_heads,
        "num_key_value_heads": hyper.num_key_value_heads,
        "head_dim": hyper.head_dim,
        "vocab_size": hyper.vocab_size,
        "max_position_embeddings": hyper.max_position_embeddings,
        "rms_norm_eps": short(hyper.rms_norm_eps),
        "rope_theta": number(hyper.rope.theta),
        "rope_scaling": rope_scaling(&hyper.rope, hyper.head_dim)?,
        "tie_word_embeddings": hyper.tie_word_embeddings,
        "attention_bias": hyper.attention_bias && family.model_type != "qwen2",
    }) else {
        unreachable!("an object was written")
    };
    let key = if gemma { "hidden_activation" } else { "hidden_act" };
    config.insert(key.to_owned(), activation.into());
    if family.model_type == "llama" {
        config.insert("mlp_bias".to_owned(), hyper.mlp_bias.into());
    }
    if gemma {
        let scalar = 1.0 / (hyper.attention_scale * hyper.attention_scale);
        config.insert("query_pre_attn_scalar".to_owned(), number(rounded(scalar)));
        let local = hyper.local.as_ref();
        let kinds = local
            .map(|local| &local.layers)
            .into_iter()
            .flatten()
            .map(|slides| if *slides { hf_keys::SLIDING } else { hf_keys::FULL });
        let mut kinds: Vec<_> = kinds.collect();
        kinds.resize(hyper.num_hidden_layers, hf_keys::FULL);
        config.insert("layer_types".to_owned(), kinds.into());
        if let Some(local) = local {
            config.insert("sliding_window".to_owned(), local.window.into());
            config.insert("rope_local_base_freq".to_owned(), number(local.rope.theta));
        }
    }
    Ok(config)
}

fn rope_scaling(rope: &Rope, head_dim: usize) -> Result<Value, DocumentError> {
    let scaling = match &rope.scaling {
        RopeScaling::Factors(factors) => &llama3_of(rope, factors, head_dim)?,
        other => other,
    };
    Ok(match scaling {
        RopeScaling::Linear { factor } => json!({"rope_type": "linear", "factor": factor}),
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor,
            "original_max_position_embeddings": original_max_position_embeddings,
        }),
        RopeScaling::Default | RopeScaling::Factors(_) => Value::Null,
    })
}

/// The scaling of Llama 3 that gives these factors. GGUF keeps the factors only; the models that
/// exist differ in how far they stretch.
fn llama3_of(rope: &Rope, factors: &[f32], head_dim: usize) -> Result<RopeScaling, DocumentError> {
    const TOLERANCE: f32 = 1e-5;
    if factors.iter().all(|factor| *factor == 1.0) {
        return Ok(RopeScaling::Default);
    }
    let largest = f64::from(factors.iter().copied().fold(1.0, f32::max));
    let scaling = RopeScaling::Llama3 {
        factor: rounded(largest),
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };
    let guess = Rope { theta: rope.theta, scaling, pairing: Pairing::Halves };
    let said = guess.factors(head_dim).unwrap_or_default();
    let same = said.len() == factors.len()
        && said.iter().zip(factors).all(|(a, b)| (a - b).abs() <= TOLERANCE * b.abs());
    if !same {
        let supported = "factors as Llama 3 has them, which a config.json can say";
        let key = super::GGUF_ROPE_FACTORS;
        return Err(DocumentError::unsupported(key, "a list of other factors", supported));
    }
    Ok(guess.scaling)
}

/// A whole number without its point, as configs are written by hand.
fn number(value: f64) -> Value {
    const EXACT: f64 = (1_u64 << 53) as f64;
    if value.fract() == 0.0 && value.abs() < EXACT {
        return Value::from(value as i64);
    }
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}

/// The shortest decimal number that reads back as this `f32`.
fn short(value: f32) -> Value {
    let read = value.to_string().parse().ok().and_then(Number::from_f64);
    read.map_or(Value::Null, Value::Number)
}

/// The whole number that `value` is, but for what squaring and rounding made of it.
fn rounded(value: f64) -> f64 {
    let whole = value.round();
    if (value - whole).abs() <= 1e-6 * whole { whole } else { value }
}
