//! LoRA adapters as GGUF files, as llama.cpp reads and writes them.
//!
//! The metadata names the base's architecture and one alpha. Every adapted tensor of the base has
//! `<its name>.lora_a` `[rank, inputs]` and `<its name>.lora_b` `[outputs, rank]`; the rank is read
//! from the shapes. In files of the Llama family the rows of `lora_b` of q and k lie in the order
//! of [`rows`](crate::rows), as the rows of the base do; [`permuted_rows`] tells which.
//!
//! There is room for plain LoRA only. A rank-stabilised scale is said through alpha, and an alpha
//! that is a pair's own through its `lora_b`.

mod write;

use std::collections::BTreeMap;
use std::path::Path;

pub use write::{Settings, write};

use crate::document::shown;
use crate::family::{self, gguf_architecture};
use crate::gguf::{Contents, Gguf, View};
use crate::json::required;
use crate::peft::{AdapterError, LORA_DOWN, LORA_UP, LoraPair, RANK_MAX};
use crate::safe::PermutedRows;
use crate::{DocumentError, Error, Hyperparameters, Tensor, names};

const KIND: &str = "general.type";
const ARCHITECTURE: &str = "general.architecture";
const METHOD: &str = "adapter.type";
const ALPHA: &str = "adapter.lora.alpha";
/// Metadata about an adapter that changes no result.
const REMARKS: [&str; 2] = ["adapter.lora.task_name", "adapter.lora.prompt_prefix"];
/// What follows the name of the base's tensor: `A` `[rank, inputs]`.
const DOWN: &str = ".lora_a";
/// What follows the name of the base's tensor: `B` `[outputs, rank]`.
const UP: &str = ".lora_b";
const WEIGHT: &str = ".weight";

/// What a GGUF adapter says, its tensors checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// `general.architecture` of the base, such as `llama`.
    pub architecture: &'static str,
    /// Numerator of the scale; 0 means that `B A` is added as it is.
    pub alpha: f32,
    /// What is adapted, sorted by module.
    pub modules: Vec<AdaptedModule>,
}

/// One module of the base that is adapted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdaptedModule {
    /// Its HF name, such as `model.layers.0.self_attn.q_proj`.
    pub module: String,
    /// The GGUF name of its weights, such as `blk.0.attn_q.weight`.
    pub tensor: String,
    /// Rank of the pair.
    pub rank: usize,
}

impl Facts {
    /// The alpha that with `rank` gives the scale of a pair: alpha over rank.
    pub fn alpha_at(&self, rank: usize) -> f64 {
        if self.alpha == 0.0 { rank as f64 } else { f64::from(self.alpha) }
    }

    /// The rank that most pairs have; the smallest of several such.
    pub fn common_rank(&self) -> usize {
        let mut counts = BTreeMap::new();
        self.modules.iter().for_each(|module| *counts.entry(module.rank).or_insert(0_usize) += 1);
        let most = counts.values().copied().max().unwrap_or(0);
        counts.into_iter().find(|(_, count)| *count == most).map_or(1, |(rank, _)| rank)
    }
}

/// Reads a parsed GGUF file as an adapter. Every value is looked at.
///
/// # Errors
/// [`AdapterError`], naming the key or tensor: a file that is no LoRA adapter of a known family, a
/// setting that is not computed, a tensor without its counterpart, of a wrong shape, not finite, or
/// of something that is no linear module.
pub fn describe(contents: &Contents, bytes: &[u8]) -> Result<Facts, AdapterError> {
    read(&View::new(vec![(contents, bytes)]))
}

/// Whether a GGUF file says that it is an adapter.
pub fn is_adapter(gguf: &Gguf) -> bool {
    gguf.metadata().get_str(KIND) == Ok(Some("adapter"))
}

