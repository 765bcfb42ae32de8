//! A run on TensorBoard: the scalars of its updates and evaluations, under the tags that Hugging
//! Face's trainer gives them.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use lowtide_formats::tensorboard::EventWriter;

use crate::{Evaluation, StepReport};

/// An event file, written as the run goes on, so that TensorBoard can show it meanwhile.
pub(crate) struct Board {
    folder: PathBuf,
    state: State,
}

enum State {
    /// Nothing was told yet, and there is no file.
    New,
    Open(EventWriter<File>),
    /// Nothing of the run hangs on it: what cannot be written is left out.
    Failed,
}

impl Board {
    /// In a folder that is made with the first event.
    pub(crate) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), state: State::New }
    }

    /// Tells an update, the passes over the data after it, and the process's anonymous memory.
    pub(crate) fn update(&mut self, update: &StepReport, epoch: f64, anonymous: Option<u64>) {
        let speed = (update.seconds > 0.0).then(|| update.tokens as f64 / update.seconds);
        let scalars = [
            ("train/loss", Some(update.loss)),
            ("train/learning_rate", Some(update.lr)),
            ("train/grad_norm", update.grad_norm),
            ("train/epoch", Some(epoch)),
            ("train/tokens_per_second", speed),
            ("memory/held_bytes", Some(update.held_bytes as f64)),
            ("memory/rss_anon_peak_bytes", anonymous.map(|bytes| bytes as f64)),
        ];
        self.tell(update.step, &scalars);
    }

    /// Tells an evaluation after so many updates.
    pub(crate) fn evaluation(&mut self, step: u64, result: &Evaluation) {
        let Evaluation { loss, perplexity, accuracy, .. } = *result;
        let scalars = [
            ("eval/loss", Some(loss)),
            ("eval/perplexity", Some(perplexity)),
            ("eval/accuracy", Some(accuracy)),
        ];
        self.tell(step, &scalars);
    }

    fn tell(&mut self, step: u64, scalars: &[(&str, Option<f64>)]) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        if let State::New = self.state {
            self.state = match open(&self.folder, now.as_secs())
                .and_then(|file| EventWriter::new(file, now.as_secs_f64()))
            {
                Ok(writer) => State::Open(writer),
                Err(error) => self.failed(&error),
            };
        }
        let State::Open(writer) = &mut self.state else { return };
        let known = scalars.iter().filter_map(|(tag, scalar)| Some((*tag, (*scalar)?)));
        if let Err(error) = writer.scalars(now.as_secs_f64(), step, known) {
            self.state = self.failed(&error);
        }
    }

    fn failed(&self, error: &io::Error) -> State {
        let folder = self.folder.display();
        tracing::warn!(%error, %folder, "no more events for TensorBoard are written");
        State::Failed
    }
}

/// A new event file; its name tells TensorBoard what it is, and which of several is the newest.
fn open(folder: &Path, seconds: u64) -> io::Result<File> {
    fs::create_dir_all(folder)?;
    let process = std::process::id();
    for number in 0.. {
        let name = format!("events.out.tfevents.{seconds:010}.lowtide.{process}.{number}");
        match File::create_new(folder.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => return other,
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step() -> StepReport {
        StepReport {
            step: 3,
            steps: 9,
            loss: 0.5,
            lr: 1e-3,
            grad_norm: None,
            tokens: 3,
            seconds: 0.0,
            held_bytes: 1,
            pairs: None,
            gradient: "backprop",
            report: true,
        }
    }

    #[test]
    fn a_file_comes_with_the_first_event_and_has_what_is_known() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("runs/one");
        let mut board = Board::new(&folder);
        assert!(!folder.exists());
        board.update(&step(), 0.25, None);
        let mut another = Board::new(&folder);
        another.update(&step(), 0.25, Some(7));
        let files: Vec<_> = fs::read_dir(&folder).unwrap().map(Result::unwrap).collect();
        let mut with_memory = 0;
        for file in &files {
            let name = file.file_name().into_string().unwrap();
            assert!(name.starts_with("events.out.tfevents."), "{name}");
            let bytes = fs::read(file.path()).unwrap();
            let has = |tag: &str| bytes.windows(tag.len()).any(|at| at == tag.as_bytes());
            assert!(has("brain.Event:2") && has("train/loss") && has("train/epoch"));
            // Neither was measured.
            assert!(!has("train/grad_norm") && !has("train/tokens_per_second"));
            with_memory += usize::from(has("memory/rss_anon_peak_bytes"));
        }
        assert_eq!((files.len(), with_memory), (2, 1));
    }

    #[test]
    fn a_folder_that_cannot_be_made_ends_no_run() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("file");
        fs::write(&file, "").unwrap();
        let mut board = Board::new(&file.join("runs"));
        board.update(&step(), 0.25, None);
        board.update(&step(), 0.5, None);
        assert!(matches!(board.state, State::Failed));
    }
}
