//! Adapters between PEFT folders and GGUF files, from folders of mlx-lm into both, and from codes
//! into the floats that they stand for.

mod from_codes;
mod from_mlx;

use std::fs;
use std::path::{Path, PathBuf};

use lowtide_formats::gguf_adapter::{self, GgufAdapter};
use lowtide_formats::mlx::{self, MlxAdapter};
use lowtide_formats::peft::{
    self, AdapterFiles, AdapterTensor, LORA_DOWN, LORA_UP, LoraConfig, LoraPair, TargetModules,
};
use lowtide_formats::safe::{PermutedRows, Values};
use lowtide_formats::{Base, Error};
use serde::Serialize;
use serde_json::Value;

use crate::{ConvertError, is_gguf};

/// Which adapter is to be converted, and into what.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterSettings {
    /// The adapter: a PEFT folder, a GGUF file, or a folder of mlx-lm.
    pub source: PathBuf,
    /// Its base: an HF folder or a GGUF file. Its heads say how rows are ordered in GGUF. Nobody
    /// looks at it where the adapter [`is_coded`] and the output is a folder.
    pub base: PathBuf,
    /// What the base is called in the output: a path, or a hub id.
    pub base_name: String,
    /// What is written: a GGUF file if the name ends so, else a PEFT folder.
    pub output: PathBuf,
    /// Whether an output that is there may be replaced.
    pub overwrite: bool,
}

/// What was written of an adapter.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AdapterReport {
    /// Always `done`.
    pub event: &'static str,
    /// The output.
    pub output: String,
    /// `gguf` or `peft`.
    pub format: &'static str,
    /// The largest rank.
    pub rank: usize,
    /// Alpha, as the output says it.
    pub alpha: f64,
    /// Modules that are adapted.
    pub modules: usize,
    /// Tensors written.
    pub tensors: usize,
    /// Values in them.
    pub parameters: u64,
    /// Size of the files written.
    pub bytes_after: u64,
    /// What a user should know about the output.
    pub notes: Vec<String>,
}

/// The name of its base that the adapter at `path` gives, if it gives one.
///
/// # Errors
/// When the adapter cannot be read.
pub fn named_base(path: &Path) -> Result<Option<String>, ConvertError> {
    if path.is_file() {
        return Ok(GgufAdapter::open(path)?.base_name().map(str::to_owned));
    }
    if mlx::is_adapter(path) {
        return Ok(MlxAdapter::open(path)?.config().model.clone());
    }
    let files = AdapterFiles::open(path)?;
    Ok(files.config().get("base_model_name_or_path").and_then(Value::as_str).map(str::to_owned))
}

/// Whether the adapter at `path` is a folder with a file of codes.
///
/// # Errors
/// When it is a folder that cannot be read.
pub fn is_coded(path: &Path) -> Result<bool, ConvertError> {
    match path.is_dir() && !mlx::is_adapter(path) {
        true => Ok(AdapterFiles::open(path)?.codes().is_some()),
        false => Ok(false),
    }
}

/// Converts an adapter. Tensors are streamed and written as F32, which keeps every value of an
/// adapter in floats, and every value that codes stand for.
///
/// # Errors
/// [`ConvertError`]; then nothing was written and what was there before is as it was.
pub fn convert_adapter(settings: &AdapterSettings) -> Result<AdapterReport, ConvertError> {
    let AdapterSettings { source, output, .. } = settings;
    let to_gguf = is_gguf(output);
    if mlx::is_adapter(source) {
        check_output(settings)?;
        return from_mlx::convert(settings, to_gguf);
    }
    if !to_gguf && is_coded(source)? {
        check_output(settings)?;
        return from_codes::convert(settings);
    }
    if source.is_file() == to_gguf {
        let kind = if to_gguf { "a GGUF file" } else { "a PEFT folder" };
        return Err(ConvertError::SameKind { path: source.clone(), kind });
    }
    check_output(settings)?;
    if to_gguf { into_gguf(settings) } else { into_peft(settings) }
}

const NO_DROPOUT: &str = "GGUF says no dropout, which matters in training only";

