//! Model families: how each describes itself in configs, and which tensors it has.
//!
//! A family is a value, one file each; to add one, write its file and put it into [`FAMILIES`].
//! [`decoder`], [`hf_keys`] and [`gguf_keys`] hold what families share. A setting outside what a
//! family declares is refused by name.

mod decoder;
mod gemma3;
mod gguf_keys;
mod hf_keys;
mod llama;
mod mistral;
mod qwen2;
mod qwen3;
mod write_gguf;
mod write_hf;

use crate::document::shown;
use crate::gguf::View;
use crate::json::{Object, required};
use crate::names::NameTable;
use crate::{DocumentError, Hyperparameters};

pub(crate) use gguf_keys::ROPE_FACTORS as GGUF_ROPE_FACTORS;
#[cfg(test)]
pub(crate) use llama::BLOCK_NAMES as LLAMA_BLOCK_NAMES;
pub use write_gguf::{
    GgufSettings, ROPE_FACTORS, gguf_architecture, gguf_tensor_name, hf_tensor_name,
};
pub use write_hf::hf_config;

/// One family of models on disk.
#[derive(Debug)]
pub(crate) struct Family {
    /// Its HF `model_type`.
    pub(crate) model_type: &'static str,
    /// The class of transformers that computes it.
    pub(crate) hf_class: &'static str,
    /// Its GGUF `general.architecture`.
    pub(crate) gguf_architecture: &'static str,
    /// Modules inside a block: HF and GGUF name.
    pub(crate) block_names: NameTable,
    /// Ends of HF tensor names that old files carry and that can be computed.
    pub(crate) derived_tensors: &'static [&'static str],
    /// Reads an HF config.
    pub(crate) from_hf: fn(Object<'_>) -> Result<Hyperparameters, DocumentError>,
    /// Reads GGUF metadata, and tensors that hold settings.
    pub(crate) from_gguf: fn(&View<'_>) -> Result<Hyperparameters, DocumentError>,
    /// Calls with the HF name and shape of every tensor a base of the family has.
    pub(crate) tensors: fn(&Hyperparameters, &mut TensorVisitor<'_>) -> Result<(), Stop>,
}

/// Sees one tensor a family expects; an error ends the visit.
pub(crate) type TensorVisitor<'a> = dyn FnMut(&str, &[usize]) -> Result<(), Stop> + 'a;

/// Ends a visit of tensors early; whoever ends it keeps the reason.
#[derive(Debug)]
pub(crate) struct Stop;

/// Every family that is read.
static FAMILIES: &[&Family] =
    &[&llama::FAMILY, &mistral::FAMILY, &qwen2::FAMILY, &qwen3::FAMILY, &gemma3::FAMILY];

/// The family of an HF config.
pub(crate) fn of_hf(config: Object<'_>) -> Result<&'static Family, DocumentError> {
    let expected = "the name of a model family";
    let name = required(config.str("model_type")?, "model_type", expected)?;
    of_model_type(name)
}

/// The family of an HF `model_type`.
pub(crate) fn of_model_type(name: &str) -> Result<&'static Family, DocumentError> {
    find(name, |family| family.model_type)
        .ok_or_else(|| DocumentError::unsupported("model_type", shown(name), names()))
}

/// The family of a GGUF file.
pub(crate) fn of_gguf(view: &View<'_>) -> Result<&'static Family, DocumentError> {
    const KEY: &str = "general.architecture";
    let metadata = view.metadata();
    let name = required(metadata.get_str(KEY)?, KEY, "the name of a model family")?;
    if let Some(kind) = metadata.get_str("general.type")?.filter(|kind| *kind != "model") {
        return Err(DocumentError::unsupported("general.type", shown(kind), "\"model\""));
    }
    of_gguf_architecture(name)
}

/// The first family of a GGUF `general.architecture`; those that share one share their names.
pub(crate) fn of_gguf_architecture(name: &str) -> Result<&'static Family, DocumentError> {
    find(name, |family| family.gguf_architecture)
        .ok_or_else(|| DocumentError::unsupported("general.architecture", shown(name), names()))
}

fn find(name: &str, of: fn(&Family) -> &'static str) -> Option<&'static Family> {
    FAMILIES.iter().copied().find(|family| of(family) == name)
}

fn names() -> String {
    let names: Vec<_> = FAMILIES.iter().map(|family| family.model_type).collect();
    names.join(", ")
}
