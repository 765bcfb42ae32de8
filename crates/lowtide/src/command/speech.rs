//! What `generate` and `chat` share: their flags, and the session these ask for.

use std::path::PathBuf;

use clap::Args;
use lowtide::runtime::{Request, RuntimeError, Sampling, SessionSettings};
use lowtide::train::{SettingsError, check_window, parse_bytes};

use super::args::Voice;
use super::failure::Failure;
use super::flags::size;
use super::inputs;

/// The base, and how it speaks.
#[derive(Debug, Args)]
pub(crate) struct SpeechFlags {
    /// Base: a Hugging Face folder, a .gguf file, or a hub id such as org/name
    #[arg(long, short, value_name = "PATH", help_heading = "Input")]
    model: PathBuf,
    /// Adapter, a folder or a .gguf file; without one, the bare base speaks
    #[arg(long, short, alias = "adapter-path", value_name = "PATH", help_heading = "Input")]
    adapter: Option<PathBuf>,
    /// File with the chat template, instead of the base's own
    #[arg(long, value_name = "FILE", help_heading = "Input")]
    chat_template: Option<PathBuf>,
    #[command(flatten, next_help_heading = "Generation")]
    sampling: SamplingFlags,
    /// Tokens of prompt and answer together [default: 4096, or fewer if the base has fewer]
    #[arg(long, alias = "ctx-size", value_name = "TOKENS", help_heading = "Memory")]
    #[arg(allow_negative_numbers = true)]
    context: Option<usize>,
    /// The most of the last tokens that a token sees, itself included, as in training
    #[arg(long, value_name = "TOKENS", help_heading = "Memory")]
    #[arg(allow_negative_numbers = true)]
    sliding_window: Option<usize>,
    /// Heap that may be held, such as 256MiB; if nothing fits, nothing starts
    #[arg(long, value_name = "SIZE", value_parser = size, help_heading = "Memory")]
    memory_budget: Option<String>,
}

/// How an answer is made.
#[derive(Debug, Args)]
struct SamplingFlags {
    /// The most tokens of an answer
    #[arg(long, alias = "max-new-tokens", value_name = "N", default_value_t = 256)]
    #[arg(allow_negative_numbers = true)]
    max_tokens: usize,
    /// How freely tokens are drawn; 0 takes the likeliest
    #[arg(long, alias = "temp", value_name = "T")]
    #[arg(default_value_t = Sampling::default().temperature)]
    #[arg(allow_negative_numbers = true)]
    temperature: f64,
    /// Draw from the likeliest tokens that have this share of the probability; 1 is all
    #[arg(long, value_name = "P", default_value_t = Sampling::default().top_p)]
    #[arg(allow_negative_numbers = true)]
    top_p: f64,
    /// Draw from this many of the likeliest tokens; 0 is all
    #[arg(long, value_name = "K", default_value_t = Sampling::default().top_k)]
    #[arg(allow_negative_numbers = true)]
    top_k: usize,
    /// Factor against tokens that were there before; 1 is none
    #[arg(long, alias = "repeat-penalty", value_name = "X")]
    #[arg(default_value_t = Sampling::default().repetition_penalty)]
    #[arg(allow_negative_numbers = true)]
    repetition_penalty: f64,
    /// Seed of the draws; the same seed gives the same text
    #[arg(long, value_name = "N", default_value_t = 0)]
    #[arg(allow_negative_numbers = true)]
    seed: u64,
    /// Text before which an answer ends; may be given several times
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    stop: Vec<String>,
}

impl SpeechFlags {
    /// What the flags ask for, looked at before any file is opened.
    pub(crate) fn resolve(&self, voice: Voice) -> Result<(SessionSettings, Request), Failure> {
        let request = self.sampling.request()?;
        if self.context == Some(0) {
            return Err(bad("context", &0, "a whole number from 1").into());
        }
        check_window(self.sliding_window)?;
        inputs::base("model", &self.model, voice)?;
        if let Some(adapter) = &self.adapter {
            inputs::check_adapter("adapter", adapter)?;
        }
        let budget = self.memory_budget.as_deref().map(parse_bytes).transpose();
        let settings = SessionSettings {
            model: self.model.clone(),
            adapter: self.adapter.clone(),
            chat_template: self.chat_template.clone(),
            context: self.context,
            sliding_window: self.sliding_window,
            memory_budget: budget.map_err(SettingsError::from)?,
        };
        Ok((settings, request))
    }
}

impl SamplingFlags {
    fn request(&self) -> Result<Request, Failure> {
        let sampling = Sampling {
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            repetition_penalty: self.repetition_penalty,
            seed: self.seed,
        };
        sampling.check().map_err(RuntimeError::from)?;
        if self.max_tokens == 0 {
            return Err(bad("max-tokens", &0, "a whole number from 1").into());
        }
        if self.stop.iter().any(String::is_empty) {
            return Err(bad("stop", &"empty", "a text").into());
        }
        let (max_tokens, stop) = (self.max_tokens, self.stop.clone());
        Ok(Request { sampling, max_tokens, stop, ignore_ends: false })
    }
}

fn bad(
    field: &'static str,
    found: &dyn std::fmt::Display,
    expected: &'static str,
) -> SettingsError {
    SettingsError::BadValue { field, found: found.to_string(), expected }
}
