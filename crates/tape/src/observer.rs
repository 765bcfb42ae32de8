//! Saying what an executor is at, for whoever wants to know how long it takes.

/// What an executor is at. Segments are counted from the bottom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// A segment goes forward.
    Forward(usize),
    /// A segment goes forward again, for an input that was not kept. Where a segment is computed
    /// again inside its own backward, that is a part of it.
    Again(usize),
    /// Logits and loss, and where there is a backward their gradient.
    Head,
    /// A segment goes backward.
    Backward(usize),
    /// A segment's gradients are taken over, or its parameters updated.
    Update(usize),
}

/// Told when each stage begins and ends. Stages follow each other, never one inside another.
///
/// This crate has no clock; whoever observes brings one. Nothing that is computed depends on it.
pub trait Observer: Send {
    /// A stage begins.
    fn begin(&mut self, stage: Stage);

    /// The stage that began last ends.
    fn end(&mut self, stage: Stage);
}
