//! Bottleneck adapters: a narrow layer with a non-linearity behind a frozen one.
//!
//! `y = h + act(h D + b1) Uᵀ + b2` with `h` what the base gives, `D` and `U [O, r]`. On a branch
//! of a block (what attention or the feed-forward part adds to the residual stream) the base is the
//! identity, as in the paper; on a linear, `h` is the linear's output. `D` starts as a linear of
//! PyTorch does, uniform in `±1 / sqrt(O)`; `U` and the biases start at zero, so that training
//! starts from the base's own output.
//!
//! Paper: Houlsby et al., "Parameter-Efficient Transfer Learning for NLP" (2019).
//!
//! Backward on a branch reads its input and makes the inner values anew. On a linear it reads the
//! output, which the block has anyway, and `r` kept values a row; `h` is the output less what the
//! adapter added, so no linear is computed twice and nothing as wide as `h` is kept.
//!
//! ```
//! use lowtide_adapter::{Adapter, Config, Cx, Forward, Identity, Phase, Place, Rows};
//! use lowtide_backend::{DropoutKey, Scalar, Span};
//! use lowtide_bottleneck::{Bottleneck, NonLinearity};
//! use lowtide_tensor::{Mat, MatMut};
//!
//! // A branch of width 2, squeezed to 1.
//! let config = Config { rank: 1, ..Config::default() };
//! let adapter = Bottleneck::new(2, Place::Branch, NonLinearity::Relu, &config)?;
//! let base = Identity { width: 2 };
//!
//! // D, b1, U, b2, in one slab.
//! let p = [1.0, 1.0, -1.0, 0.5, 0.0, 0.0, 0.25_f32];
//! let (x, mut y) = ([1.0, 2.0], [0.0; 2]);
//! let mut scratch = vec![0.0; Adapter::<f32>::req(&adapter, &Scalar, &base, 1).scratch];
//! let rows = Rows {
//!     spans: &[Span { start: 0, prompt_end: 1, end: 1 }],
//!     row0: 0,
//!     past: 0,
//!     key: DropoutKey { seed: 0, step: 0, site: 0 },
//!     phase: Phase::Prefill,
//! };
//! let cx = Cx { be: &Scalar, base: &base, p: &p, fixed: &[], rows };
//! let (x, y_mut, scratch) = (Mat::new(&x, 1, 2), MatMut::new(&mut y, 1, 2), &mut scratch[..]);
//! adapter.apply(&cx, Forward { x, y: y_mut, kept: None, state: None, scratch });
//! assert_eq!(y, [1.0 + 2.0 * 0.5, 2.0 + 0.25]);
//! # Ok::<(), Box<dyn core::error::Error>>(())
//! ```
#![no_std]
#![forbid(unsafe_code)]

#[cfg(feature = "alloc")]
extern crate alloc;

mod act;
mod bottleneck;
#[cfg(feature = "alloc")]
mod method;

pub use act::NonLinearity;
pub use bottleneck::{Bottleneck, RANK_MAX};
#[cfg(feature = "alloc")]
pub use method::BottleneckMethod;
