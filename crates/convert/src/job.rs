//! The whole of a conversion.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use lowtide_formats::{Base, atomic};
use lowtide_memory::{Budget, ByCategory, Category, Charge, Ledger, OverBudget};

use crate::changes::{ChangeReport, Changes, Unchanged};
use crate::hf_out::{self, Beside, Shard};
use crate::loftq::{self, Fit, LoftqSettings};
use crate::plan::{Job, Target, jobs};
use crate::report::{TypeReport, relative};
use crate::rows::{Sums, Tiles};
use crate::{ConvertError, Event, Kind, Report, gguf_out, is_gguf};

/// What is to be converted, and into what.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The base: an HF folder or a GGUF file.
    pub source: PathBuf,
    /// What is written: a GGUF file if the name ends so, else an HF folder.
    pub output: PathBuf,
    /// The type of the weights. Without one, a GGUF file keeps the type of every tensor (what it
    /// has no number for becomes F16), and a folder gets the smallest float type that keeps all.
    pub kind: Option<Kind>,
    /// Bytes that may be held.
    pub memory_budget: u64,
    /// Largest file of weights in a folder; above it they are cut into several.
    pub shard_bytes: u64,
    /// Whether an output that is there may be replaced.
    pub overwrite: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            source: PathBuf::new(),
            output: PathBuf::new(),
            kind: None,
            memory_budget: 64 << 20,
            shard_bytes: 5 << 30,
            overwrite: false,
        }
    }
}

/// What documents take in memory while they are made, in sizes of what is written of them.
const DOCUMENT_COPIES: u64 = 2;
/// Bytes buffered between a writer and the system.
const BUFFER_BYTES: u64 = 64 << 10;

/// Converts a base. Work is shared over the rayon pool it is called in.
///
/// # Errors
/// [`ConvertError`]; then nothing was written and what was there before is as it was.
pub fn convert(
    settings: &Settings,
    tell: &mut dyn FnMut(Event<'_>),
) -> Result<Report, ConvertError> {
    convert_changed(settings, &mut Unchanged, tell).map(|(report, _)| report)
}

/// Converts a base whose tensors are changed on the way, and says what became of the changes: one
/// report a changed tensor, in the order of the output.
///
/// # Errors
/// As [`convert`].
pub fn convert_changed(
    settings: &Settings,
    changes: &mut dyn Changes,
    tell: &mut dyn FnMut(Event<'_>),
) -> Result<(Report, Vec<ChangeReport>), ConvertError> {
    let (report, changed, _) = run(settings, changes, None, tell)?;
    Ok((report, changed))
}

/// Converts a base while pairs are fitted to what packing loses, and writes them.
pub(crate) fn convert_fitted<'a>(
    settings: &Settings,
    loftq: &'a LoftqSettings,
    tell: &mut dyn FnMut(Event<'_>),
) -> Result<(Report, Fit<'a>), ConvertError> {
    let fit = Some(Fit::new(loftq));
    let (report, _, fit) = run(settings, &mut Unchanged, fit.map(|fit| (fit, loftq)), tell)?;
    Ok((report, fit.expect("the fit that was given")))
}

/// What is reported of a run, and what it was given to fit.
type Done<'a> = (Report, Vec<ChangeReport>, Option<Fit<'a>>);

fn run<'f>(
    settings: &Settings,
    changes: &mut dyn Changes,
    fit: Option<(Fit<'f>, &'f LoftqSettings)>,
    tell: &mut dyn FnMut(Event<'_>),
) -> Result<Done<'f>, ConvertError> {
    let target = if is_gguf(&settings.output) { Target::Gguf } else { Target::Hf };
    if let (Target::Hf, Some(kind)) = (target, settings.kind.filter(|kind| !kind.is_float())) {
        let path = settings.output.clone();
        let expected =
            "f32, f16 or bf16 in a folder; quantized types need a name that ends in .gguf";
        return Err(ConvertError::Kind { kind: kind.name(), path, expected });
    }
    let base = Base::open(&settings.source)?;
    check_output(&base, settings)?;
    let kind = match target {
        Target::Gguf => settings.kind,
        Target::Hf => Some(settings.kind.unwrap_or_else(|| smallest(&base))),
    };
    let jobs = jobs(&base, target, kind, &|tensor| changes.touches(tensor));
    let mut fit = match fit {
        Some((fit, loftq)) => {
            loftq::check(loftq, &base, &jobs)?;
            Some(fit)
        }
        None => None,
    };
    let mut run = Run::new(&base, &jobs, settings, kind, changes, fit.as_mut(), tell);
    match target {
        Target::Gguf => run.gguf()?,
        Target::Hf => run.folder(kind.unwrap_or(Kind::F32))?,
    }
    let changed = std::mem::take(&mut run.changed);
    let report = run.report();
    Ok((report, changed, fit))
}

