//! How many multiply-adds fit into a second: registers only, no memory.

use core::hint::black_box;

use crate::simd::Simd;

/// `rounds` multiply-adds on each of `CHAINS` registers. Gives the floating-point operations that
/// were done, and the sum of all lanes.
///
/// A chain waits for its own last result, so there are as many as cover the time that one takes,
/// and few enough to stay in registers. They begin at different values, or a compiler would find
/// them all to be one; they go towards two, so no operand is ever slow.
#[inline(always)]
pub(crate) fn fma<S: Simd, const CHAINS: usize>(s: S, rounds: usize) -> (u64, f32) {
    let (half, one) = (s.splat(black_box(0.5)), s.splat(black_box(1.0)));
    let mut chains = [one; CHAINS];
    for (i, chain) in chains.iter_mut().enumerate() {
        *chain = s.splat(1.0 + i as f32);
    }
    for _ in 0..rounds {
        for chain in &mut chains {
            *chain = s.fma(*chain, half, one);
        }
    }
    let mut sum = s.splat(0.0);
    for chain in chains {
        sum = s.add(sum, chain);
    }
    (2 * (CHAINS * S::LANES * rounds) as u64, s.sum(sum))
}
