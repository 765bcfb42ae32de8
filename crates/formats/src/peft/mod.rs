//! Adapter folders as HF PEFT reads and writes them.
//!
//! `adapter_config.json` says which method with which settings, `adapter_model.safetensors` holds
//! the tensors under `base_model.model.<module>.<parameter>`. Reading and writing is the same for
//! every method; [`LoraConfig`] and [`AdapterFiles::lora`] add what LoRA promises, [`MethodConfig`]
//! and [`AdapterFiles::method`] what others do.
//!
//! An adapter in eight or four bits has PEFT's settings and a file of codes of its own, which
//! [`CodedContents`] describes.

mod coded;
mod error;
mod in_place;
mod lora;
mod method;
mod patterns;
mod variant;

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use half::bf16;
use lowtide_quant::LineCodes;
use serde_json::{Map, Value};

pub use coded::{CODES_FILE, Coded, CodedContents, can_code};
pub use error::AdapterError;
pub use in_place::round_to_codes;
pub(crate) use lora::RANK_MAX;
pub use lora::{
    DOWN as LORA_DOWN, LoraConfig, LoraPair, TargetModules, UP as LORA_UP, parse_lora_config,
};

pub use method::{MethodConfig, QUANTIZE, parse_method_config};
pub use variant::{LoraVariant, MAGNITUDE as LORA_MAGNITUDE};

use crate::atomic::{self, FileSet};
use crate::document::shown;
use crate::json::{CONFIG_BYTES_MAX, Object, read_object, required};
use crate::safe::{Outgoing, PermutedRows, SafeFile, Values};
use crate::{DocumentError, Error, MappedFile, Tensor, safe};

/// File name of the settings.
pub const CONFIG_FILE: &str = "adapter_config.json";
/// File name of the tensors.
pub const WEIGHTS_FILE: &str = "adapter_model.safetensors";
/// Key of the base in the settings.
const BASE: &str = "base_model_name_or_path";
/// What PEFT puts before the name of a module of the base.
const PREFIX: &str = "base_model.model.";
/// VeRA's name in PEFT.
const VERA: &str = "VERA";
/// VeRA's matrices, which belong to no module and need not be in a file.
const PROJECTIONS: [&str; 2] = ["base_model.vera_A", "base_model.vera_B"];
/// Parameters that PEFT saves with one axis.
const VECTORS: [&str; 3] = [variant::MAGNITUDE, "vera_lambda_b", "vera_lambda_d"];

/// The name in the file of a parameter of a module of the base.
///
/// `module` is an HF module name such as `model.layers.0.self_attn.q_proj`, `parameter` a name
/// such as `lora_A.weight`.
pub fn tensor_name(module: &str, parameter: &str) -> String {
    format!("{PREFIX}{module}.{parameter}")
}

/// The shape in the file of a parameter `[rows, columns]`: PEFT saves some columns as vectors.
///
/// # Panics
/// If such a parameter has more than one column.
pub fn shape_in_file(parameter: &str, [rows, columns]: [usize; 2]) -> Vec<usize> {
    if !VECTORS.contains(&parameter) {
        return vec![rows, columns];
    }
    assert_eq!(columns, 1, "`{parameter}` is a vector");
    vec![rows]
}

/// The module of a tensor, by its name in the file: what is before `name.weight`, `name.bias` or
/// `name`.
fn module_of(name: &str) -> &str {
    let name = name.strip_prefix(PREFIX).unwrap_or(name);
    let whole = name.strip_suffix(".weight").or(name.strip_suffix(".bias")).unwrap_or(name);
    whole.rsplit_once('.').map_or(whole, |(module, _)| module)
}

/// An adapter folder, its tensors mapped.
///
/// All tensors are finite and named as PEFT names them.
#[derive(Clone, Debug)]
pub struct AdapterFiles {
    dir: PathBuf,
    config: Map<String, Value>,
    peft_type: String,
    weights: Weights,
}

/// The file of tensors.
#[derive(Clone, Debug)]
enum Weights {
    /// Floats, as PEFT has them.
    Floats(SafeFile),
    /// Codes.
    Codes { file: MappedFile, contents: CodedContents },
}

impl Weights {
    fn open_codes(path: &Path) -> Result<Self, Error> {
        let file = MappedFile::open(path)?;
        let contents = safe::parse_with_codes(file.bytes())
            .map_err(|reason| Error::Safe { path: path.to_owned(), reason })?;
        let contents = CodedContents::new(contents)
            .map_err(|reason| Error::Adapter { path: path.to_owned(), reason })?;
        Ok(Self::Codes { file, contents })
    }