/// The order of the output rows of `module` in GGUF adapters of this base, where it is not that of
/// HF.
pub fn permuted_rows(hyper: &Hyperparameters, module: &str) -> Option<PermutedRows> {
    let permutes = gguf_architecture(&hyper.architecture) == Some("llama");
    let heads = match module.rsplit('.').next()? {
        "q_proj" => hyper.num_attention_heads,
        "k_proj" => hyper.num_key_value_heads,
        _ => return None,
    };
    permutes.then_some(PermutedRows { heads, head_dim: hyper.head_dim })
}

/// A GGUF adapter, its tensors mapped. All of them are finite, and pairs are complete.
#[derive(Clone, Debug)]
pub struct GgufAdapter {
    gguf: Gguf,
    facts: Facts,
}

impl GgufAdapter {
    /// Maps and checks the file at `path`.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Gguf`] if it is no sound GGUF file, [`Error::Adapter`] as
    /// [`describe`].
    pub fn open(path: &Path) -> Result<Self, Error> {
        let gguf = Gguf::open(path)?;
        let of_file = |reason| Error::Adapter { path: path.to_path_buf(), reason };
        let facts = read(&gguf.view()).map_err(of_file)?;
        Ok(Self { gguf, facts })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.gguf.path()
    }

    /// Size of the file.
    pub fn file_bytes(&self) -> u64 {
        self.gguf.file_bytes()
    }

    /// What it says.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The name of the base, where the file gives one.
    pub fn base_name(&self) -> Option<&str> {
        self.gguf.metadata().get_str("general.base_model.0.name").ok().flatten()
    }

    /// Names of all tensors, sorted, as in the file.
    pub fn tensor_names(&self) -> impl Iterator<Item = &str> {
        self.gguf.tensor_names()
    }

    /// The tensor that the file calls `name`.
    pub fn named(&self, name: &str) -> Option<Tensor<'_>> {
        self.gguf.tensor(name)
    }

    /// A parameter by the names that PEFT gives, such as `lora_B.weight` of
    /// `model.layers.0.self_attn.q_proj`; rows as they lie in the file.
    pub fn tensor(&self, module: &str, parameter: &str) -> Option<Tensor<'_>> {
        self.gguf.tensor(&self.stored_name(module, parameter)?)
    }

    /// What the file calls the tensor that [`tensor`](Self::tensor) gives.
    pub fn stored_name(&self, module: &str, parameter: &str) -> Option<String> {
        let modules = &self.facts.modules;
        let place = modules.binary_search_by(|m| m.module.as_str().cmp(module)).ok()?;
        let end = match parameter {
            LORA_DOWN => DOWN,
            LORA_UP => UP,
            _ => return None,
        };
        Some(format!("{}{end}", modules[place].tensor))
    }

    /// All pairs, sorted by module; rows as they lie in the file.
    pub fn pairs(&self) -> impl Iterator<Item = LoraPair<'_>> {
        // Both parts are there: opening has looked at them.
        self.facts.modules.iter().filter_map(|AdaptedModule { module, tensor, .. }| {
            let part = |end| self.gguf.tensor(&format!("{tensor}{end}"));
            Some(LoraPair { module, a: part(DOWN)?, b: part(UP)? })
        })
    }

    /// Refuses a base of another architecture.
    ///
    /// # Errors
    /// [`Error::Adapter`], naming both.
    pub fn check_base(&self, hyper: &Hyperparameters) -> Result<(), Error> {
        let base = gguf_architecture(&hyper.architecture).unwrap_or(&hyper.architecture);
        if self.facts.architecture == base {
            return Ok(());
        }
        let found = shown(self.facts.architecture);
        let reason = DocumentError::conflict(ARCHITECTURE, found, "the base's", shown(base));
        Err(Error::Adapter { path: self.path().to_path_buf(), reason: reason.into() })
    }
}

