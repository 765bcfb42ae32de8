//! Data made ready: files found, tokenized into a temporary file, counted; the tokenizer is gone
//! before anything is reserved.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::path::{Path, PathBuf};

use lowtide_data::{
    DataFiles, Dataset, DatasetBuilder, DatasetOptions, SampleStyle, render_sample,
};
use lowtide_runtime::{BaseText, OpenBase, RuntimeError};
use lowtide_tape::Limits;

use crate::{DataReport, PackingReport, TrainError, WorstCase};

/// What a run trains on and what it measures itself on.
#[derive(Debug)]
pub struct PreparedData {
    /// Training examples.
    pub train: Dataset,
    /// Held-out examples.
    pub valid: Option<Dataset>,
    /// The file they came from, where they have one of their own.
    pub valid_file: Option<PathBuf>,
    /// What to tell the user.
    pub report: DataReport,
}

/// The parts of [`Settings`](crate::Settings) that data depends on.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// Longer examples are cut to this many tokens.
    pub max_seq_len: usize,
    /// Loss on responses only.
    pub mask_prompt: bool,
    /// Refuse examples whose loss begins before there is a prompt.
    pub needs_prompt: bool,
    /// Share held out when there is no validation file.
    pub val_split: f64,
    /// Several examples in one sequence of up to `max_seq_len` tokens.
    pub packing: bool,
    /// Seed of the split and of the packing.
    pub seed: u64,
}

impl Prepared {
    /// Reads `data` for training.
    ///
    /// # Errors
    /// When a file cannot be found, read or used, naming file, line and field.
    pub fn for_training(&self, base: &OpenBase, data: &Path) -> Result<PreparedData, TrainError> {
        let text = BaseText::open(base)?;
        let files = DataFiles::find(data)?;
        let whole = self.read(base, &text, &files.train)?;
        let (train, valid) = match &files.valid {
            Some(file) => (whole, Some(self.read(base, &text, file)?)),
            None if self.val_split > 0.0 => {
                let (train, valid) = whole.split(self.val_split, self.seed)?;
                (train, Some(valid))
            }
            None => (whole, None),
        };
        let mut report = report(&text, &train, valid.as_ref(), base.file().path())?;
        tracing::debug!(examples = report.examples, tokens = report.tokens, "data read");
        drop(text);
        // The tokenizer's pages would otherwise stay with the allocator and count as held.
        lowtide_memory::release_free_heap();
        let (train, valid) = (self.packed(train)?, valid.map(|v| self.packed(v)).transpose()?);
        report.sequences = train.len();
        report.packing = train.packing().map(|packing| PackingReport::of(packing, train.stats()));
        Ok(PreparedData { train, valid, valid_file: files.valid, report })
    }

    /// Reads `data` for evaluation: a file as it is, of a folder `test.jsonl`, else `valid.jsonl`,
    /// else `train.jsonl`.
    ///
    /// # Errors
    /// As [`Prepared::for_training`].
    pub fn for_evaluation(&self, base: &OpenBase, data: &Path) -> Result<Dataset, TrainError> {
        let text = BaseText::open(base)?;
        let files = DataFiles::find(data)?;
        let held_out = files.test.or(files.valid).filter(|_| data.is_dir());
        let dataset = self.read(base, &text, &held_out.unwrap_or(files.train))?;
        drop(text);
        lowtide_memory::release_free_heap();
        self.packed(dataset)
    }

    /// The same in bins, if that is asked for.
    fn packed(&self, data: Dataset) -> Result<Dataset, TrainError> {
        if self.packing { Ok(data.pack(self.max_seq_len, self.seed)?) } else { Ok(data) }
    }

    fn read(&self, base: &OpenBase, text: &BaseText, file: &Path) -> Result<Dataset, TrainError> {
        let options = DatasetOptions {
            max_seq_len: self.max_seq_len,
            mask_prompt: self.mask_prompt,
            needs_prompt: self.needs_prompt,
            vocab_size: Some(base.config().vocab_size),
            ..DatasetOptions::default()
        };
        let (tokenizer, template) = (text.tokenizer.as_ref(), text.template.as_ref());
        let mut builder = DatasetBuilder::new(&options, tokenizer, template)?;
        builder.add_file(file)?;
        Ok(builder.finish()?)
    }
}

