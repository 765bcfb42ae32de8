//! Block formats as bytes: how weights and optimizer states look packed, and how to get numbers
//! out of the bytes and into them.
//!
//! - [`BlockFormat`] is one way to store a row of numbers as whole blocks of bytes. The formats
//!   known here are in [`formats::ALL`]; a format defined elsewhere is as good as these.
//! - [`QMat`] is a checked view of a packed row-major matrix `[rows, cols]`.
//! - [`Codes`] is a format whose scales may lie apart from its codes, and [`Scales`] is where.
//! - [`LineCodes`] are adapters in eight or four bits, with scales along lines.
//! - [`dynamic8`] holds the 8-bit dynamic maps that optimizer states are stored in.
//!
//! Everything here is the plain reference: it decides what the bytes mean. Faster kernels live
//! with the backends and are tested against it. The crate allocates nothing, reads no file and
//! knows no matrix product.
//!
//! # Scales that lie apart
//!
//! GGUF keeps the scales of a block in the block. bitsandbytes keeps them in tensors of their own,
//! once for 64 values (NF4), themselves quantized (NF4 with "double quantization"), or once a row
//! (int8). Joining both when a file is opened would need a copy of the whole base in memory that
//! the system cannot drop again; a mapped file costs none. So [`QMat::apart`] views codes and
//! scales where they lie, and [`QMat`] brings them together a few blocks at a time while it
//! decodes. Formats whose blocks are complete know nothing of this: [`BlockFormat`] has no part of
//! it, and their decoding takes the same path as if it did not exist.
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
mod codes;
mod format;
mod lines;
mod qmat;

pub mod dynamic8;
pub mod formats;
pub mod integers;

pub use codes::{Apart, Codes, Floats, Nested, Scales};
pub use format::{BlockFormat, block_count};
pub use integers::Integers;
pub use lines::LineCodes;
pub use qmat::{QMat, QMatError};
