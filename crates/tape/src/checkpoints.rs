//! Which inputs of segments are kept from forward to backward, and where each of them lies.
//!
//! Segments that are differentiated form groups. Only the input of a group's first segment is kept;
//! before backward walks the group, the inputs of its other segments are computed again. The
//! topmost group is spared that: forward leaves all its inputs where backward looks for them.
//!
//! *Slots* hold one input each, as it is. Where inputs are kept in slots, group `g`'s first lies in
//! slot `g`, and its others in those that follow, which the groups above no longer need. Where they
//! are kept in another form, slots hold the inputs of the group that backward is in.
//!
//! The input of a reversible segment is made again from its output, in the slot of the segment
//! above: where every input is kept, those of reversible segments are not. They belong to the group
//! of the first segment above them that is none.

use alloc::vec::Vec;
use core::ops::Range;

use crate::{Policy, Store};

/// The arrangement of a program's checkpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Checkpoints {
    /// The first segment of each group, ascending.
    starts: Vec<usize>,
    /// Number of segments.
    count: usize,
    store: Store,
    /// The segments whose input is made from their output, ascending.
    undone: Vec<usize>,
    /// A group is its first segment alone: backward passes over those between groups.
    sparse: bool,
}

impl Checkpoints {
    /// Groups of the segments from `first` up to `count`. `lent` says how many values' room an
    /// input takes where it is kept in another form than in a slot, in parts of `whole`.
    /// `reversible` says which segments have an inverse.
    pub(crate) fn new(
        first: usize,
        count: usize,
        policy: Policy,
        store: Store,
        (lent, whole): (usize, usize),
        reversible: &dyn Fn(usize) -> bool,
    ) -> Self {
        // Nothing keeps the output of the topmost.
        let below = first..count.saturating_sub(1).max(first);
        let undone: Vec<usize> = match policy {
            Policy::Store | Policy::Selective { .. } | Policy::Block => {
                below.filter(|&i| reversible(i)).collect()
            }
            Policy::Every(_) | Policy::Sqrt => Vec::new(),
        };
        let every = |n: usize| (first..count).step_by(n).collect();
        let starts = match (policy, store) {
            (Policy::Store | Policy::Selective { .. } | Policy::Block, _) => {
                (first..count).filter(|i| undone.binary_search(i).is_err()).collect()
            }
            (Policy::Every(n), _) => every(n.get()),
            (Policy::Sqrt, Store::F32) => shrinking(first, count),
            (Policy::Sqrt, _) => {
                let room = |n: usize| (count - first).div_ceil(n) * lent + n * whole;
                every((1..=(count - first).max(1)).min_by_key(|&n| room(n)).unwrap_or(1))
            }
        };
        Self { starts, count, store, undone, sparse: false }
    }

    /// Each of `chosen`, ascending, a group of its own, and no others.
    pub(crate) fn sparse(chosen: &[usize], count: usize, store: Store) -> Self {
        Self { starts: chosen.to_vec(), count, store, undone: Vec::new(), sparse: true }
    }

    /// Others, as many or fewer.
    pub(crate) fn choose(&mut self, chosen: &[usize]) {
        self.starts.clear();
        self.starts.extend(chosen);
    }

    /// Whether only some segments are differentiated.
    pub(crate) fn is_sparse(&self) -> bool {
        self.sparse
    }

