//! The first updates as a Chrome trace, which `chrome://tracing` and ui.perfetto.dev show: complete
//! events, times in microseconds, all on one thread.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use lowtide_formats::atomic;
use lowtide_tape::Stage;

use crate::place::{folder_of, nearest};

/// Updates that are traced: the first, which reads the base from storage, and some like all others.
const UPDATES_MAX: u64 = 5;

/// Stages that are traced at most, about 20 MB of them; updates of very many micro-batches have
/// more.
const STAGES_MAX: u64 = 200_000;

const HEAD: &str = "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n{\"name\":\"process_name\",\
                    \"ph\":\"M\",\"pid\":1,\"tid\":1,\"args\":{\"name\":\"lowtide\"}}";
const TAIL: &str = "\n]}\n";

/// A trace under way. Events wait in a file without a name, so that nothing grows in memory.
pub(super) struct Trace {
    path: PathBuf,
    events: BufWriter<File>,
    origin: Instant,
    updates: u64,
    stages: u64,
    failed: Option<io::Error>,
}

impl Trace {
    /// For a file at `path`, in whose folder, or in the one that this is made in, there must be
    /// room for the events.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let events = BufWriter::new(tempfile::tempfile_in(nearest(folder_of(path)))?);
        let origin = Instant::now();
        Ok(Self { path: path.to_owned(), events, origin, updates: 0, stages: 0, failed: None })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether another update is to be traced.
    pub(super) fn has_room(&self) -> bool {
        self.updates < UPDATES_MAX && self.stages < STAGES_MAX && self.failed.is_none()
    }

    /// A stage is over.
    pub(super) fn stage(&mut self, stage: Stage, began: Instant, ended: Instant) {
        if self.stages >= STAGES_MAX {
            return;
        }
        self.stages += 1;
        let (kind, block) = match stage {
            Stage::Forward(block) => ("forward", Some(block)),
            Stage::Again(block) => ("again", Some(block)),
            Stage::Head => ("head", None),
            Stage::Backward(block) => ("backward", Some(block)),
            Stage::Update(block) => ("update", Some(block)),
        };
        match block {
            Some(block) => self.event(kind, "block", began, ended, format_args!("{block}")),
            None => self.event(kind, "block", began, ended, format_args!("null")),
        }
    }

    /// An update is over; its stages lie inside it.
    pub(super) fn update(&mut self, step: u64, began: Instant, ended: Instant) {
        self.updates += 1;
        self.event("step", "step", began, ended, format_args!("{step}"));
    }

    fn event(
        &mut self,
        name: &str,
        argument: &str,
        began: Instant,
        ended: Instant,
        value: std::fmt::Arguments<'_>,
    ) {
        let micros = |from: Instant, to: Instant| to.duration_since(from).as_nanos() as f64 / 1e3;
        let (ts, dur) = (micros(self.origin, began), micros(began, ended));
        let written = write!(
            self.events,
            ",\n{{\"name\":\"{name}\",\"cat\":\"{name}\",\"ph\":\"X\",\"ts\":{ts:.3},\
             \"dur\":{dur:.3},\"pid\":1,\"tid\":1,\"args\":{{\"{argument}\":{value}}}}}"
        );
        if let Err(error) = written {
            self.failed.get_or_insert(error);
        }
    }

    /// Writes the file whole, in a folder that is made if need be, or leaves what was there.
    pub(super) fn write(self) -> io::Result<()> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let mut events = self.events.into_inner().map_err(io::IntoInnerError::into_error)?;
        events.seek(SeekFrom::Start(0))?;
        let mut block = [0; 4096];
        fs::create_dir_all(folder_of(&self.path))?;
        atomic::write_file(&self.path, |out| {
            out.write_all(HEAD.as_bytes())?;
            loop {
                match events.read(&mut block)? {
                    0 => return out.write_all(TAIL.as_bytes()),
                    n => out.write_all(&block[..n])?,
                }
            }
        })
        .map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::Value;

    use super::*;

    #[test]
    fn a_trace_is_json_with_microseconds() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trace.json");
        let mut trace = Trace::open(&path).unwrap();
        let at = |micros: u64| Duration::from_nanos(1000 * micros + 500);
        let origin = trace.origin;
        trace.stage(Stage::Forward(3), origin + at(10), origin + at(30));
        trace.stage(Stage::Head, origin + at(30), origin + at(70));
        trace.update(1, origin + at(5), origin + at(80));
        assert!(!path.exists());
        trace.write().unwrap();
        let trace: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let events = trace["traceEvents"].as_array().unwrap();
        assert_eq!(events[0]["ph"], "M");
        let told: Vec<_> = events[1..]
            .iter()
            .map(|event| {
                assert_eq!((&event["ph"], &event["cat"]), (&"X".into(), &event["name"]));
                let number = |key: &str| event[key].as_f64().unwrap();
                (event["name"].as_str().unwrap(), number("ts"), number("dur"))
            })
            .collect();
        assert_eq!(told, [("forward", 10.5, 20.0), ("head", 30.5, 40.0), ("step", 5.5, 75.0)]);
        assert_eq!(events[1]["args"]["block"], 3);
        assert_eq!(
            (&events[2]["args"]["block"], &events[3]["args"]["step"]),
            (&Value::Null, &1.into())
        );
    }

    #[test]
    fn a_trace_ends_after_the_first_updates_and_stages() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trace.json");
        let mut trace = Trace::open(&path).unwrap();
        let now = trace.origin;
        for step in 1..=UPDATES_MAX {
            assert!(trace.has_room());
            trace.update(step, now, now);
        }
        assert!(!trace.has_room());
        let mut trace = Trace::open(&path).unwrap();
        (0..=STAGES_MAX).for_each(|_| trace.stage(Stage::Head, now, now));
        assert!(!trace.has_room());
        trace.write().unwrap();
        let lines = fs::read_to_string(&path).unwrap().lines().count() as u64;
        assert_eq!(lines, 2 + STAGES_MAX + 1);
        let path = folder.path().join("new/deep/trace.json");
        let trace = Trace::open(&path).unwrap();
        assert!(!folder.path().join("new").exists(), "nothing is made before there is a trace");
        trace.write().unwrap();
        assert!(path.is_file());
        assert!(Trace::open(&path.join("trace.json")).is_err());
    }
}
