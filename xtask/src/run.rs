//! Running other programs, and telling steps apart in the output.

use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};
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

/// Like [`check_within`], but what the program writes is shown only if it fails, in the error: so
/// several can run at once.
pub(crate) fn quietly_within(command: &mut Command, limit: Duration) -> Result<()> {
    // A file, because a pipe that nobody empties stops who writes to it.
    let mut written = tempfile::tempfile().context("cannot make a temporary file")?;
    command.stdout(written.try_clone()?).stderr(written.try_clone()?);
    let Err(error) = check_within(command, limit) else { return Ok(()) };
    let mut bytes = Vec::new();
    written.rewind()?;
    written.read_to_end(&mut bytes)?;
    Err(error.context(format!("it wrote\n{}", String::from_utf8_lossy(&bytes).trim_end())))
}

/// Something to do, and what it is called in the output.
pub(crate) struct Job<'a> {
    pub(crate) name: String,
    pub(crate) work: Box<dyn FnOnce() -> Result<()> + Send + 'a>,
}

/// Does all jobs, as many at once as there are cores, and begins them in order. After a failure
/// none is begun, and the first failure is returned.
pub(crate) fn side_by_side(jobs: Vec<Job<'_>>) -> Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let (jobs, failed) = (Mutex::new(jobs.into_iter()), OnceLock::new());
    let next = || failed.get().is_none().then(|| jobs.lock().ok()?.next()).flatten();
    let work = || {
        while let Some(Job { name, work }) = next() {
            let start = Instant::now();
            match work() {
                Ok(()) => println!("{name}: {:.0} s", start.elapsed().as_secs_f64()),
                // The first failure is returned; those of jobs that ran beside it are not.
                Err(error) => drop(failed.set(error.context(name))),
            }
        }
    };
    std::thread::scope(|scope| (0..cores).for_each(|_| drop(scope.spawn(work))));
    failed.into_inner().map_or(Ok(()), Err)
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
    fn a_quiet_program_is_heard_when_it_fails() {
        let limit = Duration::from_secs(30);
        let shell = |script: &str| {
            let mut command = Command::new("sh");
            quietly_within(command.args(["-c", script]), limit)
        };
        shell("echo unheard").unwrap();
        let error = format!("{:#}", shell("echo one; echo two >&2; exit 3").unwrap_err());
        assert!(error.starts_with("it wrote\none\ntwo: `sh "), "{error}");
    }

    #[test]
    fn jobs_are_done_until_one_fails() {
        let done = Mutex::new(Vec::new());
        let job = |number: usize| Job {
            name: format!("job {number}"),
            work: Box::new({
                let done = &done;
                move || {
                    done.lock().unwrap().push(number);
                    if number == 50 { bail!("no") } else { Ok(()) }
                }
            }),
        };
        side_by_side((0..50).map(job).collect()).unwrap();
        done.lock().unwrap().sort_unstable();
        assert_eq!(*done.lock().unwrap(), (0..50).collect::<Vec<_>>());
        let error = side_by_side((50..5000).map(job).collect()).unwrap_err();
        assert_eq!(format!("{error:#}"), "job 50: no");
        assert!(done.lock().unwrap().len() < 5000, "none is begun after a failure");
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