    /// The groups' segments, from the bottom up.
    pub(crate) fn groups(&self) -> impl DoubleEndedIterator<Item = Range<usize>> + '_ {
        (0..self.len()).map(|group| self.segments(group))
    }

    /// Number of groups.
    pub(crate) fn len(&self) -> usize {
        self.starts.len()
    }

    /// The segments of a group.
    pub(crate) fn segments(&self, group: usize) -> Range<usize> {
        if self.sparse {
            return self.starts[group]..self.starts[group] + 1;
        }
        self.lowest(group)..if group + 1 < self.len() { self.lowest(group + 1) } else { self.count }
    }

    /// The segment whose input is kept for a group.
    pub(crate) fn start(&self, group: usize) -> usize {
        self.starts[group]
    }

    /// Whether the input of a segment is made from its output.
    pub(crate) fn is_undone(&self, segment: usize) -> bool {
        self.undone.binary_search(&segment).is_ok()
    }

    /// The segments of a group whose inputs are computed again from the one that is kept.
    pub(crate) fn again(&self, group: usize) -> Range<usize> {
        let top = group + 1 == self.len();
        let start = self.starts[group];
        start..if top { start } else { self.segments(group).end - 1 }
    }

    /// The lowest segment of a group: its first, or the last reversible one in a row below that.
    fn lowest(&self, group: usize) -> usize {
        let start = self.starts[group];
        (0..start).rev().take_while(|&i| self.is_undone(i)).last().unwrap_or(start)
    }

    /// The segment that backward reads first.
    pub(crate) fn read_first(&self) -> usize {
        self.groups().next_back().map_or(0, |group| group.end - 1)
    }

    /// The segment that is read after the backward of this one: the one below, or the first to be
    /// computed again in the group below, or the first of the next forward.
    pub(crate) fn read_after(&self, segment: usize) -> usize {
        let group = self.group(segment).expect("a differentiated segment is in a group");
        match (self.lowest(group) < segment, group.checked_sub(1)) {
            (true, _) => segment - 1,
            (false, Some(below)) => self.starts[below],
            (false, None) => 0,
        }
    }

    /// The group that a segment belongs to, counted from the bottom; `None` when it is not
    /// differentiated.
    fn group(&self, segment: usize) -> Option<usize> {
        if self.sparse {
            return self.starts.binary_search(&segment).ok();
        }
        let mut segment = segment;
        while self.is_undone(segment) {
            segment += 1;
        }
        self.begun(segment).checked_sub(1)
    }

    /// Number of groups whose first segment is not above this one.
    fn begun(&self, segment: usize) -> usize {
        self.starts.partition_point(|&start| start <= segment)
    }

    /// The slot in which backward finds the input of a differentiated segment.
    pub(crate) fn slot(&self, segment: usize) -> usize {
        let group = self.group(segment).expect("a differentiated segment is in a group");
        let before = segment.saturating_sub(self.starts[group]);
        if self.store == Store::F32 { group + before } else { before }
    }

    /// The slot in which forward leaves the input of a segment, where it does.
    pub(crate) fn left_in(&self, segment: usize) -> Option<usize> {
        let group = self.group(segment).filter(|_| segment < self.count)?;
        let kept = self.store == Store::F32 && self.starts[group] == segment;
        let top = group + 1 == self.len() && self.starts[group] <= segment;
        (kept || top).then(|| self.slot(segment))
    }

    /// Where the input of a segment is kept, counted among all that are kept in another form than
    /// in a slot.
    pub(crate) fn lent(&self, segment: usize) -> Option<usize> {
        if self.store == Store::F32 {
            return None;
        }
        let group = self.starts.binary_search(&segment).ok()?;
        (group + 1 < self.len()).then_some(group)
    }

    /// Number of inputs kept in another form than in a slot.
    pub(crate) fn lent_count(&self) -> usize {
        if self.store == Store::F32 { 0 } else { self.len().saturating_sub(1) }
    }

    /// Number of slots.
    pub(crate) fn slots(&self) -> usize {
        let last = self.groups().filter_map(Iterator::last);
        last.map(|segment| self.slot(segment) + 1).max().unwrap_or(0)
    }

    /// How many slots, and how many inputs in another form, are taken while forward is in a
    /// segment.
    pub(crate) fn taken_forward(&self, segment: usize) -> (usize, usize) {
        if self.sparse && self.group(segment).is_none() {
            return self.taken_between(segment);
        }
        let Some(group) = self.begun(segment).checked_sub(1) else { return (0, 0) };
        let top = group + 1 == self.len();
        let inner = if top { segment - self.starts[group] } else { 0 };
        match self.store {
            Store::F32 => (group + 1 + inner, 0),
            _ if top => (inner + 1, group),
            _ => (0, group + 1),
        }
    }

    /// The same for a segment that is not differentiated.
    fn taken_between(&self, segment: usize) -> (usize, usize) {
        let below = self.starts.partition_point(|&start| start < segment);
        match self.store {
            Store::F32 => (below, 0),
            _ if below > 0 && below == self.len() => (1, below - 1),
            _ => (0, below),
        }
    }

    /// The same while backward is in a differentiated segment, or computes its output again.
    pub(crate) fn taken_backward(&self, segment: usize) -> (usize, usize) {
        let group = self.group(segment).expect("a differentiated segment is in a group");
        let lent = if self.store == Store::F32 { 0 } else { group };
        (self.slot(segment) + 1, lent)
    }
}

