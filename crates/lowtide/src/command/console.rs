//! Standard output: text, a live line, or JSON, in one place.

use std::io::{self, ErrorKind, IsTerminal, Write};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::args::Voice;

/// Where results go. Text is for people, JSON for programs; a run says one or the other.
///
/// A failed write ends neither a run nor its records on disk: it is kept and told at the end.
pub(crate) struct Console {
    out: Box<dyn Write + Send>,
    form: Form,
    coloured: bool,
    live: Live,
    failed: Option<io::Error>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Text,
    Json,
    Nothing,
}

enum Live {
    /// Updates are told in lines.
    Never,
    /// A terminal, and nothing to show on the line.
    Waiting,
    /// The line is there.
    Drawn(ProgressBar),
}

impl Console {
    /// Standard output, spoken to as the flags ask for.
    pub(crate) fn new(voice: Voice) -> Self {
        let terminal = io::stdout().is_terminal();
        // Traces on the same screen would tear the line apart.
        let live = if terminal && !voice.verbose { Live::Waiting } else { Live::Never };
        let coloured = terminal && colours_wanted();
        Self { coloured, live, ..Self::on(Box::new(io::stdout()), voice) }
    }

    fn on(out: Box<dyn Write + Send>, voice: Voice) -> Self {
        let form = match voice {
            Voice { json: true, .. } => Form::Json,
            Voice { quiet: true, .. } => Form::Nothing,
            _ => Form::Text,
        };
        Self { out, form, coloured: false, live: Live::Never, failed: None }
    }

    /// Whether escape sequences are understood and wanted.
    pub(crate) fn coloured(&self) -> bool {
        self.coloured
    }

    /// Whether updates go to a live line instead of lines of their own.
    pub(crate) fn live(&self) -> bool {
        self.form == Form::Text && !matches!(self.live, Live::Never)
    }

    /// Writes text, above the live line where there is one.
    pub(crate) fn text(&mut self, text: &str) {
        if self.form == Form::Text {
            match &self.live {
                Live::Drawn(bar) => bar.clone().suspend(|| self.write(text.as_bytes())),
                _ => self.write(text.as_bytes()),
            }
        }
    }

    /// Writes what was asked for itself: text that a program does not read, and that is wanted when
    /// nothing else is.
    pub(crate) fn speech(&mut self, piece: &str) {
        if self.form != Form::Json && !piece.is_empty() {
            self.write(piece.as_bytes());
        }
    }

    /// Writes a value on one line, when JSON was asked for.
    pub(crate) fn json(&mut self, value: &impl Serialize) {
        if self.form == Form::Json {
            let mut line = serde_json::to_vec(value).expect("reports are plain values");
            line.push(b'\n');
            self.write(&line);
        }
    }

    /// Moves the live line to `at` of `of`, with words before and behind its bar.
    pub(crate) fn advance(&mut self, at: u64, of: u64, before: String, behind: String) {
        if !self.live() {
            return;
        }
        match &self.live {
            Live::Drawn(bar) if bar.length() == Some(of) => {
                bar.set_prefix(before);
                bar.set_message(behind);
                bar.set_position(at);
                return;
            }
            _ => self.settle(),
        }
        let bar = ProgressBar::with_draw_target(Some(of), ProgressDrawTarget::stdout());
        let style = ProgressStyle::with_template("{prefix} {bar:16} {wide_msg}");
        let bar = bar.with_style(style.expect("the template is well formed"));
        let bar = bar.with_prefix(before).with_message(behind).with_position(at);
        bar.tick();
        self.live = Live::Drawn(bar);
    }

    /// Takes the live line away.
    pub(crate) fn settle(&mut self) {
        if let Live::Drawn(bar) = &self.live {
            bar.finish_and_clear();
            self.live = Live::Waiting;
        }
    }

    /// Ends the output. A reader that has gone away took what it wanted; that is no error.
    ///
    /// # Errors
    /// The first failed write.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.settle();
        match self.failed {
            Some(error) if error.kind() != ErrorKind::BrokenPipe => Err(error),
            _ => Ok(()),
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        if self.failed.is_none() {
            let written = self.out.write_all(bytes).and_then(|()| self.out.flush());
            self.failed = written.err();
        }
    }
}

/// `NO_COLOR`, set to anything, and a terminal that calls itself dumb ask for plain text.
#[allow(clippy::disallowed_methods, reason = "variables choose colours here, and no number")]
fn colours_wanted() -> bool {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !no_color && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// What was written, up to a limit after which writing fails.
    #[derive(Clone)]
    struct Paper(Arc<Mutex<Vec<u8>>>, usize, ErrorKind);

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut paper = self.0.lock().unwrap();
            if paper.len() + bytes.len() > self.1 {
                return Err(self.2.into());
            }
            paper.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn said(voice: Voice, limit: usize, kind: ErrorKind) -> (String, io::Result<()>) {
        let paper = Paper(Arc::default(), limit, kind);
        let mut console = Console::on(Box::new(paper.clone()), voice);
        console.text("one\n");
        console.json(&[1, 2]);
        console.speech("");
        console.advance(1, 2, "step 1/2".into(), "message".into());
        console.text("two\n");
        let done = console.finish();
        let text = String::from_utf8(paper.0.lock().unwrap().clone()).unwrap();
        (text, done)
    }

    #[test]
    fn each_form_says_its_own() {
        let form = |json, quiet| said(Voice { json, quiet, verbose: false }, 99, ErrorKind::Other);
        assert_eq!(form(false, false).0, "one\ntwo\n");
        assert_eq!(form(true, false).0, "[1,2]\n");
        assert_eq!(form(false, true).0, "");
        assert_eq!(form(true, true).0, "[1,2]\n");
    }

    #[test]
    fn a_failed_write_is_told_at_the_end_unless_nobody_reads() {
        let (text, done) = said(Voice::default(), 4, ErrorKind::StorageFull);
        assert_eq!((text.as_str(), done.unwrap_err().kind()), ("one\n", ErrorKind::StorageFull));
        let (text, done) = said(Voice::default(), 4, ErrorKind::BrokenPipe);
        assert_eq!(text, "one\n");
        assert!(done.is_ok());
    }
}
