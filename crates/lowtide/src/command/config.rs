//! From flags and a configuration file to the settings of a run: flags win over the file, the file
//! over a preset, and that over the defaults.

use std::path::Path;

use lowtide::runtime::registry;
use lowtide::train::{Preset, Settings, SettingsError};
use serde::Deserialize;
use toml::{Table, Value};

use super::args::RunArgs;
use super::computing::{MachineFlags, THREADS};

/// The settings of a run, and what computes it.
///
/// # Errors
/// A file that cannot be read, with its name and the key at fault; a preset of another name; a base or data that neither the
/// flags nor the file name; a value outside its range.
pub(crate) fn resolve(args: &RunArgs) -> Result<(Settings, MachineFlags), SettingsError> {
    let preset = args.preset.as_deref().map(Preset::named).transpose()?;
    let File { settings, machine, ranked } = match &args.config {
        Some(path) => read(path, preset)?,
        None => File { settings: usual(preset), ..File::default() },
    };
    let mut settings = args.flags.over(settings);
    if !ranked
        && !args.flags.ranked()
        && let Ok(method) = registry::<f32>().get(&settings.method)
    {
        settings.rank = method.default_rank();
    }
    for (field, path) in [("model", &settings.model), ("data", &settings.data)] {
        if path.as_os_str().is_empty() {
            return Err(SettingsError::BadValue {
                field,
                found: "missing".into(),
                expected: "a path, as a flag or in the configuration file",
            });
        }
    }
    settings.check()?;
    Ok((settings, args.machine.or(machine)))
}

/// What a configuration file says.
#[derive(Default)]
struct File {
    settings: Settings,
    machine: MachineFlags,
    /// Whether it names a rank.
    ranked: bool,
}

/// What holds where nobody says anything.
fn usual(preset: Option<Preset>) -> Settings {
    preset.map(Preset::settings).unwrap_or_default()
}

/// Reads a configuration file; a preset that was asked for wins over the one in it. `backend`,
/// `isa` and `threads` tell what computes, not what is computed, and `preset` where defaults come
/// from, so they are no settings of a run; being flags, they may stand in the file all the same.
fn read(path: &Path, preset: Option<Preset>) -> Result<File, SettingsError> {
    let bad = |reason: String| SettingsError::BadFile { path: path.to_owned(), reason };
    let text = std::fs::read_to_string(path).map_err(|error| bad(error.to_string()))?;
    let mut table: Table = text.parse().map_err(|error: toml::de::Error| bad(error.to_string()))?;
    let ranked = table.contains_key("rank");
    let own = match table.remove("preset") {
        Some(Value::String(name)) => Some(Preset::named(&name)?),
        Some(other) => {
            let (found, expected) = (other.to_string(), "phone, pi or laptop");
            return Err(SettingsError::BadValue { field: "preset", found, expected });
        }
        None => None,
    };
    let machine: Table =
        ["backend", "isa", "threads"].iter().filter_map(|key| table.remove_entry(*key)).collect();
    let preset = preset.or(own);
    if machine.is_empty() && preset.is_none() {
        // Reading the text itself lets an error show the line.
        return Ok(File { settings: Settings::from_file(path)?, ranked, ..File::default() });
    }
    let machine = MachineFlags::deserialize(Value::Table(machine));
    let machine = machine.map_err(|error| bad(error.to_string()))?;
    if let Some(threads) = machine.threads.filter(|&n| !THREADS.contains(&n.into())) {
        return Err(SettingsError::BadValue {
            field: "threads",
            found: threads.to_string(),
            expected: "1 to 1024",
        });
    }
    let mut all = Table::try_from(usual(preset)).expect("settings are plain values");
    all.extend(table);
    let settings = Settings::deserialize(Value::Table(all));
    Ok(File { settings: settings.map_err(|error| bad(error.to_string()))?, machine, ranked })
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use lowtide::Isa;

    use super::*;
    use crate::command::args::{Cli, Job};
    use crate::command::computing::{BackendName, IsaName};

    fn with(file: &str, flags: &[&str]) -> Result<(Settings, MachineFlags), SettingsError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.toml");
        std::fs::write(&path, file).unwrap();
        let path = path.to_str().unwrap();
        let line = ["lowtide", "plan", "--config", path];
        match Cli::parse_from(line.iter().chain(flags)).job {
            Job::Plan(args) => resolve(&args.run),
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
        assert_eq!(resolve(&args.run).unwrap().0, phone);
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
