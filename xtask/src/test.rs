//! `cargo xtask test`: every check of the project, in the order in which they fail fastest.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::run::{self, Steps, cargo, check};
use crate::{aarch64, data, model, tidy};

/// Test binaries that are too slow for the development profile, as (crate, test). The development
/// profile optimises, so this list stays short: each entry makes CI compile its crates once more.
const RELEASE_TESTS: &[(&str, &str)] = &[];

/// What README tells a newcomer to run first.
const FIRST_RUN: [&str; 4] = ["run", "--release", "--", "quickstart"];

/// What README says of a model and data of one's own, up to the folder to write.
const OWN_RUN: [&str; 9] = [
    "run",
    "--release",
    "--",
    "finetune",
    "--model",
    "models/smollm2-135m-instruct.gguf",
    "--data",
    "examples/rust-errors.jsonl",
    "--output",
];

/// Runs everything; stops at the first step that fails.
pub(crate) fn all() -> Result<()> {
    let mut steps = Steps::default();
    steps.step("format", || {
        check(cargo().args(["fmt", "--all", "--check"]))?;
        check(cargo().args(["fmt", "--check", "--manifest-path", "fuzz/Cargo.toml"]))
    })?;
    steps.step("tidy", tidy::all)?;
    steps.step("clippy", || {
        let arguments = ["clippy", "--workspace", "--all-targets"];
        check(cargo().args(arguments).args(["--", "-D", "warnings"]))
    })?;
    steps.step("model", model::smollm2)?;
    steps.step("data", data::rust_errors)?;
    steps.step("tests", || check(cargo().args(["test", "--workspace", "--no-fail-fast"])))?;
    steps.step("first run", first_run)?;
    steps.step("own run", own_run)?;
    steps.step("release tests", || {
        RELEASE_TESTS.iter().try_for_each(|(package, test)| {
            check(cargo().args(["test", "--release", "--package", package, "--test", test]))
        })
    })?;
    steps.step("aarch64", aarch64::all_that_can_be)?;
    steps.step("documentation", || {
        let mut doc = cargo();
        doc.args(["doc", "--workspace", "--no-deps"]);
        check(doc.env("RUSTDOCFLAGS", "-D warnings"))
    })?;
    steps.step("fuzz targets", || fuzz_targets("check"))?;
    steps.summary();
    Ok(())
}

/// README's first command as it stands there, in a folder that goes away again.
fn first_run() -> Result<()> {
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    check(cargo().args(FIRST_RUN).arg("--output").arg(folder.path()))?;
    wrote_adapter(&folder.path().join("adapter"))
}

/// README's command for a model of one's own as it stands there, but ending after two updates.
fn own_run() -> Result<()> {
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let adapter = folder.path().join("my-adapter");
    check(cargo().args(OWN_RUN).arg(&adapter).args(["--max-steps", "2", "--samples", "1"]))?;
    wrote_adapter(&adapter)
}

fn wrote_adapter(folder: &Path) -> Result<()> {
    for file in ["adapter_config.json", "adapter_model.safetensors", "summary.json"] {
        ensure!(folder.join(file).is_file(), "the run wrote no {file}");
    }
    Ok(())
}

/// Builds the fuzz targets without instrumentation, with the stable compiler.
pub(crate) fn build_fuzz_targets() -> Result<()> {
    fuzz_targets("build")
}

/// Checks or builds the fuzz targets. They share the workspace's target folder, so what both depend
/// on is compiled once: a check reads what clippy left there.
fn fuzz_targets(subcommand: &str) -> Result<()> {
    let mut cargo = cargo();
    cargo.args([subcommand, "--manifest-path", "fuzz/Cargo.toml"]);
    check(cargo.env("CARGO_TARGET_DIR", target_folder()?))
}

/// Where the workspace builds.
pub(crate) fn target_folder() -> Result<PathBuf> {
    let metadata = metadata()?;
    let folder = metadata["target_directory"].as_str().context("metadata names the folder")?;
    Ok(folder.into())
}

/// What cargo knows about the workspace, dependencies unresolved.
pub(crate) fn metadata() -> Result<Value> {
    let text = run::output(cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
    serde_json::from_str(&text).context("`cargo metadata` did not write JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runs_are_those_of_the_readme() {
        let readme = include_str!("../../README.md").replace("\\\n", " ");
        let words: Vec<&str> = readme.split_whitespace().collect();
        let place = |run: &[&'static str]| {
            let command: Vec<&str> = ["cargo"].into_iter().chain(run.iter().copied()).collect();
            let at = words.windows(command.len()).position(|window| window == command);
            at.unwrap_or_else(|| panic!("README does not say {command:?}"))
        };
        let (first, all, own) = (place(&FIRST_RUN), place(&["xtask", "test"]), place(&OWN_RUN));
        assert!(first < all && all < own, "{first} {all} {own}");
        // Nothing is asked of a newcomer before the first run.
        assert_eq!(words.iter().position(|word| *word == "cargo"), Some(first));
    }
}
