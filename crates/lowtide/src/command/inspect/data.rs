//! A data file or folder: records by form, and with a model also tokens and lengths.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lowtide::TrainError;
use lowtide::data::{
    DataFiles, DatasetBuilder, DatasetOptions, SampleStyle, Survey, render_sample,
};
use lowtide::runtime::{BaseText, OpenBase};
use lowtide::train::SettingsError;
use serde::Serialize;

use super::text;
use crate::command::args::InspectArgs;
use crate::command::show::Facts;
use crate::command::show::data::marked;
use crate::command::show::number::{bytes, count, counted, percent};

/// Data, as `--json` tells it.
#[derive(Debug, Serialize)]
pub(super) struct DataReport {
    kind: &'static str,
    path: PathBuf,
    files: Vec<FileReport>,
}

#[derive(Debug, Serialize)]
struct FileReport {
    /// `train`, `valid` or `test`.
    part: &'static str,
    path: PathBuf,
    file_bytes: u64,
    /// Records; lines of plain text.
    records: u64,
    forms: BTreeMap<&'static str, u64>,
    first: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens: Option<Tokens>,
}

/// What a tokenizer makes of a file.
#[derive(Debug, Serialize)]
struct Tokens {
    /// Examples; windows of plain text.
    examples: usize,
    tokens: u64,
    labelled_tokens: u64,
    shortest: u32,
    median: u32,
    mean: f64,
    longest: u32,
    max_seq_len: usize,
    over_max_seq_len: usize,
    /// Tokens beyond it, which training would cut.
    tokens_over: u64,
    sample: String,
    #[serde(skip)]
    sample_ansi: String,
}

/// Looks at every file of the data.
pub(super) fn inspect(args: &InspectArgs) -> Result<DataReport, TrainError> {
    if args.max_seq_len < 2 {
        let found = args.max_seq_len.to_string();
        let expected = "at least 2";
        return Err(SettingsError::BadValue { field: "max-seq-len", found, expected }.into());
    }
    let found = DataFiles::find(&args.path)?;
    let base = args.model.as_deref().map(OpenBase::open).transpose()?;
    let reader = base.as_ref().map(|base| Ok::<_, TrainError>((base, BaseText::open(base)?)));
    let reader = reader.transpose()?;
    let parts = [("train", Some(found.train)), ("valid", found.valid), ("test", found.test)];
    let mut files = Vec::new();
    for (part, file) in parts {
        let Some(path) = file else { continue };
        let survey = Survey::of_file(&path)?;
        let tokens = reader
            .as_ref()
            .map(|(base, text)| tokens(&path, &survey, base, text, args))
            .transpose()?;
        let Survey { records, forms, bytes: file_bytes, first, .. } = survey;
        files.push(FileReport { part, path, file_bytes, records, forms, first, tokens });
    }
    Ok(DataReport { kind: "data", path: args.path.clone(), files })
}

/// Tokenizes a file as training would, but cuts nothing, so that true lengths are seen. Plain text
/// has no length of its own: it is cut into windows.
fn tokens(
    path: &Path,
    survey: &Survey,
    base: &OpenBase,
    text: &BaseText,
    args: &InspectArgs,
) -> Result<Tokens, TrainError> {
    let limit = args.max_seq_len;
    let options = DatasetOptions {
        max_seq_len: if survey.plain { limit } else { i32::MAX as usize },
        mask_prompt: args.mask.given().unwrap_or(true),
        vocab_size: Some(base.config().vocab_size),
        ..DatasetOptions::default()
    };
    let (tokenizer, template) = (text.tokenizer.as_ref(), text.template.as_ref());
    let mut builder = DatasetBuilder::new(&options, tokenizer, template)?;
    builder.add_file(path)?;
    let dataset = builder.finish()?;
    let mut lengths = dataset.lengths()?;
    lengths.sort_unstable();
    let over = lengths.iter().filter(|&&length| length as usize > limit);
    let mut buffer = dataset.buffer();
    let sample = dataset.read(0, &mut buffer)?;
    let show = |style| {
        render_sample(tokenizer, sample, style).map_err(|source| {
            let path = base.file().path().to_owned();
            TrainError::from(lowtide::runtime::RuntimeError::Tokenizer { path, source })
        })
    };
    let stats = dataset.stats();
    Ok(Tokens {
        examples: stats.examples,
        tokens: stats.tokens,
        labelled_tokens: stats.labelled,
        shortest: lengths[0],
        median: lengths[lengths.len() / 2],
        mean: stats.tokens as f64 / stats.examples as f64,
        longest: lengths[lengths.len() - 1],
        max_seq_len: limit,
        over_max_seq_len: over.clone().count(),
        tokens_over: over.map(|&length| u64::from(length) - limit as u64).sum(),
        sample: show(SampleStyle::Brackets)?,
        sample_ansi: show(SampleStyle::Ansi)?,
    })
}

/// The report for people.
pub(super) fn text(report: &DataReport, coloured: bool) -> String {
    let mut text = String::new();
    for file in &report.files {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&facts(file));
        text.push('\n');
        match &file.tokens {
            Some(tokens) => {
                let shown = marked(Some(&tokens.sample), Some(&tokens.sample_ansi), coloured);
                text.push_str(&shown.unwrap_or_default());
            }
            None => text.push_str(&text::block("First record", &file.first, true, "")),
        }
    }
    text
}

fn facts(file: &FileReport) -> String {
    let mut facts = Facts::default();
    facts.add("size", bytes(file.file_bytes));
    if file.forms.is_empty() {
        facts.add("plain text", counted(file.records, "line"));
    } else {
        facts.add("records", count(file.records));
        let forms: Vec<_> =
            file.forms.iter().map(|(form, n)| format!("{} ({})", form, count(*n))).collect();
        facts.add("form", forms.join(", "));
    }
    if let Some(tokens) = &file.tokens {
        let labelled = count(tokens.labelled_tokens);
        let share = percent(tokens.labelled_tokens as f64, tokens.tokens as f64);
        facts.add("examples", count(tokens.examples as u64));
        let all = count(tokens.tokens);
        facts.add("tokens", format!("{all}, {labelled} of them labelled ({share})"));
        let Tokens { shortest, median, mean, longest, .. } = tokens;
        let lengths = format!("{shortest} to {longest} tokens, median {median}, mean {mean:.1}");
        facts.add("lengths", lengths);
        let cut = match tokens.over_max_seq_len {
            0 => format!("none is longer than {}", count(tokens.max_seq_len as u64)),
            over => format!(
                "{} of more than {}, {} too many in all",
                counted(over as u64, "example"),
                counted(tokens.max_seq_len as u64, "token"),
                count(tokens.tokens_over),
            ),
        };
        facts.add("--max-seq-len", cut);
    }
    facts.under(&format!("Data {} ({})", file.path.display(), file.part))
}
