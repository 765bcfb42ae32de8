//! Fine-tune real language models where memory is shallow: the whole of Lowtide under one name.
//!
//! A job is a value ([`Settings`]), a backend ([`Simd`]) and a function: [`finetune`],
//! [`plan()`] or [`evaluate`]. It reports through [`Event`]s, prints nothing and computes inside
//! the rayon pool it is called in. The `lowtide` command is these three functions with flags and
//! tables.
//!
//! ```
//! # use lowtide_testkit::tiny::{TinyLlama, tiny_llama_folder};
//! use lowtide::{Event, Settings, Simd, finetune};
//!
//! # let folder = tempfile::tempdir()?;
//! # let (model, data) = (folder.path().join("model"), folder.path().join("train.jsonl"));
//! # tiny_llama_folder(&model, &TinyLlama::default());
//! # std::fs::write(&data, "{\"input_ids\": [1, 5, 9, 13, 17, 21, 25, 2]}\n".repeat(4))?;
//! # let adapter = folder.path().join("adapter");
//! let settings = Settings {
//!     model,
//!     data,
//!     output: adapter.clone(),
//!     rank: 4,
//!     memory_budget: Some("64MiB".into()),
//!     ..Settings::default()
//! };
//! let mut losses = Vec::new();
//! let summary = finetune(&settings, &Simd::new(1), 1, &mut |event| {
//!     if let Event::Step(step) = event {
//!         losses.push(step.loss);
//!     }
//! })?;
//! assert_eq!(losses.len(), 4);
//! assert_eq!(summary.peak_bytes, summary.planned_peak_bytes);
//! assert!(adapter.join("adapter_model.safetensors").exists());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The crates below are here under short names, bottom to top. Each stands on its own: an adapter
//! method needs [`adapter`] only, another backend needs [`backend`] only, and neither has to know
//! that a trainer exists.
#![forbid(unsafe_code)]

#[doc(inline)]
pub use lowtide_kernels::{Isa, Kernels};
#[doc(inline)]
pub use lowtide_ndarray::NdArray;
#[doc(inline)]
pub use lowtide_simd::{Compute, Simd};
#[doc(inline)]
pub use lowtide_train::{
    Control, EvalSettings, Evaluation, Event, Settings, Summary, TrainError, evaluate, finetune,
    finetune_until, finetune_with, plan,
};

pub use lowtide_adapter as adapter;
pub use lowtide_backend as backend;
pub use lowtide_bench as bench;
pub use lowtide_convert as convert;
pub use lowtide_data as data;
pub use lowtide_formats as formats;
pub use lowtide_hub as hub;
pub use lowtide_kernels as kernels;
pub use lowtide_lora as lora;
pub use lowtide_memory as memory;
pub use lowtide_model as model;
pub use lowtide_ndarray as ndarray;
pub use lowtide_optim as optim;
pub use lowtide_quant as quant;
pub use lowtide_runtime as runtime;
pub use lowtide_simd as simd;
pub use lowtide_tape as tape;
pub use lowtide_tensor as tensor;
pub use lowtide_train as train;

/// The pages of the book that show code: what they show compiles, runs and does what they say.
#[cfg(doctest)]
mod book {
    #[doc = include_str!("../../../docs/adding-a-backend.md")]
    pub struct AddingABackend;
    #[doc = include_str!("../../../docs/adding-a-block-format.md")]
    pub struct AddingABlockFormat;
    #[doc = include_str!("../../../docs/adding-a-method.md")]
    pub struct AddingAMethod;
    #[doc = include_str!("../../../docs/adding-an-op.md")]
    pub struct AddingAnOp;
}