fn report(
    text: &BaseText,
    train: &Dataset,
    valid: Option<&Dataset>,
    path: &Path,
) -> Result<DataReport, TrainError> {
    let stats = train.stats();
    let held_out = valid.map(Dataset::stats).unwrap_or_default();
    let mut report = DataReport {
        examples: stats.examples,
        sequences: train.len(),
        packing: None,
        tokens: stats.tokens,
        labelled_tokens: stats.labelled,
        longest: stats.longest,
        truncated: stats.truncated,
        tokens_cut: stats.tokens_cut,
        dropped: stats.dropped,
        valid_examples: held_out.examples,
        valid_labelled_tokens: held_out.labelled,
        sample: None,
        sample_ansi: None,
    };
    let mut buffer = train.buffer();
    let sample = train.read(0, &mut buffer)?;
    let show = |style| {
        render_sample(text.tokenizer.as_ref(), sample, style)
            .map_err(|source| RuntimeError::Tokenizer { path: path.to_owned(), source })
    };
    report.sample = Some(show(SampleStyle::Brackets)?);
    report.sample_ansi = Some(show(SampleStyle::Ansi)?);
    Ok(report)
}

/// Limits that every batch of at most `sequences` sequences of these datasets keeps, and which of
/// the datasets has the most tokens, and which the most labels. The longest sequences, those with
/// the most examples and those with the most labels might come together.
pub(crate) fn limits_of<'d>(
    datasets: impl Iterator<Item = &'d Dataset>,
    sequences: usize,
) -> Result<(Limits, Extremes), TrainError> {
    let mut limits = Limits { tokens: 0, sequences: 0, labelled: 0 };
    let mut found = Extremes::default();
    for (number, data) in datasets.enumerate() {
        let most = || Largest::new(sequences.min(data.len()));
        let (mut tokens, mut examples, mut labelled) = (most(), most(), most());
        for index in 0..data.len() {
            let sequence = data.sequence(index)?;
            tokens.push(sequence.tokens);
            examples.push(sequence.examples);
            labelled.push(sequence.labelled);
        }
        if tokens.sum() > limits.tokens {
            (limits.tokens, found.tokens) = (tokens.sum(), number);
        }
        if labelled.sum() > limits.labelled {
            (limits.labelled, found.labelled) = (labelled.sum(), number);
        }
        limits.sequences = limits.sequences.max(examples.sum());
        found.sequences += data.len();
    }
    Ok((limits, found))
}

/// Where limits come from: numbers of datasets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extremes {
    /// Sequences of all datasets.
    pub(crate) sequences: usize,
    /// Which has the most tokens in a batch.
    pub(crate) tokens: usize,
    /// Which has the most labels.
    pub(crate) labelled: usize,
}

impl From<Extremes> for WorstCase {
    /// The first dataset is the one to train on.
    fn from(found: Extremes) -> Self {
        Self {
            sequences: found.sequences,
            tokens_held_out: found.tokens > 0,
            labelled_held_out: found.labelled > 0,
        }
    }
}

/// The largest numbers of a list that is never held as a whole.
pub(crate) struct Largest {
    count: usize,
    numbers: BinaryHeap<Reverse<usize>>,
}

impl Largest {
    pub(crate) fn new(count: usize) -> Self {
        Self { count, numbers: BinaryHeap::with_capacity(count + 1) }
    }

    pub(crate) fn push(&mut self, number: usize) {
        self.numbers.push(Reverse(number));
        if self.numbers.len() > self.count {
            self.numbers.pop();
        }
    }

    pub(crate) fn sum(&self) -> usize {
        self.numbers.iter().map(|number| number.0).sum()
    }
}
