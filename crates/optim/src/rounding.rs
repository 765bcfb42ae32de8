//! Rounding by chance, for parameters in 16 bits.

/// Rounds f32 to bf16, up or down with chances in proportion to how near each is, so that updates
/// too small for the next bf16 still count on average.
///
/// A draw is a function of the seed, the number of the update and the index of the parameter, and
/// of nothing else: the order of blocks and the number of threads change no bit. What is a bf16
/// already stays as it is.
///
/// ```
/// use lowtide_optim::StochasticRounding;
///
/// let rounding = StochasticRounding::new(42, 1);
/// assert_eq!(rounding.round(7, 1.5), 0x3fc0);
/// // A third of the way from 1 to the next.
/// let above = (0..3000).filter(|&i| rounding.round(i, 1.0 + 1.0 / 384.0) == 0x3f81).count();
/// assert!((900..1100).contains(&above));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StochasticRounding {
    key: u64,
}

impl StochasticRounding {
    /// That of update `update` of a run with this seed.
    #[must_use]
    pub fn new(seed: u64, update: u64) -> Self {
        // A constant of its own keeps it apart from other uses of the seed.
        Self { key: mix(mix(seed ^ 0x726f_756e_642e_6266).wrapping_add(mix(update))) }
    }

    /// The bits of the bf16 that parameter `index` becomes. What is not finite stays so, and what
    /// is does too.
    #[must_use]
    pub fn round(&self, index: u64, value: f32) -> u16 {
        let bits = value.to_bits();
        let chance = (mix(self.key ^ mix(index)) >> 48) as u32;
        let rounded = (bits.wrapping_add(chance) >> 16) as u16;
        match (value.is_finite(), rounded & 0x7f80 == 0x7f80) {
            (true, false) => rounded,
            (true, true) => (bits >> 16) as u16,
            // A bit that keeps a NaN from becoming infinite.
            (false, _) => (bits >> 16) as u16 | (u16::from(value.is_nan()) << 6),
        }
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
    use super::*;

    fn widened(bits: u16) -> f32 {
        f32::from_bits(u32::from(bits) << 16)
    }

    #[test]
    fn what_is_a_bf16_stays() {
        let rounding = StochasticRounding::new(1, 2);
        for bits in (0..=u16::MAX).filter(|bits| !widened(*bits).is_nan()) {
            assert_eq!(rounding.round(u64::from(bits), widened(bits)), bits);
        }
    }

    #[test]
    fn rounding_goes_to_a_neighbour_and_is_right_on_average() {
        let rounding = StochasticRounding::new(3, 4);
        for (value, low, high) in [
            (1.001_f32, 1.0, 1.0078125),
            (-1.001, -1.0, -1.0078125),
            (3e-5, 2.9921532e-5, 3.0040741e-5),
            (1e-40, 9.18355e-41, 1.83671e-40),
        ] {
            let (mut sum, count) = (0.0, 40_000);
            for i in 0..count {
                let got = widened(rounding.round(i, value));
                let near = [low, high].iter().any(|want| (got - want).abs() <= 2e-3 * low.abs());
                assert!(near, "{value} became {got}");
                sum += f64::from(got);
            }
            let (mean, step) = (sum / count as f64, f64::from((high - low).abs()));
            // Five deviations of a mean of coins at most.
            let within = 5.0 * 0.5 * step / (count as f64).sqrt();
            assert!((mean - f64::from(value)).abs() < within, "{value}: {mean}");
        }
    }

    #[test]
    fn draws_differ_between_seeds_updates_and_parameters() {
        let drawn = |seed, update, shift: u64| {
            let rounding = StochasticRounding::new(seed, update);
            core::array::from_fn::<u16, 64, _>(|i| rounding.round(i as u64 + shift, 1.004))
        };
        let first = drawn(1, 1, 0);
        assert_eq!(first, drawn(1, 1, 0));
        for other in [drawn(2, 1, 0), drawn(1, 2, 0), drawn(1, 1, 64)] {
            let same = first.iter().zip(other).filter(|(a, b)| **a == *b).count();
            assert!((16..48).contains(&same), "{same} of 64");
        }
    }

    #[test]
    fn what_is_finite_stays_so_and_what_is_not_does_too() {
        let rounding = StochasticRounding::new(5, 6);
        for i in 0..100 {
            assert!(widened(rounding.round(i, f32::MAX)).is_finite());
            assert_eq!(widened(rounding.round(i, f32::NEG_INFINITY)), f32::NEG_INFINITY);
            assert!(widened(rounding.round(i, f32::from_bits(0x7f80_0001))).is_nan());
        }
    }
}
