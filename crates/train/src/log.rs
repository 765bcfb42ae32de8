//! What a run remembers of its updates. Nothing here grows with their number: lines wait in
//! temporary files, and times are thinned out.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use lowtide_formats::atomic;
use serde::{Deserialize, Serialize};

use crate::metrics::file;
use crate::thin::Thinned;
use crate::{TrainError, place};

/// Most times that are kept for their median.
const TIMES_MAX: usize = 4096;

/// The longest line of a file that is read again; those written are a tenth of it.
const LINE_BYTES_MAX: u64 = 4096;

/// The course of a run so far.
#[derive(Debug)]
pub(crate) struct Log {
    /// The lines of `metrics.jsonl`.
    pub(crate) updates: Lines,
    /// The lines of `evaluations.jsonl`.
    pub(crate) evaluations: Lines,
    /// Seconds of evenly spaced updates.
    times: Thinned<f32>,
    seconds: f64,
}

impl Log {
    /// An empty log, with temporary files in `scratch`.
    ///
    /// # Errors
    /// [`TrainError::Scratch`] when the system has no room for a temporary file.
    pub(crate) fn new(scratch: &Path) -> Result<Self, TrainError> {
        let times = Thinned::new(TIMES_MAX);
        let (updates, evaluations) = (Lines::new(scratch)?, Lines::new(scratch)?);
        Ok(Self { updates, evaluations, times, seconds: 0.0 })
    }

    /// The log of a run that goes on after `step` updates, which took so many seconds, from the
    /// files that it left in `folder`; what they lack is lacking. Of evaluations those up to the
    /// one after `last` updates count, and `evaluated` hears of each: how many updates were made
    /// before it, and its loss.
    ///
    /// # Errors
    /// When a file cannot be read, or there is no room for a temporary one.
    pub(crate) fn of_run(
        scratch: &Path,
        folder: &Path,
        (step, last): (u64, u64),
        seconds: f64,
        evaluated: &mut dyn FnMut(u64, f64),
    ) -> Result<Self, TrainError> {
        let mut log = Self { seconds, ..Self::new(scratch)? };
        let times = &mut log.times;
        log.updates.take_over(&file(folder, UPDATES), step, &mut |line| {
            line.seconds.into_iter().for_each(|seconds| times.push(seconds));
        })?;
        log.evaluations.take_over(&file(folder, EVALUATIONS), last, &mut |line| {
            line.loss.into_iter().for_each(|loss| evaluated(line.step, loss));
        })?;
        Ok(log)
    }

    /// Remembers how long an update took.
    pub(crate) fn time(&mut self, seconds: f64) {
        self.seconds += seconds;
        self.times.push(seconds as f32);
    }

    /// Writes the files of an output folder anew.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub(crate) fn publish(&self, output: &Path) -> Result<(), TrainError> {
        atomic::write_file(&file(output, UPDATES), |out| self.updates.copy_to(out))?;
        let path = file(output, EVALUATIONS);
        if self.evaluations.is_empty() {
            // Those of an earlier run would be taken for this one's.
            return match std::fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    Err(TrainError::Output { path, source })
                }
                _ => Ok(()),
            };
        }
        Ok(atomic::write_file(&path, |out| self.evaluations.copy_to(out))?)
    }

    /// Seconds of all updates.
    pub(crate) fn seconds(&self) -> f64 {
        self.seconds
    }

    /// Median time of an update: of all of them up to a few thousand, of evenly spaced ones beyond.
    pub(crate) fn median(&self) -> Option<f64> {
        let mut times = self.times.items().to_vec();
        times.sort_by(f32::total_cmp);
        times.get(times.len() / 2).map(|seconds| f64::from(*seconds))
    }
}

/// One line a reported update.
pub(crate) const UPDATES: &str = "metrics.jsonl";

/// One line an evaluation.
pub(crate) const EVALUATIONS: &str = "evaluations.jsonl";

/// What lines that are read again have to say.
#[derive(Deserialize)]
struct Line {
    step: u64,
    #[serde(default)]
    seconds: Option<f32>,
    #[serde(default)]
    loss: Option<f64>,
}

/// JSON objects, one a line, in a file without a name until they are saved.
#[derive(Debug)]
pub(crate) struct Lines {
    file: File,
    /// The folder it lies in.
    folder: PathBuf,
    /// The line being written.
    line: Vec<u8>,
    bytes: u64,
}

impl Lines {
    fn new(folder: &Path) -> Result<Self, TrainError> {
        let file = tempfile::tempfile_in(folder).map_err(|error| temporary(folder, &error))?;
        let (folder, line) = (folder.to_owned(), Vec::with_capacity(512));
        Ok(Self { file, folder, line, bytes: 0 })
    }

    fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Appends a line.
    ///
    /// # Errors
    /// Those of the temporary file.
    pub(crate) fn write(&mut self, line: &impl Serialize) -> Result<(), TrainError> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, line)
            .map_err(io::Error::from)
            .and_then(|()| self.line.write_all(b"\n"))
            .and_then(|()| self.file.write_all(&self.line))
            .map_err(|error| temporary(&self.folder, &error))?;
        self.bytes += self.line.len() as u64;
        Ok(())
    }

    /// Copies all lines so far.
    ///
    /// # Errors
    /// Those of the temporary file and of `out`.
    fn copy_to(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut lines = &self.file;
        lines.seek(SeekFrom::Start(0))?;
        let mut block = [0; 4096];
        loop {
            // At the end, where the file's position belongs.
            match lines.read(&mut block)? {
                0 => return Ok(()),
                n => out.write_all(&block[..n])?,
            }
        }
    }

    /// All lines so far, to be read again.
    ///
    /// # Errors
    /// Those of the temporary file.
    pub(crate) fn read(&self) -> Result<impl BufRead, TrainError> {
        let mut lines = &self.file;
        let refuse = |error| temporary(&self.folder, &error);
        lines.seek(SeekFrom::Start(0)).map_err(refuse)?;
        Ok(BufReader::new(lines))
    }

    /// Takes over the lines of the file at `path` about the first `step` updates, telling each.
    /// Those behind are of updates that will be made again; a file that is not there has none.
    fn take_over(
        &mut self,
        path: &Path,
        step: u64,
        tell: &mut dyn FnMut(Line),
    ) -> Result<(), TrainError> {
        let refuse = |source| TrainError::Output { path: path.to_owned(), source };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(refuse(error)),
        };
        let mut lines = BufReader::new(file);
        loop {
            self.line.clear();
            let mut line = lines.by_ref().take(LINE_BYTES_MAX);
            if line.read_until(b'\n', &mut self.line).map_err(refuse)? == 0 {
                return Ok(());
            }
            // What is not one of our lines is somebody else's, and not part of this run.
            match serde_json::from_slice::<Line>(&self.line) {
                Ok(line) if line.step <= step && self.line.ends_with(b"\n") => {
                    let refuse = |error| temporary(&self.folder, &error);
                    self.file.write_all(&self.line).map_err(refuse)?;
                    self.bytes += self.line.len() as u64;
                    tell(line);
                }
                _ => {}
            }
        }
    }
}

fn temporary(folder: &Path, error: &io::Error) -> TrainError {
    place::refused(folder, "the log of updates", error)
}

#[cfg(test)]
mod tests {
    use super::Log;
    use crate::StepReport;

    fn report(step: u64) -> StepReport {
        StepReport {
            step,
            steps: 9,
            loss: 0.5,
            lr: 1e-3,
            grad_norm: None,
            tokens: 3,
            seconds: 0.1,
            held_bytes: 1,
            pairs: None,
            gradient: "backprop",
            report: true,
        }
    }

    #[test]
    fn the_median_stays_exact_enough_in_little_memory() {
        let mut log = Log::new(&std::env::temp_dir()).unwrap();
        for i in 0..20_000 {
            log.time(f64::from(i % 1000));
        }
        assert!((log.seconds() - 20.0 * 499_500.0).abs() < 1e-3);
        let median = log.median().unwrap();
        assert!((median - 500.0).abs() <= 8.0, "{median}");

        let mut log = Log::new(&std::env::temp_dir()).unwrap();
        [3.0, 1.0, 2.0].into_iter().for_each(|seconds| log.time(seconds));
        assert_eq!(log.median(), Some(2.0));
        assert_eq!(Log::new(&std::env::temp_dir()).unwrap().median(), None);
    }

    #[test]
    fn lines_are_copied_whole_and_go_on_behind() {
        let mut log = Log::new(&std::env::temp_dir()).unwrap();
        let text = |log: &Log| {
            let mut out = Vec::new();
            log.updates.copy_to(&mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(text(&log), "");
        (1..=100).for_each(|step| log.updates.write(&report(step)).unwrap());
        assert_eq!(text(&log).lines().count(), 100);
        log.updates.write(&report(101)).unwrap();
        let lines = text(&log);
        let steps = lines.lines().map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["step"].as_u64().unwrap()
        });
        assert!(steps.eq(1..=101), "{lines}");
    }
    #[test]
    fn a_run_that_goes_on_has_the_lines_up_to_there() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::new(&std::env::temp_dir()).unwrap();
        (1..=9).for_each(|step| log.updates.write(&report(step)).unwrap());
        for step in [0, 4, 9] {
            let loss = step as f64 / 2.0;
            log.evaluations.write(&serde_json::json!({ "step": step, "loss": loss })).unwrap();
        }
        log.publish(dir.path()).unwrap();
        let text = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        let (updates, evaluations) = (text("metrics.jsonl"), text("evaluations.jsonl"));
        // Half a line, as a system that lost power may leave it, and somebody else's.
        let path = dir.path().join("metrics.jsonl");
        std::fs::write(&path, format!("{{}}\n{updates}{{\"step\":1")).unwrap();
        for (step, rest, held_out) in
            [(6, 6, vec![(0, 0.0), (4, 2.0)]), (9, 9, vec![(0, 0.0), (4, 2.0)])]
        {
            let mut heard = Vec::new();
            let mut tell = |step, loss| heard.push((step, loss));
            let again =
                Log::of_run(&std::env::temp_dir(), dir.path(), (step, step - 1), 3.5, &mut tell)
                    .unwrap();
            assert_eq!(
                (heard, again.seconds(), again.median()),
                (held_out, 3.5, Some(f64::from(0.1_f32)))
            );
            let mut out = Vec::new();
            again.updates.copy_to(&mut out).unwrap();
            let lines: Vec<&str> = updates.lines().take(rest).collect();
            assert_eq!(String::from_utf8(out).unwrap(), lines.join("\n") + "\n");
            let mut out = Vec::new();
            again.evaluations.copy_to(&mut out).unwrap();
            assert!(evaluations.starts_with(&String::from_utf8(out).unwrap()));
        }
        let nothing = Log::of_run(
            &std::env::temp_dir(),
            &dir.path().join("none"),
            (9, 9),
            0.0,
            &mut |_, _| (),
        )
        .unwrap();
        assert!(nothing.updates.is_empty());
    }
}
