//! Which of a segment's values outlive forward, so that backward need not compute them again.

use alloc::vec;
use alloc::vec::Vec;

use super::Needs;

/// Values that are kept in a region of their own from forward to backward. The segment's input is
/// none of them: where that is kept is decided for all segments together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Keep(Vec<bool>);

impl Keep {
    /// Nothing of `values` values.
    pub(crate) fn nothing(values: usize) -> Self {
        Self(vec![false; values])
    }

    /// All that backward reads.
    pub(crate) fn everything(needs: &Needs) -> Self {
        let mut keep = Self(needs.read.clone());
        keep.0[0] = false;
        keep
    }

    /// Keeps a value as well.
    pub(crate) fn add(&mut self, value: usize) {
        self.0[value] = value != 0;
    }

    /// Whether a value is kept.
    pub(crate) fn has(&self, value: usize) -> bool {
        self.0[value]
    }

    /// Whether any value is.
    pub(crate) fn any(&self) -> bool {
        self.0.contains(&true)
    }
}
