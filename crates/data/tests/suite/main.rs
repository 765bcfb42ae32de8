//! The crate from the outside: ids, renderings and masks against reference data, datasets, bad
//! input.

mod datasets;
mod gguf;
mod golden;
mod hostile;
mod masks;
mod sentencepiece;
mod smollm2;
mod spm_json;
mod tokenizer_json;
mod tools;
mod vocab_json;