/// The smallest float type that holds every matrix of the base as it is.
fn smallest(base: &Base) -> Kind {
    let mut kinds = base.tensor_names().filter_map(|name| {
        let tensor = base.tensor(&name)?;
        (tensor.shape.len() > 1).then(|| match tensor.format.name() {
            "BF16" => Kind::BF16,
            "F16" => Kind::F16,
            _ => Kind::F32,
        })
    });
    let first = kinds.next().unwrap_or(Kind::F32);
    if kinds.all(|kind| kind == first) { first } else { Kind::F32 }
}

/// Refuses an output that is a part of the input, or there already.
fn check_output(base: &Base, settings: &Settings) -> Result<(), ConvertError> {
    let path = settings.output.clone();
    let Ok(output) = settings.output.canonicalize() else { return Ok(()) };
    let mut inputs: Vec<PathBuf> = vec![base.path().to_path_buf()];
    if let Some(gguf) = base.gguf() {
        inputs.extend(gguf.paths().map(Path::to_path_buf));
    }
    if inputs.iter().any(|input| input.canonicalize().is_ok_and(|input| input == output)) {
        return Err(ConvertError::OverInput { path });
    }
    let empty = || fs::read_dir(&output).is_ok_and(|mut entries| entries.next().is_none());
    if settings.overwrite || output.is_dir() && empty() {
        return Ok(());
    }
    Err(ConvertError::Exists { path })
}

struct Run<'a, 'f> {
    base: &'a Base,
    jobs: &'a [Job<'a>],
    settings: &'a Settings,
    kind: Option<Kind>,
    changes: &'a mut dyn Changes,
    fit: Option<&'a mut Fit<'f>>,
    tell: &'a mut dyn FnMut(Event<'_>),
    ledger: Ledger,
    types: Vec<TypeReport>,
    changed: Vec<ChangeReport>,
    done: u64,
    total: u64,
    bytes_after: u64,
    notes: Vec<String>,
}

