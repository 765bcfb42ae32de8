//! From data files to a [`Dataset`].

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::store::StoreWriter;
use super::text::Chunks;
use super::{Dataset, Entry, Stats};
use crate::encode::{Encoder, Example};
use crate::error::{DataError, IoAction, RecordError};
use crate::record::{Line, Lines, Record};
use crate::sample::NO_LOSS;
use crate::template::ChatTemplate;
use crate::tokenizer::Tokenizer;

/// The longest line that is read, in bytes.
pub(crate) const LINE_BYTES_MAX: usize = 64 << 20;

/// How records become examples.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatasetOptions {
    /// Longer examples are cut to this many tokens; plain text is cut into windows of it.
    pub max_seq_len: usize,
    /// Loss on responses only, where a record has prompt and response.
    pub mask_prompt: bool,
    /// End texts and completions that no template ended with the eos token.
    pub append_eos: bool,
    /// Refuse examples whose loss begins before there is a prompt.
    pub needs_prompt: bool,
    /// Number of ids the model knows; absent, the tokenizer's.
    pub vocab_size: Option<usize>,
    /// The folder for the temporary files; absent, the system's.
    pub temp_dir: Option<PathBuf>,
}

impl Default for DatasetOptions {
    /// 512 tokens, loss on responses only, eos appended.
    fn default() -> Self {
        Self {
            max_seq_len: 512,
            mask_prompt: true,
            append_eos: true,
            needs_prompt: false,
            vocab_size: None,
            temp_dir: None,
        }
    }
}

/// Reads data files, tokenizes them and collects a [`Dataset`].
#[derive(Debug)]
pub struct DatasetBuilder<'a> {
    encoder: Encoder<'a>,
    max_seq_len: usize,
    needs_prompt: bool,
    data: StoreWriter,
    index: StoreWriter,
    stats: Stats,
}

/// What a file holds, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Jsonl,
    Text,
}

impl Kind {
    pub(crate) fn of(path: &Path) -> Result<Self, DataError> {
        let extension = path.extension().and_then(|extension| extension.to_str());
        match extension.map(str::to_ascii_lowercase).as_deref() {
            Some("jsonl" | "ndjson") => Ok(Self::Jsonl),
            Some("txt" | "text") => Ok(Self::Text),
            _ => Err(DataError::UnknownFile { path: path.to_owned() }),
        }
    }
}

impl<'a> DatasetBuilder<'a> {
    /// An empty dataset. Already tokenized data needs no tokenizer; conversations need a template.
    ///
    /// # Errors
    /// When the temporary files cannot be made, or `max_seq_len` is below 2 or above 2³¹ − 1.
    pub fn new(
        options: &DatasetOptions,
        tokenizer: Option<&'a Tokenizer>,
        template: Option<&'a ChatTemplate>,
    ) -> Result<Self, DataError> {
        let (max_seq_len, most) = (options.max_seq_len, i32::MAX as usize);
        if !(2..=most).contains(&max_seq_len) {
            return Err(DataError::SequenceLimit { max_seq_len, most });
        }
        let folder = options.temp_dir.clone().unwrap_or_else(std::env::temp_dir);
        let encoder = Encoder {
            tokenizer,
            template,
            mask_prompt: options.mask_prompt,
            append_eos: options.append_eos,
            vocab_size: options.vocab_size,
        };
        let (data, index) = (StoreWriter::create(&folder)?, StoreWriter::create(&folder)?);
        let (needs_prompt, stats) = (options.needs_prompt, Stats::default());
        Ok(Self { encoder, max_seq_len, needs_prompt, data, index, stats })
    }

    /// Adds a file: `.jsonl`, or `.txt` as plain text.
    ///
    /// # Errors
    /// When it cannot be read, is of another kind, holds nothing, or holds a record that cannot be
    /// used.
    pub fn add_file(&mut self, path: &Path) -> Result<(), DataError> {
        let kind = Kind::of(path)?;
        let file = File::open(path).map_err(|error| DataError::io(path, IoAction::Open, &error))?;
        match kind {
            Kind::Jsonl => self.add_jsonl(path, BufReader::new(file)),
            Kind::Text => self.add_text(path, BufReader::new(file)),
        }
    }

    /// Adds records, one a line; `path` is their name in errors.
    ///
    /// # Errors
    /// When reading fails, there is no record, or one cannot be used.
    pub fn add_jsonl(&mut self, path: &Path, reader: impl BufRead) -> Result<(), DataError> {
        let mut lines = Lines::new(reader, LINE_BYTES_MAX);
        let mut records = 0_u64;
        loop {
            let line = lines.next_line().map_err(|e| DataError::io(path, IoAction::Read, &e))?;
            let record = match line {
                None => break,
                Some(Line::Bytes(bytes)) => Record::from_json_line(bytes),
                Some(Line::TooLong) => Err(RecordError::TooLong { limit: LINE_BYTES_MAX }),
            };
            let example = record.and_then(|record| self.encode(&record));
            let line = lines.number();
            let wrap = |error| DataError::Record { path: path.to_owned(), line, error };
            self.push(&example.map_err(wrap)?)?;
            records += 1;
        }
        if records == 0 { Err(DataError::Empty { path: path.to_owned() }) } else { Ok(()) }
    }

