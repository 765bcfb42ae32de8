//! Bytes, who holds them, and how many there may be.
//!
//! Every large buffer in Lowtide is charged to a [`Ledger`] under a [`Category`], against a
//! [`Budget`]. A [`Slab`] is the only way the engine holds such memory: it is charged before it is
//! mapped and it owns its mapping, so that letting it go gives the memory back to the system at
//! once. A [`Scratch`] hands out pieces of lent memory and takes them back by scope.
//!
//! The ledger is exact by construction, not by sampling: planning computes the same charges before
//! anything is reserved, and a run that does not fit ends in [`OverBudget`] before its first write.
//!
//! A [`Timeline`] is the course of one step: what was alive in each stretch of it.
//!
//! Regimes: without features the crate is `no_std` and allocates nothing; `alloc` and `std` add
//! slabs (heap-backed and mapped).
#![no_std]
#![deny(unsafe_code)]

#[cfg(feature = "alloc")]
extern crate alloc;
#[cfg(any(feature = "std", test))]
extern crate std;

mod category;
#[cfg(feature = "std")]
mod heap;
mod ledger;
mod scratch;
#[cfg(feature = "alloc")]
mod slab;
#[cfg(feature = "alloc")]
mod timeline;

pub use category::{ByCategory, Category};
#[cfg(feature = "std")]
pub use heap::release_free_heap;
pub use ledger::{Budget, Charge, Ledger, OverBudget};
pub use scratch::Scratch;
#[cfg(feature = "alloc")]
pub use slab::{LockError, ReserveError, Slab};
#[cfg(feature = "alloc")]
pub use timeline::{Span, Timeline};
