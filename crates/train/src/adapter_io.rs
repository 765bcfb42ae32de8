//! Adapters in and out of PEFT folders.
//!
//! A base that stores the rows of q and k in another order (llama GGUF files) is trained in that
//! order; rows along a parameter's output axis are brought to Hugging Face order on the way out and
//! back on the way in.

use std::path::Path;

use lowtide_adapter::{Config, ParamSpec};
use lowtide_formats::Hyperparameters;
use lowtide_formats::peft::{self, AdapterFiles, AdapterTensor, LoraConfig, TargetModules};
use lowtide_formats::rows;
use lowtide_formats::safe::{PermutedRows, Values};
use lowtide_model::{ModelError, Site, TargetsError};

use crate::TrainError;

/// An adapter folder that was opened and understood.
#[derive(Debug)]
pub(crate) struct LoadedAdapter {
    files: AdapterFiles,
    /// Name of its method.
    pub(crate) kind: String,
    /// How its adapters are built.
    pub(crate) config: Config,
    /// The modules it adapts.
    pub(crate) modules: Vec<String>,
}

impl LoadedAdapter {
    /// Opens a LoRA adapter folder.
    ///
    /// # Errors
    /// When a file is unsound, or the adapter is of a kind or with a setting that is not known.
    pub(crate) fn open(dir: &Path) -> Result<Self, TrainError> {
        let files = AdapterFiles::open(dir)?;
        let (config, pairs) = files.lora()?;
        if !config.rank_pattern.is_empty() || !config.alpha_pattern.is_empty() {
            let reason = "`rank_pattern` and `alpha_pattern` must be empty: one rank and one alpha \
                          for all modules are supported";
            return Err(TrainError::Adapter { path: dir.to_owned(), reason: reason.into() });
        }
        let modules = pairs.iter().map(|pair| pair.module.to_owned()).collect();
        let config = Config {
            rank: config.r,
            alpha: config.lora_alpha,
            dropout: config.lora_dropout,
            use_rslora: config.use_rslora,
        };
        let kind = files.peft_type().to_ascii_lowercase();
        Ok(Self { files, kind, config, modules })
    }

    /// The error of building a base with this adapter, laid at the door of the adapter where it
    /// adapts what the base has not.
    pub(crate) fn blame(&self, error: TrainError) -> TrainError {
        match error {
            TrainError::Model {
                path,
                source: ModelError::Targets(TargetsError::UnknownModule { name, .. }),
            } => TrainError::Adapter {
                path: self.files.dir().to_owned(),
                reason: format!(
                    "it adapts `{name}`, which {} does not have: the adapter is of another base",
                    path.display()
                ),
            },
            other => other,
        }
    }
}

/// Fills the adapter slab of `sites` from an adapter folder.
///
/// # Errors
/// [`TrainError::Adapter`] when a site's tensor is missing or has another shape, or the folder
/// holds adapters of modules that are not among the sites.
pub fn load_adapter(
    dir: &Path,
    hyper: &Hyperparameters,
    sites: &[Site],
    params: &mut [f32],
) -> Result<(), TrainError> {
    fill(&LoadedAdapter::open(dir)?, hyper, sites, params)
}

/// As [`load_adapter`], from a folder that is open already.
pub(crate) fn fill(
    adapter: &LoadedAdapter,
    hyper: &Hyperparameters,
    sites: &[Site],
    params: &mut [f32],
) -> Result<(), TrainError> {
    let refuse =
        |reason: String| TrainError::Adapter { path: adapter.files.dir().to_owned(), reason };
    if let Some(stray) = adapter.modules.iter().find(|m| !sites.iter().any(|s| s.info.name == **m))
    {
        return Err(refuse(format!("it adapts `{stray}`, which is not a site of this run")));
    }
    for site in sites {
        let mut rest = &mut params[site.range.clone()];
        for spec in &site.params {
            let (into, after) = rest.split_at_mut(spec.len());
            rest = after;
            let name = peft::tensor_name(&site.info.name, spec.name);
            let Some(tensor) = adapter.files.tensor(&site.info.name, spec.name) else {
                return Err(refuse(format!("tensor `{name}` is missing")));
            };
            if tensor.shape != spec.shape {
                let (found, want) = (tensor.shape, spec.shape);
                let reason = format!(
                    "tensor `{name}` has shape {found:?}, this base and rank need {want:?}: \
                     the adapter is of another base or another rank"
                );
                return Err(refuse(reason));
            }
            let values = tensor.to_f32_vec();
            match permuted(hyper, site, spec) {
                Some(PermutedRows { heads, head_dim }) => {
                    permute_rows(&values, into, spec.shape[1], heads, head_dim);
                }
                None => into.copy_from_slice(&values),
            }
        }
    }
    Ok(())
}

/// Writes the adapter slab of `sites` as a PEFT folder.
///
/// # Errors
/// When a value is not finite or a file cannot be written; the folder is then as it was.
pub fn save_adapter(
    dir: &Path,
    base: &Path,
    hyper: &Hyperparameters,
    sites: &[Site],
    config: &Config,
    params: &[f32],
) -> Result<(), TrainError> {
    let mut tensors = Vec::new();
    for site in sites {
        let mut rest = &params[site.range.clone()];
        for spec in &site.params {
            let (values, after) = rest.split_at(spec.len());
            rest = after;
            tensors.push(AdapterTensor {
                module: site.info.name.clone(),
                parameter: spec.name.into(),
                shape: spec.shape.to_vec(),
                values: Values::F32(values),
                permuted: permuted(hyper, site, spec),
            });
        }
    }
    let document = LoraConfig {
        base_model_name_or_path: Some(base.display().to_string()),
        r: config.rank,
        lora_alpha: config.alpha,
        lora_dropout: config.dropout,
        target_modules: Some(TargetModules::List(target_modules(hyper, sites))),
        use_rslora: config.use_rslora,
        ..LoraConfig::default()
    }
    .to_document();
    Ok(peft::write(dir, &document, &tensors)?)
}

/// The shortest list of names that selects exactly `sites` in PEFT: last parts of module names
/// where every layer has them, whole names otherwise.
fn target_modules(hyper: &Hyperparameters, sites: &[Site]) -> Vec<String> {
    let last = |site: &Site| site.info.name.rsplit('.').next().unwrap_or_default().to_owned();
    let mut names: Vec<String> = sites.iter().map(last).collect();
    names.sort();
    names.dedup();
    if sites.len() == names.len() * hyper.num_hidden_layers {
        return names;
    }
    sites.iter().map(|site| site.info.name.clone()).collect()
}

/// How the rows of a parameter are permuted in this base, if they are.
fn permuted(hyper: &Hyperparameters, site: &Site, spec: &ParamSpec) -> Option<PermutedRows> {
    let heads = hyper.permuted_heads(&site.info.name)?;
    (spec.output_axis == Some(0)).then_some(PermutedRows { heads, head_dim: hyper.head_dim })
}

/// Brings rows of `cols` values from Hugging Face order to the base's.
fn permute_rows(from: &[f32], into: &mut [f32], cols: usize, heads: usize, head_dim: usize) {
    for (row, values) in from.chunks_exact(cols).enumerate() {
        let at = rows::hf_row_to_gguf_row(row, heads, head_dim);
        into[at * cols..][..cols].copy_from_slice(values);
    }
}
