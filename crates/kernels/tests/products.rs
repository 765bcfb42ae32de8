//! Products in floats, packing and decoding, on every instruction set there is here, against plain
//! loops in double precision.

use lowtide_kernels::{Isa, Kernels, Rhs};
use lowtide_quant::formats::{ALL, Q4_0, Q4_1, Q8_0};
use lowtide_quant::integers::GROUP;
use lowtide_quant::{BlockFormat, QMat};
use lowtide_tensor::{Mat, MatMut};
use lowtide_testkit::compare::assert_bits;
use proptest::collection::vec;
use proptest::prelude::*;

/// Any sizes of a product: rows, terms, columns, past the largest block of registers.
fn sizes() -> impl Strategy<Value = [usize; 3]> {
    (0_usize..19, 0_usize..70, 0_usize..101).prop_map(|(m, k, n)| [m, k, n])
}

/// Values of all magnitudes: zeros of both signs, denormals, and some that lose low bits.
fn value() -> impl Strategy<Value = f32> {
    prop_oneof![
        6 => -4.0_f32..4.0,
        1 => prop_oneof![Just(0.0_f32), Just(-0.0), Just(1e-40), Just(-1e-44), Just(3e-39)],
        1 => prop_oneof![Just(1e9_f32), Just(-7e-9), Just(1e-20), Just(-1.0)],
    ]
}

/// The same, and values that are not finite.
fn any_value() -> impl Strategy<Value = f32> {
    prop_oneof![
        30 => value(),
        1 => prop_oneof![Just(f32::INFINITY), Just(f32::NEG_INFINITY), Just(f32::NAN)],
    ]
}

/// Elements of a matrix, where one may look past the first `skip`.
fn values(of: impl Strategy<Value = f32>) -> impl Strategy<Value = Vec<f32>> {
    vec(of, 19 * 130 + 8)
}

/// `alpha a b + c` with `a [m, k]`, `b [k, n]`, and how far a sum in single precision may be off.
fn product(alpha: f32, a: Mat<'_, f32>, b: Mat<'_, f32>, c: Mat<'_, f32>) -> Vec<[f64; 2]> {
    let (m, k, n) = (a.rows(), a.cols(), b.cols());
    let element = |i: usize, j: usize| {
        let alpha = f64::from(alpha);
        let mut sum = [0.0_f64; 2];
        for l in 0..k {
            let term = f64::from(a.get(i, l)) * f64::from(b.get(l, j));
            sum = [sum[0] + term, sum[1] + term.abs()];
        }
        let c = f64::from(c.get(i, j));
        let slack = (alpha * sum[1]).abs() + c.abs();
        // A rounding of each product and sum: of 24 bits, or at the smallest denormal.
        let rounding = (2 * k + 4) as f64;
        let tiny = rounding * 1.5e-45 * (1.0 + alpha.abs());
        [alpha * sum[0] + c, rounding * 6e-8 * slack + tiny]
    };
    (0..m * n).map(|at| element(at / n, at % n)).collect()
}

fn check(isa: Isa, got: &[f32], want: &[[f64; 2]]) {
    for (i, (&got, &[want, slack])) in got.iter().zip(want).enumerate() {
        let got = f64::from(got);
        let same = got.is_nan() && want.is_nan() || got == want || (got - want).abs() <= slack;
        assert!(same, "{isa}: [{i}] is {got:e}, not {want:e} within {slack:e}");
    }
}