fn into_gguf(settings: &AdapterSettings) -> Result<AdapterReport, ConvertError> {
    let files = AdapterFiles::open(&settings.source)?;
    let plain = files.lora().and_then(|(config, pairs)| {
        let of_config = |reason| {
            let path = files.dir().join(peft::CONFIG_FILE);
            Error::Document { path, reason }
        };
        config.variant.check_plain().map_err(of_config)?;
        Ok((config, pairs))
    });
    let (config, pairs) = plain.map_err(|error| match error {
        Error::Document { path, reason } => {
            ConvertError::NotInGguf { path, source: Box::new(reason) }
        }
        other => other.into(),
    })?;
    let alphas = alphas(&settings.source, &config, &pairs)?;
    let alpha = most_common(&alphas).unwrap_or(config.lora_alpha);
    check_alpha(&settings.source, alpha)?;
    let others = alphas.iter().filter(|own| **own != alpha).count();
    let own = if others > 0 { &alphas[..] } else { &[] };
    let said = write_gguf(settings, (alpha, own), &pairs)?;
    let mut notes = Vec::new();
    if others > 0 {
        notes.push(format!(
            "alpha is {alpha} for all modules: B of the {others} of {} whose alpha differs is \
             multiplied by what theirs is of it, which gives the same",
            pairs.len()
        ));
    } else if config.use_rslora {
        notes.push(format!(
            "alpha is {alpha} instead of {}: GGUF scales by alpha / rank, which gives the same as \
             alpha / sqrt(rank) did",
            config.lora_alpha
        ));
    }
    if config.lora_dropout > 0.0 {
        notes.push(NO_DROPOUT.to_owned());
    }
    let bytes_after = size(&settings.output);
    Ok(report(settings, "gguf", said, &pairs, bytes_after, notes))
}

/// Writes pairs of the base, rows in HF order, as a GGUF adapter, with one alpha and those of the
/// pairs, if they differ; the answer is alpha as it is in the file.
fn write_gguf(
    settings: &AdapterSettings,
    (alpha, alphas): (f64, &[f64]),
    pairs: &[LoraPair<'_>],
) -> Result<f64, ConvertError> {
    let base = Base::open(&settings.base)?;
    check_base(settings, &base, pairs)?;
    let name = settings.source.canonicalize().ok();
    let name = name.as_deref().and_then(Path::file_name).and_then(|name| name.to_str());
    let said = gguf_adapter::Settings {
        alpha: alpha as f32,
        alphas,
        name,
        base_name: Some(last_part(&settings.base_name)).filter(|name| !name.is_empty()),
    };
    gguf_adapter::write(&settings.output, base.hyper(), &said, pairs)?;
    Ok(f64::from(said.alpha))
}

fn into_peft(settings: &AdapterSettings) -> Result<AdapterReport, ConvertError> {
    let file = GgufAdapter::open(&settings.source)?;
    let base = Base::open(&settings.base)?;
    file.check_base(base.hyper())?;
    let pairs: Vec<LoraPair<'_>> = file.pairs().collect();
    check_base(settings, &base, &pairs)?;
    let facts = file.facts();
    let r = facts.common_rank();
    let others = || facts.modules.iter().filter(|module| module.rank != r);
    let rank_pattern = others().map(|module| (module.module.clone(), module.rank)).collect();
    // Only an alpha of 0, which stands for the rank, differs where the rank does.
    let alpha_pattern = others()
        .filter(|_| facts.alpha == 0.0)
        .map(|module| (module.module.clone(), facts.alpha_at(module.rank)))
        .collect();
    let config = LoraConfig {
        r,
        lora_alpha: facts.alpha_at(r),
        rank_pattern,
        alpha_pattern,
        ..LoraConfig::default()
    };
    let order = |module: &str| gguf_adapter::permuted_rows(base.hyper(), module);
    write_peft(settings, &base, config, &pairs, order)
}

/// Writes pairs as a PEFT folder. `order` says how the output rows of a module lie in the source.
fn write_peft(
    settings: &AdapterSettings,
    base: &Base,
    config: LoraConfig,
    pairs: &[LoraPair<'_>],
    order: impl Fn(&str) -> Option<PermutedRows>,
) -> Result<AdapterReport, ConvertError> {
    let document = LoraConfig {
        base_model_name_or_path: Some(settings.base_name.clone()),
        target_modules: Some(TargetModules::List(targets(base, pairs))),
        ..config
    };
    let alpha = document.lora_alpha;
    let tensors: Vec<_> = pairs.iter().flat_map(|pair| parts(pair, order(pair.module))).collect();
    peft::write(&settings.output, &document.to_document(), &tensors)?;
    let written = [peft::CONFIG_FILE, peft::WEIGHTS_FILE];
    let bytes_after = written.iter().map(|name| size(&settings.output.join(name))).sum();
    Ok(report(settings, "peft", alpha, pairs, bytes_after, Vec::new()))
}

/// The two tensors of a pair as PEFT has them, from rows in an order.
fn parts<'a>(pair: &LoraPair<'a>, order: Option<PermutedRows>) -> [AdapterTensor<'a>; 2] {
    let part = |parameter: &str, tensor: lowtide_formats::Tensor<'a>, permuted| AdapterTensor {
        module: pair.module.to_owned(),
        parameter: parameter.to_owned(),
        shape: tensor.shape.to_vec(),
        values: Values::Stored(tensor),
        permuted,
    };
    [part(LORA_DOWN, pair.a, None), part(LORA_UP, pair.b, order)]
}

