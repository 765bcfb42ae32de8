//! From files of examples to token ids with a loss mask: tokenizers, chat templates, datasets and
//! deterministic shuffles. Nothing here knows a tensor, a model or a training loop.
//!
//! The path of an example:
//!
//! 1. [`record`] reads one line and finds its form by its keys ([`Record`]);
//! 2. [`encode`] renders it through the [`ChatTemplate`], tokenizes it once with byte offsets and
//!    marks the labelled tokens (those that carry loss);
//! 3. [`DatasetBuilder`] truncates it and appends it to an unlinked temporary file;
//! 4. [`Dataset`] hands it back by number into a reusable [`SampleBuf`]; the tokenizer can be
//!    dropped before that, and nothing that grows with the data lies on the heap;
//! 5. [`Dataset::pack`] lays several examples into one sequence, where that is wanted;
//! 6. [`order`] says in which order an epoch visits the sequences, without storing that order.
//!
//! Labels are not shifted: label `t` belongs to token `t`, [`NO_LOSS`] marks a token that carries
//! none, and the trainer compares label `t + 1` with the prediction made at token `t`. So nothing
//! predicts token 0, and its label is always [`NO_LOSS`].
//!
//! ```
//! use lowtide_data::{DatasetBuilder, DatasetOptions, NO_LOSS};
//!
//! // Already tokenized data needs neither tokenizer nor template.
//! let options = DatasetOptions { vocab_size: Some(100), ..DatasetOptions::default() };
//! let mut builder = DatasetBuilder::new(&options, None, None)?;
//! let lines = "{\"input_ids\": [5, 6, 7], \"labels\": [-100, 6, 7]}";
//! builder.add_jsonl("lines.jsonl".as_ref(), lines.as_bytes())?;
//! let dataset = builder.finish()?;
//! let mut buf = dataset.buffer();
//! let sample = dataset.read(0, &mut buf)?;
//! assert_eq!((sample.ids, sample.labels), (&[5, 6, 7][..], &[NO_LOSS, 6, 7][..]));
//! assert_eq!(sample.prompt_len, 1);
//! # Ok::<(), lowtide_data::DataError>(())
//! ```
#![forbid(unsafe_code)]

pub mod dataset;
pub mod encode;
mod error;
mod mask;
pub mod order;
pub mod record;
mod sample;
pub mod show;
mod survey;
pub mod template;
pub mod tokenizer;

pub use dataset::{DataFiles, Dataset, DatasetBuilder, DatasetOptions, Packing, Sequence, Stats};
pub use error::{DataError, IoAction, RecordError};
pub use record::{Message, Record};
pub use sample::{NO_LOSS, Sample, SampleBuf};
pub use show::{SampleStyle, render_sample};
pub use survey::Survey;
pub use template::{ChatTemplate, RenderOptions, TemplateError};
pub use tokenizer::{Encoding, GgufVocab, Specials, Tokenizer, TokenizerError};