    /// Whether the codes are those that the settings say.
    fn check_codes(&self, said: &str) -> Result<(), DocumentError> {
        let Self::Codes { contents, .. } = self else { return Ok(()) };
        let found = contents.codes().name();
        if said == found {
            return Ok(());
        }
        let expected = format!("{found}, as {CODES_FILE} says");
        Err(DocumentError::out_of_range(coded::ADAPTER_TYPE, shown(said), expected))
    }

    fn tensor_names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        match self {
            Self::Floats(file) => Box::new(file.tensor_names()),
            Self::Codes { contents, .. } => Box::new(contents.tensor_names()),
        }
    }

    fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        match self {
            Self::Floats(file) => file.tensor(name),
            Self::Codes { file, contents } => contents.tensor(file.bytes(), name),
        }
    }
}

impl AdapterFiles {
    /// Reads the folder `dir`.
    ///
    /// # Errors
    /// [`Error`], naming the file and what is wrong in it.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let config_path = dir.join(CONFIG_FILE);
        let missing = || {
            let none = io::Error::from(io::ErrorKind::NotFound);
            Error::io(&config_path, "read", &none)
        };
        let config = read_object(&config_path, CONFIG_BYTES_MAX)?.ok_or_else(missing)?;
        let peft_type = Object::root(&config)
            .str("peft_type")
            .and_then(|kind| required(kind, "peft_type", "the name of a method"))
            .map_err(|reason| Error::document(&config_path, reason))?
            .to_owned();
        let said = Object::root(&config).str(coded::ADAPTER_TYPE);
        let weights = match said.map_err(|reason| Error::document(&config_path, reason))? {
            Some(said) => {
                let weights = Weights::open_codes(&dir.join(CODES_FILE))?;
                weights
                    .check_codes(said)
                    .map_err(|reason| Error::document(&config_path, reason))?;
                weights
            }
            None => Weights::Floats(SafeFile::open(&dir.join(WEIGHTS_FILE))?),
        };
        let files = Self { dir: dir.to_path_buf(), config, peft_type, weights };
        files.check_tensors().map_err(|reason| files.error(reason))?;
        Ok(files)
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The file of tensors.
    pub fn weights_path(&self) -> PathBuf {
        self.dir.join(match self.weights {
            Weights::Floats(_) => WEIGHTS_FILE,
            Weights::Codes { .. } => CODES_FILE,
        })
    }

    /// How the tensors are coded, if they are.
    pub fn codes(&self) -> Option<LineCodes> {
        match &self.weights {
            Weights::Floats(_) => None,
            Weights::Codes { contents, .. } => Some(contents.codes()),
        }
    }

    /// All settings but those of a file of codes.
    pub fn config_of_floats(&self) -> Map<String, Value> {
        let mut config = self.config.clone();
        config.remove(coded::ADAPTER_TYPE);
        config
    }

    /// The method, such as `LORA`.
    pub fn peft_type(&self) -> &str {
        &self.peft_type
    }

    /// All settings, as in the file.
    pub fn config(&self) -> &Map<String, Value> {
        &self.config
    }

    /// Names of all tensors, sorted, as in the file.
    pub fn tensor_names(&self) -> impl Iterator<Item = &str> {
        self.weights.tensor_names()
    }