/// Groups that are the larger the lower they lie, with as few slots as will do.
fn shrinking(first: usize, count: usize) -> Vec<usize> {
    let mut slots = 0;
    while slots * (slots + 1) / 2 < count - first {
        slots += 1;
    }
    let mut starts = Vec::with_capacity(slots);
    let mut end = count;
    for group in (0..slots).rev() {
        // Every group below gets a segment at least.
        end -= (slots - group).min(end - first - group);
        starts.push(end);
    }
    starts.reverse();
    starts
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::num::NonZeroUsize;

    const ELEMENT: usize = 4;

    fn arranged(first: usize, count: usize, policy: Policy, store: Store) -> Checkpoints {
        reversible(first, count, policy, store, &|_| false)
    }

    fn reversible(
        first: usize,
        count: usize,
        policy: Policy,
        store: Store,
        which: &dyn Fn(usize) -> bool,
    ) -> Checkpoints {
        let lent = [ELEMENT, 2, 1, 0][store as usize];
        Checkpoints::new(first, count, policy, store, (lent, ELEMENT), which)
    }

    /// The group that backward comes to as number `n`.
    fn n_of(checkpoints: &Checkpoints, n: usize) -> usize {
        checkpoints.len() - 1 - n
    }

    /// Plays a step and checks that every input is where it is looked for.
    fn plays(checkpoints: &Checkpoints, first: usize, count: usize) {
        let mut slots = std::vec![None; checkpoints.slots()];
        let mut lent = std::vec![None; checkpoints.lent_count()];
        let used = |slots: &[Option<usize>]| slots.iter().flatten().count();
        for segment in 0..count {
            if let Some(slot) = checkpoints.left_in(segment) {
                assert!(slots[slot].is_none(), "{checkpoints:?}: slot {slot} is taken");
                slots[slot] = Some(segment);
            }
            if let Some(place) = checkpoints.lent(segment) {
                lent[place] = Some(segment);
            }
            let taken = checkpoints.taken_forward(segment);
            assert_eq!((used(&slots), used(&lent)), taken, "{checkpoints:?}, forward {segment}");
        }
        let mut done = count;
        for (n, group) in checkpoints.groups().rev().enumerate() {
            assert!(group.end == done || checkpoints.is_sparse());
            done = group.start;
            let start = checkpoints.start(n_of(checkpoints, n));
            if let Some(place) = checkpoints.lent(start) {
                let slot = &mut slots[checkpoints.slot(start)];
                *slot = slot.or(lent[place].take());
            }
            for segment in checkpoints.again(n_of(checkpoints, n)).map(|below| below + 1) {
                assert_eq!(slots[checkpoints.slot(segment - 1)], Some(segment - 1));
                let slot = &mut slots[checkpoints.slot(segment)];
                assert!(slot.replace(segment).is_none(), "{checkpoints:?}: {segment} has no slot");
            }
            for segment in group.rev() {
                let above = &mut slots[checkpoints.slot(segment)];
                if checkpoints.is_undone(segment) {
                    assert_eq!(above.replace(segment), None, "{segment}: the one above is done");
                }
                let taken = (used(&slots), used(&lent));
                assert_eq!(taken, checkpoints.taken_backward(segment), "backward {segment}");
                assert_eq!(slots[checkpoints.slot(segment)].take(), Some(segment));
            }
        }
        assert_eq!(done, first);
        assert!(slots.iter().chain(&lent).all(Option::is_none));
    }

    #[test]
    fn every_input_is_where_backward_looks_for_it() {
        let every = [1, 2, 3, 7, 40].map(|n| Policy::Every(NonZeroUsize::new(n).unwrap()));
        let policies = [Policy::Store, Policy::Block, Policy::Sqrt].into_iter().chain(every);
        for policy in policies {
            for store in Store::ALL {
                for count in 0..33 {
                    for first in 0..=count {
                        plays(&arranged(first, count, policy, store), first, count);
                    }
                }
            }
        }
    }

    #[test]
    fn segments_that_are_chosen_have_their_inputs_kept_alone() {
        for store in Store::ALL {
            for chosen in [&[0][..], &[4], &[0, 4], &[1, 2], &[0, 1, 2, 3, 4]] {
                let checkpoints = Checkpoints::sparse(chosen, 5, store);
                plays(&checkpoints, chosen[0], 5);
                let rooms = (checkpoints.slots(), checkpoints.lent_count());
                let n = chosen.len();
                assert_eq!(rooms, if store == Store::F32 { (n, 0) } else { (1, n - 1) });
            }
        }
    }

    #[test]
    fn inputs_of_reversible_segments_take_no_slot() {
        type Which = fn(usize) -> bool;
        let choices: [Which; 4] = [|i| i % 2 == 0, |i| i % 2 == 1, |i| i % 5 > 1, |_| true];
        for which in choices {
            for store in Store::ALL {
                for count in 0..12 {
                    for first in 0..=count {
                        let policies = [Policy::Store, Policy::Block, Policy::Sqrt];
                        for policy in policies {
                            plays(&reversible(first, count, policy, store, &which), first, count);
                        }
                    }
                }
            }
        }
        let slots = |which: Which| reversible(0, 8, Policy::Block, Store::F32, &which).slots();
        assert_eq!(choices.map(slots), [4, 5, 5, 1], "the topmost takes one");
    }

    #[test]
    fn the_square_root_takes_few_slots() {
        for (count, slots) in [(1, 1), (3, 2), (24, 7), (28, 7), (30, 8), (36, 8), (37, 9)] {
            let checkpoints = arranged(0, count, Policy::Sqrt, Store::F32);
            assert_eq!((checkpoints.slots(), checkpoints.starts.len()), (slots, slots));
        }
        let sizes: Vec<usize> = arranged(2, 32, Policy::Sqrt, Store::F32)
            .groups()
            .rev()
            .map(|group| group.len())
            .collect();
        assert_eq!(sizes, [1, 2, 3, 4, 5, 6, 7, 2]);
        let halves = arranged(0, 30, Policy::Sqrt, Store::Bf16);
        assert_eq!((halves.slots(), halves.lent_count()), (3, 9));
        assert_eq!(arranged(0, 30, Policy::Sqrt, Store::File).slots(), 1);
    }
}
