//! Placing buffers: first fit over lifetimes, largest first.

use alloc::vec::Vec;

/// Buffers start at multiples of this many elements: a cache line of f32.
pub(crate) const ALIGN: usize = 16;

/// A buffer to place: its length and the first and last step that touch it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Interval {
    pub(crate) len: usize,
    pub(crate) birth: usize,
    pub(crate) death: usize,
}

impl Interval {
    fn overlaps(self, other: Self) -> bool {
        self.birth <= other.death && other.birth <= self.death
    }
}

/// Length rounded up to the alignment.
pub(crate) fn aligned(len: usize) -> usize {
    len.next_multiple_of(ALIGN)
}

/// Offsets such that buffers alive together do not overlap, and the extent of all.
pub(crate) fn pack(intervals: &[Interval]) -> (Vec<usize>, usize) {
    let mut order: Vec<usize> = (0..intervals.len()).collect();
    order.sort_by_key(|&i| (core::cmp::Reverse(intervals[i].len), intervals[i].birth, i));
    let mut offsets = alloc::vec![0; intervals.len()];
    let mut placed: Vec<usize> = Vec::with_capacity(intervals.len());
    let mut extent = 0;
    for i in order {
        // `placed` is sorted by offset, so the first gap wide enough is the lowest.
        let mut at = 0;
        for &j in placed.iter().filter(|&&j| intervals[j].overlaps(intervals[i])) {
            if at + aligned(intervals[i].len) <= offsets[j] {
                break;
            }
            at = at.max(offsets[j] + aligned(intervals[j].len));
        }
        offsets[i] = at;
        extent = extent.max(at + aligned(intervals[i].len));
        let position = placed.partition_point(|&j| offsets[j] <= at);
        placed.insert(position, i);
    }
    (offsets, extent)
}
