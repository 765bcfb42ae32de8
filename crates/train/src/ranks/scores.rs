//! What pairs of low rank earn, and which of them are switched off.
//!
//! Let a pair `b aᵀ` be scaled by `z`, which is 1. The derivative of the loss by `z` is
//! `Σ b ⊙ ∂b`, and just as well `Σ a ⊙ ∂a`: what the loss changes, to first order, when the pair is
//! taken away. It is AdaLoRA's sensitivity of a singular value, for which no parameter is needed.
//! It can be read off `B` and its gradient alone, when the gradients of a block are there.

use std::ops::Range;

use lowtide_adapter::ParamSpec;
use lowtide_model::Site;

use super::{AdaptiveRank, up};

/// Smoothed sensitivity and smoothed uncertainty of a pair.
pub(crate) type Score = [f32; 2];

/// The score of a pair that is switched off.
const OFF: Score = [-1.0, 0.0];

/// How much of the smoothed values an update leaves: AdaLoRA's `beta1` and `beta2`.
const SMOOTH: f32 = 0.85;

/// The pairs of all sites. Their scores are lent: one for each pair, zero at the start.
pub(crate) struct Ranks {
    course: AdaptiveRank,
    sites: Vec<Pairs>,
    /// Of each segment, its sites.
    segments: Vec<Range<usize>>,
    /// Pairs that are trained.
    left: usize,
}

/// The pairs of one site.
struct Pairs {
    /// Their places among those of all sites.
    range: Range<usize>,
    /// The second factor, and where it starts among the parameters of its segment.
    up: (usize, ParamSpec),
    /// Whether something else is trained, so that it cannot do without any pair.
    needs_one: bool,
}

impl Ranks {
    /// The pairs of `sites`, which have some, in a model whose parameters lie in `segments`.
    pub(crate) fn new(course: AdaptiveRank, sites: &[Site], segments: &[Range<usize>]) -> Self {
        let mut end = 0;
        let pairs = |site: &Site| {
            let (start, spec) = up(site).expect("a site with pairs");
            let first = end;
            end += spec.rank().expect("a second factor has a rank");
            Pairs {
                range: first..end,
                up: (site.range.start - segments[site.info.layer].start + start, *spec),
                needs_one: site.params.iter().any(|spec| spec.rank_axis.is_none()),
            }
        };
        let all: Vec<Pairs> = sites.iter().map(pairs).collect();
        let of = |layer| {
            let before = |site: &Site| site.info.layer < layer;
            sites.partition_point(before)
                ..sites.partition_point(|s| before(s) || s.info.layer == layer)
        };
        Self { course, sites: all, segments: (0..segments.len()).map(of).collect(), left: end }
    }

    /// Pairs that are trained.
    pub(crate) fn left(&self) -> usize {
        self.left
    }

    /// Goes on with scores of an earlier time, in which pairs may be switched off.
    pub(crate) fn go_on_with(&mut self, scores: &[Score]) {
        self.left = scores.iter().filter(|score| is_on(score)).count();
    }

    /// Where the scores of a site's pairs lie.
    pub(crate) fn of_site(&self, site: usize) -> Range<usize> {
        self.sites[site].range.clone()
    }

    /// Takes note of the gradients `g` of a segment with parameters `p`, before they are applied.
    pub(crate) fn observe(&self, segment: usize, p: &[f32], g: &[f32], scores: &mut [Score]) {
        for site in &self.sites[self.segments[segment].clone()] {
            let (start, spec) = &site.up;
            let part = *start..*start + spec.len();
            let (p, g) = (&p[part.clone()], &g[part]);
            let scores = scores[site.range.clone()].iter_mut();
            for (pair, score) in scores.enumerate().filter(|(_, score)| is_on(score)) {
                let each = spec.pair(pair).map(|i| f64::from(p[i]) * f64::from(g[i]));
                smooth(score, each.sum());
            }
        }
    }

    /// Switches off what the course says after `step` updates; whether that is anything.
    pub(crate) fn advance(&mut self, step: u64, scores: &mut [Score]) -> bool {
        let left = self.course.left(step);
        let gone = self.left.saturating_sub(left);
        self.left -= gone;
        self.switch_off(gone, scores);
        gone > 0
    }

    /// Switches off the `count` pairs that earn least; of equal ones the first.
    fn switch_off(&self, count: usize, scores: &mut [Score]) {
        if count == 0 {
            return;
        }
        // The least score that enough pairs do not exceed: bisection needs no room. Scores are not
        // negative, so their bits are in their order.
        let reached = |most: u64, scores: &[Score]| -> usize {
            let of = |site: &Pairs| candidates(site, scores).filter(|(_, s)| *s <= most).count();
            self.sites.iter().map(of).sum()
        };
        let (mut low, mut high) = (0, f64::INFINITY.to_bits());
        while low < high {
            let middle = low + (high - low) / 2;
            match reached(middle, scores) >= count {
                true => high = middle,
                false => low = middle + 1,
            }
        }
        let below = if low == 0 { 0 } else { reached(low - 1, scores) };
        let mut equal = count - below;
        for site in &self.sites {
            let best = best(site, scores);
            for pair in site.range.clone().filter(|pair| Some(*pair) != best) {
                let score = &mut scores[pair];
                if is_on(score) && (value(score) < low || value(score) == low && equal > 0) {
                    equal -= usize::from(value(score) == low);
                    *score = OFF;
                }
            }
        }
    }
}

/// Whether a pair is trained.
pub(crate) fn is_on(score: &Score) -> bool {
    score[0] >= 0.0
}

