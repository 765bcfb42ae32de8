//! LoRA adapters as mlx-lm writes them.
//!
//! A folder with `adapter_config.json`, the settings of a whole training run, and
//! `adapters.safetensors`. An adapted module has `<module>.lora_a` `[inputs, rank]` and
//! `<module>.lora_b` `[rank, outputs]`, both transposed against PEFT's, and adds
//! `scale · x A B`: the scale is not divided by the rank. Modules have HF names, and rows of q and
//! k lie as in HF.
//!
//! [`MlxAdapter`] gives the pairs as PEFT has them: `A` `[rank, inputs]`, `B` `[outputs, rank]`,
//! and alpha, which over the rank is the scale.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use lowtide_quant::formats::F32;

use crate::document::shown;
use crate::json::{CONFIG_BYTES_MAX, Object, parse_object, read_text, required};
use crate::map::MappedFile;
use crate::peft::{AdapterError, CONFIG_FILE, LORA_DOWN, LORA_UP, LoraPair, RANK_MAX};
use crate::safe::{SafeContents, SafeFile};
use crate::{DocumentError, Error, Tensor};

/// File name of the tensors.
pub const WEIGHTS_FILE: &str = "adapters.safetensors";
const DOWN: &str = ".lora_a";
const UP: &str = ".lora_b";
const METHOD: &str = "fine_tune_type";
const PARAMETERS: &str = "lora_parameters";

/// What the settings of an mlx-lm adapter say of the adapter.
#[derive(Clone, Debug, PartialEq)]
pub struct MlxConfig {
    /// Rank of every pair.
    pub rank: usize,
    /// What `x A B` is multiplied with.
    pub scale: f64,
    /// Chance that an input of `A` is dropped in training.
    pub dropout: f64,
    /// The base, as training was given it.
    pub model: Option<String>,
}

impl MlxConfig {
    /// The alpha that over the rank is the scale.
    pub fn alpha(&self) -> f64 {
        self.scale * self.rank as f64
    }
}

/// A module that an adapter adapts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MlxModule {
    /// Its HF name.
    pub module: String,
    /// Width in.
    pub inputs: usize,
    /// Width out.
    pub outputs: usize,
}

/// Reads the text of an `adapter_config.json` of mlx-lm.
///
/// # Errors
/// [`DocumentError`], naming the field: one that is missing or out of range, or that asks for
/// something that is not computed (DoRA, full weights, the scale of mlx-lm's first versions).
pub fn parse_config(text: &str) -> Result<MlxConfig, DocumentError> {
    let document = parse_object(text)?;
    let config = Object::root(&document);
    let method = config.str(METHOD)?.unwrap_or("lora");
    if method != "lora" {
        let supported = "\"lora\": of the adapters of mlx-lm, only those of LoRA are read";
        return Err(DocumentError::unsupported(METHOD, shown(method), supported));
    }
    let parameters = required(config.object(PARAMETERS)?, PARAMETERS, "rank, scale and dropout")?;
    let of = |key| parameters.path(key);
    let range = |key, value: String, expected: &str| {
        Err(DocumentError::out_of_range(of(key), value, expected))
    };
    let missing = |key, expected| DocumentError::missing(of(key), expected);
    let expected = "a whole number from 1 to 65536";
    let rank = parameters.usize("rank")?.ok_or_else(|| missing("rank", expected))?;
    if !(1..=RANK_MAX).contains(&rank) {
        return range("rank", rank.to_string(), expected);
    }
    let expected = "a finite number above 0";
    let scale = parameters.f64("scale")?.ok_or_else(|| missing("scale", expected))?;
    if !(scale > 0.0 && (scale * rank as f64).is_finite()) {
        return range("scale", scale.to_string(), expected);
    }
    let dropout = parameters.f64("dropout")?.unwrap_or(0.0);
    if !(0.0..1.0).contains(&dropout) {
        return range("dropout", dropout.to_string(), "a number from 0 to below 1");
    }
    // Early versions multiplied the scale with alpha / rank, later ones ignore an alpha.
    if let Some(alpha) = parameters.f64("alpha")?.filter(|alpha| *alpha != rank as f64) {
        let supported =
            format!("none, or {rank}, the rank: versions of mlx-lm read it differently");
        return Err(DocumentError::unsupported(of("alpha"), alpha, supported));
    }
    Ok(MlxConfig { rank, scale, dropout, model: config.str("model")?.map(str::to_owned) })
}

