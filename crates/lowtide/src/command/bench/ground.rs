//! What the suites that train have in common: a base, examples, and who computes.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use lowtide::Settings;
use lowtide::backend::Backend;
use lowtide::bench::BenchError;
use lowtide::convert::Kind;
use lowtide::data::DataFiles;
use lowtide::runtime::OpenBase;
use lowtide::train::{Precision, SettingsError, TrainError};
use rayon::{ThreadPool, ThreadPoolBuilder};
use tempfile::TempDir;

use super::flags::{BenchArgs, Instructions};
use crate::command::computing::{Arithmetic, BackendName, IsaName};
use crate::command::failure::Failure;
use crate::command::{inputs, machine, quickstart};

/// What a run is, at length and at a glance.
struct Extent {
    updates: u64,
    tokens: usize,
    /// Examples that are learned from, and that are held out.
    examples: (usize, usize),
    /// Types the base is converted to.
    types: &'static [Kind],
}

/// One of so many examples is held out where none are.
const APART: usize = 10;

const FULL: Extent = Extent {
    updates: 60,
    tokens: 512,
    examples: (1000, 48),
    types: &[Kind::F16, Kind::Q8_0, Kind::Q5_0, Kind::Q4_0],
};
const QUICK: Extent =
    Extent { updates: 20, tokens: 128, examples: (200, 24), types: &[Kind::F16, Kind::Q4_0] };

/// What all runs have in common, looked at before anything is measured.
pub(super) struct Ground {
    /// Holds the examples, and whatever the runs write.
    pub(super) place: TempDir,
    /// The run that all others differ from.
    pub(super) base: Settings,
    /// Blocks of the model.
    pub(super) layers: usize,
    /// Tokens of the model.
    pub(super) vocab_size: usize,
    pub(super) types: &'static [Kind],
    pub(super) quick: bool,
    isa: IsaName,
    threads: usize,
    pub(super) pool: ThreadPool,
}

impl Ground {
    /// # Errors
    /// When the runs cannot heed a flag, or the base or the examples cannot be used.
    pub(super) fn of(args: &BenchArgs) -> Result<Self, Failure> {
        let (isa, threads) = computing(args)?;
        let place =
            tempfile::tempdir().map_err(|error| unwritten(&std::env::temp_dir(), &error))?;
        let extent = if args.quick { QUICK } else { FULL };
        let base = base(args, place.path(), &extent)?;
        base.check()?;
        let open = OpenBase::open(&base.model).map_err(BenchError::from)?;
        let (layers, vocab_size) = (open.config().num_hidden_layers, open.config().vocab_size);
        let pool = ThreadPoolBuilder::new().num_threads(threads).build()?;
        let (types, quick) = (extent.types, args.quick);
        Ok(Self { place, base, layers, vocab_size, types, quick, isa, threads, pool })
    }

    /// Name of the base.
    pub(super) fn name(&self) -> String {
        let name = self.base.model.file_name();
        name.map_or_else(String::new, |name| name.display().to_string())
    }

    /// Works with the backend that settings ask for, in the pool. A backend that cannot be had is
    /// left in `refused`, since a suite knows training's errors only.
    pub(super) fn compute<R: Send>(
        &self,
        settings: &Settings,
        refused: &RefCell<Option<Failure>>,
        work: impl FnOnce(&dyn Backend, usize) -> Result<R, TrainError> + Send,
    ) -> Result<R, TrainError> {
        let arithmetic = Arithmetic::from(settings);
        let compute = machine::compute(BackendName::Simd, arithmetic);
        let backend = compute
            .and_then(|compute| {
                machine::backend(BackendName::Simd, self.isa, compute, self.threads)
            })
            .map_err(|failure| {
                refused.replace(Some(failure));
                TrainError::Unsupported("the backend cannot compute this".into())
            })?;
        self.pool.install(|| work(&*backend, self.threads))
    }
}

