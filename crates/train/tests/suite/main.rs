//! The figures that a whole run must show, on tiny models: the plan is the ledger, bits depend on
//! nothing but seed and data, both kinds of base are one, bad input leaves nothing behind.

mod approximate;
mod bad_files;
mod bad_settings;
mod clipping;
mod coded_files;
mod determinism;
mod evaluating;
mod families;
mod family_files;
mod folders;
mod gguf_and_hf;
mod groups;
mod in_bf16;
mod methods;
mod micro_batch;
mod mlock;
mod packing;
mod pauses;
mod plan_is_ledger;
mod ranks;
mod refused;
mod resume;
mod showing;
mod softmax;
mod states;
mod streaming;
mod support;
mod watching;
mod window;
