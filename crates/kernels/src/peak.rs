//! Peaks of arithmetic: what a table's instructions can do at best, to hold kernels against.

use crate::Kernels;

/// Rounds to operations done and a result.
pub(crate) type FmaPeak = unsafe fn(usize) -> (u64, f32);

/// The same in integers.
pub(crate) type Int8Peak = unsafe fn(usize) -> (u64, i32);

impl Kernels {
    /// Works in registers alone, for timing: `rounds` multiply-adds on each of at least 12
    /// independent registers, 24 where there are 32. Some 100,000 rounds take a millisecond.
    ///
    /// Gives the floating-point operations that were done, two to a lane and multiply-add, and a
    /// number that depends on all of them.
    #[must_use]
    pub fn fma_peak(&self, rounds: usize) -> (u64, f32) {
        // SAFETY: the instruction set was detected before this table was handed out.
        unsafe { (self.functions.fma_peak)(rounds) }
    }

    /// The same for products of bytes that are added up in 32 bits, two operations to a product.
    /// `None` where the table has no instruction for them.
    #[must_use]
    pub fn int8_peak(&self, rounds: usize) -> Option<(u64, i32)> {
        // SAFETY: the instruction set was detected.
        self.int8_peak.map(|peak| unsafe { peak(rounds) })
    }
}
