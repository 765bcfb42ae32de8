//! LoftQ: a base packed together with the adapter that makes up for a part of the rounding.
//!
//! For a matrix `W`, a packed `Q` and a pair `B A` are sought whose sum is near `W`:
//! `Q = quant(W − B A)` and `B A = SVD_r(W − Q)` take turns, from `B A = 0`, and the best of all
//! turns is kept. Training then starts from `Q + B A` instead of from `Q`.
//!
//! One matrix is worked on at a time. Of it, the packed form is held twice and a subspace of a few
//! columns; its dense form never exists beyond a tile of rows.

mod factor;
mod fit;

use std::path::PathBuf;

use lowtide_formats::gguf_adapter;
use lowtide_formats::peft::{self, AdapterTensor, LORA_DOWN, LORA_UP, LoraConfig, TargetModules};
use lowtide_formats::safe::Values;
use lowtide_formats::{Base, Hyperparameters};
use serde::Serialize;

use crate::job::{self, Settings};
use crate::plan::Job;
use crate::{ConvertError, Event, Report, is_gguf};

pub(crate) use fit::Fit;

/// Which base is to be packed, how, and where the adapter goes.
#[derive(Clone, Debug, PartialEq)]
pub struct LoftqSettings {
    /// The conversion: into a GGUF file of a quantized type.
    pub conversion: Settings,
    /// The PEFT folder that is written.
    pub adapter: PathBuf,
    /// Rank of every pair.
    pub rank: usize,
    /// How often quantization and factorization take turns, at least once.
    pub steps: usize,
    /// Modules by the last part of their names, such as `q_proj`; all linears if it is empty.
    pub target_modules: Vec<String>,
    /// Where the search for singular vectors starts.
    pub seed: u64,
}

impl Default for LoftqSettings {
    /// Rank 8, five turns, all linears.
    fn default() -> Self {
        Self {
            conversion: Settings::default(),
            adapter: PathBuf::new(),
            rank: 8,
            steps: 5,
            target_modules: Vec::new(),
            seed: 0,
        }
    }
}

/// What was written, and how near base and adapter together are to the source.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LoftqReport {
    /// The conversion that it was.
    #[serde(flatten)]
    pub conversion: Report,
    /// The adapter's folder.
    pub adapter: String,
    /// Rank of every pair.
    pub rank: usize,
    /// Turns that were taken.
    pub steps: usize,
    /// Size of the adapter's files.
    pub adapter_bytes: u64,
    /// `‖W − Q − B A‖ / ‖W − Q₀‖` over all adapted matrices, `Q₀` packed without an adapter.
    pub error_ratio: f64,
    /// The same for every matrix.
    pub matrices: Vec<MatrixReport>,
}

/// How near base and adapter together are to one matrix.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MatrixReport {
    /// Its name in the output.
    pub tensor: String,
    /// Its HF module.
    #[serde(skip)]
    pub module: String,
    /// The type written.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// `‖W − Q₀‖ / ‖W‖`: what packing alone loses.
    pub error_alone: f64,
    /// `‖W − Q − B A‖ / ‖W‖`: what packing and adapter together lose.
    pub error: f64,
    /// The second over the first.
    pub error_ratio: f64,
    /// The turn whose result it is, from 1.
    pub step: usize,
    /// Squares of the first two numerators.
    #[serde(skip)]
    pub squares: (f64, f64),
}