impl<'a, 'f> Run<'a, 'f> {
    fn new(
        base: &'a Base,
        jobs: &'a [Job<'a>],
        settings: &'a Settings,
        kind: Option<Kind>,
        changes: &'a mut dyn Changes,
        fit: Option<&'a mut Fit<'f>>,
        tell: &'a mut dyn FnMut(Event<'_>),
    ) -> Self {
        let total = jobs.iter().map(|job| job.source.len() as u64).sum();
        let ledger = Ledger::new(Budget::of(settings.memory_budget));
        let (types, notes) = (Vec::new(), Vec::new());
        Self {
            base,
            jobs,
            settings,
            kind,
            changes,
            fit,
            tell,
            ledger,
            types,
            changed: Vec::new(),
            done: 0,
            total,
            bytes_after: 0,
            notes,
        }
    }

    fn gguf(&mut self) -> Result<(), ConvertError> {
        let mut head = gguf_out::head(self.base, self.kind, self.jobs)?;
        self.notes.append(&mut head.notes);
        let documents = head.writer.head_bytes() as u64 * DOCUMENT_COPIES;
        let (charge, mut tiles) = self.reserve(documents)?;
        let mut bad = None;
        let jobs = self.jobs;
        let written = atomic::write_file(&self.settings.output, |out| {
            gguf_out::write(&head, out, |write| self.weights(jobs, &mut tiles, write, &mut bad))?;
            self.pairs(&mut bad)
        });
        self.close(tiles, charge);
        self.answer(written, bad)?;
        self.bytes_after = size(&self.settings.output);
        Ok(())
    }

    /// Writes the pairs that were fitted, while the base has not taken its name yet.
    fn pairs(&self, bad: &mut Option<ConvertError>) -> io::Result<()> {
        let Some(fit) = &self.fit else { return Ok(()) };
        fit.write(self.base.hyper()).map_err(|error| {
            *bad = Some(error.into());
            io::Error::other("an adapter that cannot be written")
        })
    }

    fn folder(&mut self, kind: Kind) -> Result<(), ConvertError> {
        let Beside { texts, copies, mut notes } = hf_out::beside(self.base)?;
        self.notes.append(&mut notes);
        let config = hf_out::config(self.base, kind)?;
        let shards = hf_out::shards(self.jobs, kind, self.settings.shard_bytes);
        let index = (shards.len() > 1).then(|| format!("{:#}\n", hf_out::index(&shards)));
        let names: Vec<String> = shards.iter().map(|shard| shard.name.clone()).collect();
        let texts_bytes = texts.iter().map(|(_, text)| text.len()).sum::<usize>();
        let documents = (texts_bytes + index.as_ref().map_or(0, String::len)) as u64;
        let (charge, mut tiles) = self.reserve(documents * DOCUMENT_COPIES)?;
        let mut bad = None;
        let written = self.folder_files(shards, &mut tiles, &mut bad, |set| {
            for (name, text) in &texts {
                set.add(name, |out| out.write_all(text.as_bytes()))?;
            }
            for (name, path) in &copies {
                set.add(name, |out| io::copy(&mut File::open(path)?, out).map(|_| ()))?;
            }
            if let Some(index) = &index {
                set.add(hf_out::INDEX, |out| out.write_all(index.as_bytes()))?;
            }
            set.add(hf_out::CONFIG, |out| out.write_all(config.as_bytes()))
        });
        self.close(tiles, charge);
        self.answer(written, bad)?;
        self.tidy(&names, index.is_some());
        let all =
            names.iter().map(String::as_str).chain(texts.iter().map(|(name, _)| name.as_str()));
        let all = all.chain(copies.iter().map(|(name, _)| name.as_str()));
        self.bytes_after = all.map(|name| size(&self.settings.output.join(name))).sum();
        Ok(())
    }

    fn folder_files(
        &mut self,
        shards: Vec<Shard>,
        tiles: &mut Tiles,
        bad: &mut Option<ConvertError>,
        others: impl FnOnce(&mut atomic::FileSet) -> Result<(), lowtide_formats::Error>,
    ) -> Result<(), lowtide_formats::Error> {
        let mut set = atomic::FileSet::new(&self.settings.output)?;
        let jobs = self.jobs;
        for Shard { name, writer, jobs: range } in shards {
            set.add(&name, |out| {
                let mut data = writer.start(out)?;
                self.weights(&jobs[range], tiles, &mut |piece| data.write(piece), bad)?;
                data.finish()
            })?;
        }
        others(&mut set)?;
        set.commit()
    }

    /// Takes away weights of an earlier conversion, which readers would take for those written.
    fn tidy(&self, written: &[String], has_index: bool) {
        let entries = fs::read_dir(&self.settings.output).into_iter().flatten().flatten();
        for entry in entries {
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let weights = name.starts_with("model") && name.ends_with(".safetensors");
            let stale = weights && !written.iter().any(|other| other == name)
                || name == hf_out::INDEX && !has_index;
            if stale {
                // What cannot be taken away is told by whoever opens the folder.
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// Charges documents of some size, and reserves tiles within what is left of the budget.
    fn reserve(&mut self, documents: u64) -> Result<(Charge, Tiles), ConvertError> {
        let budget = self.settings.memory_budget;
        let fitting = self.fit.as_ref().map_or(0, |fit| fit.bytes(self.jobs));
        let fixed = documents + BUFFER_BYTES;
        let needed = fixed + fitting + Tiles::bytes_min(self.jobs) as u64;
        let too_small = |_: OverBudget| ConvertError::Budget { budget, needed };
        if needed > budget {
            return Err(ConvertError::Budget { budget, needed });
        }
        let charge =
            self.ledger.charge(ByCategory::of(Category::Data, fixed)).map_err(too_small)?;
        if let Some(fit) = &mut self.fit {
            fit.reserve(self.jobs, &mut self.ledger)?;
        }
        let left = usize::try_from(budget - fixed - fitting).unwrap_or(usize::MAX);
        let tiles = Tiles::reserve(self.jobs, left, &mut self.ledger)?;
        Ok((charge, tiles))
    }

    fn close(&mut self, tiles: Tiles, charge: Charge) {
        if let Some(fit) = &mut self.fit {
            fit.release(&mut self.ledger);
        }
        tiles.release(&mut self.ledger);
        self.ledger.release(charge);
    }

    fn weights(
        &mut self,
        jobs: &[Job<'_>],
        tiles: &mut Tiles,
        write: &mut dyn FnMut(&[u8]) -> io::Result<()>,
        bad: &mut Option<ConvertError>,
    ) -> io::Result<()> {
        for job in jobs {
            let (tell, done, total) = (&mut *self.tell, &mut self.done, self.total);
            let mut advance = |values: u64| {
                *done += values;
                tell(Event { tensor: &job.name, done: *done, total });
            };
            let done = match self.fit.as_mut().filter(|fit| fit.takes(job)) {
                Some(fit) => fit.run(job, write, &mut advance)?,
                None => tiles.run(job, self.changes, write, &mut advance)?,
            };
            let sums = match done {
                Ok(sums) => sums,
                Err(row) => {
                    *bad = Some(ConvertError::NotFinite {
                        path: self.base.path().to_path_buf(),
                        tensor: job.hf_name.clone(),
                        row: row.0,
                        kind: job.format.name(),
                    });
                    return Err(io::Error::other("a value that cannot be written"));
                }
            };
            self.count(job, sums);
        }
        Ok(())
    }

    fn count(&mut self, job: &Job<'_>, sums: Sums) {
        let name = job.format.name();
        if job.changed {
            let names = (job.name.as_str(), job.hf_name.as_str());
            self.changed.push(ChangeReport::new(names, name, sums.kept, sums.minima_only));
        }
        let place = self.types.iter().position(|found| found.name == name);
        let place = place.unwrap_or_else(|| {
            self.types.push(TypeReport { name, ..TypeReport::default() });
            self.types.len() - 1
        });
        let own = &mut self.types[place];
        own.tensors += 1;
        own.bytes += job.bytes() as u64;
        own.squares += sums.squares;
        own.errors += sums.errors;
    }

    /// An error of a row explains why writing was given up.
    fn answer(
        &self,
        written: Result<(), lowtide_formats::Error>,
        bad: Option<ConvertError>,
    ) -> Result<(), ConvertError> {
        bad.map_or_else(|| Ok(written?), Err)
    }

    fn report(mut self) -> Report {
        let (mut errors, mut squares) = (0.0, 0.0);
        for own in &mut self.types {
            own.settle();
            errors += own.errors;
            squares += own.squares;
        }
        self.types.sort_by_key(|own| std::cmp::Reverse(own.bytes));
        Report {
            event: "done",
            output: self.settings.output.display().to_string(),
            kind: self.kind.map(Kind::name),
            tensors: self.jobs.len(),
            parameters: self.total,
            bytes_before: self.base.file_bytes(),
            bytes_after: self.bytes_after,
            relative_error: relative(errors, squares),
            types: self.types,
            peak_bytes: self.ledger.peak(),
            notes: self.notes,
        }
    }
}

pub(crate) fn size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |facts| facts.len())
}
