//! From flags and a configuration file to the settings of a run: flags win over the file, the file
//! over those of a run that is to go on, these over a preset, and all over the defaults.

use std::path::{Path, PathBuf};

use lowtide::TrainError;
use lowtide::runtime::registry;
use lowtide::train::{Preset, ResumeError, SavedRun, Settings, SettingsError};
use serde::Deserialize;
use toml::{Table, Value};

use super::args::RunArgs;
use super::computing::{MachineFlags, THREADS};

/// What the flags and files of a run come to.
#[derive(Debug)]
pub(crate) struct Resolved {
    pub(crate) settings: Settings,
    /// What computes it.
    pub(crate) machine: MachineFlags,
    /// It was to go on, and nothing is saved yet where it would have been.
    pub(crate) begins: bool,
}

/// The settings of a run: flags over the configuration file, over those of the run that is to go
/// on, over a preset, over the defaults.
///
/// # Errors
/// A file that cannot be read, with its name and the key at fault; a preset of another name; a base
/// or data that neither the flags nor the file name; a value outside its range; a run to go on with
/// that is not there.
pub(crate) fn resolve(args: &RunArgs) -> Result<Resolved, TrainError> {
    args.check_beside_save()?;
    let file = args.config.as_deref().map(File::read).transpose()?.unwrap_or_default();
    let saved = saved_run(args, &file)?;
    let begins = args.flags.resumes() && saved.is_none();
    let goes_on = saved.is_some();
    let ranked = goes_on || file.settings.contains_key("rank") || args.flags.ranked();
    let preset = args.preset.as_deref().map(Preset::named).transpose()?.or(file.preset);
    let usual = || preset.map(Preset::settings).unwrap_or_default();
    let machine = args.machine.or(file.machine);
    let machine = saved.as_ref().map_or(machine, |run| machine.or_of_save(run.machine()));
    let settings = file.over(saved.map_or_else(usual, |run| run.settings()))?;
    let mut settings = args.flags.over(settings);
    if goes_on {
        // The ranks that it chose are among the run's.
        settings.adapter_budget = None;
    }
    if !ranked && let Ok(method) = registry::<f32>().get(&settings.method) {
        settings.rank = method.default_rank();
    }
    for (field, path) in [("model", &settings.model), ("data", &settings.data)] {
        if path.as_os_str().is_empty() {
            if begins {
                return Err(ResumeError::NoSave { path: settings.output }.into());
            }
            return Err(SettingsError::BadValue {
                field,
                found: "missing".into(),
                expected: "a path, as a flag or in the configuration file",
            }
            .into());
        }
    }
    settings.check()?;
    Ok(Resolved { settings, machine, begins })
}

/// The run that is to go on, if one is. In a folder that is named there has to be one; where the
/// output would be there may be none yet, so that the same line begins a run and goes on with it.
fn saved_run(args: &RunArgs, file: &File) -> Result<Option<SavedRun>, TrainError> {
    if !args.flags.resumes() {
        return Ok(None);
    }
    if let Some(folder) = args.flags.resumed() {
        return SavedRun::open(folder).map(Some);
    }
    let said = file.settings.get("output").and_then(Value::as_str).map(Path::new);
    let default = Settings::default().output;
    SavedRun::find(args.flags.output().or(said).unwrap_or(&default))
}

/// What a configuration file says.
#[derive(Default)]
struct File {
    path: PathBuf,
    text: String,
    settings: Table,
    machine: MachineFlags,
    preset: Option<Preset>,
}

impl File {
    /// Reads a configuration file. `backend`, `isa` and `threads` tell what computes, not what is
    /// computed, and `preset` where defaults come from, so they are no settings of a run; being
    /// flags, they may stand in the file all the same.
    fn read(path: &Path) -> Result<Self, SettingsError> {
        let bad = |reason: String| SettingsError::BadFile { path: path.to_owned(), reason };
        let text = std::fs::read_to_string(path).map_err(|error| bad(error.to_string()))?;
        let parsed = text.parse();
        let mut settings: Table =
            parsed.map_err(|error: toml::de::Error| bad(error.to_string()))?;
        let names = ["backend", "isa", "threads"].iter();
        let machine: Table = names.filter_map(|key| settings.remove_entry(*key)).collect();
        let machine = MachineFlags::deserialize(Value::Table(machine));
        let machine = machine.map_err(|error| bad(error.to_string()))?;
        if let Some(threads) = machine.threads.filter(|&n| !THREADS.contains(&n.into())) {
            return Err(SettingsError::BadValue {
                field: "threads",
                found: threads.to_string(),
                expected: "1 to 1024",
            });
        }
        let preset = preset(settings.remove("preset"))?;
        Ok(Self { path: path.to_owned(), text, settings, machine, preset })
    }

    /// `settings` with everything replaced that the file says.
    fn over(&self, settings: Settings) -> Result<Settings, SettingsError> {
        let bad = |error: toml::de::Error| SettingsError::BadFile {
            path: self.path.clone(),
            reason: error.to_string(),
        };
        if self.settings.is_empty() {
            return Ok(settings);
        }
        if self.machine == MachineFlags::default() && self.preset.is_none() {
            // Reading the text itself lets an error show the line.
            toml::from_str::<Settings>(&self.text).map_err(bad)?;
        }
        let mut table = Table::try_from(&settings).expect("settings are plain values");
        for [a, b] in [["warmup-steps", "warmup-ratio"], ["decay-steps", "decay-ratio"]] {
            // Two ways to say the same: what the file says replaces either.
            if self.settings.contains_key(a) || self.settings.contains_key(b) {
                table.remove(a);
                table.remove(b);
            }
        }
        table.extend(self.settings.clone());
        let said = Settings::deserialize(Value::Table(table)).map_err(bad)?;
        Ok(Settings { resume: settings.resume, ..said })
    }
}

