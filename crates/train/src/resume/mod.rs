//! Going on where a run was saved, bit for bit.
//!
//! Saves lie between updates, where nothing is half done: no gradients are accumulated then, and
//! all that is random is a function of the seed and of counters. So a run is its parameters, what
//! its optimizer remembers, and a few numbers, [`Saved`].
//!
//! Parameters and states go into `checkpoint/state.safetensors`, a
//! [snapshot](lowtide_formats::snapshot) that takes the place of the one before when it is whole.
//! A run whose optimizer remembers nothing needs no such file: its parameters are in the adapter,
//! and the rest is a [token](token) beside it.

mod identity;
mod token;

use std::path::{Path, PathBuf};

use lowtide_formats::snapshot::{self, Section, Snapshot};
use lowtide_formats::{atomic, peft};
use lowtide_runtime::LoadedAdapter;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub(crate) use self::identity::Identity;
use self::token::Token;
use crate::job::Job;
use crate::run::{Held, Watched};
use crate::trainer::Bytes;
use crate::{Settings, TrainError, Trainer};

/// Folder of the snapshot, in the output folder.
const FOLDER: &str = "checkpoint";

/// The snapshot.
const STATE: &str = "state.safetensors";

/// How what is saved is laid out; another number is another layout.
const LAYOUT: u32 = 1;

/// What can be done about a save that is not whole.
const WAY_OUT: &str = "the run cannot go on: begin another, perhaps from an adapter with \
                       --init-adapter";

/// Why a run cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ResumeError {
    /// Nothing was saved.
    #[error(
        "{}: there is no save to go on from; expected a folder in which `lowtide finetune` has \
         saved, with {FOLDER}/{STATE} or {}", path.display(), token::FILE
    )]
    NoSave {
        /// The folder.
        path: PathBuf,
    },
    /// A save that says less than it should, or something else.
    #[error("{}: {reason}; {WAY_OUT}", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// Which field, and what is wrong with it.
        reason: String,
    },
    /// A save whose file is damaged.
    #[error("{0}; {WAY_OUT}")]
    Damaged(#[source] Box<lowtide_formats::Error>),
    /// The adapter beside a token cannot be read.
    #[error("{0}; its parameters are what the run would go on with, and {WAY_OUT}")]
    NoAdapter(#[source] Box<lowtide_runtime::RuntimeError>),
    /// This run is not the one that was saved.
    #[error(
        "{}: `{what}` is {now}, and the run that was saved had {then}: {}", path.display(),
        if *anyway {
            "the result would not be the same to the last bit; --resume-anyway accepts that"
        } else {
            "give the same, or begin another run from its adapter with --init-adapter"
        }
    )]
    Differs {
        /// The save.
        path: PathBuf,
        /// What differs.
        what: String,
        /// What this run has.
        now: String,
        /// What the save has.
        then: String,
        /// Whether it may be accepted.
        anyway: bool,
    },
}

/// How far a run has come. What is as it is in most runs is left out of the file.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Progress {
    /// Updates made: also where the run is in its data and in its schedule.
    pub(crate) step: u64,
    /// Micro-batches computed, which dropout counts.
    #[serde(rename = "micro")]
    pub(crate) micro_batches: u64,
    pub(crate) tokens: u64,
    #[serde(rename = "labelled")]
    pub(crate) labelled_tokens: u64,
    #[serde(rename = "first")]
    pub(crate) loss_first: Option<f64>,
    #[serde(rename = "last")]
    pub(crate) loss_last: Option<f64>,
    #[serde(rename = "before", skip_serializing_if = "is_default")]
    pub(crate) eval_loss_before: Option<f64>,
    /// Of all updates.
    pub(crate) seconds: f64,
    /// Whether the parameters are as the adapter's file rounds them, after the last update.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) settled: bool,
    /// What the learning rate has become by going back to good states.
    #[serde(skip_serializing_if = "is_one")]
    pub(crate) lr_factor: f64,
    #[serde(rename = "back", skip_serializing_if = "is_default")]
    pub(crate) rollbacks: u64,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) spikes: u64,
    /// Updates before the last good state.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) good_step: u64,
    /// Whether another was taken after the last update.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) good_next: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) usual: Watched,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) held_out: Held,
    /// Updates before the last evaluation.
    #[serde(rename = "eval", skip_serializing_if = "is_default")]
    pub(crate) evaluated: Option<u64>,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) stopped_early: bool,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn is_one(value: &f64) -> bool {
    value.to_bits() == 1.0_f64.to_bits()
}

