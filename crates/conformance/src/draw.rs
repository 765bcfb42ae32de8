//! Numbers for suites: a pure function of a seed, the same on every machine.

use lowtide_tensor::Float;

/// A stream of draws.
#[derive(Clone, Debug)]
pub(crate) struct Draw(u64);

impl Draw {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 uniform bits: SplitMix64 (Steele, Lea and Flood 2014).
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `±bound`, representable in f32, so that f32 and f64 see the same number.
    pub(crate) fn value<F: Float>(&mut self, bound: f32) -> F {
        let unit = (self.bits() >> 40) as f32 / (1_u32 << 24) as f32;
        F::from_f32(bound * (2.0 * unit - 1.0))
    }

    /// `len` values, uniform in `±bound`.
    pub(crate) fn vec<F: Float>(&mut self, len: usize, bound: f32) -> Vec<F> {
        (0..len).map(|_| self.value(bound)).collect()
    }
}
