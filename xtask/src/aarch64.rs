//! `cargo xtask aarch64`: the tests of the crates that compute, and one that trains a whole model
//! for a few updates, as three processors of that architecture run them. One build serves all:
//! programs ask at run time what the processor can do, and the emulator answers for the one it was
//! told to be.

mod toolchain;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::run::{self, Job};
pub(crate) use toolchain::{TARGET, Toolchain};

/// The processors: everything the emulator knows (dot products, i8mm, half floats); a Raspberry
/// Pi 5 (dot products, half floats); a Raspberry Pi 3 (NEON only).
pub(crate) const CPUS: [&str; 3] = ["max", "cortex-a76", "cortex-a53"];

/// Crates whose tests run. Those above them add nothing that depends on the processor; the last one
/// trains a whole model for a few updates, without the command and what it needs for downloads.
const CRATES: [&str; 11] = [
    "lowtide-memory",
    "lowtide-tensor",
    "lowtide-quant",
    "lowtide-backend",
    "lowtide-adapter",
    "lowtide-optim",
    "lowtide-lanes",
    "lowtide-kernels",
    "lowtide-simd",
    "lowtide-tape",
    "lowtide-testkit",
];

/// Crates whose tests run on the first processor alone: they ask no processor what it can do, and
/// what they compute with has tests of its own on each.
const ONCE: [&str; 7] = [
    "lowtide-memory",
    "lowtide-tensor",
    "lowtide-quant",
    "lowtide-backend",
    "lowtide-adapter",
    "lowtide-optim",
    "lowtide-tape",
];

/// Of the others, a test program that runs on the first processor alone: products and rows in f32
/// are the same instructions on all of them.
const ONCE_OF_ALL: (&str, &str) = ("lowtide-simd", "conformance");

/// Tests that are too slow when emulated, which costs 10 to 30 times, or that cannot be.
struct Skipped {
    package: &'static str,
    /// A part of the test's name.
    name: &'static str,
    /// Why nothing is lost.
    reason: &'static str,
}

const SKIPPED: &[Skipped] = &[
    Skipped {
        package: "lowtide-simd",
        name: "scalar::",
        reason: "plain Rust has nothing of this processor; x86-64 tests it",
    },
    Skipped {
        package: "lowtide-simd",
        name: "neon_dotprod::",
        reason: "in f32 it is NEON; its integers have tests of their own",
    },
    Skipped {
        package: "lowtide-simd",
        name: "neon_i8mm::",
        reason: "in f32 it is NEON; its integers have tests of their own",
    },
    Skipped {
        package: "lowtide-simd",
        name: "in_integers",
        reason: "they have tests of their own; x86-64 runs the whole suite on them",
    },
    Skipped {
        package: "lowtide-testkit",
        name: "a_forbidden_request",
        reason: "it starts itself, which takes an emulator here",
    },
];

impl Skipped {
    /// The tests of a crate that are skipped.
    fn of(package: &str) -> impl Iterator<Item = &'static Self> {
        SKIPPED.iter().filter(move |skip| skip.package == package)
    }
}

/// How long one program may run, on a busy machine.
const LIMIT: Duration = Duration::from_secs(600);

/// Builds and runs everything.
///
/// # Errors
/// When a tool is missing, a build fails or a test fails.
pub(crate) fn all() -> Result<()> {
    all_with(&Toolchain::find()?)
}

/// Like [`all`], but a machine that lacks the tools passes, loudly.
pub(crate) fn all_that_can_be() -> Result<()> {
    match Toolchain::find() {
        Ok(toolchain) => all_with(&toolchain),
        Err(missing) => {
            println!("SKIPPED: {missing}");
            Ok(())
        }
    }
}

fn all_with(toolchain: &Toolchain) -> Result<()> {
    let start = Instant::now();
    let programs = build_tests(toolchain)?;
    println!("{} test programs, built in {}", programs.len(), seconds(start));
    for Skipped { package, name, reason } in SKIPPED {
        println!("skipped on every processor: {name} of {package}: {reason}");
    }
    let start = Instant::now();
    run::side_by_side(jobs(&programs, toolchain))?;
    println!("all tests passed in {}", seconds(start));
    Ok(())
}

/// The programs on the processors that they run on, those of the crates above first: they take
/// longest.
fn jobs<'a>(programs: &'a [Program], toolchain: &'a Toolchain) -> Vec<Job<'a>> {
    let mut jobs = Vec::new();
    for program in programs.iter().rev() {
        let (package, name) = (program.package.as_str(), program.name.as_str());
        let once = ONCE.contains(&package) || (package, name) == ONCE_OF_ALL;
        for cpu in CPUS.into_iter().take(if once { 1 } else { CPUS.len() }) {
            let name = format!("{cpu}: {} of {}", program.name, program.package);
            jobs.push(Job { name, work: Box::new(move || program.run(toolchain, cpu)) });
        }
    }
    jobs
}