/// Takes note of the derivative of the loss by the size of a pair.
fn smooth([sensitivity, uncertainty]: &mut Score, slope: f64) {
    let now = (slope.abs() as f32).min(f32::MAX);
    *sensitivity = SMOOTH * *sensitivity + (1.0 - SMOOTH) * now;
    *uncertainty = SMOOTH * *uncertainty + (1.0 - SMOOTH) * (now - *sensitivity).abs();
}

/// Bits of a score, in the order of scores. The product of two f32 is exact.
fn value([sensitivity, uncertainty]: &Score) -> u64 {
    (f64::from(*sensitivity) * f64::from(*uncertainty)).to_bits()
}

/// The pair that a site cannot do without: the best, where it needs one.
fn best(site: &Pairs, scores: &[Score]) -> Option<usize> {
    let on = site.range.clone().filter(|pair| site.needs_one && is_on(&scores[*pair]));
    on.max_by_key(|pair| value(&scores[*pair]))
}

/// Pairs that may be switched off, with the bits of their scores.
fn candidates<'s>(
    site: &Pairs,
    scores: &'s [Score],
) -> impl Iterator<Item = (usize, u64)> + use<'s> {
    let best = best(site, scores);
    let pairs = site.range.clone().filter(move |pair| Some(*pair) != best && is_on(&scores[*pair]));
    pairs.map(|pair| (pair, value(&scores[pair])))
}

#[cfg(test)]
mod tests {
    use lowtide_adapter::{Facts, Init, Place, SiteInfo};

    use super::*;

    /// Sites of a rank each, one a layer, each with `B [2, rank]` alone; with a vector besides
    /// where it is said so.
    fn ranks(each: &[(usize, bool)]) -> Ranks {
        let spec = |shape, rank_axis| ParamSpec {
            name: "b",
            shape,
            init: Init::Zeros,
            output_axis: Some(0),
            rank_axis,
        };
        let facts = Facts { reads_x: true, reads_y: false, whole_sequence: false, mergeable: true };
        let (mut sites, mut segments, mut end) = (Vec::new(), Vec::new(), 0);
        for (layer, &(rank, more)) in each.iter().enumerate() {
            let vector = more.then(|| spec([2, 1], None));
            let params: Vec<_> = vector.into_iter().chain([spec([2, rank], Some(1))]).collect();
            let start = end;
            end += params.iter().map(ParamSpec::len).sum::<usize>();
            segments.push(start..end);
            let (in_features, out_features, place) = (3, 2, Place::Linear);
            let name = format!("layers.{layer}.q_proj");
            let info = SiteInfo { name, layer, in_features, out_features, place };
            let (frozen, kind) = (Vec::new(), "lora");
            let range = start..end;
            sites.push(Site { info, kind, facts, params, range, frozen, fixed: 0..0, state: 0 });
        }
        let pairs = each.iter().map(|(rank, _)| rank).sum();
        Ranks::new(AdaptiveRank::new(pairs, 1, 10), &sites, &segments)
    }

    fn on(scores: &[Score]) -> Vec<bool> {
        scores.iter().map(is_on).collect()
    }

    #[test]
    fn a_score_is_smoothed_sensitivity_times_uncertainty() {
        let ranks = ranks(&[(1, false), (2, false)]);
        let mut scores = vec![[0.0; 2]; 3];
        // Columns of B: (1, 3) and (2, -4); their products with the gradients: 5 and -2.
        let (p, g) = ([1.0, 2.0, 3.0, -4.0], [2.0, 1.0, 1.0, 1.0]);
        ranks.observe(1, &p, &g, &mut scores);
        let close = |score: Score, want: [f32; 2]| {
            let off = score.iter().zip(want).map(|(a, b)| (a - b).abs());
            assert!(off.fold(0.0, f32::max) < 1e-6, "{score:?}, expected {want:?}");
        };
        assert_eq!(scores[0], [0.0; 2]);
        close(scores[1], [0.75, 0.15 * 4.25]);
        close(scores[2], [0.3, 0.15 * 1.7]);
        ranks.observe(1, &p, &[0.0; 4], &mut scores);
        close(scores[1], [0.6375, 0.85 * 0.6375 + 0.15 * 0.6375]);
    }

    #[test]
    fn the_lowest_go_first_over_all_sites_and_of_equal_ones_the_first() {
        let mut ranks = ranks(&[(3, false), (2, false)]);
        let mut scores = [3.0, 1.0, 2.0, 1.0, 0.5].map(|value| [value, 1.0]).to_vec();
        ranks.switch_off(2, &mut scores);
        assert_eq!(on(&scores), [true, false, true, true, false]);
        ranks.switch_off(1, &mut scores);
        assert_eq!(on(&scores), [true, false, true, false, false]);
        ranks.left = 2;
        // The course ends at one pair, and a site may lose all of them.
        assert!(ranks.advance(10, &mut scores) && !ranks.advance(10, &mut scores));
        assert_eq!((on(&scores), ranks.left()), (vec![true, false, false, false, false], 1));
        // What is off is not scored again.
        ranks.observe(1, &[1.0; 4], &[1.0; 4], &mut scores);
        assert_eq!(scores[3], OFF);
    }

    #[test]
    fn a_site_with_something_else_to_train_keeps_its_best_pair() {
        let ranks = ranks(&[(2, true), (2, false)]);
        let mut scores = [1.0, 2.0, 3.0, 4.0].map(|value| [value, 1.0]).to_vec();
        ranks.switch_off(3, &mut scores);
        assert_eq!(on(&scores), [false, true, false, false]);
    }

    #[test]
    fn pairs_that_never_earned_anything_can_be_told_apart_by_place_alone() {
        let ranks = ranks(&[(4, false)]);
        let mut scores = vec![[0.0; 2]; 4];
        ranks.switch_off(3, &mut scores);
        assert_eq!(on(&scores), [false, false, false, true]);
    }
}
