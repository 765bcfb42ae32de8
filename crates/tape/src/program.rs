//! A model as the executor sees it: an embedding, segments in order, a loss head.

use alloc::vec::Vec;
use core::ops::Range;

use lowtide_backend::Backend;
use lowtide_quant::QMat;
use lowtide_tensor::{Float, MatMut};

use crate::{LossHead, Segment};

/// Token embedding: rows of a packed table, times a factor.
#[derive(Clone, Copy, Debug)]
pub struct Embedding<'w, F> {
    /// Packed `[V, D]`.
    pub table: QMat<'w>,
    /// Factor on every element, 1 for most families.
    pub scale: F,
}

impl<F: Float> Embedding<'_, F> {
    /// The rows of `ids [T]` into `x [T, D]`.
    pub(crate) fn rows(&self, be: &dyn Backend<F>, ids: &[u32], mut x: MatMut<'_, F>) {
        be.qgather(self.table, ids, x.rb());
        if self.scale != F::ONE {
            for row in 0..ids.len() {
                x.row_mut(row).iter_mut().for_each(|value| *value *= self.scale);
            }
        }
    }
}

/// Everything that is frozen, and where the trainable parameters enter it.
pub struct Program<'w, F: Float> {
    /// Ids to rows.
    pub embedding: Embedding<'w, F>,
    /// Blocks, bottom to top.
    pub segments: Vec<Segment<'w, F>>,
    /// Rows to loss.
    pub head: LossHead<'w, F>,
}

impl<F: Float> Program<'_, F> {
    /// Width of what flows between segments.
    #[must_use]
    pub fn hidden(&self) -> usize {
        self.embedding.table.cols()
    }

    /// Number of trainable parameters.
    #[must_use]
    pub fn params(&self) -> usize {
        self.segments.iter().map(Segment::params).sum()
    }

    /// Where each segment's parameters lie in the adapter slab.
    #[must_use]
    pub fn param_ranges(&self) -> Vec<Range<usize>> {
        ranges(self.segments.iter().map(Segment::params))
    }

    /// Number of values that go with the parameters and are not trained.
    #[must_use]
    pub fn fixed(&self) -> usize {
        self.segments.iter().map(Segment::fixed).sum()
    }

    /// Where each segment's values that go with its parameters lie in the slab of these.
    #[must_use]
    pub fn fixed_ranges(&self) -> Vec<Range<usize>> {
        ranges(self.segments.iter().map(Segment::fixed))
    }

    /// Whether any segment needs all rows of a sequence at once.
    #[must_use]
    pub fn whole_sequence(&self) -> bool {
        self.segments.iter().any(Segment::whole_sequence)
    }

    /// The lowest segment with a trainable parameter; nothing below it is differentiated.
    #[must_use]
    pub fn first_trained(&self) -> Option<usize> {
        self.segments.iter().position(|segment| segment.params() > 0)
    }

    /// Panics when the parts do not fit together.
    pub(crate) fn check_widths(&self) {
        let hidden = self.hidden();
        for (i, segment) in self.segments.iter().enumerate() {
            let cols = segment.hidden();
            assert!(cols == hidden, "segment {i} has {cols} columns, the embedding {hidden}");
        }
        let (norm, head) = (self.head.norm.len(), self.head.weight.cols());
        assert!(
            norm == hidden && head == hidden,
            "the final norm has {norm} columns, the head {head}, the embedding {hidden}"
        );
    }
}

/// Ranges of these lengths, one behind the other.
fn ranges(lens: impl Iterator<Item = usize>) -> Vec<Range<usize>> {
    let mut end = 0;
    let range = |len| {
        let start = end;
        end += len;
        start..end
    };
    lens.map(range).collect()
}