/// A test program, and where cargo would run it.
struct Program {
    package: String,
    name: String,
    file: PathBuf,
    folder: PathBuf,
}

impl Program {
    fn run(&self, toolchain: &Toolchain, cpu: &str) -> Result<()> {
        let mut command = toolchain.emulated(cpu, &self.file);
        // One test at a time: the other cores are kept busy by other programs.
        command.current_dir(&self.folder).args(["--quiet", "--test-threads", "1"]);
        for skip in Skipped::of(&self.package) {
            command.args(["--skip", skip.name]);
        }
        run::quietly_within(&mut command, LIMIT)
    }
}

fn build_tests(toolchain: &Toolchain) -> Result<Vec<Program>> {
    let mut build = toolchain.cargo("test");
    build.args(["--no-run", "--message-format", "json-render-diagnostics"]);
    CRATES.iter().for_each(|name| {
        build.args(["--package", name]);
    });
    // What the compiler has to say goes to the terminal.
    let messages = run::output(build.stderr(Stdio::inherit()))?;
    let programs = artifacts(&messages)?;
    ensure!(!programs.is_empty(), "cargo built no test program");
    Ok(programs)
}

/// The test programs among cargo's messages, one JSON object a line.
fn artifacts(messages: &str) -> Result<Vec<Program>> {
    let mut programs = Vec::new();
    for line in messages.lines().filter(|line| line.starts_with('{')) {
        let message: Value = serde_json::from_str(line).context("a message of cargo's")?;
        let Some(file) = message["executable"].as_str() else { continue };
        if message["profile"]["test"] != true {
            continue;
        }
        let manifest = message["manifest_path"].as_str().context("a message has its manifest")?;
        let folder = Path::new(manifest).parent().context("a manifest lies in a folder")?;
        let name = message["target"]["name"].as_str().context("a target has its name")?;
        let part = folder.file_name().context("a crate's folder has a name")?.to_string_lossy();
        programs.push(Program {
            package: format!("lowtide-{part}"),
            name: name.to_owned(),
            file: file.into(),
            folder: folder.to_owned(),
        });
    }
    Ok(programs)
}

fn seconds(start: Instant) -> String {
    format!("{:.0} s", start.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_programs_are_found_among_the_messages() {
        let messages = "{\"reason\":\"build-script-executed\"}\n\
            {\"executable\":\"t/a\",\"manifest_path\":\"r/crates/quant/Cargo.toml\",\
             \"profile\":{\"test\":true},\"target\":{\"name\":\"suite\"}}\n\
            {\"executable\":\"t/b\",\"manifest_path\":\"r/crates/lora/Cargo.toml\",\
             \"profile\":{\"test\":false},\"target\":{\"name\":\"tool\"}}\n\
            {\"executable\":null,\"profile\":{\"test\":false}}\n";
        let programs = artifacts(messages).unwrap();
        assert_eq!(programs.len(), 1);
        let Program { package, name, file, folder } = &programs[0];
        assert_eq!((package.as_str(), name.as_str()), ("lowtide-quant", "suite"));
        assert_eq!(
            (file.as_path(), folder.as_path()),
            (Path::new("t/a"), Path::new("r/crates/quant"))
        );
    }

    #[test]
    fn only_tests_of_crates_that_run_are_skipped() {
        assert!(ONCE.iter().all(|package| CRATES.contains(package)));
        for Skipped { package, name, reason } in SKIPPED {
            assert!(CRATES.contains(package), "{package}");
            assert!(!name.is_empty() && !reason.is_empty());
        }
    }

    #[test]
    fn programs_run_on_every_processor_that_they_may_depend_on() {
        let program = |(package, name): (&str, &str)| Program {
            package: package.to_owned(),
            name: name.to_owned(),
            file: PathBuf::new(),
            folder: PathBuf::new(),
        };
        let programs = [("lowtide-quant", "t"), ("lowtide-simd", "t"), ONCE_OF_ALL].map(program);
        let toolchain = Toolchain::of("qemu");
        let names: Vec<_> = jobs(&programs, &toolchain).into_iter().map(|job| job.name).collect();
        let expected = [
            "max: conformance of lowtide-simd",
            "max: t of lowtide-simd",
            "cortex-a76: t of lowtide-simd",
            "cortex-a53: t of lowtide-simd",
            "max: t of lowtide-quant",
        ];
        assert_eq!(names, expected);
    }
}
