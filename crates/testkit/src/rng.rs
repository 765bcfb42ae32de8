//! A counter-based generator: draw `n` of seed `s` is a pure function of `(s, n)`.
//!
//! The mixing function is the 64-bit finaliser of SplitMix64 (Steele, Lea and Flood, *Fast
//! Splittable Pseudorandom Number Generators*, 2014), applied once to the seed and once to the
//! counter. Normals come from the Box–Muller transform in `libm`, so that values do not depend on
//! the platform's mathematics library.

use std::f64::consts::TAU;

const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// Draw `counter` of `seed`: 64 uniformly distributed bits.
#[must_use]
pub fn bits(seed: u64, counter: u64) -> u64 {
    let key = mix(seed.wrapping_add(GOLDEN_GAMMA));
    mix(key ^ mix(counter.wrapping_mul(GOLDEN_GAMMA).wrapping_add(GOLDEN_GAMMA)))
}

/// A cursor over the draws of one seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rng {
    seed: u64,
    counter: u64,
}

impl Rng {
    /// Starts at draw 0 of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed, counter: 0 }
    }

    /// Starts at draw 0 of a seed made from `seed` and a name, e.g. a tensor's, so that each named
    /// thing has its own numbers whatever the order in which things are made.
    #[must_use]
    pub fn named(seed: u64, name: &str) -> Self {
        let key = name.bytes().fold(mix(seed), |key, byte| mix(key ^ u64::from(byte)));
        Self::new(key)
    }

    /// 64 uniform bits.
    pub fn next_u64(&mut self) -> u64 {
        let drawn = bits(self.seed, self.counter);
        self.counter += 1;
        drawn
    }

    /// Uniform in `[0, 1)` with all 53 bits of a double's mantissa.
    pub fn uniform_f64(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
    }

    /// Uniform in `[0, 1)` with all 24 bits of a float's mantissa.
    pub fn uniform_f32(&mut self) -> f32 {
        (self.next_u64() >> 40) as f32 * (1.0 / (1_u32 << 24) as f32)
    }

    /// Uniform in `[low, high)`.
    pub fn range_f32(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.uniform_f32()
    }

    /// Uniform in `0..bound`; the bias is below `bound / 2^64`.
    ///
    /// # Panics
    /// When `bound` is zero.
    pub fn below(&mut self, bound: usize) -> usize {
        assert!(bound > 0, "below(0) has no value to return");
        ((u128::from(self.next_u64()) * bound as u128) >> 64) as usize
    }

    /// Normal with mean 0 and standard deviation 1; uses two draws.
    pub fn normal_f64(&mut self) -> f64 {
        let radius = libm::sqrt(-2.0 * libm::log(1.0 - self.uniform_f64()));
        radius * libm::cos(TAU * self.uniform_f64())
    }

    /// Normal with mean 0 and standard deviation 1, rounded to `f32`; uses two draws.
    pub fn normal_f32(&mut self) -> f32 {
        self.normal_f64() as f32
    }

    /// Fills with uniform values in `[low, high)`.
    pub fn fill_uniform(&mut self, out: &mut [f32], low: f32, high: f32) {
        out.iter_mut().for_each(|slot| *slot = self.range_f32(low, high));
    }

    /// Fills with normal values of mean 0.
    pub fn fill_normal(&mut self, out: &mut [f32], std: f32) {
        out.iter_mut().for_each(|slot| *slot = std * self.normal_f32());
    }

    /// `len` uniform values in `[low, high)`.
    pub fn uniform_vec(&mut self, len: usize, low: f32, high: f32) -> Vec<f32> {
        let mut out = vec![0.0; len];
        self.fill_uniform(&mut out, low, high);
        out
    }

    /// `len` normal values of mean 0.
    pub fn normal_vec(&mut self, len: usize, std: f32) -> Vec<f32> {
        let mut out = vec![0.0; len];
        self.fill_normal(&mut out, std);
        out
    }

    /// `len` normal values of mean 0 in double precision, for gradient checks.
    pub fn normal_vec_f64(&mut self, len: usize, std: f64) -> Vec<f64> {
        (0..len).map(|_| std * self.normal_f64()).collect()
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draw_depends_on_seed_and_counter_only() {
        let mut walked = Rng::new(3);
        let first: Vec<u64> = (0..5).map(|_| walked.next_u64()).collect();
        let jumped: Vec<u64> = (0..5).map(|n| bits(3, n)).collect();
        assert_eq!(first, jumped);
        assert_ne!(bits(3, 0), bits(4, 0));
        assert_ne!(bits(3, 0), bits(3, 1));
    }

    #[test]
    fn finaliser_matches_the_published_one() {
        // Third output of SplitMix64 seeded with 1234567, as printed by the reference program.
        let state = 1_234_567_u64.wrapping_add(GOLDEN_GAMMA.wrapping_mul(3));
        assert_eq!(mix(state), 9_817_491_932_198_370_423);
    }

    #[test]
    fn moments_of_uniform_and_normal() {
        let mut rng = Rng::new(11);
        let n = 20_000;
        let uniform: Vec<f32> = rng.uniform_vec(n, -1.0, 3.0);
        assert!(uniform.iter().all(|v| (-1.0..3.0).contains(v)));
        let mean = uniform.iter().map(|&v| f64::from(v)).sum::<f64>() / n as f64;
        assert!((mean - 1.0).abs() < 0.03, "mean of uniform is {mean}");

        let normal = rng.normal_vec(n, 2.0);
        let mean = normal.iter().map(|&v| f64::from(v)).sum::<f64>() / n as f64;
        let variance = normal.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>() / n as f64;
        assert!(mean.abs() < 0.05, "mean of normal is {mean}");
        assert!((variance - 4.0).abs() < 0.15, "variance of normal is {variance}");
    }

    #[test]
    fn below_stays_below_and_reaches_every_value() {
        let mut rng = Rng::new(5);
        let mut seen = [0; 7];
        (0..700).for_each(|_| seen[rng.below(7)] += 1);
        assert!(seen.iter().all(|&count| count > 50), "{seen:?}");
    }

    #[test]
    fn names_give_separate_streams() {
        assert_eq!(Rng::named(1, "a.weight"), Rng::named(1, "a.weight"));
        assert_ne!(Rng::named(1, "a.weight"), Rng::named(1, "b.weight"));
        assert_ne!(Rng::named(1, "a.weight"), Rng::named(2, "a.weight"));
    }
}