fn read(view: &View<'_>) -> Result<Facts, AdapterError> {
    let family = settings(view)?;
    let alpha = alpha(view)?;
    let mut stems: BTreeMap<String, &str> = BTreeMap::new();
    for name in view.tensor_names() {
        let stem = name.strip_suffix(DOWN).or_else(|| name.strip_suffix(UP));
        let linear = |stem: &str| {
            let hf = names::to_hf(family.block_names, stem)?;
            let module = hf.strip_suffix(WEIGHT)?;
            let linear = module != "model.embed_tokens" && !module.ends_with("norm");
            linear.then(|| module.to_owned())
        };
        let Some((stem, module)) = stem.and_then(|stem| Some((stem, linear(stem)?))) else {
            let expected =
                "`.lora_a` and `.lora_b` of linear weights, such as `blk.0.attn_q.weight.lora_a`";
            let (name, method) = (name.to_owned(), "LoRA".to_owned());
            return Err(AdapterError::Name { name, method, expected });
        };
        stems.insert(module, stem);
    }
    if stems.is_empty() {
        return Err(AdapterError::Empty);
    }
    let module = |(module, stem): (String, &str)| {
        let rank = rank(view, stem)?;
        Ok(AdaptedModule { module, tensor: stem.to_owned(), rank })
    };
    let modules = stems.into_iter().map(module).collect::<Result<_, AdapterError>>()?;
    Ok(Facts { architecture: family.gguf_architecture, alpha, modules })
}

/// Checks that the file is a LoRA adapter, and of which family.
fn settings(view: &View<'_>) -> Result<&'static family::Family, DocumentError> {
    let metadata = view.metadata();
    for (key, only, expected) in [(KIND, "adapter", "\"adapter\""), (METHOD, "lora", "\"lora\"")] {
        let found = required(metadata.get_str(key)?, key, expected)?;
        if found != only {
            return Err(DocumentError::unsupported(key, shown(found), expected));
        }
    }
    let known = |key: &str| key == METHOD || key == ALPHA || REMARKS.contains(&key);
    let mut settings = metadata.keys().filter(|key| key.starts_with("adapter."));
    if let Some(key) = settings.find(|key| !known(key)) {
        return Err(DocumentError::unsupported(key, "set", "a plain LoRA adapter without it"));
    }
    let name = metadata.get_str(ARCHITECTURE)?;
    family::of_gguf_architecture(required(name, ARCHITECTURE, "the name of a model family")?)
}

/// Alpha; a file that has none means 0, as llama.cpp reads it.
fn alpha(view: &View<'_>) -> Result<f32, DocumentError> {
    let alpha = view.metadata().get_f32(ALPHA)?.unwrap_or(0.0);
    match alpha.is_finite() && alpha >= 0.0 {
        true => Ok(alpha),
        false => Err(DocumentError::out_of_range(ALPHA, alpha, "a finite number, 0 or above")),
    }
}

/// The rank of the pair of a tensor of the base, both parts checked.
fn rank(view: &View<'_>, stem: &str) -> Result<usize, AdapterError> {
    let (a_name, b_name) = (format!("{stem}{DOWN}"), format!("{stem}{UP}"));
    let (a, b) = match (view.tensor(&a_name), view.tensor(&b_name)) {
        (Some(a), Some(b)) => (a, b),
        (None, _) => return Err(AdapterError::MissingPair { missing: a_name, present: b_name }),
        (_, None) => return Err(AdapterError::MissingPair { missing: b_name, present: a_name }),
    };
    let wrong = |name: &str, tensor: Tensor<'_>, expected: String| AdapterError::Shape {
        name: name.to_owned(),
        shape: tensor.shape.to_vec(),
        expected,
    };
    let rank = match a.shape {
        &[rank, _] if (1..=RANK_MAX).contains(&rank) => rank,
        _ => return Err(wrong(&a_name, a, format!("[rank, inputs], rank at most {RANK_MAX}"))),
    };
    if !matches!(b.shape, &[_, columns] if columns == rank) {
        return Err(wrong(&b_name, b, format!("[outputs, {rank}]")));
    }
    for (name, tensor) in [(a_name, a), (b_name, b)] {
        if let Some((index, value)) = tensor.first_non_finite() {
            return Err(AdapterError::NotFinite { name, index, value: value.to_string() });
        }
    }
    Ok(rank)
}
