//! A few updates of the quickstart's model by a command that is to be shipped: those of the test
//! `quickstart` of `crates/testkit`, with the losses that are known there.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::aarch64::Toolchain;
use crate::run;

/// How many examples are enough, the losses of x86-64, and how far others may be off, relative to
/// the loss, in each precision.
const EXPECTED: &str = include_str!("../../../crates/testkit/tests/quickstart/expected.json");

/// The test's settings, as flags.
const UPDATES: &str = "--max-steps 3 --batch-size 2 --lr 4e-3 --seed 0 --samples 0 \
                       --report-every 1 --quiet";

/// How long a run may take, on a busy machine.
const LIMIT: Duration = Duration::from_secs(600);

/// The folder of the quickstart's model and examples.
pub(super) fn quickstart() -> PathBuf {
    run::root().join("crates/lowtide/assets/quickstart")
}

/// Trains in each precision and compares each loss.
pub(super) fn check(lowtide: &Path, toolchain: &Toolchain, cpu: &str) -> Result<()> {
    let expected: Value = serde_json::from_str(EXPECTED).context("the expected losses")?;
    let known = numbers(&expected["losses"])?;
    let few = expected["examples"].as_u64().context("a number of examples")?;
    let tolerances = expected["tolerances"].as_object().context("a tolerance a precision")?;
    for (precision, tolerance) in tolerances {
        let found = train(precision, usize::try_from(few)?, lowtide, toolchain, cpu)?;
        let tolerance = tolerance.as_f64().context("a tolerance is a number")?;
        agree(&found, &known, tolerance).with_context(|| format!("precision {precision}"))?;
    }
    Ok(())
}

fn train(
    precision: &str,
    few: usize,
    lowtide: &Path,
    toolchain: &Toolchain,
    cpu: &str,
) -> Result<Vec<f64>> {
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let examples = fs::read_to_string(quickstart().join("home.jsonl")).context("the examples")?;
    let data = folder.path().join("examples.jsonl");
    let few: String = examples.split_inclusive('\n').take(few).collect();
    fs::write(&data, few).context("the examples")?;

    let output = folder.path().join("adapter");
    let mut finetune = toolchain.emulated(cpu, lowtide);
    finetune.arg("finetune").args(UPDATES.split_whitespace()).args(["--precision", precision]);
    finetune.arg("--model").arg(quickstart().join("model.gguf"));
    finetune.arg("--data").arg(&data).arg("--output").arg(&output);
    run::quietly_within(&mut finetune, LIMIT)?;

    let summary: Value = serde_json::from_str(&fs::read_to_string(output.join("summary.json"))?)?;
    let (planned, peak) = (&summary["planned_peak_bytes"], &summary["peak_bytes"]);
    ensure!(planned == peak, "planned {planned} bytes, held {peak}");
    losses(&fs::read_to_string(output.join("metrics.jsonl"))?)
}

/// The losses of a run, from its metrics.
fn losses(metrics: &str) -> Result<Vec<f64>> {
    let loss = |line| -> Result<f64> {
        let metrics: Value = serde_json::from_str(line).context("a line of metrics.jsonl")?;
        metrics["loss"].as_f64().with_context(|| format!("no loss in {line}"))
    };
    metrics.lines().map(loss).collect()
}

fn numbers(list: &Value) -> Result<Vec<f64>> {
    let list = list.as_array().context("a list")?;
    list.iter().map(|one| one.as_f64().context("a number")).collect()
}

fn agree(found: &[f64], known: &[f64], tolerance: f64) -> Result<()> {
    let near = |(found, known): (&f64, &f64)| (found / known - 1.0).abs() < tolerance;
    let same = found.len() == known.len() && found.iter().zip(known).all(near);
    ensure!(same, "losses are {found:?} and not {known:?}, within {tolerance:e} of each");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_read_and_compared() {
        let metrics =
            "{\"step\":1,\"loss\":0.9648207}\n{\"loss\":1.0809779}\n{\"loss\":0.9197485}\n";
        let found = losses(metrics).unwrap();
        assert_eq!(found, [0.964_820_7, 1.080_977_9, 0.919_748_5]);
        let known = [0.964_821, 1.080_978, 0.919_749];
        agree(&found, &known, 1e-5).unwrap();
        assert!(agree(&found[..2], &known, 1e-5).is_err());
        let off = [0.964_821, 1.080_978, 0.919_849];
        assert!(agree(&off, &known, 1e-5).is_err());
        agree(&off, &known, 1e-3).unwrap();
        assert!(agree(&[0.964_821, f64::NAN, 0.919_749], &known, 1e-5).is_err());
        assert!(losses("{\"step\":1}").is_err());
    }

    #[test]
    fn what_is_expected_is_there() {
        let expected: Value = serde_json::from_str(EXPECTED).unwrap();
        assert_eq!(numbers(&expected["losses"]).unwrap().len(), 3);
        assert_eq!(expected["tolerances"].as_object().unwrap().len(), 3);
        assert!(expected["examples"].as_u64().unwrap() >= 6);
        assert!(quickstart().join("model.gguf").is_file());
    }
}
