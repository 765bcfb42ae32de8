//! Adapters out of PEFT folders.
//!
//! A base that stores the rows of q and k in another order (llama GGUF files) is adapted in that
//! order; in files, rows along a parameter's output axis lie in Hugging Face order, and they are
//! brought to the base's order on the way in.

use std::path::Path;

use lowtide_adapter::{Config, ParamSpec};
use lowtide_formats::Hyperparameters;
use lowtide_formats::peft::{self, AdapterFiles};
use lowtide_formats::rows;
use lowtide_formats::safe::PermutedRows;
use lowtide_model::{ModelError, Site, TargetsError};

use crate::RuntimeError;

/// An adapter folder that was opened and understood.
#[derive(Debug)]
pub struct LoadedAdapter {
    files: AdapterFiles,
    /// Name of its method.
    pub kind: String,
    /// How its adapters are built.
    pub config: Config,
    /// The modules it adapts.
    pub modules: Vec<String>,
}

impl LoadedAdapter {
    /// Opens a LoRA adapter folder.
    ///
    /// # Errors
    /// When a file is unsound, or the adapter is of a kind or with a setting that is not known.
    pub fn open(dir: &Path) -> Result<Self, RuntimeError> {
        let files = AdapterFiles::open(dir)?;
        let (config, pairs) = files.lora()?;
        if !config.rank_pattern.is_empty() || !config.alpha_pattern.is_empty() {
            let reason = "`rank_pattern` and `alpha_pattern` must be empty: one rank and one alpha \
                          for all modules are supported";
            return Err(RuntimeError::Adapter { path: dir.to_owned(), reason: reason.into() });
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
    pub fn blame(&self, error: RuntimeError) -> RuntimeError {
        let RuntimeError::Model { path, source } = &error else { return error };
        let ModelError::Targets(TargetsError::UnknownModule { name, .. }) = source else {
            return error;
        };
        RuntimeError::Adapter {
            path: self.files.dir().to_owned(),
            reason: format!(
                "it adapts `{name}`, which {} does not have: the adapter is of another base",
                path.display()
            ),
        }
    }

    /// Fills the adapter slab of `sites` with the folder's tensors.
    ///
    /// # Errors
    /// [`RuntimeError::Adapter`] when a site's tensor is missing or has another shape, or the
    /// folder holds adapters of modules that are not among the sites.
    pub fn fill(
        &self,
        hyper: &Hyperparameters,
        sites: &[Site],
        params: &mut [f32],
    ) -> Result<(), RuntimeError> {
        let refuse =
            |reason: String| RuntimeError::Adapter { path: self.files.dir().to_owned(), reason };
        if let Some(stray) = self.modules.iter().find(|m| !sites.iter().any(|s| s.info.name == **m))
        {
            return Err(refuse(format!("it adapts `{stray}`, which is not a site of this run")));
        }
        for site in sites {
            let mut rest = &mut params[site.range.clone()];
            for spec in &site.params {
                let (into, after) = rest.split_at_mut(spec.len());
                rest = after;
                let name = peft::tensor_name(&site.info.name, spec.name);
                let Some(tensor) = self.files.tensor(&site.info.name, spec.name) else {
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
                match permuted_rows(hyper, site, spec) {
                    Some(PermutedRows { heads, head_dim }) => {
                        permute_rows(&values, into, spec.shape[1], heads, head_dim);
                    }
                    None => into.copy_from_slice(&values),
                }
            }
        }
        Ok(())
    }
}

/// Fills the adapter slab of `sites` from an adapter folder.
///
/// # Errors
/// As [`LoadedAdapter::open`] and [`LoadedAdapter::fill`].
pub fn load_adapter(
    dir: &Path,
    hyper: &Hyperparameters,
    sites: &[Site],
    params: &mut [f32],
) -> Result<(), RuntimeError> {
    LoadedAdapter::open(dir)?.fill(hyper, sites, params)
}
/// How the rows of a site's parameter are permuted in this base, if they are.
#[must_use]
pub fn permuted_rows(
    hyper: &Hyperparameters,
    site: &Site,
    spec: &ParamSpec,
) -> Option<PermutedRows> {
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
