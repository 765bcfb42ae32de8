//! IA3: a frozen linear whose outputs, or inputs, are scaled by a learned vector.
//!
//! `y = (x Wᵀ + b) ⊙ l` for keys and values, `y = (x ⊙ l) Wᵀ + b` for feed-forward linears. Names,
//! shapes and initial values are those of Hugging Face PEFT: `ia3_l`, `[O, 1]` or `[1, I]`, all
//! ones, so that training starts from the base's own output.
//!
//! Paper: Liu et al., "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than
//! In-Context Learning" (2022).
//!
//! Backward asks for nothing beyond what the block has. The gradient of an output's scale is
//! `Σ g y0` with the unscaled output `y0`; it is computed as `Σ g y / l`, from the output that the
//! block reads on with. So that this division is exact for what was computed, a scale within
//! [`SMALLEST`] of zero counts as that far from zero, in both directions and when merged.
//!
//! ```
//! use lowtide_adapter::{Adapter, Cx, Forward, FrozenLinear, Phase, Rows};
//! use lowtide_backend::{DropoutKey, Scalar, Span};
//! use lowtide_ia3::{Ia3, Scales};
//! use lowtide_quant::{QMat, formats::F32};
//! use lowtide_tensor::{Mat, MatMut};
//!
//! // A frozen linear from 3 features to 2, whose outputs are scaled.
//! let weights = [1.0_f32, 0.0, 0.0, 0.0, 1.0, 0.0];
//! let bytes: Vec<u8> = weights.iter().flat_map(|w| w.to_le_bytes()).collect();
//! let base = FrozenLinear::new(QMat::new(&F32, 2, 3, &bytes)?, None);
//! let ia3 = Ia3::new(3, 2, Scales::Outputs);
//!
//! let (x, mut y) = ([1.0, 2.0, 3.0], [0.0; 2]);
//! let mut scratch = vec![0.0; Adapter::<f32>::req(&ia3, &Scalar, &base, 1).scratch];
//! let rows = Rows {
//!     spans: &[Span { start: 0, prompt_end: 1, end: 1 }],
//!     row0: 0,
//!     past: 0,
//!     key: DropoutKey { seed: 0, step: 0, site: 0 },
//!     phase: Phase::Prefill,
//! };
//! let cx = Cx { be: &Scalar, base: &base, p: &[3.0, 0.5], fixed: &[], rows };
//! let (x, y_mut, scratch) = (Mat::new(&x, 1, 3), MatMut::new(&mut y, 1, 2), &mut scratch[..]);
//! ia3.apply(&cx, Forward { x, y: y_mut, kept: None, state: None, scratch });
//! assert_eq!(y, [3.0, 1.0]);
//! # Ok::<(), Box<dyn core::error::Error>>(())
//! ```
#![no_std]
#![forbid(unsafe_code)]

#[cfg(feature = "alloc")]
extern crate alloc;

mod columns;
mod ia3;
#[cfg(feature = "alloc")]
mod method;

pub use ia3::{Ia3, SMALLEST, Scales};
#[cfg(feature = "alloc")]
pub use method::Ia3Method;
