//! Criterion suites that take a list of backends, so that one page of figures compares them.
//!
//! [`ops`] times single operations at the shapes of SmolLM2-135M (hidden 576, feed-forward 1536, 9
//! heads over 3 key/value heads of 64, 49,152 words) with 512 tokens. Criterion's `elem/s` are
//! floating-point operations: two for each multiply-add of the plain algorithm, whatever a backend
//! really does.
//!
//! Run it with `cargo bench -p lowtide-benches`, a part of it with a pattern behind: `-- qmatmul`.
#![forbid(unsafe_code)]

pub mod ops;
mod shapes;
