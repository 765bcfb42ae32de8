//! Saying which frozen weights are read when, for whoever has to fetch them.

/// Frozen weights that a program reads together.
///
/// The embedding is none: only the rows of a batch's tokens are read, wherever they lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Those of a segment, counted from the bottom.
    Segment(usize),
    /// The loss head's.
    Head,
}

/// Told ahead of the weights an [`Executor`](crate::Executor) reads, so that weights that do not
/// all fit into memory can be there in time and make room in time.
///
/// What it does must not change what is read: results never depend on it.
pub trait WeightKeeper: Send {
    /// `part` is about to be read, `next` after it; what was read before is done with until it is
    /// named again. After the last part of a step `next` is the first of another.
    fn enter(&mut self, part: Part, next: Part);
}
