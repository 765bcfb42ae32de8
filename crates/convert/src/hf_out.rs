//! Writing an HF folder.

use std::fs;
use std::path::{Path, PathBuf};

use lowtide_formats::safe::SafeWriter;
use lowtide_formats::{Base, hf_config};
use serde_json::{Map, Value, json};

use crate::plan::Job;
use crate::{ConvertError, Kind, vocab};

pub(crate) const SINGLE: &str = "model.safetensors";
pub(crate) const INDEX: &str = "model.safetensors.index.json";
pub(crate) const CONFIG: &str = "config.json";
/// Files of an HF folder that go with it into another.
const BESIDE: [&str; 8] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
];

/// One file of weights.
pub(crate) struct Shard {
    pub(crate) name: String,
    pub(crate) writer: SafeWriter,
    /// Which of the tensors it holds.
    pub(crate) jobs: std::ops::Range<usize>,
}

/// Small files of a folder, by name, and copies of files of the source.
#[derive(Default)]
pub(crate) struct Beside {
    pub(crate) texts: Vec<(String, String)>,
    pub(crate) copies: Vec<(String, PathBuf)>,
    pub(crate) notes: Vec<String>,
}

/// Cuts the tensors into files of at most `shard_bytes`, one tensor at least.
pub(crate) fn shards(jobs: &[Job<'_>], kind: Kind, shard_bytes: u64) -> Vec<Shard> {
    let mut ends = Vec::new();
    let mut filled = 0;
    for (i, job) in jobs.iter().enumerate() {
        let bytes = job.bytes() as u64;
        if filled > 0 && filled + bytes > shard_bytes {
            ends.push(i);
            filled = 0;
        }
        filled += bytes;
    }
    ends.push(jobs.len());
    let count = ends.len();
    let mut start = 0;
    (1..)
        .zip(ends)
        .map(|(number, end)| {
            let mut writer = SafeWriter::new(kind.format()).expect("a type of floats");
            jobs[start..end].iter().for_each(|job| writer.tensor(&job.name, job.source.shape));
            let name = match count {
                1 => SINGLE.to_owned(),
                _ => format!("model-{number:05}-of-{count:05}.safetensors"),
            };
            let shard = Shard { name, writer, jobs: start..end };
            start = end;
            shard
        })
        .collect()
}

/// The index of several files.
pub(crate) fn index(shards: &[Shard]) -> Value {
    let bytes: usize = shards.iter().map(|shard| shard.writer.data_bytes()).sum();
    let map: Map<String, Value> = shards
        .iter()
        .flat_map(|shard| {
            let file = Value::from(shard.name.as_str());
            shard.writer.names().map(move |name| (name.to_owned(), file.clone()))
        })
        .collect();
    json!({"metadata": {"total_size": bytes}, "weight_map": map})
}

/// Everything of the folder but its weights and its config.
pub(crate) fn beside(base: &Base) -> Result<Beside, ConvertError> {
    let mut beside = Beside::default();
    if let Some(folder) = base.folder() {
        let files = BESIDE.iter().map(|name| ((*name).to_owned(), folder.dir().join(name)));
        beside.copies = files.filter(|(_, path)| path.is_file()).collect();
        return Ok(beside);
    }
    match vocab::files(base)? {
        Some(files) => {
            beside.texts.push(("tokenizer.json".to_owned(), text(&files.tokenizer)));
            beside.texts.push(("tokenizer_config.json".to_owned(), text(&files.config)));
        }
        None => beside.notes.push(vocab::NONE.to_owned()),
    }
    let ids = special_ids(base)?;
    if !ids.is_empty() {
        let generation = Value::Object(ids);
        beside.texts.push(("generation_config.json".to_owned(), text(&generation)));
    }
    Ok(beside)
}

/// `config.json` for weights of `kind`.
pub(crate) fn config(base: &Base, kind: Kind) -> Result<String, ConvertError> {
    let of_base = |source| ConvertError::Setting { path: base.path().to_path_buf(), source };
    let mut config = match base.folder() {
        Some(folder) => source_config(folder.dir())?,
        None => {
            let mut config = hf_config(base.hyper()).map_err(of_base)?;
            config.extend(special_ids(base)?);
            config
        }
    };
    config.remove("quantization_config");
    let name = match kind {
        Kind::F16 => "float16",
        Kind::BF16 => "bfloat16",
        _ => "float32",
    };
    for key in ["torch_dtype", "dtype"] {
        if key == "torch_dtype" || config.contains_key(key) {
            config.insert(key.to_owned(), name.into());
        }
    }
    Ok(text(&Value::Object(config)))
}

/// The config of the source, which was read and checked when it was opened.
fn source_config(dir: &Path) -> Result<Map<String, Value>, ConvertError> {
    let path = dir.join(CONFIG);
    let failed = |error: &dyn std::fmt::Display| lowtide_formats::Error::Io {
        path: path.clone(),
        action: "read",
        kind: std::io::ErrorKind::InvalidData,
        message: error.to_string(),
    };
    let text = fs::read_to_string(&path).map_err(|error| failed(&error))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    Ok(serde_json::from_str(text).map_err(|error| failed(&error))?)
}

/// Ids of a GGUF file that configs of HF name.
fn special_ids(base: &Base) -> Result<Map<String, Value>, ConvertError> {
    let mut ids = Map::new();
    let Some(gguf) = base.gguf() else { return Ok(ids) };
    let of_base = |source| ConvertError::Setting { path: base.path().to_path_buf(), source };
    for (key, name) in [("bos_token_id", "bos_token_id"), ("pad_token_id", "padding_token_id")] {
        let id = gguf.metadata().get_u32(&format!("tokenizer.ggml.{name}")).map_err(of_base)?;
        if let Some(id) = id {
            ids.insert(key.to_owned(), id.into());
        }
    }
    match base.eos_token_ids() {
        [] => {}
        [one] => drop(ids.insert("eos_token_id".to_owned(), (*one).into())),
        several => drop(ids.insert("eos_token_id".to_owned(), several.into())),
    }
    Ok(ids)
}

fn text(value: &Value) -> String {
    format!("{value:#}\n")
}
