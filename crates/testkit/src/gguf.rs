//! Folders as GGUF files, as the usual converter would write them.

use std::path::{Path, PathBuf};

use lowtide_formats::gguf::{Value, Writer};
use lowtide_formats::{Base, Hyperparameters, rows};
use lowtide_quant::formats::F32;

use crate::text::byte_tokens;

/// Writes the base in the folder `source` as `model.gguf` into `dir`, every tensor in f32. A base
/// with a tokenizer is given the vocabulary of [`byte_tokenizer_files`], without control tokens.
///
/// [`byte_tokenizer_files`]: crate::text::byte_tokenizer_files
///
/// # Panics
/// When the folder is no base, or the file cannot be written.
#[must_use]
pub fn write_gguf(source: &Path, dir: &Path) -> PathBuf {
    let base = Base::open(source).unwrap();
    let hyper = base.hyper();
    // Converters write a Mistral without a window as the Llama that it is.
    let arch = match hyper.architecture.trim_end_matches("_text") {
        "mistral" if hyper.local.is_none() => "llama",
        arch => arch,
    };
    let mut writer = Writer::new();
    writer.metadata("general.architecture", arch.into());
    for (key, value) in metadata(hyper) {
        writer.metadata(&format!("{arch}.{key}"), value);
    }
    if source.join("tokenizer.json").is_file() {
        writer.metadata("tokenizer.ggml.model", "gpt2".into());
        writer.metadata("tokenizer.ggml.pre", "smollm".into());
        writer.metadata("tokenizer.ggml.tokens", Value::Strings(byte_tokens()));
    }
    for name in base.tensor_names() {
        writer.tensor(&gguf_name(&name, arch), base.tensor(&name).unwrap().shape, &F32);
    }
    let mut data = writer.start(Vec::new()).unwrap();
    for name in base.tensor_names() {
        let values = stored(&base, &name, arch);
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        data.write(&bytes).unwrap();
    }
    let path = dir.join("model.gguf");
    std::fs::write(&path, data.finish().unwrap()).unwrap();
    path
}

fn metadata(hyper: &Hyperparameters) -> Vec<(&'static str, Value)> {
    let count = |count: usize| Value::U32(count as u32);
    let mut metadata = vec![
        ("block_count", count(hyper.num_hidden_layers)),
        ("context_length", count(hyper.max_position_embeddings)),
        ("embedding_length", count(hyper.hidden_size)),
        ("feed_forward_length", count(hyper.intermediate_size)),
        ("attention.head_count", count(hyper.num_attention_heads)),
        ("attention.head_count_kv", count(hyper.num_key_value_heads)),
        ("attention.key_length", count(hyper.head_dim)),
        ("attention.value_length", count(hyper.head_dim)),
        ("attention.layer_norm_rms_epsilon", hyper.rms_norm_eps.into()),
        ("rope.freq_base", (hyper.rope.theta as f32).into()),
    ];
    if let Some(local) = &hyper.local {
        metadata.extend([
            ("attention.scale", (hyper.attention_scale as f32).into()),
            ("attention.sliding_window", count(local.window)),
            ("attention.sliding_window_pattern", Value::Bools(local.layers.clone())),
            ("rope.freq_base_swa", (local.rope.theta as f32).into()),
        ]);
    }
    metadata
}

/// A tensor as the file keeps it: q and k of a Llama in another order, norms as they multiply.
fn stored(base: &Base, name: &str, arch: &str) -> Vec<f32> {
    let hyper = base.hyper();
    let mut values = base.tensor(name).unwrap().to_f32_vec();
    let heads = match name.rsplit('.').nth(1) {
        Some("q_proj") if arch == "llama" => hyper.num_attention_heads,
        Some("k_proj") if arch == "llama" => hyper.num_key_value_heads,
        _ => 0,
    };
    if heads > 0 {
        let source = values.clone();
        rows::permute(&source, &mut values, heads, hyper.head_dim);
    }
    if name.ends_with("norm.weight") {
        values.iter_mut().for_each(|weight| *weight += hyper.norm_offset);
    }
    values
}

fn gguf_name(hf: &str, arch: &str) -> String {
    let after_attention = if arch == "gemma3" { "post_attention_norm" } else { "ffn_norm" };
    [
        ("model.layers.", "blk."),
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("post_attention_layernorm", after_attention),
        ("pre_feedforward_layernorm", "ffn_norm"),
        ("post_feedforward_layernorm", "post_ffw_norm"),
        ("input_layernorm", "attn_norm"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.", "attn_"),
        ("mlp.", "ffn_"),
        ("_proj", ""),
    ]
    .iter()
    .fold(hf.to_owned(), |name, (from, to)| name.replace(from, to))
}
