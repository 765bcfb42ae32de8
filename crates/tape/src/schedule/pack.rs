//! Placing buffers: first fit over lifetimes, in the better of a few orders.

use alloc::vec::Vec;
use core::cmp::Reverse;

/// Buffers start at multiples of this many elements: a cache line of f32.
pub(crate) const ALIGN: usize = 16;

/// Orders of placing that are tried.
const ORDERS: usize = 3;

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

    /// What each order places first: the largest, the one that takes most room for longest, the one
    /// that lives longest.
    fn ranks(self) -> [(usize, usize); ORDERS] {
        let (len, steps) = (aligned(self.len), self.death - self.birth + 1);
        [(len, steps), (len.saturating_mul(steps), len), (steps, len)]
    }
}

/// Length rounded up to the alignment.
pub(crate) fn aligned(len: usize) -> usize {
    len.next_multiple_of(ALIGN)
}

/// Offsets such that buffers alive together do not overlap, and the extent of all.
///
/// First fit depends on the order in which buffers are placed, and no order is best for every
/// schedule; the one with the least extent is taken.
pub(crate) fn pack(intervals: &[Interval]) -> (Vec<usize>, usize) {
    let packed = (0..ORDERS).map(|order| first_fit(intervals, order));
    packed.min_by_key(|(_, extent)| *extent).expect("there is more than one order")
}

/// Places buffers in one of the orders, each in the lowest gap wide enough.
fn first_fit(intervals: &[Interval], order: usize) -> (Vec<usize>, usize) {
    let mut all: Vec<usize> = (0..intervals.len()).collect();
    all.sort_by_key(|&i| (Reverse(intervals[i].ranks()[order]), i));
    let mut offsets = alloc::vec![0; intervals.len()];
    let mut placed: Vec<usize> = Vec::with_capacity(intervals.len());
    let mut extent = 0;
    for i in all {
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