/// Instructions and threads of every run. Contenders do not take turns here.
fn computing(args: &BenchArgs) -> Result<(IsaName, usize), Failure> {
    let words = |names: Vec<String>| names.join(",");
    if args.backend.iter().all(|name| *name == BackendName::Ndarray) {
        return Err(Failure::flag("backend", "ndarray", "simd, with which suites train"));
    }
    if args.precision.iter().any(|precision| *precision != Precision::Exact) {
        let found = words(args.precision.iter().map(|one| one.name().to_owned()).collect());
        let expected = "exact: the suite tradeoff tries the others by itself";
        return Err(Failure::flag("precision", found, expected));
    }
    let isa = match args.isa[..] {
        [] => IsaName::Auto,
        [Instructions::Of(isa)] => IsaName::Of(isa),
        _ => {
            let name = |one: &Instructions| match one {
                Instructions::All => "all".to_owned(),
                Instructions::Of(isa) => isa.to_string(),
            };
            let found = words(args.isa.iter().map(name).collect());
            return Err(Failure::flag("isa", found, "one instruction set for a suite that trains"));
        }
    };
    match args.threads[..] {
        [] => Ok((isa, cores())),
        [threads] => Ok((isa, usize::from(threads))),
        _ => {
            let found = words(args.threads.iter().map(u16::to_string).collect());
            Err(Failure::flag("threads", found, "one number of threads for a suite that trains"))
        }
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// The run that all others differ from: the base and the examples that were asked for, or else the
/// quickstart's.
fn base(args: &BenchArgs, place: &Path, extent: &Extent) -> Result<Settings, Failure> {
    let built_in = args.model.is_none();
    let (model, data) = match (&args.model, &args.data) {
        (Some(model), Some(data)) => {
            inputs::base("model", model, args.voice())?;
            inputs::check("data", data)?;
            (model.clone(), data.clone())
        }
        (None, None) => quickstart::written(&place.join("quickstart"))?,
        (Some(_), None) => return Err(missing("data").into()),
        (None, Some(_)) => return Err(missing("model").into()),
    };
    let small = Settings { lr: 4e-3, batch_size: 8, ..Settings::default() };
    let other = Settings { lr: 5e-4, ..Settings::default() };
    let chosen = if built_in { small } else { other };
    Ok(Settings {
        lr: args.lr.unwrap_or(chosen.lr),
        model,
        data: some_examples(&data, place, extent.examples)?,
        output: place.join("adapter"),
        max_steps: Some(args.updates.unwrap_or(extent.updates)),
        max_seq_len: args.tokens.unwrap_or(extent.tokens),
        checkpointing: "block".into(),
        checkpoint_store: "f32".into(),
        tile_rows: "all".into(),
        samples: 0,
        ..chosen
    })
}

fn missing(field: &'static str) -> SettingsError {
    let expected = "a base and examples for a suite that trains, or neither";
    SettingsError::BadValue { field, found: "missing".into(), expected }
}

/// The first of the examples, and of those that are held out, in a folder: each run measures itself
/// on them twice. Where no file is held out, every tenth example is.
///
/// # Errors
/// When a file cannot be read, or nothing of it is left to learn from or to hold out.
fn some_examples(
    data: &Path,
    place: &Path,
    (examples, held_out): (usize, usize),
) -> Result<PathBuf, Failure> {
    let files = DataFiles::find(data).map_err(BenchError::from)?;
    let folder = place.join("data");
    let copy = || -> io::Result<(usize, usize)> {
        fs::create_dir_all(&folder)?;
        let mut train = BufWriter::new(File::create(folder.join("train.jsonl"))?);
        let mut valid = BufWriter::new(File::create(folder.join("valid.jsonl"))?);
        let filled = |line: &io::Result<String>| !line.as_ref().is_ok_and(|l| l.trim().is_empty());
        let lines =
            |path: &Path| File::open(path).map(|file| BufReader::new(file).lines().filter(filled));
        let apart = files.valid.is_none();
        let (mut learned, mut kept) = (0, 0);
        for (index, line) in lines(&files.train)?.enumerate() {
            let line = line?;
            if apart && index % APART == APART - 1 && kept < held_out {
                writeln!(valid, "{line}")?;
                kept += 1;
            } else if learned < examples {
                writeln!(train, "{line}")?;
                learned += 1;
            }
        }
        if let Some(file) = &files.valid {
            for line in lines(file)?.take(held_out) {
                writeln!(valid, "{}", line?)?;
                kept += 1;
            }
        }
        train.flush()?;
        valid.flush()?;
        Ok((learned, kept))
    };
    let jsonl = |path: &PathBuf| path.extension().is_some_and(|end| end == "jsonl");
    if !jsonl(&files.train) || !files.valid.iter().all(jsonl) {
        let expected = ".jsonl files for a suite that trains";
        let (field, found) = ("data", data.display().to_string());
        return Err(SettingsError::BadValue { field, found, expected }.into());
    }
    let (learned, kept) = copy().map_err(|error| unwritten(data, &error))?;
    let (path, reason) = match (learned, kept, files.valid) {
        (0, _, _) => (files.train, "no examples in it".to_owned()),
        (_, 0, Some(valid)) => (valid, "no examples in it".to_owned()),
        (_, 0, None) => {
            let there =
                format!("examples in it, where a suite that trains holds out every {APART}th");
            (files.train, format!("{learned} {there}; expected at least {APART}"))
        }
        _ => return Ok(folder),
    };
    Err(Failure::Input { flag: "data", path, reason })
}

fn unwritten(path: &Path, error: &io::Error) -> Failure {
    Failure::Input { flag: "data", path: path.to_owned(), reason: error.to_string() }
}
