//! Keeping in memory only the weights that are in use: read ahead, used, let go.
//!
//! A mapped base needs no room of its own, but what the system caches of it does; where the base is
//! larger than what is left, each pass over it reads all of it again, page by page, while the
//! computation waits. [`WeightStream`] knows the order in which a program reads its blocks. It has
//! the next one read while this one computes, and lets go of those whose turn is longest away.

mod parts;
mod stream;

pub use parts::WeightParts;
pub use stream::WeightStream;
