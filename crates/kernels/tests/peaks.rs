//! Peaks of arithmetic do the operations that they tell of.

use lowtide_kernels::{Isa, Kernels};

#[test]
fn multiply_adds_are_done_and_counted_on_every_table() {
    for kernels in Kernels::available() {
        let (none, start) = kernels.fma_peak(0);
        let (flops, end) = kernels.fma_peak(100);
        let chains = flops as usize / (2 * 100 * kernels.lanes());
        assert_eq!((none, flops % (2 * 100 * kernels.lanes() as u64)), (0, 0));
        let expected = if [Isa::Scalar, Isa::Avx2].contains(&kernels.isa()) { 12 } else { 24 };
        assert_eq!(chains, expected, "{}", kernels.isa());
        // Chains begin at 1, 2, 3 and so on; halving and adding one leads to two.
        let lanes = kernels.lanes() as f32;
        let started = (1..=chains).sum::<usize>() as f32 * lanes;
        assert_eq!((start, end), (started, 2.0 * chains as f32 * lanes), "{}", kernels.isa());
    }
}

#[test]
fn products_of_bytes_are_done_and_counted_where_there_are_any() {
    for kernels in Kernels::available() {
        let peak = kernels.int8_peak(100);
        match kernels.isa() {
            // 24 chains of 16 lanes begin at 0, 1, 2 and so on; a round adds 4 products of -3.
            Isa::Avx512Vnni => {
                assert_eq!(peak, Some((2 * 24 * 64 * 100, 16 * (276 - 24 * 12 * 100))));
            }
            Isa::Scalar | Isa::Avx2 | Isa::Avx512 => assert_eq!(peak, None),
            _ => {}
        }
    }
}
