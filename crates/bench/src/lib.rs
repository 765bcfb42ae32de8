//! Bench suites over any backends.
//!
//! [`Contender`]s take turns ([`alternate`]), so that what disturbs the machine disturbs all of
//! them. What they reach is told beside what the machine can do at best, measured in the same run
//! ([`measure`]), and beside what others reach ([`read_peers`]). A [`Report`] is written as JSON
//! and as a page that loads nothing and runs nothing ([`page`]).
//!
//! The suites: [`suites::kernels`] times single operations ([`kernels::all`]), [`suites::step`]
//! whole steps, [`suites::generate`] prompts and decoding; [`suites::memory`] compares what is
//! planned, charged and really held; [`suites::gradients`] how far approximations are from the
//! gradient; [`suites::papers`] puts plans beside published tables; [`suites::tradeoff`] makes a
//! short run again with one lever moved at a time.
//!
//! The crate knows no concrete backend and prints nothing.
//!
//! ```
//! use std::time::Duration;
//!
//! use lowtide_backend::Scalar;
//! use lowtide_bench::{Contender, Pace, Stand, Wall, kernels::Extent, suites};
//!
//! let contender =
//!     Contender { label: "scalar", backend: &Scalar, threads: 1, run: &|job| job() };
//! let stand = Stand {
//!     contenders: &[contender],
//!     ceilings: &[],
//!     clock: &Wall::default(),
//!     pace: Pace { turn: Duration::from_micros(100), rounds: 3 },
//!     on_start: &|_| (),
//!     on_row: &|_| (),
//! };
//! let rows = suites::kernels(&stand, Extent::Quick, Some("axpby"))?;
//! assert_eq!(rows[0].name, "axpby 32x576");
//! assert!(rows[0].results[0].bytes_per_second > 0.0);
//! # Ok::<(), lowtide_bench::BenchError>(())
//! ```
#![forbid(unsafe_code)]

mod ceilings;
mod contender;
mod error;
pub mod kernels;
mod page;
mod peers;
mod report;
mod stand;
mod stats;
pub mod suites;
mod timer;

pub use ceilings::{Ceiling, Effort, Limit, Probe, Probes, Read, Work, measure};
pub use contender::{Contender, Run};
pub use error::BenchError;
pub use page::page;
pub use peers::{Figure, Peer, PeersError, beside, parse_peers, read_peers};
pub use report::{
    About, GradientRow, Machine, Measured, MemoryRow, MethodRow, PaperRow, PaperRun, Report, Row,
    SCHEMA, TaskRow, TradeoffRow, check_writable, write,
};
pub use stand::Stand;
pub use stats::Spread;
pub use timer::{Clock, Pace, Timing, Wall, alternate};