/// The modules that a parsed file of tensors adapts, sorted. Every value is looked at.
///
/// # Errors
/// [`AdapterError`], naming the tensor: one that is no part of a LoRA adapter, without its
/// counterpart, of another rank than the settings say, or not finite.
pub fn describe(
    contents: &SafeContents,
    bytes: &[u8],
    config: &MlxConfig,
) -> Result<Vec<MlxModule>, AdapterError> {
    let mut modules = BTreeSet::new();
    for name in contents.tensor_names() {
        match name.strip_suffix(DOWN).or_else(|| name.strip_suffix(UP)) {
            Some(module) if !module.is_empty() => modules.insert(module),
            _ => {
                let (name, method) = (name.to_owned(), "LoRA".to_owned());
                let expected = "names that end with `.lora_a` or `.lora_b`";
                return Err(AdapterError::Name { name, method, expected });
            }
        };
    }
    if modules.is_empty() {
        return Err(AdapterError::Empty);
    }
    modules.into_iter().map(|module| describe_one(contents, bytes, config, module)).collect()
}

fn describe_one(
    contents: &SafeContents,
    bytes: &[u8],
    config: &MlxConfig,
    module: &str,
) -> Result<MlxModule, AdapterError> {
    let (a_name, b_name) = (format!("{module}{DOWN}"), format!("{module}{UP}"));
    let (a, b) = match (contents.tensor(bytes, &a_name), contents.tensor(bytes, &b_name)) {
        (Some(a), Some(b)) => (a, b),
        (None, _) => return Err(AdapterError::MissingPair { missing: a_name, present: b_name }),
        (_, None) => return Err(AdapterError::MissingPair { missing: b_name, present: a_name }),
    };
    let rank = config.rank;
    let shape = |name: &str, tensor: &Tensor<'_>, expected: &str| AdapterError::Shape {
        name: name.to_owned(),
        shape: tensor.shape.to_vec(),
        expected: format!("{expected} with the rank {rank} of {CONFIG_FILE}"),
    };
    let inputs = match a.shape {
        [inputs, of_a] if *of_a == rank => *inputs,
        _ => return Err(shape(&a_name, &a, "[inputs, rank]")),
    };
    let outputs = match b.shape {
        [of_b, outputs] if *of_b == rank => *outputs,
        _ => return Err(shape(&b_name, &b, "[rank, outputs]")),
    };
    for (name, tensor) in [(a_name, a), (b_name, b)] {
        if let Some((index, value)) = tensor.first_non_finite() {
            return Err(AdapterError::NotFinite { name, index, value: value.to_string() });
        }
    }
    Ok(MlxModule { module: module.to_owned(), inputs, outputs })
}

/// Whether a folder holds an adapter of mlx-lm, and none of PEFT.
pub fn is_adapter(dir: &Path) -> bool {
    let of_peft = [crate::peft::WEIGHTS_FILE, crate::peft::CODES_FILE];
    dir.join(WEIGHTS_FILE).is_file() && !of_peft.iter().any(|name| dir.join(name).exists())
}

/// An adapter of mlx-lm, its pairs turned to PEFT's shapes: in a temporary file without a name,
/// which is mapped. Of the heap, reading takes what one matrix does, and nothing once it is done.
#[derive(Clone, Debug)]
pub struct MlxAdapter {
    dir: PathBuf,
    config: MlxConfig,
    file_bytes: u64,
    turned: MappedFile,
    pairs: Vec<Pair>,
}

