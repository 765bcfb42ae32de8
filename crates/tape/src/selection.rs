//! Which intermediate values to keep when not all of them fit: those first that save the most work
//! for their room.

use alloc::vec::Vec;
use core::cmp::Reverse;

use lowtide_tensor::Float;

use crate::Limits;
use crate::graph::{Graph, Node};
use crate::schedule::{Keep, Needs, aligned, making};

/// The outputs of one operation, to be kept together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pick {
    /// The outputs that backward reads.
    pub(crate) values: Vec<usize>,
    /// Elements they take.
    pub(crate) elements: usize,
    /// Work that backward is spared, given that everything before it is kept too.
    pub(crate) saved: u64,
}

/// What a segment may keep, in the order in which it should, until there is nothing left to compute
/// again.
pub(crate) fn picks<F: Float>(graph: &Graph<'_, F>, needs: &Needs, limits: Limits) -> Vec<Pick> {
    let mut keep = Keep::nothing(graph.cols.len());
    let mut left = recomputed(graph, needs, &keep, limits);
    let mut open: Vec<Pick> =
        graph.nodes.iter().map(|node| pick(graph, node, needs, limits)).collect();
    open.retain(|pick| !pick.values.is_empty());
    let mut order = Vec::new();
    while left > 0 && !open.is_empty() {
        for pick in &mut open {
            let mut with = keep.clone();
            pick.values.iter().for_each(|v| with.add(*v));
            pick.saved = left - recomputed(graph, needs, &with, limits);
        }
        let best = (0..open.len()).max_by_key(|&i| (open[i].worth(), Reverse(i)));
        let best = open.remove(best.expect("some are open"));
        best.values.iter().for_each(|v| keep.add(*v));
        left -= best.saved;
        // What spares nothing by itself goes with what it lets spare.
        match order.last_mut().filter(|last: &&mut Pick| last.saved == 0) {
            Some(last) => last.join(best),
            None => order.push(best),
        }
    }
    order
}

/// How many picks of each segment to take so that all fit into `room` elements.
pub(crate) fn select(segments: &[Vec<Pick>], room: usize) -> Vec<usize> {
    let mut all: Vec<(usize, usize)> = Vec::new();
    for (i, picks) in segments.iter().enumerate() {
        all.extend((0..picks.len()).map(|n| (i, n)));
    }
    // What a segment keeps first goes before what it keeps later, and is worth no less.
    let worth = |(i, n): (usize, usize)| {
        segments[i][..=n].iter().map(Pick::worth).min().unwrap_or_default()
    };
    all.sort_by_key(|&pick| (Reverse(worth(pick)), pick.1, Reverse(pick.0)));
    let mut taken = alloc::vec![0; segments.len()];
    let mut left = room;
    for (i, n) in all {
        let elements = segments[i][n].elements;
        if taken[i] == n && elements <= left {
            taken[i] = n + 1;
            left -= elements;
        }
    }
    taken
}

impl Pick {
    fn join(&mut self, other: Self) {
        self.values.extend(other.values);
        self.elements += other.elements;
        self.saved += other.saved;
    }

    /// Work saved for an element kept, in a fixed point that keeps orders exact.
    fn worth(&self) -> u64 {
        (self.saved << 8) / self.elements.max(1) as u64
    }
}

fn pick<F: Float>(graph: &Graph<'_, F>, node: &Node<'_, F>, needs: &Needs, limits: Limits) -> Pick {
    let values: Vec<usize> = node.outputs.iter().map(|v| v.0).filter(|&v| needs.read[v]).collect();
    let elements = values.iter().map(|&v| aligned(graph.elements(v, limits.tokens, limits))).sum();
    Pick { values, elements, saved: 0 }
}

/// Work of computing again what backward reads and is not kept.
fn recomputed<F: Float>(graph: &Graph<'_, F>, needs: &Needs, keep: &Keep, limits: Limits) -> u64 {
    let runs = making(graph, needs.read.clone(), &|value| keep.has(value));
    let work = |(i, _)| graph.work(i, limits.tokens, limits.tokens).forward;
    runs.iter().enumerate().filter(|(_, runs)| **runs).map(work).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    fn pick(elements: usize, saved: u64) -> Pick {
        Pick { values: vec![1], elements, saved }
    }

    #[test]
    fn room_goes_to_what_saves_most_and_never_out_of_order() {
        let segment = || vec![pick(10, 1000), pick(20, 800), pick(5, 10)];
        let segments = [segment(), segment(), segment()];
        assert_eq!(select(&segments, 0), [0, 0, 0]);
        assert_eq!(select(&segments, 19), [0, 0, 1], "from the top down");
        assert_eq!(select(&segments, 30), [1, 1, 1]);
        assert_eq!(select(&segments, 50), [1, 1, 2]);
        assert_eq!(select(&segments, 58), [1, 1, 3], "what is small still fits");
        assert_eq!(select(&segments, usize::MAX), [3, 3, 3]);
        let late = [vec![pick(10, 10), pick(10, 9999)], vec![pick(10, 500)]];
        assert_eq!(select(&late, 10), [0, 1], "what comes later cannot come first");
        assert_eq!(select(&[], 7), [0; 0]);
    }
}
