//! The LoRA family: a frozen linear plus a trained update of low rank.
//!
//! | method | adapter | what it changes |
//! |---|---|---|
//! | `lora`, `rslora` | [`Lora`] | the update, scaled by `alpha / r` or `alpha / sqrt(r)` |
//! | `lora-fa` | [`LoraFa`] | the first factor is frozen, and the input is not kept |
//! | `dora` | [`Dora`] | the rows of the updated matrix get trained lengths |
//! | `vera` | `Vera` | two trained vectors between frozen matrices that all sites share |
//! | `qalora` | [`QaLora`] | the update is constant over groups of the input |
//!
//! Each can be trained as it is after coding in eight or four bits: `FakeQuant`.
//!
//! # LoRA
//!
//! `y = x Wᵀ + b + s · (dropout(x) Aᵀ) Bᵀ` with `A [r, I]`, `B [O, r]` and the scale `s = alpha /
//! r`, or `alpha / sqrt(r)` for rsLoRA. Names, layout, initial values and scale are those of
//! Hugging Face PEFT: `lora_A.weight` uniform in `±1 / sqrt(I)`, `lora_B.weight` zero, so that
//! training starts from the base's own output.
//!
//! Papers: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (2021); Kalajdzievski,
//! "A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA" (2023).
//!
//! The low-rank product `h = x Aᵀ` is the only thing between the two factors, `[T, r]`; backward
//! computes it anew from `x`, so nothing is kept. Nothing of size `[O, I]` exists at any time.
//!
//! ```
//! use lowtide_adapter::{Adapter, Config, Cx, Forward, FrozenLinear, Phase, Rows};
//! use lowtide_backend::{DropoutKey, Scalar, Span};
//! use lowtide_lora::Lora;
//! use lowtide_quant::{QMat, formats::F32};
//! use lowtide_tensor::{Mat, MatMut};
//!
//! // A frozen linear from 3 features to 2, and an adapter of rank 1 with scale 2.
//! let weights = [1.0_f32, 0.0, 0.0, 0.0, 1.0, 0.0];
//! let bytes: Vec<u8> = weights.iter().flat_map(|w| w.to_le_bytes()).collect();
//! let base = FrozenLinear::new(QMat::new(&F32, 2, 3, &bytes)?, None);
//! let lora = Lora::new(3, 2, &Config { rank: 1, alpha: 2.0, ..Config::default() })?;
//!
//! // A, then B, in one slab.
//! let p = [1.0, 1.0, 1.0, 0.0, 0.5_f32];
//! let x = [1.0, 2.0, 3.0];
//! let mut y = [0.0; 2];
//! let mut scratch = vec![0.0; Adapter::<f32>::req(&lora, &Scalar, &base, 1).scratch];
//! let rows = Rows {
//!     spans: &[Span { start: 0, prompt_end: 1, end: 1 }],
//!     row0: 0,
//!     past: 0,
//!     key: DropoutKey { seed: 0, step: 0, site: 0 },
//!     phase: Phase::Prefill,
//! };
//! let (x, y_mut) = (Mat::new(&x, 1, 3), MatMut::new(&mut y, 1, 2));
//! let cx = Cx { be: &Scalar, base: &base, p: &p, fixed: &[], rows };
//! let scratch = &mut scratch[..];
//! lora.apply(&cx, Forward { x, y: y_mut, kept: None, state: None, scratch });
//! assert_eq!(y, [1.0, 2.0 + 2.0 * 6.0 * 0.5]);
//! # Ok::<(), Box<dyn core::error::Error>>(())
//! ```
#![no_std]
#![forbid(unsafe_code)]

#[cfg(feature = "alloc")]
extern crate alloc;

#[cfg(feature = "alloc")]
pub mod codes;
mod dora;
#[cfg(feature = "alloc")]
mod fake_quant;
mod lora;
mod lora_fa;
mod low_rank;
#[cfg(feature = "alloc")]
mod method;
#[cfg(feature = "alloc")]
mod projections;
mod qalora;
#[cfg(feature = "alloc")]
mod vera;

pub use dora::Dora;
#[cfg(feature = "alloc")]
pub use fake_quant::FakeQuant;
pub use lora::Lora;
pub use lora_fa::LoraFa;
pub use low_rank::RANK_MAX;
#[cfg(feature = "alloc")]
pub use method::{
    CodedInOrder, DoraMethod, LoraFaMethod, LoraMethod, QaLoraMethod, RsLoraMethod,
    SHARED_BYTES_MAX, VeraInOrder, VeraMethod,
};
#[cfg(feature = "alloc")]
pub use projections::{Draws, Projections};
pub use qalora::QaLora;
#[cfg(feature = "alloc")]
pub use vera::Vera;
