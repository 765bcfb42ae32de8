//! The order in which an epoch visits its examples, as a function instead of a list.
//!
//! A balanced Feistel network permutes the smallest power of four that covers `0..n`; an output
//! outside `0..n` is fed back until one falls inside (cycle walking, Black and Rogaway, "Ciphers
//! with Arbitrary Finite Domains", CT-RSA 2002). The round function is a keyed 64-bit finaliser.
//! Any position costs a few dozen multiplications and no memory, and depends on nothing but
//! `(n, seed, epoch, position)`, so a resumed run goes on exactly where it stopped.

/// Rounds of the network; four suffice against structure, the rest is margin.
const ROUNDS: usize = 6;

/// A pseudo-random permutation of `0..n`, chosen by seed and epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permutation {
    n: u64,
    /// Width of one half of the network's input.
    half_bits: u32,
    keys: [u64; ROUNDS],
}

/// The order of epoch `epoch` over `n` examples.
///
/// ```
/// let order = lowtide_data::order::permutation(5, 42, 0);
/// let mut seen: Vec<usize> = (0..5).map(|step| order.at(step)).collect();
/// seen.sort_unstable();
/// assert_eq!(seen, [0, 1, 2, 3, 4]);
/// ```
#[must_use]
pub fn permutation(n: usize, seed: u64, epoch: u64) -> Permutation {
    let n = n as u64;
    let bits = u64::BITS - n.saturating_sub(1).leading_zeros();
    let mut state = mix(seed ^ 0x6c6f_7774_6964_6521).wrapping_add(mix(epoch));
    let keys = std::array::from_fn(|_| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(state)
    });
    Permutation { n, half_bits: bits.div_ceil(2).max(1), keys }
}

impl Permutation {
    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.n as usize
    }

    /// Whether there is nothing to permute.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// The element at `position`.
    ///
    /// # Panics
    /// When `position` is not below [`len`](Self::len).
    #[must_use]
    pub fn at(&self, position: usize) -> usize {
        self.walk(position, |value| self.keys.iter().fold(value, |v, &key| self.round(v, key)))
    }

    /// The position of `element`: the inverse of [`at`](Self::at).
    ///
    /// # Panics
    /// When `element` is not below [`len`](Self::len).
    #[must_use]
    pub fn position_of(&self, element: usize) -> usize {
        self.walk(element, |value| {
            self.keys.iter().rev().fold(value, |v, &key| self.round_back(v, key))
        })
    }

    /// All elements in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = usize> + '_ {
        (0..self.len()).map(|position| self.at(position))
    }

    fn walk(&self, start: usize, step: impl Fn(u64) -> u64) -> usize {
        assert!((start as u64) < self.n, "position {start} in a permutation of {}", self.n);
        let mut value = step(start as u64);
        while value >= self.n {
            value = step(value);
        }
        value as usize
    }

    /// `(left, right)` becomes `(right, left ^ f(right))`.
    fn round(&self, value: u64, key: u64) -> u64 {
        let (left, right) = (value >> self.half_bits, value & self.mask());
        (right << self.half_bits) | (left ^ (mix(right ^ key) & self.mask()))
    }

    fn round_back(&self, value: u64, key: u64) -> u64 {
        let (left, right) = (value >> self.half_bits, value & self.mask());
        ((right ^ (mix(left ^ key) & self.mask())) << self.half_bits) | left
    }

    fn mask(&self) -> u64 {
        (1 << self.half_bits) - 1
    }
}

/// A 64-bit finaliser: multiply and xor-shift, a bijection whose output bits all depend on all
/// input bits (constants: Stafford's variant 13).
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_element_once(n in 0_usize..600, seed: u64, epoch in 0_u64..5) {
            let order = permutation(n, seed, epoch);
            let mut seen = vec![false; n];
            for (position, element) in order.iter().enumerate() {
                prop_assert!(!seen[element]);
                seen[element] = true;
                prop_assert_eq!(order.position_of(element), position);
            }
            prop_assert!(seen.into_iter().all(|s| s));
        }

        #[test]
        fn large_sizes_stay_inside_and_invert(n in 1_usize.., seed: u64, at: prop::sample::Index) {
            let (order, position) = (permutation(n, seed, 1), at.index(n));
            let element = order.at(position);
            prop_assert!(element < n);
            prop_assert_eq!(order.position_of(element), position);
        }
    }

    #[test]
    fn depends_on_seed_and_epoch_only() {
        let list = |seed, epoch| permutation(100, seed, epoch).iter().collect::<Vec<_>>();
        assert_eq!(list(7, 3), list(7, 3));
        assert_ne!(list(7, 3), list(7, 4));
        assert_ne!(list(7, 3), list(8, 3));
        assert_ne!(list(7, 3), (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn each_place_is_about_equally_likely() {
        let (n, trials) = (10, 4000);
        let mut counts = [[0_u32; 10]; 10];
        for seed in 0..trials {
            for (position, element) in permutation(n, seed, 0).iter().enumerate() {
                counts[position][element] += 1;
            }
        }
        // 400 expected, standard deviation 19: five of them on either side.
        assert!(counts.as_flattened().iter().all(|&c| (305..=495).contains(&c)), "{counts:?}");
    }
}
