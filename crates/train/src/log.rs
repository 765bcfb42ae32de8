//! What a run remembers of its updates. Nothing here grows with their number: lines of
//! `metrics.jsonl` wait in a temporary file, and times are thinned out.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};

use crate::thin::Thinned;
use crate::{StepReport, TrainError};

/// Most times that are kept for their median.
const TIMES_MAX: usize = 4096;

/// The course of a run so far.
#[derive(Debug)]
pub(crate) struct Log {
    /// The lines of `metrics.jsonl`, in a file without a name until they are saved.
    lines: File,
    /// The line being written.
    line: Vec<u8>,
    /// Seconds of evenly spaced updates.
    times: Thinned<f32>,
    seconds: f64,
}

impl Log {
    /// An empty log.
    ///
    /// # Errors
    /// [`TrainError::Output`] when the system has no room for a temporary file.
    pub(crate) fn new() -> Result<Self, TrainError> {
        let lines = tempfile::tempfile()
            .map_err(|source| TrainError::Output { path: std::env::temp_dir(), source })?;
        let (line, times) = (Vec::with_capacity(512), Thinned::new(TIMES_MAX));
        Ok(Self { lines, line, times, seconds: 0.0 })
    }

    /// Remembers how long an update took.
    pub(crate) fn time(&mut self, seconds: f64) {
        self.seconds += seconds;
        self.times.push(seconds as f32);
    }

    /// Appends a line.
    ///
    /// # Errors
    /// Those of the temporary file.
    pub(crate) fn write(&mut self, report: &StepReport) -> Result<(), TrainError> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, report)
            .map_err(io::Error::from)
            .and_then(|()| self.line.write_all(b"\n"))
            .and_then(|()| self.lines.write_all(&self.line))
            .map_err(|source| TrainError::Output { path: std::env::temp_dir(), source })
    }

    /// Copies all lines so far.
    ///
    /// # Errors
    /// Those of the temporary file and of `out`.
    pub(crate) fn copy_to(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut lines = &self.lines;
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
    pub(crate) fn lines(&self) -> Result<impl BufRead, TrainError> {
        let mut lines = &self.lines;
        lines
            .seek(SeekFrom::Start(0))
            .map_err(|source| TrainError::Output { path: std::env::temp_dir(), source })?;
        Ok(BufReader::new(lines))
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
        let mut log = Log::new().unwrap();
        for i in 0..20_000 {
            log.time(f64::from(i % 1000));
        }
        assert!((log.seconds() - 20.0 * 499_500.0).abs() < 1e-3);
        let median = log.median().unwrap();
        assert!((median - 500.0).abs() <= 8.0, "{median}");

        let mut log = Log::new().unwrap();
        [3.0, 1.0, 2.0].into_iter().for_each(|seconds| log.time(seconds));
        assert_eq!(log.median(), Some(2.0));
        assert_eq!(Log::new().unwrap().median(), None);
    }

    #[test]
    fn lines_are_copied_whole_and_go_on_behind() {
        let mut log = Log::new().unwrap();
        let text = |log: &Log| {
            let mut out = Vec::new();
            log.copy_to(&mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(text(&log), "");
        (1..=100).for_each(|step| log.write(&report(step)).unwrap());
        assert_eq!(text(&log).lines().count(), 100);
        log.write(&report(101)).unwrap();
        let lines = text(&log);
        let steps = lines.lines().map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["step"].as_u64().unwrap()
        });
        assert!(steps.eq(1..=101), "{lines}");
    }
}
