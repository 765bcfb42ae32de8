//! The parameters in training: as f32, or as bf16 of which one block is widened at a time.

use std::ops::Range;

use lowtide_memory::{ByCategory, Category, Ledger, LockError, ReserveError, Slab};
use lowtide_optim::StochasticRounding;
use lowtide_tape::Params;

use crate::RunPlan;

/// Parameters of all blocks, one block after another.
pub(super) enum Parameters {
    F32(Slab),
    Bf16(Packed),
}

/// Parameters in 16 bits.
pub(super) struct Packed {
    /// Bits of a bf16 for each.
    bits: Slab,
    len: usize,
    /// Those of the block whose turn it is, in f32.
    block: Slab,
    /// Of the update under way.
    rounding: StochasticRounding,
}

impl Parameters {
    /// As planned; all zero.
    pub(super) fn reserve(plan: &RunPlan, ledger: &mut Ledger) -> Result<Self, ReserveError> {
        let slab = |words: usize, ledger: &mut Ledger| {
            let bytes = (words * size_of::<f32>()) as u64;
            Slab::reserve(ledger, ByCategory::of(Category::Adapter, bytes))
        };
        let Some(block) = plan.widened else {
            return slab(plan.parameters, ledger).map(Self::F32);
        };
        let bits = slab(plan.parameters.div_ceil(2), ledger)?;
        match slab(block, ledger) {
            Ok(block) => Ok(Self::Bf16(Packed {
                bits,
                len: plan.parameters,
                block,
                rounding: StochasticRounding::new(0, 0),
            })),
            Err(error) => {
                bits.release(ledger);
                Err(error)
            }
        }
    }

    pub(super) fn release(self, ledger: &mut Ledger) {
        match self {
            Self::F32(slab) => slab.release(ledger),
            Self::Bf16(Packed { bits, block, .. }) => {
                bits.release(ledger);
                block.release(ledger);
            }
        }
    }

    pub(super) fn lock(&self) -> Result<(), LockError> {
        match self {
            Self::F32(slab) => slab.lock(),
            Self::Bf16(Packed { bits, block, .. }) => bits.lock().and_then(|()| block.lock()),
        }
    }

    /// Rounds by the draws of this update from now on.
    pub(super) fn begin(&mut self, seed: u64, update: u64) {
        if let Self::Bf16(packed) = self {
            packed.rounding = StochasticRounding::new(seed, update);
        }
    }

    /// Whether they are f32.
    pub(super) fn are_plain(&self) -> bool {
        matches!(self, Self::F32(_))
    }

    /// As they lie, to be saved.
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::F32(slab) => slab.get(),
            Self::Bf16(Packed { bits, .. }) => bits.get(),
        }
    }

    /// The same, to set.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Self::F32(slab) => slab.get_mut(),
            Self::Bf16(Packed { bits, .. }) => bits.get_mut(),
        }
    }

    /// All of them, where they are f32.
    pub(super) fn plain(&self) -> &[f32] {
        match self {
            Self::F32(slab) => slab.get(),
            Self::Bf16(_) => panic!("{IN_BF16}"),
        }
    }

    /// The same, to set.
    pub(super) fn plain_mut(&mut self) -> &mut [f32] {
        match self {
            Self::F32(slab) => slab.get_mut(),
            Self::Bf16(_) => panic!("{IN_BF16}"),
        }
    }

    /// Lends all of them as f32: as they are, or widened into `room` and rounded to nearest after.
    pub(super) fn with_all<R>(
        &mut self,
        room: &mut [f32],
        change: impl FnOnce(&mut [f32]) -> R,
    ) -> R {
        match self {
            Self::F32(slab) => change(slab.get_mut()),
            Self::Bf16(packed) => {
                let all = &mut room[..packed.len];
                let bits: &mut [u16] = &mut packed.bits.get_mut()[..packed.len];
                widen(bits, all);
                let result = change(all);
                bits.iter_mut().zip(all).for_each(|(bits, value)| *bits = nearest(*value));
                result
            }
        }
    }
}

const IN_BF16: &str = "parameters in bf16 are lent, not shown";

impl Params<f32> for Parameters {
    fn get(&mut self, range: Range<usize>) -> &[f32] {
        match self {
            Self::F32(slab) => &slab.get()[range],
            Self::Bf16(packed) => {
                let block = &mut packed.block.get_mut()[..range.len()];
                widen(&packed.bits.get()[range], block);
                block
            }
        }
    }

    fn change(&mut self, range: Range<usize>, change: &mut dyn FnMut(&mut [f32])) {
        match self {
            Self::F32(slab) => change(&mut slab.get_mut()[range]),
            Self::Bf16(packed) => {
                let block = &mut packed.block.get_mut()[..range.len()];
                let bits: &mut [u16] = &mut packed.bits.get_mut()[range.clone()];
                widen(bits, block);
                change(block);
                for ((index, bits), value) in range.zip(bits).zip(block) {
                    *bits = packed.rounding.round(index as u64, *value);
                }
            }
        }
    }
}

fn widen(bits: &[u16], out: &mut [f32]) {
    for (bits, out) in bits.iter().zip(out) {
        *out = f32::from_bits(u32::from(*bits) << 16);
    }
}

/// The bits of the nearest bf16, the even one of two.
fn nearest(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_goes_to_the_even_one_of_two() {
        let widened = |bits: u16| f32::from_bits(u32::from(bits) << 16);
        for (value, want) in [
            (1.0, 1.0),
            (1.0 + 1.0 / 256.0, 1.0),
            (1.0 + 3.0 / 256.0, 1.015_625),
            (-1.005, -1.0078125),
            (f32::INFINITY, f32::INFINITY),
        ] {
            assert_eq!(widened(nearest(value)), want, "{value}");
        }
        assert!(widened(nearest(f32::NAN)).is_nan());
    }
}
