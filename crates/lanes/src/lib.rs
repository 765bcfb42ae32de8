//! Units of work, and how they are shared over the threads of the caller's rayon pool.
//!
//! A backend cuts an output into *units*, each owning the part that it writes: blocks of rows
//! ([`RowBlocks`]), of columns ([`ColBlocks`]) or both ([`Tiles`]). [`share`] hands them to at most
//! so many threads, each with a part of the scratch, and allocates nothing. Fast threads take more
//! units; which thread computes one changes no bit, because work is shared over outputs only.
//!
//! ```
//! use lowtide_lanes::{RowBlock, RowBlocks, share_out};
//! use lowtide_tensor::MatMut;
//!
//! let mut data = [0.0_f32; 6];
//! share_out(2, RowBlocks::new(MatMut::new(&mut data, 3, 2), 1), |RowBlock { start, mut rows }| {
//!     rows.fill(start as f32);
//! });
//! assert_eq!(data, [0.0, 0.0, 1.0, 1.0, 2.0, 2.0]);
//! ```
#![forbid(unsafe_code)]

mod share;
mod units;

pub use share::{share, share_out};
pub use units::{
    ColBlock, ColBlocks, RowBlock, RowBlocks, Tile, Tiles, even_width, level_width, row_split,
    slice_split,
};
