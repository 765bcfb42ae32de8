//! `cargo xtask aarch64`: the tests of the crates that compute, and a few updates of a whole model,
//! as three processors of that architecture run them. One build serves all: programs ask at run
//! time what the processor can do, and the emulator answers for the one it was told to be.

mod toolchain;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::run::{self, Job};
use crate::test;
pub(crate) use toolchain::{TARGET, Toolchain};

/// The processors: everything the emulator knows (dot products, i8mm, half floats); a Raspberry
/// Pi 5 (dot products, half floats); a Raspberry Pi 3 (NEON only).
pub(crate) const CPUS: [&str; 3] = ["max", "cortex-a76", "cortex-a53"];

/// Crates whose tests run. Those above them add nothing that depends on the processor.
const CRATES: [&str; 11] = [
    "lowtide-memory",
    "lowtide-tensor",
    "lowtide-quant",
    "lowtide-backend",
    "lowtide-adapter",
    "lowtide-lora",
    "lowtide-optim",
    "lowtide-lanes",
    "lowtide-kernels",
    "lowtide-simd",
    "lowtide-tape",
];

/// Tests that are too slow when emulated, which costs 10 to 30 times: crate, a part of the test's
/// name, and why nothing is lost.
const SKIPPED: &[(&str, &str, &str)] = &[
    ("lowtide-simd", "scalar::", "plain Rust has nothing of this processor; x86-64 tests it"),
    ("lowtide-simd", "neon_dotprod::", "in f32 it is NEON; its integers have tests of their own"),
    ("lowtide-simd", "neon_i8mm::", "in f32 it is NEON; its integers have tests of their own"),
];

/// How long one program may run, on a busy machine.
const LIMIT: Duration = Duration::from_secs(600);

/// The quickstart's model and examples.
pub(crate) const QUICKSTART: &str = "crates/lowtide/assets/quickstart";
/// How many of its examples are enough for the updates below.
const EXAMPLES: usize = 8;
/// Three updates: the second and third losses are right only if the gradients before them were.
const UPDATES: &str = "--max-steps 3 --batch-size 2 --lr 4e-3 --seed 0 --samples 0 \
                       --report-every 1 --quiet";
/// Their losses on x86-64.
const LOSSES: [f64; 3] = [0.964_821, 1.080_978, 0.919_749];
/// Precisions, and how far losses may be off, relative to the loss: instruction sets round
/// differently, by about 1e-6 here; rounding to integers with two digits and with one moves them by
/// 2e-4 and 2e-3.
const PRECISIONS: [(&str, f64); 3] = [("exact", 1e-5), ("balanced", 1e-3), ("fast", 1e-2)];

/// Builds and runs everything.
///
/// # Errors
/// When a tool is missing, a build fails, a test fails or a loss is off.
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
    let lowtide = build_lowtide(toolchain)?;
    println!("{} test programs and `lowtide`, built in {}", programs.len(), seconds(start));
    for (package, name, reason) in SKIPPED {
        println!("skipped on every processor: {name} of {package}: {reason}");
    }
    let start = Instant::now();
    run::side_by_side(jobs(&programs, &lowtide, toolchain))?;
    println!("all tests passed, and all losses agree, in {}", seconds(start));
    Ok(())
}

/// The programs on each processor, those of the crates above first, since they take longest, and
/// the training.
fn jobs<'a>(programs: &'a [Program], lowtide: &'a Path, toolchain: &'a Toolchain) -> Vec<Job<'a>> {
    let mut jobs = Vec::new();
    for program in programs.iter().rev() {
        for cpu in CPUS {
            let name = format!("{cpu}: {} of {}", program.name, program.package);
            jobs.push(Job { name, work: Box::new(move || program.run(toolchain, cpu)) });
        }
    }
    for cpu in CPUS {
        let name = format!("{cpu}: training");
        jobs.push(Job { name, work: Box::new(move || train(lowtide, toolchain, cpu)) });
    }
    jobs
}