impl Default for Progress {
    /// Before the first update.
    fn default() -> Self {
        Self {
            step: 0,
            micro_batches: 0,
            tokens: 0,
            labelled_tokens: 0,
            loss_first: None,
            loss_last: None,
            eval_loss_before: None,
            seconds: 0.0,
            settled: false,
            lr_factor: 1.0,
            rollbacks: 0,
            spikes: 0,
            good_step: 0,
            good_next: false,
            usual: Watched::default(),
            held_out: Held::default(),
            evaluated: None,
            stopped_early: false,
        }
    }
}

/// What is saved of a run besides its numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Saved {
    layout: u32,
    pub(crate) identity: Identity,
    pub(crate) progress: Progress,
}

impl Saved {
    pub(crate) fn new(identity: Identity, progress: Progress) -> Self {
        Self { layout: LAYOUT, identity, progress }
    }

    /// Refuses another layout.
    fn check(self, path: &Path) -> Result<Self, ResumeError> {
        let layout = self.layout;
        match layout {
            LAYOUT => Ok(self),
            _ => Err(broken(path, format!("`layout` is {layout}, expected {LAYOUT}"))),
        }
    }
}

/// A saved run, found again.
#[derive(Debug)]
pub struct SavedRun {
    folder: PathBuf,
    settings: Settings,
    saved: Saved,
    state: State,
}

/// Where the numbers are.
#[derive(Debug)]
enum State {
    Snapshot(Snapshot),
    /// In the adapter beside the token.
    Adapter(Token),
}

impl SavedRun {
    /// The run that was saved last in the output folder `folder`; `None` where nothing was saved.
    ///
    /// # Errors
    /// [`TrainError::Resume`] or [`TrainError::Formats`], naming the file, when a save is there
    /// and is not whole.
    pub fn find(folder: &Path) -> Result<Option<Self>, TrainError> {
        let (state, token) = (folder.join(FOLDER).join(STATE), folder.join(token::FILE));
        let age = |path: &Path| path.metadata().and_then(|facts| facts.modified()).ok();
        // Whatever came last; a run of the other kind takes the other one away, when it has saved.
        match (age(&state), age(&token)) {
            (None, None) => Ok(None),
            (state, token) if token > state => Self::of_token(folder).map(Some),
            _ => Self::of_snapshot(folder, &state).map(Some),
        }
    }

    /// As [`find`](Self::find), where something has to be there.
    ///
    /// # Errors
    /// As [`find`](Self::find), and [`ResumeError::NoSave`].
    pub fn open(folder: &Path) -> Result<Self, TrainError> {
        let none = || ResumeError::NoSave { path: folder.to_owned() };
        Ok(Self::find(folder)?.ok_or_else(none)?)
    }

    fn of_snapshot(folder: &Path, path: &Path) -> Result<Self, TrainError> {
        let snapshot =
            Snapshot::open(path).map_err(|error| ResumeError::Damaged(Box::new(error)))?;
        let mut document = snapshot.document().clone();
        let settings = match document.remove(SETTINGS) {
            Some(Value::String(text)) => settings(&text, path)?,
            _ => return Err(broken(path, format!("`{SETTINGS}` is missing")).into()),
        };
        let saved = serde_json::from_value::<Saved>(Value::Object(document));
        let saved = saved.map_err(|error| broken(path, error.to_string()))?.check(path)?;
        let state = State::Snapshot(snapshot);
        Ok(Self { folder: folder.to_owned(), settings, saved, state })
    }