/// The preset that a file names.
fn preset(said: Option<Value>) -> Result<Option<Preset>, SettingsError> {
    match said {
        None => Ok(None),
        Some(Value::String(name)) => Preset::named(&name).map(Some),
        Some(other) => Preset::named(&other.to_string()).map(Some),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use lowtide::Isa;

    use super::*;
    use crate::command::args::{Cli, Job};
    use crate::command::computing::{BackendName, IsaName};

    fn with(file: &str, flags: &[&str]) -> Result<(Settings, MachineFlags), TrainError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.toml");
        std::fs::write(&path, file).unwrap();
        let path = path.to_str().unwrap();
        let line = ["lowtide", "plan", "--config", path];
        match Cli::parse_from(line.iter().chain(flags)).job {
            Job::Plan(args) => {
                resolve(&args.run).map(|Resolved { settings, machine, .. }| (settings, machine))
            }
            job => panic!("{job:?}"),
        }
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let file = "model = 'm'\ndata = 'd'\nrank = 4\nalpha = 2.0\nmask-prompt = false\n";
        let (settings, machine) = with(file, &["--rank=2", "--data=e"]).unwrap();
        let expected = Settings {
            model: "m".into(),
            data: "e".into(),
            rank: 2,
            alpha: 2.0,
            mask_prompt: false,
            ..Settings::default()
        };
        assert_eq!((settings, machine), (expected, MachineFlags::default()));
    }

    #[test]
    fn a_preset_yields_to_whatever_is_said() {
        let file = "model = 'm'\ndata = 'd'\nmemory-budget = '1GiB'\n";
        let phone = Settings { model: "m".into(), data: "d".into(), ..Preset::Phone.settings() };
        let expected =
            Settings { memory_budget: Some("1GiB".into()), max_seq_len: 64, ..phone.clone() };
        let flags = ["--preset=phone", "--max-seq-len=64"];
        assert_eq!(with(file, &flags).unwrap().0, expected);
        let named = format!("{file}preset = 'phone'\nthreads = 3\n");
        assert_eq!(with(&named, &["--max-seq-len=64"]).unwrap().0, expected);
        // The flag wins over the file here, too.
        let pi = with(&named, &["--preset=pi"]).unwrap().0;
        assert_eq!((pi.save_every, pi.duty, pi.max_seq_len), (50, 1.0, 512));
        let line = ["lowtide", "plan", "-m=m", "-d=d", "--preset=phone"];
        let Job::Plan(args) = Cli::parse_from(line).job else { panic!("plan") };
        assert_eq!(resolve(&args.run).unwrap().settings, phone);
    }

    #[test]
    fn a_rank_that_nobody_gives_is_the_methods() {
        let paths = "model = 'm'\ndata = 'd'\n";
        for (file, flags, rank) in [
            ("", &[][..], 8),
            ("", &["--method=vera"], 256),
            ("method = 'vera'\nthreads = 2", &[], 256),
            ("method = 'vera'\nrank = 8", &[], 8),
            ("threads = 2\nrank = 8", &["--method=vera"], 8),
            ("method = 'vera'\nrank = 8", &["--rank=16"], 16),
            ("method = 'vera'", &["--method=lora"], 8),
        ] {
            let (settings, _) = with(&format!("{paths}{file}"), flags).unwrap();
            assert_eq!(settings.rank, rank, "{file} {flags:?}");
        }
    }

    #[test]
    fn the_machine_may_stand_in_the_file() {
        let file = "model = 'm'\ndata = 'd'\nbackend = 'simd'\nisa = 'avx2'\nthreads = 3\n";
        let (_, machine) = with(file, &[]).unwrap();
        let expected = MachineFlags {
            backend: Some(BackendName::Simd),
            isa: Some(IsaName::Of(Isa::Avx2)),
            threads: Some(3),
        };
        assert_eq!(machine, expected);
        let (_, machine) = with(file, &["--threads=1"]).unwrap();
        assert_eq!(machine, MachineFlags { threads: Some(1), ..expected });
    }

    #[test]
    fn bad_files_name_themselves_and_the_key() {
        for (file, says) in [
            ("model = ", "run.toml"),
            ("learning_rate = 1", "learning_rate"),
            ("threads = 2\nlearning_rate = 1", "learning_rate"),
            ("threads = 'many'", "threads"),
            ("threads = 0", "`threads` is 0"),
            ("backend = 'gpu'", "gpu"),
            ("isa = 'mmx'", "unknown instruction set `mmx`, expected auto, scalar, avx2"),
            ("model = 'm'\ndata = 'd'\ncompute = 'int8'", "because `precision` is exact"),
            ("preset = 'mainframe'", "`preset` is mainframe, expected phone, pi or laptop"),
            ("preset = 3", "`preset` is 3, expected phone"),
            ("preset = 'pi'\nlearning_rate = 1", "learning_rate"),
            ("rank = 4", "`model` is missing"),
            ("model = 'm'", "`data` is missing"),
            ("model = 'm'\ndata = 'd'\nval-split = 2.0", "`val-split` is 2"),
        ] {
            let error = with(file, &[]).unwrap_err().to_string();
            assert!(error.contains(says), "`{file}`: {error}");
        }
    }
}
