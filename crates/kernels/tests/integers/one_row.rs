//! One row of rounded values, for tables that have a quicker way for it: the bits it has among
//! many.

use lowtide_kernels::Kernels;
use lowtide_quant::BlockFormat;
use lowtide_quant::formats::{ALL, Q4_0, Q4_1, Q8_0};
use lowtide_quant::integers::GROUP;
use lowtide_tensor::Mat;
use lowtide_testkit::compare::assert_bits;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::operands::{Rows, Weights};
use crate::{DIGITS, values};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Outputs that do not fill a register, and chains that end before the row or after it.
    #[test]
    fn one_row_has_the_bits_it_has_among_many(
        (n, groups, chain) in (0_usize..61, 0_usize..12, 1_usize..9),
        x in values(11 * GROUP),
        noise in vec(any::<u8>(), 977),
    ) {
        let (k, chain) = (groups * GROUP, chain * GROUP);
        let formats: [&'static dyn BlockFormat; 3] = [&Q8_0, &Q4_1, &Q4_0];
        for (format, digits) in formats.into_iter().flat_map(|f| DIGITS.map(|d| (f, d))) {
            let weights = Weights::new(format, n, k, &noise);
            for kernels in Kernels::available() {
                let mut y = vec![f32::NAN; n];
                let row = Rows::new(kernels, digits, Mat::new(&x[..k], 1, k));
                if !kernels.one_row_int(row.view(), weights.view(), chain, &mut y) {
                    prop_assert!(y.iter().all(|y| y.is_nan()), "{}", kernels.isa());
                    continue;
                }
                // Three rows, of which the second is the one.
                let mut want = vec![0.0; 3 * n];
                for at in (0..k).step_by(chain) {
                    let at = at..k.min(at + chain);
                    let many: Vec<f32> = [-0.5, 1.0, 3.0]
                        .into_iter()
                        .flat_map(|times| x[at.clone()].iter().map(move |x| times * x))
                        .collect();
                    let many = Rows::new(kernels, digits, Mat::new(&many, 3, at.len()));
                    want = weights.columns(at.clone()).multiply(kernels, &many, at.start > 0, want);
                }
                let what = format!("{} {digits:?} {}", kernels.isa(), format.name());
                assert_bits(&what, &y, &want[n..2 * n]);
            }
        }
    }
}

/// A way that no table takes would not be tested above.
#[test]
fn tables_of_512_bits_have_a_quicker_way_for_these_formats() {
    for kernels in Kernels::available() {
        for &format in ALL {
            let k = format.block_len().max(GROUP);
            let weights = Weights::zeros(format, 3, k);
            let quick = ["Q8_0", "Q4_1", "Q4_0"].contains(&format.name());
            let name = kernels.isa().name();
            let (floats, integers) = (name.starts_with("avx512"), name == "avx512vnni");
            let mut y = [f32::NAN; 3];
            let knows = kernels.one_row(&vec![1.0; k], weights.view(), GROUP, &mut y);
            assert_eq!(knows, floats && quick, "{name} {}", format.name());
            for digits in DIGITS {
                let row = Rows::new(kernels, digits, Mat::new(&vec![1.0; k], 1, k));
                let knows = kernels.one_row_int(row.view(), weights.view(), GROUP, &mut y);
                assert_eq!(knows, integers && quick, "{name} {digits:?} {}", format.name());
            }
        }
    }
}