/// Trains the quickstart's model for a few updates in each precision and compares each loss.
pub(crate) fn train(lowtide: &Path, toolchain: &Toolchain, cpu: &str) -> Result<()> {
    PRECISIONS.iter().try_for_each(|&(precision, tolerance)| {
        let found = train_in(precision, lowtide, toolchain, cpu)?;
        losses_agree(&found, tolerance).with_context(|| format!("precision {precision}"))
    })
}

fn train_in(precision: &str, lowtide: &Path, toolchain: &Toolchain, cpu: &str) -> Result<Vec<f64>> {
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let assets = run::root().join(QUICKSTART);
    let examples = fs::read_to_string(assets.join("home.jsonl")).context("the examples")?;
    let data = folder.path().join("examples.jsonl");
    let few: String = examples.split_inclusive('\n').take(EXAMPLES).collect();
    fs::write(&data, few).context("the examples")?;

    let output = folder.path().join("adapter");
    let mut finetune = toolchain.emulated(cpu, lowtide);
    finetune.arg("finetune").args(UPDATES.split_whitespace()).args(["--precision", precision]);
    finetune.arg("--model").arg(assets.join("model.gguf"));
    finetune.arg("--data").arg(&data).arg("--output").arg(&output);
    run::quietly_within(&mut finetune, LIMIT)?;

    let summary: Value = serde_json::from_str(&fs::read_to_string(output.join("summary.json"))?)?;
    let (planned, peak) = (&summary["planned_peak_bytes"], &summary["peak_bytes"]);
    ensure!(planned == peak, "planned {planned} bytes, held {peak}");
    losses(&fs::read_to_string(output.join("metrics.jsonl"))?)
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
        for (_, name, _) in SKIPPED.iter().filter(|(package, ..)| *package == self.package) {
            command.args(["--skip", name]);
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

/// The command in the development profile: quicker to build than the one that is shipped.
fn build_lowtide(toolchain: &Toolchain) -> Result<PathBuf> {
    run::check(toolchain.cargo("build").args(["--package", "lowtide", "--bin", "lowtide"]))?;
    Ok(test::target_folder()?.join(TARGET).join("debug").join("lowtide"))
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

/// The losses of a run, from its metrics.
fn losses(metrics: &str) -> Result<Vec<f64>> {
    let loss = |line| -> Result<f64> {
        let metrics: Value = serde_json::from_str(line).context("a line of metrics.jsonl")?;
        metrics["loss"].as_f64().with_context(|| format!("no loss in {line}"))
    };
    metrics.lines().map(loss).collect()
}

fn losses_agree(found: &[f64], tolerance: f64) -> Result<()> {
    let near = |(found, expected): (&f64, &f64)| (found / expected - 1.0).abs() < tolerance;
    let same = found.len() == LOSSES.len() && found.iter().zip(&LOSSES).all(near);
    ensure!(
        same,
        "losses are {found:?} and were expected to be {LOSSES:?}, as on x86-64; if x86-64 gives \
         others by now, with `lowtide finetune {UPDATES}` on the first {EXAMPLES} lines of \
         {QUICKSTART}/home.jsonl, change them in xtask"
    );
    Ok(())
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
    fn losses_are_read_and_compared() {
        let metrics =
            "{\"step\":1,\"loss\":0.9648207}\n{\"loss\":1.0809779}\n{\"loss\":0.9197485}\n";
        let found = losses(metrics).unwrap();
        assert_eq!(found, [0.964_820_7, 1.080_977_9, 0.919_748_5]);
        losses_agree(&found, 1e-5).unwrap();
        assert!(losses_agree(&found[..2], 1e-5).is_err());
        let off = [0.964_821, 1.080_978, 0.919_849];
        assert!(losses_agree(&off, 1e-5).is_err());
        losses_agree(&off, 1e-3).unwrap();
        assert!(losses_agree(&[0.964_821, f64::NAN, 0.919_749], 1e-5).is_err());
        assert!(losses("{\"step\":1}").is_err());
    }

    #[test]
    fn only_tests_of_crates_that_run_are_skipped() {
        for (package, name, reason) in SKIPPED {
            assert!(CRATES.contains(package), "{package}");
            assert!(!name.is_empty() && !reason.is_empty());
        }
    }
}
