//! Writing a GGUF file.

use std::io;

use lowtide_formats::gguf::{Value, Writer};
use lowtide_formats::{Base, GgufSettings, ROPE_FACTORS};
use lowtide_quant::formats::F32;

use crate::plan::Job;
use crate::{ConvertError, Kind, vocab};

/// The version of the block formats that `general.quantization_version` names.
const QUANTIZATION_VERSION: u32 = 2;
const FILE_TYPE: &str = "general.file_type";
/// Metadata that is said anew, whatever the source says.
const OURS: [&str; 5] = [
    "general.alignment",
    "general.quantization_version",
    "split.no",
    "split.count",
    "split.tensors.count",
];

/// Everything of a GGUF file but the data of its weights.
pub(crate) struct Head {
    pub(crate) writer: Writer,
    /// Tensors that are settings, written before the weights.
    pub(crate) settings: Vec<u8>,
    pub(crate) notes: Vec<String>,
}

/// Metadata and declared tensors, the settings first.
pub(crate) fn head(
    base: &Base,
    kind: Option<Kind>,
    jobs: &[Job<'_>],
) -> Result<Head, ConvertError> {
    let mut head = Head { writer: Writer::new(), settings: Vec::new(), notes: Vec::new() };
    let mut typed = false;
    let factors = match base.gguf() {
        Some(gguf) => {
            let metadata = gguf.metadata();
            let kept = |key: &&str| !OURS.contains(key) && (kind.is_none() || *key != FILE_TYPE);
            for key in metadata.keys().filter(kept) {
                head.writer.copy(&metadata, key);
            }
            typed = kind.is_none() && metadata.contains(FILE_TYPE);
            gguf.tensor(ROPE_FACTORS).map(|factors| factors.to_f32_vec())
        }
        None => from_folder(base, &mut head)?,
    };
    let quantized = jobs.iter().any(|job| job.format.block_len() > 1);
    let file_type = kind.map(Kind::file_type).or_else(|| most(jobs));
    if let Some(file_type) = file_type.filter(|_| !typed) {
        head.writer.metadata(FILE_TYPE, file_type.into());
    }
    if quantized {
        head.writer.metadata("general.quantization_version", QUANTIZATION_VERSION.into());
    }
    if let Some(factors) = factors {
        head.writer.tensor(ROPE_FACTORS, &[factors.len()], &F32);
        head.settings.extend(factors.iter().flat_map(|factor| factor.to_le_bytes()));
    }
    for job in jobs {
        head.writer.tensor(&job.name, job.source.shape, job.format);
    }
    Ok(head)
}

/// The type of a file whose tensors keep their types: that of most of its bytes.
fn most(jobs: &[Job<'_>]) -> Option<u32> {
    let bytes = |kind: &Kind| -> usize {
        let own = jobs.iter().filter(|job| job.format.name() == kind.format().name());
        own.map(Job::bytes).sum()
    };
    let mixes = |kind: &Kind| *kind != Kind::Q4_K_M;
    Kind::ALL.into_iter().filter(mixes).max_by_key(bytes).map(Kind::file_type)
}

/// Metadata made from an HF folder; the answer is `rope_freqs.weight`.
fn from_folder(base: &Base, head: &mut Head) -> Result<Option<Vec<f32>>, ConvertError> {
    let of_base = |source| ConvertError::Setting { path: base.path().to_path_buf(), source };
    let settings = GgufSettings::of(base.hyper()).map_err(of_base)?;
    let writer = &mut head.writer;
    writer.metadata("general.architecture", settings.architecture.into());
    writer.metadata("general.type", "model".into());
    if let Some(name) = name(base) {
        writer.metadata("general.name", Value::Str(name));
    }
    writer.metadata("general.size_label", Value::Str(size_label(base)));
    for (key, value) in settings.metadata {
        writer.metadata(&key, value);
    }
    match vocab::of_folder(base)? {
        Some(vocab) => vocab::put(writer, vocab),
        None => head.notes.push(vocab::NONE.to_owned()),
    }
    if let Some(template) = base.chat_template() {
        writer.metadata("tokenizer.chat_template", template.into());
    }
    head.notes.extend(settings.beyond_llama_cpp);
    Ok(settings.rope_factors)
}

/// The name of the folder, unless it is a commit of the hub's cache: then that of the repository.
fn name(base: &Base) -> Option<String> {
    let path = base.path().canonicalize().ok()?;
    let own = path.file_name()?.to_str()?;
    let in_cache =
        path.parent().and_then(|parent| parent.file_name()) == Some("snapshots".as_ref());
    if !in_cache {
        return Some(own.to_owned());
    }
    let repo = path.ancestors().nth(2)?.file_name()?.to_str()?;
    Some(repo.rsplit("--").next().unwrap_or(repo).to_owned())
}

/// `135M`, `1.5B`: the number of values, as names of models say it.
fn size_label(base: &Base) -> String {
    let tensors = base.tensor_names().filter_map(|name| base.tensor(&name).map(|t| t.len()));
    let values = tensors.sum::<usize>() as f64;
    let (scale, letter) = match values {
        v if v >= 1e9 => (1e9, 'B'),
        v if v >= 1e6 => (1e6, 'M'),
        _ => (1e3, 'K'),
    };
    match values / scale {
        v if v < 10.0 => format!("{v:.1}{letter}"),
        v => format!("{v:.0}{letter}"),
    }
}

/// Writes the head and the settings, then what `weights` writes.
pub(crate) fn write(
    head: &Head,
    out: &mut dyn io::Write,
    weights: impl FnOnce(&mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()>,
) -> io::Result<()> {
    let mut data = head.writer.start(out)?;
    if !head.settings.is_empty() {
        data.write(&head.settings)?;
    }
    weights(&mut |piece| data.write(piece))?;
    data.finish().map(|_| ())
}
