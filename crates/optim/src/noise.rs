//! Normal numbers that are made anew wherever they are needed, and stored nowhere.

use core::f32::consts::TAU;

/// Directions in which a zeroth-order method looks: independent numbers from N(0, 1), a function of
/// the seed, the number of the update and the index of the parameter, and of nothing else. So any
/// part of a direction can be had at any time, in any order, on any number of threads.
///
/// ```
/// use lowtide_optim::Noise;
///
/// let noise = Noise::new(42, 1);
/// let mut whole = [0.0; 5];
/// noise.each(0, 5, |i, z| whole[i] = z);
/// let mut part = [0.0; 2];
/// noise.each(3, 2, |i, z| part[i] = z);
/// assert_eq!(part, whole[3..]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noise {
    key: u64,
}

impl Noise {
    /// The direction of update `update` of a run with this seed.
    #[must_use]
    pub fn new(seed: u64, update: u64) -> Self {
        // A constant of its own keeps it apart from other uses of the seed.
        Self { key: mix(mix(seed ^ 0x6d65_7a6f_2e7a_2e00).wrapping_add(mix(update))) }
    }

    /// Hands out the numbers of the `count` parameters from `first` on, each with its place among
    /// them.
    pub fn each(&self, first: usize, count: usize, mut hand: impl FnMut(usize, f32)) {
        let end = first + count;
        let mut i = first;
        while i < end {
            let pair = self.pair((i / 2) as u64);
            for z in pair.into_iter().skip(i % 2).take(end - i) {
                hand(i - first, z);
                i += 1;
            }
        }
    }

    /// Two numbers at once, by Box and Muller.
    fn pair(&self, index: u64) -> [f32; 2] {
        const UNIT: f32 = 1.0 / (1_u64 << 32) as f32;
        let bits = mix(self.key ^ mix(index));
        let (high, low) = (bits >> 32, bits & 0xffff_ffff);
        // From zero, whose logarithm is infinite, the first is kept away.
        let radius = libm::sqrtf(-2.0 * libm::logf((high + 1) as f32 * UNIT));
        let (sin, cos) = libm::sincosf(TAU * (low as f32 * UNIT));
        [radius * cos, radius * sin]
    }
}

/// The finalizer of SplitMix64 behind its increment.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    fn drawn(noise: Noise, first: usize, count: usize) -> Vec<f32> {
        let mut out = std::vec![f32::NAN; count];
        noise.each(first, count, |i, z| out[i] = z);
        out
    }

    #[test]
    fn any_part_is_part_of_the_whole() {
        let noise = Noise::new(7, 3);
        let whole = drawn(noise, 0, 20);
        for first in 0..20 {
            for count in 0..=20 - first {
                assert_eq!(drawn(noise, first, count), whole[first..first + count]);
            }
        }
    }

    #[test]
    fn seeds_and_updates_give_directions_of_their_own() {
        const COUNT: usize = 4096;
        let directions = [(0, 1), (0, 2), (1, 1), (1, 2), (1, 0), (2, 0)];
        let directions = directions.map(|(seed, update)| drawn(Noise::new(seed, update), 0, COUNT));
        for (i, a) in directions.iter().enumerate() {
            for b in &directions[..i] {
                let dot: f32 = a.iter().zip(b).map(|(a, b)| a * b).sum();
                assert!(dot.abs() < 5.0 * (COUNT as f32).sqrt(), "{dot}");
            }
        }
    }

    #[test]
    fn moments_are_those_of_the_normal_distribution() {
        let z = drawn(Noise::new(1, 1), 0, 40_000);
        let moment =
            |power: i32| z.iter().map(|z| f64::from(*z).powi(power)).sum::<f64>() / z.len() as f64;
        let moments = [1, 2, 3, 4].map(moment);
        for (found, (want, within)) in
            moments.iter().zip([(0.0, 0.02), (1.0, 0.03), (0.0, 0.06), (3.0, 0.2)])
        {
            assert!((found - want).abs() < within, "{moments:?}");
        }
        assert!(z.iter().all(|z| z.is_finite() && z.abs() < 6.7));
        // Neighbours are made together and depend on each other no more than others.
        let dot: f32 = z.chunks(2).map(|pair| pair[0] * pair[1]).sum();
        assert!(dot.abs() < 5.0 * 20_000_f32.sqrt(), "{dot}");
    }
}
