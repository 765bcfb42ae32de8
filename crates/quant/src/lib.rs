//! Block formats as bytes: how weights and optimizer states look packed, and how to get numbers
//! out of the bytes and into them.
//!
//! - [`BlockFormat`] is one way to store a row of numbers as whole blocks of bytes. The formats
//!   known here are in [`formats::ALL`]; a format defined elsewhere is as good as these.
//! - [`QMat`] is a checked view of a packed row-major matrix `[rows, cols]`.
//! - [`dynamic8`] holds the 8-bit dynamic maps that optimizer states are stored in.
//!
//! Everything here is the plain reference: it decides what the bytes mean. Faster kernels live
//! with the backends and are tested against it. The crate allocates nothing, reads no file and
//! knows no matrix product.
//!
//! ```
//! use lowtide_quant::{BlockFormat, QMat, formats::Q8_0};
//!
//! // A matrix [1, 32]: one row of one Q8_0 block, 34 bytes instead of 128.
//! let row: [f32; 32] = core::array::from_fn(|i| i as f32 - 15.5);
//! let mut bytes = [0u8; 34];
//! Q8_0.encode(&row, &mut bytes);
//!
//! let packed = QMat::new(&Q8_0, 1, 32, &bytes)?;
//! let mut decoded = [0.0; 32];
//! packed.decode_row(0, &mut decoded);
//!
//! // The scale is 16.5 / 127, so no value moves by more than about half of that.
//! assert!(row.iter().zip(&decoded).all(|(x, y)| (x - y).abs() < 0.07));
//! # Ok::<(), lowtide_quant::QMatError>(())
//! ```
#![no_std]
#![forbid(unsafe_code)]

mod absmax;
mod format;
mod qmat;

pub mod dynamic8;
pub mod formats;

pub use format::{BlockFormat, block_count};
pub use qmat::{QMat, QMatError};
