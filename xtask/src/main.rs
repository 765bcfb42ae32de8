//! Project automation: `cargo xtask <command>`. Run without arguments for the list.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "this program talks to the person who runs it")]

mod aarch64;
mod data;
mod dist;
mod files;
mod model;
mod run;
mod targets;
mod test;
mod tidy;

use std::process::ExitCode;

use anyhow::{Result, bail};

const HELP: &str = "\
cargo xtask <command>

  test                every check: what CI runs, and what to run before a commit (also: ci)
  tidy                layers, unsafe, sizes, module docs, words, bare-metal builds
  bench [FLAGS]       lowtide bench with these flags, built for speed
  model smollm2       fetch SmolLM2-135M-Instruct into models/ and check its SHA-256
  data rust-errors    make examples/rust-errors.jsonl from the compiler's explanations
  aarch64             tests and training steps on three emulated AArch64 processors
  dist aarch64        one static program for AArch64 Linux: target/dist/lowtide-aarch64
  fuzz --build        build the fuzz targets";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match dispatch(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(words: &[&str]) -> Result<()> {
    match words {
        [] | ["help" | "--help" | "-h"] => {
            println!("{HELP}");
            Ok(())
        }
        ["test" | "ci"] => test::all(),
        ["tidy"] => tidy::all(),
        ["bench", flags @ ..] => bench(flags),
        ["model", "smollm2"] => model::smollm2(),
        ["data", "rust-errors"] => data::rust_errors(),
        ["aarch64"] => aarch64::all(),
        ["dist", "aarch64"] => dist::aarch64(),
        ["fuzz", "--build"] => test::build_fuzz_targets(),
        other => bail!("unknown command `{}`\n\n{HELP}", other.join(" ")),
    }
}

/// `lowtide bench` as a release build, with its flags passed on.
fn bench(flags: &[&str]) -> Result<()> {
    let words = ["run", "--quiet", "--release", "--package", "lowtide", "--", "bench"];
    run::check(run::cargo().args(words).args(flags))
}
