//! A place for commands to run in, and what they leave behind.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use lowtide_testkit::text::{BYTE_VOCAB, byte_tokenizer_files};
use lowtide_testkit::tiny::{TinyLlama, tiny_llama_folder};
use serde_json::Value;
use tempfile::TempDir;

/// A folder with a tiny model in `model` and examples in `data.jsonl`, in which commands run.
pub(crate) struct Place(TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        tiny_llama_folder(&place.path("model"), &TinyLlama::default());
        place.examples("data.jsonl", 12);
        place
    }

    pub(crate) fn root(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A tiny model that can read and write text, and hold a conversation if `chat` says so.
    pub(crate) fn speaker(&self, name: &str, chat: bool) {
        let model = TinyLlama { vocab: BYTE_VOCAB, ..TinyLlama::default() };
        tiny_llama_folder(&self.path(name), &model);
        byte_tokenizer_files(&self.path(name), chat);
    }

    /// Runs `lowtide` with these words and this standard input.
    pub(crate) fn hearing(&self, words: &[&str], input: &str) -> Ran {
        let mut run = Command::new(env!("CARGO_BIN_EXE_lowtide"))
            .args(words)
            .current_dir(self.0.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A command that refuses its flags does not wait for its input.
        let _ = run.stdin.take().unwrap().write_all(input.as_bytes());
        Ran::of(run.wait_with_output().unwrap())
    }

    /// Writes examples of different lengths, the first half of each without loss.
    pub(crate) fn examples(&self, name: &str, count: usize) {
        let lines: String = (0..count)
            .map(|line| {
                let ids: Vec<i64> =
                    (0..8 + line % 5).map(|t| (line * 31 + t * 7) as i64 % 256).collect();
                let half = ids.len() / 2;
                let labels: Vec<_> = ids
                    .iter()
                    .enumerate()
                    .map(|(t, &id)| if t < half { -100 } else { id })
                    .collect();
                format!("{}\n", serde_json::json!({ "input_ids": ids, "labels": labels }))
            })
            .collect();
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, lines).unwrap();
    }

    /// Runs `lowtide` with the words of `line`.
    pub(crate) fn lowtide(&self, line: &str) -> Ran {
        self.lowtide_in("", line)
    }

    /// Runs `lowtide` in a folder in it.
    pub(crate) fn lowtide_in(&self, folder: &str, line: &str) -> Ran {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lowtide"));
        let command = command.args(line.split_whitespace()).current_dir(self.path(folder));
        Ran::of(command.stdin(Stdio::null()).output().unwrap())
    }

    /// `line` on the tiny model and its examples.
    pub(crate) fn on_model(&self, line: &str) -> Ran {
        let (command, flags) = line.split_once(' ').unwrap_or((line, ""));
        self.lowtide(&format!("{command} --model model --data data.jsonl --threads 2 {flags}"))
    }

    pub(crate) fn json(&self, name: &str) -> Value {
        serde_json::from_str(&fs::read_to_string(self.path(name)).unwrap()).unwrap()
    }
}

/// What a command left behind.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        let Output { status, stdout, stderr } = output;
        Self {
            code: status.code(),
            out: String::from_utf8(stdout).unwrap(),
            err: String::from_utf8(stderr).unwrap(),
        }
    }

    /// The output of a command that did its job without a complaint.
    #[track_caller]
    pub(crate) fn done(self) -> String {
        assert_eq!((self.code, self.err.as_str()), (Some(0), ""), "{}", self.out);
        self.out
    }

    /// The complaint of a command that ended with `code`.
    #[track_caller]
    pub(crate) fn failed(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert!(self.err.starts_with("error: "), "{}", self.err);
        assert!(!self.err.contains("panicked"), "{}", self.err);
        self.err
    }
}

/// Every file under `folder` with its bytes.
pub(crate) fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), fs::read(&path).unwrap_or_default()))
        .collect();
    found.sort();
    found
}
