//! Qwen2 and Qwen2.5: wired as Llama; what differs, biases on q, k and v, the configuration says.

pub(super) use super::llama::record;