    /// The tensor that the file calls `name`.
    pub fn named(&self, name: &str) -> Option<Tensor<'_>> {
        self.weights.tensor(name)
    }

    /// All parameters of modules: the module, the name below it, the values.
    pub fn parameters(&self) -> impl Iterator<Item = (&str, &str, Tensor<'_>)> {
        self.tensor_names().filter_map(|name| {
            let module = module_of(name);
            let parameter = name.strip_prefix(PREFIX)?.strip_prefix(module)?.strip_prefix('.')?;
            Some((module, parameter, self.named(name)?))
        })
    }

    /// How many modules are adapted.
    pub fn modules(&self) -> usize {
        let modules: BTreeSet<&str> = self.parameters().map(|(module, ..)| module).collect();
        modules.len()
    }

    /// A parameter of a module of the base, such as `lora_A.weight` of
    /// `model.layers.0.self_attn.q_proj`.
    pub fn tensor(&self, module: &str, parameter: &str) -> Option<Tensor<'_>> {
        self.weights.tensor(&tensor_name(module, parameter))
    }

    /// VeRA's matrices `A` `[rank, inputs]` and `B` `[outputs, rank]` with their names, those that
    /// the file has. They follow from the key in the settings.
    pub fn projections(&self) -> [(&'static str, Option<Tensor<'_>>); 2] {
        PROJECTIONS.map(|name| (name, self.named(name).filter(|_| self.peft_type == VERA)))
    }

    /// The settings and pairs of a LoRA adapter; those of a DoRA adapter have a vector
    /// [`LORA_MAGNITUDE`] beside them.
    ///
    /// # Errors
    /// [`Error::Document`] if the settings are not LoRA's or ask for something that is not
    /// computed; [`Error::Adapter`] if the tensors are not complete pairs of the rank that the
    /// settings say.
    pub fn lora(&self) -> Result<(LoraConfig, Vec<LoraPair<'_>>), Error> {
        let config_path = self.dir.join(CONFIG_FILE);
        let of_config = |reason| Error::document(&config_path, reason);
        let config = LoraConfig::from_document(&self.config).map_err(of_config)?;
        let pairs = lora::pairs(&self.weights, config.variant);
        let pairs = pairs.map_err(|reason| self.error(reason))?;
        for pair in &pairs {
            let rank = config.rank_of(pair.module).map_err(of_config)?;
            if pair.rank() != rank {
                let name = tensor_name(pair.module, lora::DOWN);
                let expected = format!("{rank} rows, the rank in {CONFIG_FILE}");
                let shape = pair.a.shape.to_vec();
                return Err(self.error(AdapterError::Shape { name, shape, expected }));
            }
        }
        Ok((config, pairs))
    }

    /// The settings of an adapter of another method, and the modules it has tensors of.
    ///
    /// # Errors
    /// [`Error::Document`] if a setting makes no sense or asks for something that is not computed.
    pub fn method(&self) -> Result<(MethodConfig, BTreeSet<&str>), Error> {
        let config_path = self.dir.join(CONFIG_FILE);
        let modules = self.tensor_names().filter(|name| !self.is_projection(name)).map(module_of);
        let modules = modules.collect();
        let config = MethodConfig::from_document(&self.config, &modules);
        let config = config.map_err(|reason| Error::document(&config_path, reason))?;
        Ok((config, modules))
    }

    /// Whether a tensor is one of VeRA's matrices, which have no module.
    fn is_projection(&self, name: &str) -> bool {
        self.peft_type == VERA && PROJECTIONS.contains(&name)
    }

    fn check_tensors(&self) -> Result<(), AdapterError> {
        if self.tensor_names().next().is_none() {
            return Err(AdapterError::Empty);
        }
        for name in self.tensor_names() {
            if !name.starts_with(PREFIX) && !self.is_projection(name) {
                let (name, method) = (name.to_owned(), self.peft_type.clone());
                let expected = "names that start with `base_model.model.`";
                return Err(AdapterError::Name { name, method, expected });
            }
            let tensor = self.weights.tensor(name).expect("a name that the file lists");
            if let Some((index, value)) = tensor.first_non_finite() {
                return Err(not_finite(name, index, value));
            }
        }
        Ok(())
    }

    fn error(&self, reason: AdapterError) -> Error {
        Error::Adapter { path: self.weights_path(), reason }
    }
}

/// A parameter to be saved.
#[derive(Clone, Debug)]
pub struct AdapterTensor<'a> {
    /// HF name of the module of the base it adapts.
    pub module: String,
    /// Its name below the module, such as `lora_A.weight`.
    pub parameter: String,
    /// Row-major shape.
    pub shape: Vec<usize>,
    /// The values.
    pub values: Values<'a>,
    /// Set where the first axis follows a permuted base; rows are then saved in HF order.
    pub permuted: Option<PermutedRows>,
}

/// Writes an adapter folder, whole or not at all.
///
/// Settings are written with sorted keys, as PEFT does. Tensors are streamed; nothing of their
/// size is allocated. Where one of them is codes, the file of tensors is one of codes and the
/// settings say so; the file of the other kind is removed, if there is one.
///
/// # Errors
/// [`Error::Adapter`] if a value is NaN or infinite, or there is no tensor; [`Error::Io`]. Then
/// the folder is as it was.
///
/// # Panics
/// If a shape does not match its values or a parameter is there twice.
pub fn write(
    dir: &Path,
    config: &Map<String, Value>,
    tensors: &[AdapterTensor<'_>],
) -> Result<(), Error> {
    let mut names = BTreeSet::new();
    for tensor in tensors {
        let name = tensor_name(&tensor.module, &tensor.parameter);
        assert!(names.insert(name.clone()), "`{name}` is there twice");
    }
    let codes = tensors.iter().find_map(|tensor| match tensor.values {
        Values::Codes(coded) => Some(coded.codes()),
        _ => None,
    });
    let (file, other) = match codes {
        Some(_) => (CODES_FILE, WEIGHTS_FILE),
        None => (WEIGHTS_FILE, CODES_FILE),
    };
    if let Some(reason) = first_unsound(tensors) {
        return Err(Error::Adapter { path: dir.join(file), reason });
    }
    let mut config = config.clone();
    config.remove(coded::ADAPTER_TYPE);
    let mut files = FileSet::new(dir)?;
    if let Some(codes) = codes {
        config.insert(coded::ADAPTER_TYPE.to_owned(), codes.name().into());
        let mut scales = Vec::new();
        let outgoing = coded::outgoing(tensors, &mut scales);
        files.add(file, |out| safe::write_saying(out, &outgoing, coded::metadata(codes)))?;
    } else {
        let outgoing: Vec<_> = tensors.iter().map(AdapterTensor::outgoing).collect();
        files.add(file, |out| safe::write(out, &outgoing))?;
    }
    files.add(CONFIG_FILE, |out| write_config(out, &config))?;
    // What an earlier run left would be taken for this adapter by a reader that knows no codes.
    files.remove(other);
    files.commit()
}

impl<'a> AdapterTensor<'a> {
    fn outgoing(&self) -> Outgoing<'a> {
        Outgoing {
            name: tensor_name(&self.module, &self.parameter),
            shape: self.shape.clone(),
            values: self.values,
            permuted: self.permuted,
        }
    }
}