    fn of_token(folder: &Path) -> Result<Self, TrainError> {
        let token = Token::read(folder)?;
        let saved = token.latest();
        let path = folder.join("config.toml");
        let text = std::fs::read_to_string(&path)
            .map_err(|source| TrainError::Output { path: path.clone(), source })?;
        let settings = settings(&text, &path)?;
        saved.identity.check_config(&settings, &path)?;
        LoadedAdapter::open(folder).map_err(|error| ResumeError::NoAdapter(Box::new(error)))?;
        Ok(Self { folder: folder.to_owned(), settings, saved, state: State::Adapter(token) })
    }

    /// The settings to go on with: those of the run with nothing left to choose, but for what
    /// changes no result, on which the machine of today may have its say.
    #[must_use]
    pub fn settings(&self) -> Settings {
        let (free, own) = (Settings::default(), self.settings.clone());
        let exact_clipping = ["whole", "two-pass"].contains(&own.clipping.as_str());
        Settings {
            checkpointing: if own.rounds() { own.checkpointing } else { free.checkpointing },
            // Another precision would choose among stores that round.
            checkpoint_store: match own.precision.as_str() {
                "exact" => free.checkpoint_store,
                _ => own.checkpoint_store,
            },
            tile_rows: free.tile_rows,
            optimizer_states: free.optimizer_states,
            clipping: if exact_clipping { free.clipping } else { own.clipping },
            // Of the updates of one process.
            trace: None,
            resume: Some(self.folder.clone()),
            ..self.settings.clone().into_folder(self.folder.clone())
        }
    }

    /// Updates made before it was saved.
    #[must_use]
    pub fn step(&self) -> u64 {
        self.saved.progress.step
    }

    /// Names of the backend and of the instruction set that computed it.
    #[must_use]
    pub fn machine(&self) -> (&str, &str) {
        self.saved.identity.machine()
    }

    /// Whether it made all its updates before it was saved last.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.saved.progress.settled
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The file that says what was saved.
    pub(crate) fn path(&self) -> PathBuf {
        match self.state {
            State::Snapshot(_) => self.folder.join(FOLDER).join(STATE),
            State::Adapter(_) => self.folder.join(token::FILE),
        }
    }

    /// Refuses settings that compute something else, as far as they are known before a plan.
    pub(crate) fn check_early(&self, settings: &Settings) -> Result<(), ResumeError> {
        identity::compare_early(&self.settings, settings, &self.path())
    }

    /// Refuses a run whose settings, with nothing left to choose, compute something else.
    pub(crate) fn check_settings(&self, resolved: &Settings) -> Result<(), ResumeError> {
        identity::compare(&self.settings, resolved, &self.path())
    }

    /// The bytes of a part of the save, of which this run needs so many; none where it has no such
    /// part.
    ///
    /// # Errors
    /// [`ResumeError::Broken`] when it has another length.
    pub(crate) fn section(&self, name: &str, need: u64) -> Result<&[u8], ResumeError> {
        let State::Snapshot(snapshot) = &self.state else { return Ok(&[]) };
        let section = snapshot.section(name);
        let found = section.len() as u64;
        if found != need && found != 0 {
            let reason = format!("`{name}` has {found} bytes, and this run needs {need}");
            return Err(broken(snapshot.path(), reason));
        }
        Ok(section)
    }

    /// Refuses another run than the one that was saved; `resolved` are its settings with nothing
    /// left to choose.
    pub(crate) fn check(
        &self,
        now: &Identity,
        resolved: &Settings,
        steps: u64,
    ) -> Result<(), ResumeError> {
        self.check_settings(resolved)?;
        let step = self.step();
        if step > steps {
            let reason = format!("{step} updates were made of a run that has {steps}");
            return Err(broken(&self.path(), reason));
        }
        self.saved.identity.check(now, resolved, &self.path())
    }

