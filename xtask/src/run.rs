//! Running other programs, and telling steps apart in the output.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// The root of this checkout.
pub(crate) fn root() -> PathBuf {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_dir.parent().expect("xtask lies in the root of the checkout").to_path_buf()
}

/// The cargo that runs this program, in the root of the checkout.
#[allow(clippy::disallowed_methods, reason = "cargo says in a variable which cargo it is")]
pub(crate) fn cargo() -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.current_dir(root());
    command
}

/// Runs to the end with the output going where ours goes; fails on a non-zero status.
pub(crate) fn check(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start `{}`", words(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", words(command));
    }
    Ok(())
}

/// Runs to the end and returns what was written to stdout; fails on a non-zero status.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot start `{}`", words(command)))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` failed: {}\n{}", words(command), output.status, stderr.trim());
    }
    String::from_utf8(output.stdout)
        .with_context(|| format!("`{}` wrote something that is not UTF-8", words(command)))
}

/// Runs to the end or for at most `limit`, then ends it; `false` when it failed in any way.
pub(crate) fn succeeds_within(command: &mut Command, limit: Duration) -> bool {
    check_within(command, limit).is_ok()
}

/// Like [`check`], but ends what runs for longer than `limit`, which is a failure too.
pub(crate) fn check_within(command: &mut Command, limit: Duration) -> Result<()> {
    let mut child =
        command.spawn().with_context(|| format!("cannot start `{}`", words(command)))?;
    let start = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => bail!("`{}` failed: {status}", words(command)),
            Ok(None) if start.elapsed() < limit => {
                std::thread::sleep(Duration::from_millis(50));
            }
            Ok(None) | Err(_) => {
                // Nothing is left to do for a child that can neither be waited for nor ended.
                let _ = child.kill();
                let _ = child.wait();
                bail!("`{}` was ended after {} s", words(command), limit.as_secs());
            }
        }
    }
}

/// The steps of one run with the time each took.
#[derive(Default)]
pub(crate) struct Steps {
    done: Vec<(&'static str, Duration)>,
}

impl Steps {
    /// Runs one step between a line with its name and a line with its time.
    pub(crate) fn step(
        &mut self,
        name: &'static str,
        work: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        println!("\n==> {name}");
        let start = Instant::now();
        let result = work();
        let took = start.elapsed();
        let outcome = if result.is_ok() { "ok" } else { "FAILED" };
        println!("<== {name}: {outcome} after {:.1} s", took.as_secs_f64());
        self.done.push((name, took));
        result.with_context(|| format!("step `{name}`"))
    }

    /// Prints the table of all steps.
    pub(crate) fn summary(&self) {
        println!("\nall steps passed:");
        for (name, took) in &self.done {
            println!("  {:>7.1} s  {name}", took.as_secs_f64());
        }
        let total: Duration = self.done.iter().map(|(_, took)| *took).sum();
        println!("  {:>7.1} s  in all", total.as_secs_f64());
    }
}

fn words(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str());
    let arguments = command.get_args().map(|word| word.to_string_lossy().into_owned());
    let mut all = vec![name.to_string_lossy().into_owned()];
    all.extend(arguments);
    all.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_returned_and_failure_is_described() {
        assert_eq!(output(Command::new("echo").arg("one")).unwrap(), "one\n");
        let error = check(Command::new("false").arg("x")).unwrap_err().to_string();
        assert!(error.starts_with("`false x` failed: "), "{error}");
        let error = check(&mut Command::new("no-such-program")).unwrap_err().to_string();
        assert_eq!(error, "cannot start `no-such-program`");
    }

    #[test]
    fn a_slow_program_is_ended() {
        let start = Instant::now();
        assert!(!succeeds_within(Command::new("sleep").arg("60"), Duration::from_millis(100)));
        assert!(start.elapsed() < Duration::from_secs(30));
        assert!(succeeds_within(&mut Command::new("true"), Duration::from_secs(30)));
        assert!(!succeeds_within(&mut Command::new("false"), Duration::from_secs(30)));
    }

    #[test]
    fn a_failed_step_is_named() {
        let mut steps = Steps::default();
        steps.step("first", || Ok(())).unwrap();
        let error = steps.step("second", || bail!("no")).unwrap_err();
        assert_eq!(format!("{error:#}"), "step `second`: no");
        assert_eq!(steps.done.len(), 2);
    }
}