/// Packs a base and writes the adapter that goes with it.
///
/// # Errors
/// [`ConvertError`]; then what was there before is as it was.
pub fn loftq(
    settings: &LoftqSettings,
    tell: &mut dyn FnMut(Event<'_>),
) -> Result<LoftqReport, ConvertError> {
    let LoftqSettings { conversion, adapter, rank, steps, .. } = settings;
    let kind = conversion.kind.filter(|kind| !kind.is_float());
    if kind.is_none() || !is_gguf(&conversion.output) {
        let (kind, path) = (conversion.kind.map_or("none", |k| k.name()), &conversion.output);
        let expected = "a quantized type and a name that ends in .gguf, which --loftq needs";
        return Err(ConvertError::Kind { kind, path: path.clone(), expected });
    }
    check_adapter(settings)?;
    let (conversion, fit) = job::convert_fitted(conversion, settings, tell)?;
    let matrices = fit.reports;
    let sums = matrices
        .iter()
        .fold((0.0, 0.0), |(alone, both), own| (alone + own.squares.0, both + own.squares.1));
    let written = [peft::CONFIG_FILE, peft::WEIGHTS_FILE];
    Ok(LoftqReport {
        conversion,
        adapter: adapter.display().to_string(),
        rank: *rank,
        steps: *steps,
        adapter_bytes: written.iter().map(|name| job::size(&adapter.join(name))).sum(),
        error_ratio: ratio(sums),
        matrices,
    })
}

/// The root of what is left over what was there; 1 where nothing was.
fn ratio((alone, both): (f64, f64)) -> f64 {
    if alone > 0.0 { (both / alone).sqrt() } else { 1.0 }
}

/// Refuses a folder for the adapter that is a part of the input, or there already.
fn check_adapter(settings: &LoftqSettings) -> Result<(), ConvertError> {
    let path = settings.adapter.clone();
    let Ok(folder) = path.canonicalize() else { return Ok(()) };
    let source = settings.conversion.source.canonicalize();
    if source.is_ok_and(|source| source == folder) {
        return Err(ConvertError::OverInput { path });
    }
    let empty = || std::fs::read_dir(&folder).is_ok_and(|mut entries| entries.next().is_none());
    match folder.is_dir() && (settings.conversion.overwrite || empty()) {
        true => Ok(()),
        false => Err(ConvertError::Exists { path }),
    }
}

/// The module of a matrix that LoRA adapts: a linear of a block.
fn module_of<'j>(job: &'j Job<'_>, targets: &[String]) -> Option<&'j str> {
    let module = job.hf_name.strip_suffix(".weight")?;
    let last = module.rsplit('.').next()?;
    let linear = module.starts_with("model.layers.") && last.ends_with("_proj");
    let wanted = targets.is_empty() || targets.iter().any(|target| target == last);
    (linear && wanted && !job.is_vector()).then_some(module)
}

/// The modules of the jobs that are fitted.
///
/// # Errors
/// [`ConvertError::Targets`] for a name that no module has, [`ConvertError::Rank`] for a rank that
/// a matrix cannot have.
pub(crate) fn check(
    settings: &LoftqSettings,
    base: &Base,
    jobs: &[Job<'_>],
) -> Result<(), ConvertError> {
    let path = || base.path().to_path_buf();
    for target in &settings.target_modules {
        let found = jobs.iter().any(|job| module_of(job, std::slice::from_ref(target)).is_some());
        if !found {
            return Err(ConvertError::Targets { path: path(), target: target.clone() });
        }
    }
    for job in jobs.iter().filter(|job| module_of(job, &settings.target_modules).is_some()) {
        let most = job.rows().min(job.cols());
        if !(1..=most).contains(&settings.rank) {
            let (rank, tensor) = (settings.rank, job.hf_name.clone());
            return Err(ConvertError::Rank { rank, tensor, most });
        }
    }
    Ok(())
}

/// Writes the fitted pairs as a PEFT folder: alpha is the rank, so that the scale is 1.
fn write_adapter(
    settings: &LoftqSettings,
    hyper: &Hyperparameters,
    pairs: &[(String, [usize; 2])],
    values: &[f32],
) -> Result<(), lowtide_formats::Error> {
    let rank = settings.rank;
    let mut rest = values;
    let mut tensors = Vec::with_capacity(2 * pairs.len());
    for (module, [rows, cols]) in pairs {
        let (a, after) = rest.split_at(rank * cols);
        let (b, after) = after.split_at(rows * rank);
        rest = after;
        let part = |parameter: &str, shape: [usize; 2], values, permuted| AdapterTensor {
            module: module.clone(),
            parameter: parameter.to_owned(),
            shape: shape.to_vec(),
            values: Values::F32(values),
            permuted,
        };
        let order = gguf_adapter::permuted_rows(hyper, module);
        tensors.push(part(LORA_DOWN, [rank, *cols], a, None));
        tensors.push(part(LORA_UP, [*rows, rank], b, order));
    }
    let document = LoraConfig {
        base_model_name_or_path: Some(settings.conversion.output.display().to_string()),
        r: rank,
        lora_alpha: rank as f64,
        target_modules: Some(TargetModules::List(names(pairs))),
        ..LoraConfig::default()
    };
    peft::write(&settings.adapter, &document.to_document(), &tensors)
}

/// Last parts of the modules' names: every layer has them.
fn names(pairs: &[(String, [usize; 2])]) -> Vec<String> {
    let last = |(module, _): &(String, _)| module.rsplit('.').next().unwrap_or(module).to_owned();
    let mut names: Vec<String> = pairs.iter().map(last).collect();
    names.sort();
    names.dedup();
    names
}
