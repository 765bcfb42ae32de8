//! Which blocks an update goes through, where it does not go through all.

use std::num::NonZeroUsize;
use std::ops::Range;

use lowtide_data::order::permutation;

/// The blocks of an update. They come in rounds: in each, every trained block is drawn at least
/// once, in an order of the round's own.
pub(super) struct Drawn {
    /// Segments with parameters, ascending.
    trained: Vec<usize>,
    /// How many are drawn.
    blocks: usize,
    seed: u64,
    /// Those of this update, ascending.
    chosen: Vec<usize>,
    /// Of each segment, where its gradients lie: those of the chosen, one after the other.
    ranges: Vec<Range<usize>>,
    /// Of each segment, the updates made with it: what an optimizer counts.
    updates: Vec<u64>,
}

impl Drawn {
    /// For segments with these parameters.
    pub(super) fn new(params: &[Range<usize>], blocks: NonZeroUsize, seed: u64) -> Self {
        let trained: Vec<usize> =
            (0..params.len()).filter(|&segment| !params[segment].is_empty()).collect();
        Self {
            blocks: blocks.get().min(trained.len()),
            chosen: Vec::with_capacity(trained.len()),
            trained,
            seed,
            ranges: vec![0..0; params.len()],
            updates: vec![0; params.len()],
        }
    }

    /// Draws the blocks of an update, counted from 1.
    pub(super) fn draw(&mut self, update: u64, params: &[Range<usize>]) {
        const DRAWING: u64 = 0x6c63_7362;
        let (all, blocks) = (self.trained.len(), self.blocks);
        let round = all.div_ceil(blocks) as u64;
        let turn = update.saturating_sub(1);
        let order = permutation(all, self.seed ^ DRAWING, turn / round);
        // The last turn of a round takes some that had theirs, so that all turns are alike.
        let first = ((turn % round) as usize * blocks).min(all - blocks);
        self.chosen.clear();
        self.chosen.extend((first..first + blocks).map(|turn| self.trained[order.at(turn)]));
        self.chosen.sort_unstable();
        let mut end = 0;
        self.ranges.fill(0..0);
        for &segment in &self.chosen {
            let start = end;
            end += params[segment].len();
            self.ranges[segment] = start..end;
            self.updates[segment] += 1;
        }
    }

    /// The blocks of this update, ascending.
    pub(super) fn chosen(&self) -> &[usize] {
        &self.chosen
    }

    /// Where the gradients of each segment lie; nowhere for one that was not drawn.
    pub(super) fn ranges(&self) -> &[Range<usize>] {
        &self.ranges
    }

    /// The number of this update among those made with a segment, from 1.
    pub(super) fn update_of(&self, segment: usize) -> u64 {
        self.updates[segment]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(trained: &[bool], blocks: usize, seed: u64) -> (Drawn, Vec<Range<usize>>) {
        let mut end = 0;
        let range = |(i, &trained): (usize, &bool)| {
            let start = end;
            end += if trained { 2 + i } else { 0 };
            start..end
        };
        let params: Vec<_> = trained.iter().enumerate().map(range).collect();
        (Drawn::new(&params, NonZeroUsize::new(blocks).unwrap(), seed), params)
    }

    #[test]
    fn every_trained_block_has_its_turn_in_each_round() {
        let trained = [false, true, true, false, true, true, true];
        for blocks in 1..=5 {
            let (mut drawn, params) = drawn(&trained, blocks, 3);
            let round = 5_u64.div_ceil(blocks as u64);
            let mut orders = Vec::new();
            for first in (1..=8 * round).step_by(round as usize) {
                let mut seen = [0; 7];
                for update in first..first + round {
                    drawn.draw(update, &params);
                    assert_eq!(drawn.chosen().len(), blocks);
                    assert!(drawn.chosen().windows(2).all(|pair| pair[0] < pair[1]));
                    drawn.chosen().iter().for_each(|&segment| seen[segment] += 1);
                    orders.push(drawn.chosen().to_vec());
                }
                assert!(seen.iter().zip(trained).all(|(&seen, trained)| (seen > 0) == trained));
            }
            orders.dedup();
            assert!(blocks == 5 || orders.len() > 8, "rounds have an order of their own");
        }
    }

    #[test]
    fn a_draw_is_a_function_of_seed_and_update() {
        let draws = |seed| {
            let (mut drawn, params) = drawn(&[true; 9], 3, seed);
            let draw = |update| {
                drawn.draw(update, &params);
                drawn.chosen().to_vec()
            };
            [1, 2, 3, 17, 2].map(draw)
        };
        assert_eq!(draws(1), draws(1));
        assert_ne!(draws(1), draws(2));
        assert_eq!(draws(1)[1], draws(1)[4]);
    }

    #[test]
    fn gradients_of_the_chosen_lie_one_after_the_other() {
        let (mut drawn, params) = drawn(&[true; 6], 2, 0);
        for update in 1..=7 {
            drawn.draw(update, &params);
            let [low, high] = [0, 1].map(|i| drawn.chosen()[i]);
            let ranges = drawn.ranges();
            assert_eq!((ranges[low].start, ranges[low].end), (0, low + 2));
            assert_eq!((ranges[high].start, ranges[high].len()), (low + 2, high + 2));
            assert_eq!(ranges.iter().filter(|range| range.is_empty()).count(), 4);
        }
        let made: u64 = (0..6).map(|segment| drawn.update_of(segment)).sum();
        assert_eq!(made, 14);
    }
}