/// Bytes of the file of tensors that [`write()`] makes of parameters of these modules, names and
/// shapes, all in 32-bit floats, or all in a type of 16 bits.
#[must_use]
pub fn weights_bytes<'a>(
    parameters: impl IntoIterator<Item = (&'a str, &'a str, Vec<usize>)>,
    half: Option<safe::Half>,
) -> u64 {
    let named = |(module, parameter, shape)| (tensor_name(module, parameter), shape);
    safe::file_bytes(parameters.into_iter().map(named), half)
}

/// The same of an adapter whose file of tensors is one of codes, where `true` says which
/// parameters are coded.
#[must_use]
pub fn coded_bytes<'a>(
    parameters: impl IntoIterator<Item = (&'a str, &'a str, Vec<usize>, bool)>,
    codes: LineCodes,
) -> u64 {
    coded::file_bytes(codes, parameters)
}

fn first_unsound(tensors: &[AdapterTensor<'_>]) -> Option<AdapterError> {
    if tensors.is_empty() {
        return Some(AdapterError::Empty);
    }
    tensors.iter().find_map(|tensor| {
        let bad = match tensor.values {
            Values::F32(values) => first_non_finite(values.iter().copied()),
            Values::Bf16(values) => first_non_finite(values.iter().copied().map(bf16::to_f32)),
            Values::Rounded(values, half) => {
                first_non_finite(values.iter().map(|value| half.round(*value)))
            }
            Values::Stored(tensor) => tensor.first_non_finite(),
            Values::Codes(coded) | Values::Decoded(coded) => first_non_finite(coded.rounded()),
        };
        let name = || tensor_name(&tensor.module, &tensor.parameter);
        bad.map(|(index, value)| not_finite(&name(), index, value))
    })
}

fn first_non_finite(values: impl Iterator<Item = f32>) -> Option<(usize, f32)> {
    values.enumerate().find(|(_, value)| !value.is_finite())
}

fn not_finite(name: &str, index: usize, value: f32) -> AdapterError {
    AdapterError::NotFinite { name: name.to_owned(), index, value: value.to_string() }
}

/// The same settings with the keys of all objects in order.
/// Has the settings of an adapter folder name another base, which was moved or renamed; the tensors
/// stay as they are, and the folder is a whole one at any instant.
///
/// # Errors
/// [`Error`] when the settings cannot be read or written.
pub fn set_base(dir: &Path, base: &str) -> Result<(), Error> {
    let path = dir.join(CONFIG_FILE);
    let Some(mut config) = read_object(&path, CONFIG_BYTES_MAX)? else { return Ok(()) };
    if config.get(BASE).and_then(Value::as_str) == Some(base) {
        return Ok(());
    }
    config.insert(BASE.to_owned(), base.into());
    atomic::write_file(&path, |out| write_config(out, &config))
}

/// With sorted keys.
fn write_config(out: &mut dyn Write, config: &Map<String, Value>) -> io::Result<()> {
    Ok(serde_json::to_writer_pretty(out, &sorted(config))?)
}

fn sorted(fields: &Map<String, Value>) -> Map<String, Value> {
    let mut fields: Vec<_> = fields.iter().collect();
    fields.sort_by_key(|(key, _)| key.as_str());
    let sorted_value = |value: &Value| match value {
        Value::Object(inner) => Value::Object(sorted(inner)),
        other => other.clone(),
    };
    fields.into_iter().map(|(key, value)| (key.clone(), sorted_value(value))).collect()
}