    /// Adds plain text, cut into windows of `max_seq_len` tokens that follow each other without
    /// overlap. Every token is labelled but the first of each window; nothing is put around the
    /// text. `path` is its name in errors.
    ///
    /// # Errors
    /// When reading fails, the text is not UTF-8, or too short to learn anything from.
    pub fn add_text(&mut self, path: &Path, reader: impl BufRead) -> Result<(), DataError> {
        let field = "text";
        let before = self.stats.examples;
        let space_first = self.encoder.tokenizer.is_some_and(Tokenizer::puts_space_first);
        let mut chunks = Chunks::new(reader, space_first);
        let mut window = Vec::with_capacity(self.max_seq_len.min(1 << 16));
        loop {
            let wrap = |line, error| DataError::Record { path: path.to_owned(), line, error };
            let line = chunks.line();
            let chunk = match chunks.next_chunk() {
                Err(error) => return Err(DataError::io(path, IoAction::Read, &error)),
                Ok(Err((line, error))) => return Err(wrap(line, error)),
                Ok(Ok(None)) => break,
                Ok(Ok(Some(chunk))) => chunk,
            };
            let tokenizer = self.encoder.tokenizer;
            let tokenizer = tokenizer.ok_or(RecordError::NeedsTokenizer { field });
            let ids = tokenizer.and_then(|tokenizer| {
                tokenizer.encode_ids(chunk).map_err(|error| RecordError::Tokenizer { field, error })
            });
            for id in ids.map_err(|error| wrap(line, error))? {
                window.push(id);
                if window.len() == self.max_seq_len {
                    self.push_window(path, line, &mut window)?;
                }
            }
        }
        if window.len() > 1 {
            self.push_window(path, chunks.line(), &mut window)?;
        }
        if self.stats.examples > before {
            Ok(())
        } else {
            Err(DataError::Empty { path: path.to_owned() })
        }
    }

    /// Adds one record that is already in memory.
    ///
    /// # Errors
    /// When it cannot be used, as line `line` of `path`; or when writing fails.
    pub fn add_record(&mut self, record: &Record, path: &Path, line: u64) -> Result<(), DataError> {
        let wrap = |error| DataError::Record { path: path.to_owned(), line, error };
        self.push(&self.encode(record).map_err(wrap)?)
    }

    /// The dataset. The tokenizer and the template are not needed any more.
    ///
    /// # Errors
    /// When no example is left, or writing fails.
    pub fn finish(self) -> Result<Dataset, DataError> {
        let Self { data, index, stats, max_seq_len, .. } = self;
        if stats.examples == 0 && stats.dropped == 0 {
            return Err(DataError::NoData);
        }
        if stats.examples == 0 {
            return Err(DataError::AllTruncated { dropped: stats.dropped, max_seq_len });
        }
        let (data, index) = (Arc::new(data.finish()?), index.finish()?);
        Ok(Dataset { data, index, bins: None, stats })
    }

    fn push_window(
        &mut self,
        path: &Path,
        line: u64,
        window: &mut Vec<u32>,
    ) -> Result<(), DataError> {
        let ids = std::mem::take(window);
        let record = Record::Ids { ids, labels: None };
        let added = self.add_record(&record, path, line);
        if let Record::Ids { ids, .. } = record {
            *window = ids;
            window.clear();
        }
        added
    }

    /// An example of a record, with a prompt that carries no loss where one is asked for.
    fn encode(&self, record: &Record) -> Result<Example, RecordError> {
        let example = self.encoder.encode(record)?;
        let prompt = example.labels.iter().take(example.prompt_len);
        match example.prompt_len == 0 || prompt.copied().any(|label| label != NO_LOSS) {
            true if self.needs_prompt => Err(RecordError::NoPrompt),
            _ => Ok(example),
        }
    }

    /// Cuts an example to the limit and appends it; one whose labelled tokens are all cut is only
    /// counted.
    fn push(&mut self, example: &Example) -> Result<(), DataError> {
        let tokens = example.ids.len().min(self.max_seq_len);
        let (ids, labels) = (&example.ids[..tokens], &example.labels[..tokens]);
        let labelled = labels.iter().filter(|&&label| label != NO_LOSS).count();
        if labelled == 0 {
            self.stats.dropped += 1;
            return Ok(());
        }
        let cut = example.ids.len() - tokens;
        let entry = Entry {
            offset: self.data.bytes(),
            tokens: tokens as u32,
            prompt_len: example.prompt_len.min(tokens) as u32,
            labelled: labelled as u32,
            cut: u32::try_from(cut).unwrap_or(u32::MAX),
        };
        self.data.append(bytemuck::cast_slice(ids))?;
        self.data.append(bytemuck::cast_slice(labels))?;
        self.index.append(bytemuck::bytes_of(&entry))?;
        self.stats.count(&entry);
        Ok(())
    }
}
