//! How much is alive when: the course of one step.

use alloc::vec::Vec;

use crate::ByCategory;

/// A stretch of a step, and the most that was alive at once in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// What runs: `forward`, `head`, `backward`.
    pub phase: &'static str,
    /// Which part of the model is at work, in the order of the forward pass.
    pub segment: usize,
    /// Bytes alive at the fullest moment of the stretch.
    pub live: ByCategory,
}

/// The stretches of one step, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Timeline {
    spans: Vec<Span>,
}

impl Timeline {
    /// A timeline without a stretch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a stretch.
    pub fn push(&mut self, span: Span) {
        self.spans.push(span);
    }

    /// The stretches, in order.
    #[must_use]
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// The stretch with the most alive, the first of several; `None` when there is none.
    #[must_use]
    pub fn fullest(&self) -> Option<&Span> {
        self.spans.iter().rev().max_by_key(|span| span.live.held())
    }

    /// The same course on top of what is held throughout.
    #[must_use]
    pub fn over(mut self, held: ByCategory) -> Self {
        for span in &mut self.spans {
            span.live += held;
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::{Span, Timeline};
    use crate::{ByCategory, Category};

    #[test]
    fn the_first_of_the_fullest_stretches_is_named() {
        assert_eq!(Timeline::new().fullest(), None);
        let mut timeline = Timeline::new();
        for (segment, bytes) in [3, 9, 9, 4].into_iter().enumerate() {
            let live = ByCategory::of(Category::Workspace, bytes);
            timeline.push(Span { phase: "forward", segment, live });
        }
        assert_eq!(timeline.fullest().map(|span| span.segment), Some(1));
        let raised = timeline.over(ByCategory::of(Category::Adapter, 100));
        let held: std::vec::Vec<u64> = raised.spans().iter().map(|s| s.live.held()).collect();
        assert_eq!(held, [103, 109, 109, 104]);
    }
}
