//! Mistral: wired as Llama; the window of its attention is in the configuration.

pub(super) use super::llama::record;
