//! Files for tests: bytes put together by hand, and golden bases in another container.
#![allow(dead_code, reason = "every test file uses a part of it")]

use std::path::{Path, PathBuf};

use lowtide_formats::gguf::{Value, Writer};
use lowtide_formats::{Base, rows};
use lowtide_quant::formats::F32;

pub(crate) fn golden(path: &str) -> PathBuf {
    lowtide_testkit::golden::golden_dir().join(path)
}

/// A GGUF file put together field by field, sound or not.
#[derive(Clone, Debug)]
pub(crate) struct Raw {
    pub(crate) bytes: Vec<u8>,
}

impl Raw {
    pub(crate) fn new(tensors: u64, entries: u64) -> Self {
        Self { bytes: b"GGUF\x03\0\0\0".to_vec() }.u64(tensors).u64(entries)
    }

    pub(crate) fn u32(mut self, value: u32) -> Self {
        self.bytes.extend(value.to_le_bytes());
        self
    }

    pub(crate) fn u64(mut self, value: u64) -> Self {
        self.bytes.extend(value.to_le_bytes());
        self
    }

    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend(bytes);
        self
    }

    pub(crate) fn text(self, text: &[u8]) -> Self {
        self.u64(text.len() as u64).raw(text)
    }

    /// A metadata entry of one value.
    pub(crate) fn entry(self, key: &str, value_type: u32, value: &[u8]) -> Self {
        self.text(key.as_bytes()).u32(value_type).raw(value)
    }

    /// A tensor record; `axes` fastest first, as in the file.
    pub(crate) fn tensor(self, name: &str, axes: &[u64], type_id: u32, offset: u64) -> Self {
        let record = self.text(name.as_bytes()).u32(axes.len() as u32);
        axes.iter().fold(record, |record, &axis| record.u64(axis)).u32(type_id).u64(offset)
    }

    /// Padding to the next multiple of 32, then that many bytes of data.
    pub(crate) fn data(mut self, len: usize) -> Vec<u8> {
        self.bytes.resize(self.bytes.len().next_multiple_of(32) + len, 0);
        self.bytes
    }
}

/// A small base as a GGUF file, to be changed before it is written.
#[derive(Clone, Debug)]
pub(crate) struct GgufBase {
    pub(crate) metadata: Vec<(String, Value)>,
    pub(crate) tensors: Vec<(String, Vec<usize>, Vec<f32>)>,
}

impl GgufBase {
    /// The golden base `llama_tied` as the usual converter would write it.
    pub(crate) fn llama() -> Self {
        let mut file = Self::of("llama_tied", "llama");
        file.set("llama.rope.dimension_count", 16.into());
        file
    }

    /// A golden base as the usual converter would write it: rows of q and k of a Llama in another
    /// order, norms of a Gemma with their 1 added.
    pub(crate) fn of(model: &str, arch: &str) -> Self {
        let base = Base::open(&golden(model)).unwrap();
        let hyper = base.hyper();
        let mut file = Self { metadata: Vec::new(), tensors: Vec::new() };
        file.set("general.architecture", arch.into());
        for (key, value) in [
            ("block_count", Value::from(hyper.num_hidden_layers as u32)),
            ("context_length", (hyper.max_position_embeddings as u32).into()),
            ("embedding_length", (hyper.hidden_size as u32).into()),
            ("feed_forward_length", (hyper.intermediate_size as u32).into()),
            ("attention.head_count", (hyper.num_attention_heads as u32).into()),
            ("attention.head_count_kv", (hyper.num_key_value_heads as u32).into()),
            ("attention.key_length", (hyper.head_dim as u32).into()),
            ("attention.value_length", (hyper.head_dim as u32).into()),
            ("attention.layer_norm_rms_epsilon", hyper.rms_norm_eps.into()),
            ("rope.freq_base", (hyper.rope.theta as f32).into()),
        ] {
            file.set(&format!("{arch}.{key}"), value);
        }
        for name in base.tensor_names() {
            let tensor = base.tensor(&name).unwrap();
            let mut values = tensor.to_f32_vec();
            let heads = match () {
                () if arch != "llama" => None,
                () if name.ends_with("q_proj.weight") => Some(hyper.num_attention_heads),
                () if name.ends_with("k_proj.weight") => Some(hyper.num_key_value_heads),
                () => None,
            };
            if let Some(heads) = heads {
                let source = values.clone();
                rows::permute(&source, &mut values, heads, hyper.head_dim);
            }
            if name.ends_with("norm.weight") {
                values.iter_mut().for_each(|weight| *weight += hyper.norm_offset);
            }
            file.tensor(&gguf_name(&name, arch), tensor.shape, values);
        }
        file
    }

    pub(crate) fn set(&mut self, key: &str, value: Value) -> &mut Self {
        self.metadata.retain(|(k, _)| k != key);
        self.metadata.push((key.to_owned(), value));
        self
    }

    pub(crate) fn unset(&mut self, key: &str) -> &mut Self {
        self.metadata.retain(|(k, _)| k != key);
        self
    }

    pub(crate) fn tensor(&mut self, name: &str, shape: &[usize], values: Vec<f32>) -> &mut Self {
        self.tensors.retain(|(n, ..)| n != name);
        self.tensors.push((name.to_owned(), shape.to_vec(), values));
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        for (key, value) in &self.metadata {
            writer.metadata(key, value.clone());
        }
        for (name, shape, _) in &self.tensors {
            writer.tensor(name, shape, &F32);
        }
        let mut data = writer.start(Vec::new()).unwrap();
        for (_, _, values) in &self.tensors {
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            data.write(&bytes).unwrap();
        }
        data.finish().unwrap()
    }

    pub(crate) fn write(&self, dir: &Path) -> PathBuf {
        let path = dir.join("model.gguf");
        std::fs::write(&path, self.bytes()).unwrap();
        path
    }
}

/// The name that GGUF gives to a tensor, spelled out once more for the tests.
fn gguf_name(hf: &str, arch: &str) -> String {
    let after_attention = if arch == "gemma3" { "post_attention_norm" } else { "ffn_norm" };
    [
        ("model.layers.", "blk."),
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
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

/// A copy of an HF folder with one file replaced.
pub(crate) fn copy_with(source: &Path, dir: &Path, file: &str, content: &str) {
    for entry in std::fs::read_dir(source).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            std::fs::copy(&path, dir.join(path.file_name().unwrap())).unwrap();
        }
    }
    std::fs::write(dir.join(file), content).unwrap();
}