#[derive(Clone, Debug)]
struct Pair {
    module: String,
    a: Turned,
    b: Turned,
}

/// Where a matrix lies as little-endian F32, transposed against its file.
#[derive(Clone, Debug)]
struct Turned {
    shape: [usize; 2],
    bytes: Range<usize>,
}

impl MlxAdapter {
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
        let text = read_text(&config_path, CONFIG_BYTES_MAX)?.ok_or_else(missing)?;
        let config = parse_config(&text).map_err(|reason| Error::document(&config_path, reason))?;
        let path = dir.join(WEIGHTS_FILE);
        let file = SafeFile::open(&path)?;
        let modules = describe(file.contents(), file.mapped().bytes(), &config)
            .map_err(|reason| Error::Adapter { path: path.clone(), reason })?;
        let (turned, pairs) =
            turn(&file, modules).map_err(|error| Error::io(&path, "copy", &error))?;
        let turned = MappedFile::of(&path, turned)?;
        let (dir, file_bytes) = (dir.to_path_buf(), file.file_bytes());
        Ok(Self { dir, config, file_bytes, turned, pairs })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Rank, scale and dropout.
    pub fn config(&self) -> &MlxConfig {
        &self.config
    }

    /// Size of the file of tensors.
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// All pairs, sorted by module, in the shapes of PEFT; rows in HF order.
    pub fn pairs(&self) -> impl Iterator<Item = LoraPair<'_>> {
        self.pairs.iter().map(|Pair { module, a, b }| LoraPair {
            module,
            a: a.tensor(&self.turned),
            b: b.tensor(&self.turned),
        })
    }

    /// A parameter by the names that PEFT gives, such as `lora_B.weight` of
    /// `model.layers.0.self_attn.q_proj`, in PEFT's shape.
    pub fn tensor(&self, module: &str, parameter: &str) -> Option<Tensor<'_>> {
        let place = self.pairs.binary_search_by(|pair| pair.module.as_str().cmp(module)).ok()?;
        match parameter {
            LORA_DOWN => Some(self.pairs[place].a.tensor(&self.turned)),
            LORA_UP => Some(self.pairs[place].b.tensor(&self.turned)),
            _ => None,
        }
    }
}

/// Writes the pairs of these modules, turned, into a temporary file; says where each lies.
fn turn(file: &SafeFile, modules: Vec<MlxModule>) -> io::Result<(File, Vec<Pair>)> {
    let mut out = BufWriter::new(tempfile::tempfile()?);
    let mut end = 0;
    let mut part = |module: &str, name: &str| {
        let tensor = file.tensor(&format!("{module}{name}"));
        Turned::write(tensor.expect("a part that was looked at"), &mut out, &mut end)
    };
    let pairs: io::Result<Vec<Pair>> = modules
        .into_iter()
        .map(|MlxModule { module, .. }| {
            let (a, b) = (part(&module, DOWN)?, part(&module, UP)?);
            Ok(Pair { module, a, b })
        })
        .collect();
    let pairs = pairs?;
    Ok((out.into_inner().map_err(io::IntoInnerError::into_error)?, pairs))
}

impl Turned {
    /// Writes a matrix behind the `end` of what was written so far.
    fn write(tensor: Tensor<'_>, out: &mut impl Write, end: &mut usize) -> io::Result<Self> {
        let &[rows, cols] = tensor.shape else { unreachable!("a matrix that was looked at") };
        let values = tensor.to_f32_vec();
        for col in 0..cols {
            for row in 0..rows {
                out.write_all(&values[row * cols + col].to_le_bytes())?;
            }
        }
        let start = *end;
        *end += size_of_val(&values[..]);
        Ok(Self { shape: [cols, rows], bytes: start..*end })
    }

    fn tensor<'a>(&'a self, turned: &'a MappedFile) -> Tensor<'a> {
        let bytes = &turned.bytes()[self.bytes.clone()];
        Tensor { shape: &self.shape, format: &F32, bytes, apart: None, lines: None }
    }
}