/// The rows of `b` as a packed matrix: a few at a time, or turned from columns.
fn packed(kernels: &Kernels, b: Mat<'_, f32>, turned: bool) -> Vec<f32> {
    let (k, n) = (b.rows(), b.cols());
    let mut panel = vec![f32::NAN; k * n];
    if turned {
        let columns: Vec<f32> = (0..n * k).map(|at| b.get(at % k, at / k)).collect();
        for first in (0..n).step_by(kernels.lanes()) {
            let count = kernels.lanes().min(n - first);
            let some = Mat::new(&columns[first * k..][..count * k], count, k);
            kernels.pack_transposed(some, n, first, &mut panel);
        }
    } else {
        for first in (0..k).step_by(3) {
            kernels.pack_rows(b.rows_range(first..k.min(first + 3)), k, first, &mut panel);
        }
    }
    panel
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn products_are_those_of_plain_loops(
        [m, k, n] in sizes(),
        (a, b, c) in (values(any_value()), values(any_value()), values(value())),
        (skip, gap, turned, add) in (0_usize..8, 0_usize..4, any::<bool>(), any::<bool>()),
        alpha in prop_oneof![Just(1.0_f32), Just(0.0), -2.0_f32..2.0],
    ) {
        let b: Vec<f32> = b.iter().copied().cycle().take(70 * 104 + 8).collect();
        let a = Mat::strided(&a[skip..], m, k, if turned { 1 } else { k + gap },
            if turned { m + gap } else { 1 });
        let b = Mat::strided(&b[skip..], k, n, n + gap, 1);
        let before = if add { c[..m * n].to_vec() } else { vec![0.0; m * n] };
        let want = product(alpha, a, b, Mat::new(&before, m, n));
        for kernels in Kernels::available() {
            let run = |b: Rhs<'_>| {
                let mut c = if add { before.clone() } else { vec![f32::NAN; m * n] };
                kernels.gemm(alpha, a, b, add, MatMut::new(&mut c, m, n));
                c
            };
            let got = run(Rhs::rows(b));
            check(kernels.isa(), &got, &want);
            for turned in [false, true] {
                let panel = packed(kernels, b, turned);
                let packed = run(Rhs::packed(&panel, k, n, kernels.group()));
                let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits() || a.is_nan();
                let alike = got.iter().zip(&packed).all(same);
                assert!(alike, "{}: packed, turned {turned}", kernels.isa());
            }
        }
    }

    /// Also where the first columns fit half a register, and the packed group is wider.
    #[test]
    fn the_first_columns_have_the_bits_they_have_among_others(
        [m, k, n] in sizes(), share in 0.0_f64..1.0, a in values(value()), b in values(value()),
    ) {
        let b: Vec<f32> = b.iter().copied().cycle().take(k * n).collect();
        let (a, b) = (Mat::new(&a[..m * k], m, k), Mat::new(&b, k, n));
        let some = (share * n as f64) as usize;
        for kernels in Kernels::available() {
            let panel = packed(kernels, b, false);
            for b in [Rhs::rows(b), Rhs::packed(&panel, k, n, kernels.group())] {
                let run = |b: Rhs<'_>| {
                    let mut c = vec![f32::NAN; m * b.n()];
                    kernels.gemm(1.0, a, b, false, MatMut::new(&mut c, m, b.n()));
                    c
                };
                for first in [some, some.min(5)] {
                    let (all, few) = (run(b), run(b.first_columns(first)));
                    for i in 0..m {
                        let (all, few) = (&all[i * n..][..first], &few[i * first..][..first]);
                        assert_bits(kernels.isa().name(), few, all);
                    }
                }
            }
        }
    }

    #[test]
    fn a_row_alone_has_the_bits_it_has_among_others(
        [m, k, n] in sizes(), a in values(value()), b in values(value()),
    ) {
        let b: Vec<f32> = b.iter().copied().cycle().take(k * n).collect();
        let b = Rhs::rows(Mat::new(&b, k, n));
        let a = Mat::new(&a[..m * k], m, k);
        for kernels in Kernels::available() {
            let mut c = vec![f32::NAN; m * n];
            kernels.gemm(1.0, a, b, false, MatMut::new(&mut c, m, n));
            for i in 0..m {
                let mut row = vec![f32::NAN; n];
                kernels.gemm(1.0, a.rows_range(i..i + 1), b, false, MatMut::new(&mut row, 1, n));
                assert_bits(kernels.isa().name(), &c[i * n..][..n], &row);
            }
        }
    }

    /// For tables that have a quicker way for one row, which others refuse: outputs that do not
    /// fill a register, and chains that end before the row or after it.
    #[test]
    fn one_row_of_packed_weights_has_the_bits_of_panels(
        (n, groups, chain) in (0_usize..61, 0_usize..12, 1_usize..9),
        (x, w) in (vec(any_value(), 11 * GROUP), values(-4.0_f32..4.0)),
    ) {
        let (k, chain) = (groups * GROUP, chain * GROUP);
        let formats: [&'static dyn BlockFormat; 3] = [&Q8_0, &Q4_1, &Q4_0];
        for format in formats {
            let mut bytes = vec![0; n * format.row_bytes(k).expect("whole blocks")];
            let w: Vec<f32> = w.iter().copied().cycle().take(n * k).collect();
            format.encode(&w, &mut bytes);
            for kernels in Kernels::available() {
                let mut y = vec![f32::NAN; n];
                let packed_w = QMat::new(format, n, k, &bytes).expect("made for it");
                if !kernels.one_row(&x[..k], packed_w, chain, &mut y) {
                    prop_assert!(y.iter().all(|y| y.is_nan()), "{}", kernels.isa());
                    continue;
                }
                let mut w = vec![0.0; n * k];
                kernels.decode(format, &bytes, &mut w);
                let (w, x) = (Mat::new(&w, n, k), Mat::new(&x[..k], 1, k));
                let mut want = vec![0.0; n];
                for at in (0..k).step_by(chain) {
                    let at = at..k.min(at + chain);
                    let panel = packed(kernels, w.cols_range(at.clone()).t(), true);
                    let panel = Rhs::packed(&panel, at.len(), n, kernels.group());
                    let add = at.start > 0;
                    kernels.gemm(1.0, x.cols_range(at), panel, add, MatMut::new(&mut want, 1, n));
                }
                let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits()
                    || a.is_nan() && b.is_nan();
                let what = format!("{} {}: {y:?}, not {want:?}", kernels.isa(), format.name());
                prop_assert!(y.iter().zip(&want).all(same), "{what}");
            }
        }
    }

    /// Any bytes at all, from any address.
    #[test]
    fn every_table_decodes_to_the_bits_of_the_format(
        bytes in vec(any::<u8>(), 4 * 512 + 8), skip in 0_usize..8, blocks in 0_usize..3,
    ) {
        for &format in ALL {
            let values = blocks * 256 / format.block_len() * format.block_len();
            let bytes = &bytes[skip..][..format.row_bytes(values).expect("whole blocks")];
            let mut want = vec![0.0; values];
            format.decode(bytes, &mut want);
            for kernels in Kernels::available() {
                let mut got = vec![0.0; values];
                kernels.decode(format, bytes, &mut got);
                let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits()
                    || a.is_nan() && b.is_nan();
                assert!(got.iter().zip(&want).all(same), "{}: {}", kernels.isa(), format.name());
            }
        }
    }
}

/// A product of sizes that wraps around is no small panel.
#[test]
fn panels_larger_than_memory_are_refused() {
    let half = usize::MAX / 2 + 1;
    for kernels in Kernels::available() {
        let x = [1.0, 2.0];
        let refused = |pack: &dyn Fn(&mut [f32])| {
            let pack = std::panic::AssertUnwindSafe(|| pack(&mut []));
            assert!(std::panic::catch_unwind(pack).is_err(), "{}", kernels.isa());
        };
        refused(&|panel| kernels.pack_rows(Mat::new(&x, 1, 2), half, 0, panel));
        refused(&|panel| kernels.pack_transposed(Mat::new(&x, 1, 2), half, 0, panel));
    }
}