    /// Brings `trainer` to where the run was saved, and tells where that is.
    pub(crate) fn restore(
        &self,
        job: &Job<'_>,
        trainer: &mut Trainer<'_, '_>,
    ) -> Result<Progress, TrainError> {
        let progress = match &self.state {
            State::Snapshot(snapshot) => {
                let taken = trainer.set_sections(&mut |name| snapshot.section(name));
                taken.map_err(|reason| broken(snapshot.path(), reason))?;
                self.saved.progress
            }
            State::Adapter(token) => {
                let adapter = LoadedAdapter::open(&self.folder)?;
                let hyper = job.base.file().hyper();
                adapter.fill(hyper, &trainer.model().sites, trainer.values_mut())?;
                let saved = token.of(trainer.params(), &self.folder)?;
                if same_folder(&self.folder, &job.settings.output) {
                    // Else the first save would replace the settings, too, and not in one step.
                    peft::set_base(&self.folder, &job.base.name().display().to_string())?;
                    token::settle(&self.folder, &saved)?;
                }
                saved.progress
            }
        };
        trainer.go_on_after(progress.step, progress.micro_batches);
        Ok(progress)
    }
}

/// Clears away what killed runs left half written in an output folder.
pub(crate) fn tidy_up(output: &Path) {
    atomic::remove_leftovers(output);
    atomic::remove_leftovers(&output.join(FOLDER));
}

pub(crate) fn same_folder(a: &Path, b: &Path) -> bool {
    a == b || a.canonicalize().is_ok_and(|a| b.canonicalize().is_ok_and(|b| a == b))
}

/// Key of the settings in the document of a snapshot.
const SETTINGS: &str = "settings";

fn settings(text: &str, path: &Path) -> Result<Settings, ResumeError> {
    toml::from_str(text).map_err(|error| broken(path, error.to_string().trim_end().to_owned()))
}

fn broken(path: &Path, reason: String) -> ResumeError {
    ResumeError::Broken { path: path.to_owned(), reason }
}

/// Saves what `trainer` needs to go on, with what else is `kept`, and the adapter of `output`,
/// which `save_adapter` writes. A token has no room for what is kept: a run that goes on from one
/// begins with its state as the last good one.
pub(crate) fn save(
    output: &Path,
    resolved: &Settings,
    saved: Saved,
    trainer: &mut Trainer<'_, '_>,
    kept: &[Section<'_>],
    save_adapter: impl FnOnce(&mut Trainer<'_, '_>) -> Result<(), TrainError>,
) -> Result<(), TrainError> {
    let (state, token) = (output.join(FOLDER).join(STATE), output.join(token::FILE));
    if trainer.is_its_adapter() && resolved.saves_bits() {
        token::write(output, saved, resolved.seed, trainer, save_adapter)?;
        return forget(&state);
    }
    let settled = saved.progress.settled;
    let Ok(Value::Object(mut document)) = serde_json::to_value(saved) else {
        unreachable!("a struct of plain values is an object")
    };
    document.insert(SETTINGS.into(), resolved.to_toml().into());
    // What is fixed is made from the seed, where nothing else has changed it.
    let fixed = resolved.init_adapter.is_some() || resolved.adaptive_rank.is_some() || settled;
    write_state(&state, &document, &trainer.sections(fixed), kept)?;
    save_adapter(trainer)?;
    forget(&token)
}

fn write_state(
    path: &Path,
    document: &Map<String, Value>,
    parts: &[Bytes<'_>],
    kept: &[Section<'_>],
) -> Result<(), TrainError> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)
            .map_err(|source| TrainError::Output { path: folder.to_owned(), source })?;
    }
    let mut sections: Vec<Section<'_>> = parts
        .iter()
        .map(|(name, bytes, write)| Section { name, bytes: *bytes, write: &**write })
        .collect();
    sections.extend(kept);
    Ok(snapshot::write(path, document, &sections)?)
}

/// Takes a save of the other kind away, which an earlier run left.
fn forget(path: &Path) -> Result<(), TrainError> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(TrainError::Output { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

impl Settings {
    /// Whether backward begins with block inputs that were rounded.
    fn rounds(&self) -> bool {
        ["bf16", "int8"].contains(&self.checkpoint_store.as_str())
    }

    /// Whether the file of the adapter has the parameters bit for bit.
    fn saves_bits(&self) -> bool {
        let coded = self.method_option.contains_key(peft::QUANTIZE);
        self.adapter_type == "f32" && !self.keeps_best() && self.adaptive_rank.is_none() && !coded
    }
}