/// The alpha of each pair that, over its rank, is its scale.
fn alphas(
    path: &Path,
    config: &LoraConfig,
    pairs: &[LoraPair<'_>],
) -> Result<Vec<f64>, ConvertError> {
    let of_config = |reason| Error::Document { path: path.join(peft::CONFIG_FILE), reason };
    let alpha = |pair: &LoraPair<'_>| {
        let alpha = config.alpha_of(pair.module).map_err(of_config)?;
        let stable = if config.use_rslora { (pair.rank() as f64).sqrt() } else { 1.0 };
        check_alpha(path, alpha * stable)?;
        Ok(alpha * stable)
    };
    pairs.iter().map(alpha).collect()
}

/// The number that most are, the largest of several such.
fn most_common(alphas: &[f64]) -> Option<f64> {
    let mut sorted = alphas.to_vec();
    sorted.sort_by(f64::total_cmp);
    let runs = sorted.chunk_by(|one, other| one == other);
    runs.max_by_key(|run| run.len()).map(|run| run[0])
}

/// Refuses an alpha that 32 bits cannot hold.
fn check_alpha(path: &Path, alpha: f64) -> Result<(), ConvertError> {
    match (alpha as f32).is_finite() && alpha as f32 > 0.0 {
        true => Ok(()),
        false => Err(ConvertError::Alpha { path: path.to_path_buf(), alpha }),
    }
}

/// Refuses pairs that do not fit the base's weights.
fn check_base(
    settings: &AdapterSettings,
    base: &Base,
    pairs: &[LoraPair<'_>],
) -> Result<(), ConvertError> {
    for pair in pairs {
        let found = [pair.b.shape[0], pair.a.shape[1]];
        let expected = base.tensor(&format!("{}.weight", pair.module)).map(|t| Box::from(t.shape));
        if expected.as_deref() != Some(&found[..]) {
            return Err(ConvertError::OtherBase {
                path: settings.source.clone(),
                base: settings.base.clone(),
                module: pair.module.into(),
                found: Box::new(found),
                expected,
            });
        }
    }
    Ok(())
}

/// Refuses an output that is the input, or there already.
fn check_output(settings: &AdapterSettings) -> Result<(), ConvertError> {
    let path = settings.output.clone();
    let Ok(output) = path.canonicalize() else { return Ok(()) };
    let inputs = [&settings.source, &settings.base];
    if inputs.iter().any(|input| input.canonicalize().is_ok_and(|input| input == output)) {
        return Err(ConvertError::OverInput { path });
    }
    let empty = || fs::read_dir(&output).is_ok_and(|mut entries| entries.next().is_none());
    match settings.overwrite || output.is_dir() && empty() {
        true => Ok(()),
        false => Err(ConvertError::Exists { path }),
    }
}

/// The shortest list of names that selects exactly these modules in PEFT: last parts of names
/// where every layer has them, whole names otherwise.
fn targets(base: &Base, pairs: &[LoraPair<'_>]) -> Vec<String> {
    let last = |pair: &LoraPair<'_>| last_name(pair.module).to_owned();
    let mut names: Vec<String> = pairs.iter().map(last).collect();
    names.sort();
    names.dedup();
    if pairs.len() == names.len() * base.hyper().num_hidden_layers {
        return names;
    }
    pairs.iter().map(|pair| pair.module.to_owned()).collect()
}

fn last_name(module: &str) -> &str {
    module.rsplit('.').next().unwrap_or(module)
}

/// The last part of a path or hub id, without the end of a file's name.
fn last_part(name: &str) -> &str {
    let last = name.trim_end_matches('/').rsplit('/').next().unwrap_or(name);
    last.strip_suffix(".gguf").unwrap_or(last)
}

fn report(
    settings: &AdapterSettings,
    format: &'static str,
    alpha: f64,
    pairs: &[LoraPair<'_>],
    bytes_after: u64,
    notes: Vec<String>,
) -> AdapterReport {
    AdapterReport {
        event: "done",
        output: settings.output.display().to_string(),
        format,
        rank: pairs.iter().map(LoraPair::rank).max().unwrap_or(0),
        alpha,
        modules: pairs.len(),
        tensors: 2 * pairs.len(),
        parameters: pairs.iter().map(|pair| (pair.a.len() + pair.b.len()) as u64).sum(),
        bytes_after,
        notes,
    }
}

fn size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |facts| facts.len())
}
