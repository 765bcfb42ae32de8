//! Products in integers, on every instruction set there is here. Their exact parts are compared
//! with sums of 64-bit integers, the rest with plain loops in double precision.

mod one_row;
mod operands;

use lowtide_kernels::{Digits, Isa, Kernels};
use lowtide_quant::BlockFormat;
use lowtide_quant::formats::{ALL, Q4_1, Q8_0};
use lowtide_quant::integers::GROUP;
use lowtide_tensor::Mat;
use lowtide_testkit::compare::assert_bits;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::operands::{Rows, Weights};

const DIGITS: [Digits; 2] = [Digits::One, Digits::Two];

/// Rows to integers as [`Kernels::round_rows`] promises it: scales and integers.
fn rounded(digits: Digits, x: Mat<'_, f32>) -> (Vec<f32>, Vec<i64>) {
    let (mut scales, mut codes) = (Vec::new(), Vec::new());
    for i in 0..x.rows() {
        for x in x.row(i).chunks(GROUP) {
            let largest = x.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
            let finite = x.iter().all(|x| x.is_finite());
            let live = finite && largest >= 1e-30;
            let factor = if live { digits.top() / largest } else { 0.0 };
            scales.push(match (live, finite) {
                (true, _) => largest / digits.top(),
                (false, true) => 0.0,
                (false, false) => f32::NAN,
            });
            let code = |i| x.get(i).filter(|_| live).map_or(0.0, |x: &f32| x * factor);
            codes.extend((0..GROUP).map(|i| code(i).round_ties_even() as i64));
        }
    }
    (scales, codes)
}

/// Values that lie in groups of the same magnitude, where some groups are zero or too small to
/// matter.
fn values(len: usize) -> impl Strategy<Value = Vec<f32>> {
    let magnitude =
        prop_oneof![6 => Just(1.0_f32), 1 => Just(0.0), 1 => Just(1e-35), 1 => Just(1e6)];
    (vec(-1.0_f32..1.0, len), vec(magnitude, len.div_ceil(GROUP))).prop_map(
        |(mut x, magnitudes)| {
            for (x, magnitude) in x.chunks_mut(GROUP).zip(magnitudes) {
                x.iter_mut().for_each(|x| *x *= magnitude);
            }
            x
        },
    )
}

fn near(isa: Isa, got: &[f32], want: &[[f64; 2]]) {
    for (i, (&got, &[want, slack])) in got.iter().zip(want).enumerate() {
        let off = (f64::from(got) - want).abs();
        assert!(off <= slack * 2e-6 + 1e-30, "{isa}: [{i}] is {got}, not {want}");
    }
}

/// Tables that fuse multiply-adds give the same bits: what they fuse is the same, and the integers
/// are exact.
fn fused_agree(results: &[(Isa, Vec<f32>)]) {
    let mut fused = results.iter().filter(|(isa, _)| *isa != Isa::Scalar);
    let Some((_, first)) = fused.next() else { return };
    for (isa, other) in fused {
        assert_bits(isa.name(), other, first);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn rows_are_rounded_as_promised((m, k) in (0_usize..5, 0_usize..131), all in values(4 * 132)) {
        let x = Mat::strided(&all, m, k, k + 2, 1);
        for digits in DIGITS {
            let (scales, codes) = rounded(digits, x);
            let sums: Vec<f32> = codes.chunks(GROUP).zip(&scales)
                .map(|(codes, scale)| scale * codes.iter().sum::<i64>() as f32)
                .collect();
            for kernels in Kernels::available() {
                let got = Rows::new(kernels, digits, x);
                assert_bits(kernels.isa().name(), &got.scales, &scales);
                assert_bits(kernels.isa().name(), &got.sums, &sums);
                if kernels.codes_per_element(digits) == 2 {
                    let got: Vec<i64> = got.codes.iter().map(|&code| code.into()).collect();
                    assert_eq!(&got, &codes, "{}", kernels.isa());
                }
            }
        }
    }

    /// One group, all scales one: the sum itself.
    #[test]
    fn sums_of_products_are_exact(
        (m, n) in (0_usize..10, 0_usize..61),
        x in vec(-16_256_i32..=16_256, 9 * GROUP),
        noise in vec(any::<u8>(), 977),
    ) {
        let weights = Weights::plain(n, GROUP, &noise);
        let (codes, ..) = weights.decoded();
        for digits in DIGITS {
            let top = digits.top();
            let mut x: Vec<f32> = x[..m * GROUP].iter().map(|&x| x as f32 % (top + 1.0)).collect();
            x.chunks_mut(GROUP).for_each(|x| x[noise[0] as usize % GROUP] = -top);
            let want: Vec<f32> = (0..m * n).map(|at| {
                let row = x[at / n * GROUP..][..GROUP].iter().zip(&codes[at % n * GROUP..]);
                row.map(|(&x, &code)| x as i64 * i64::from(code)).sum::<i64>() as f32
            }).collect();
            for kernels in Kernels::available() {
                let rows = Rows::new(kernels, digits, Mat::new(&x, m, GROUP));
                let got = weights.multiply(kernels, &rows, false, vec![f32::NAN; m * n]);
                assert_eq!(&got, &want, "{} {digits:?}", kernels.isa());
            }
        }
    }

    /// Going back, with ratios of any sign, and both ends of their range.
    #[test]
    fn transposed_sums_of_products_are_exact(
        (m, columns) in (0_usize..6, 1_usize..4),
        g in vec(-16_256_i32..=16_256, 5 * GROUP),
        mut ratios in vec(any::<i16>().prop_map(|r| r.max(-i16::MAX)), 3 * GROUP),
        noise in vec(any::<u8>(), 977),
    ) {
        let k = columns * GROUP;
        ratios.truncate(k);
        ratios[3] = i16::MAX;
        ratios[7] = 1;
        let weights = Weights::plain(GROUP, k, &noise);
        let (codes, ..) = weights.decoded();
        for digits in DIGITS {
            let top = digits.top();
            let mut g: Vec<f32> = g[..m * GROUP].iter().map(|&g| g as f32 % (top + 1.0)).collect();
            g.chunks_mut(GROUP).for_each(|g| g[noise[0] as usize % GROUP] = top);
            let want: Vec<f32> = (0..m * k).map(|at| {
                let (i, j) = (at / k, at % k);
                let term = |o: usize| {
                    let ratio = i64::from(ratios[j / GROUP * GROUP + o]);
                    let scaled = (g[i * GROUP + o] as i64 * ratio + (1 << 14)) >> 15;
                    scaled * i64::from(codes[o * k + j])
                };
                (0..GROUP).map(term).sum::<i64>() as f32
            }).collect();
            for kernels in Kernels::available() {
                let rows = Rows::new(kernels, digits, Mat::new(&g, m, GROUP));
                let (largest, base) = (vec![1.0; columns], vec![0.0; m * columns]);
                let got = weights.multiply_t(kernels, &rows, &ratios, &largest, &base);
                assert_eq!(&got, &want, "{} {digits:?}", kernels.isa());
            }
        }
    }

    #[test]
    fn groups_are_scaled_and_added(
        (m, n, groups) in (0_usize..10, 0_usize..61, 0_usize..5),
        (x, c) in (values(9 * 4 * GROUP), vec(-9.0_f32..9.0, 9 * 60)),
        (add, noise) in (any::<bool>(), vec(any::<u8>(), 977)),
    ) {
        let k = groups * GROUP;
        let x = Mat::new(&x[..m * k], m, k);
        let formats: [&'static dyn BlockFormat; 2] = [&Q8_0, &Q4_1];
        for (format, digits) in formats.into_iter().flat_map(|f| DIGITS.map(|d| (f, d))) {
            let weights = Weights::new(format, n, k, &noise);
            let (codes, d, minima) = weights.decoded();
            let (scales, q) = rounded(digits, x);
            let want: Vec<_> = (0..m * n).map(|at| {
                let (i, j) = (at / n, at % n);
                let before = if add { f64::from(c[at]) } else { 0.0 };
                let mut sum = [before, before.abs()];
                for l in 0..k {
                    let scale = f64::from(scales[(i * k + l) / GROUP]);
                    let group = (j * k + l) / GROUP;
                    let w = f64::from(codes[j * k + l]) * f64::from(d[group]);
                    let term = scale * q[i * k + l] as f64 * (w + f64::from(minima[group]));
                    sum = [sum[0] + term, sum[1] + term.abs() + (scale * w).abs()];
                }
                sum
            }).collect();
            let mut results = Vec::new();
            for kernels in Kernels::available() {
                let rows = Rows::new(kernels, digits, x);
                let c = if add { c[..m * n].to_vec() } else { vec![f32::NAN; m * n] };
                let got = weights.multiply(kernels, &rows, add, c);
                near(kernels.isa(), &got, &want);
                results.push((kernels.isa(), got));
            }
            fused_agree(&results);
        }
    }

    #[test]
    fn transposed_groups_are_scaled_and_added(
        (m, columns, groups) in (0_usize..6, 1_usize..4, 1_usize..9),
        (g, base) in (values(5 * 8 * GROUP), vec(-9.0_f32..9.0, 5 * 3)),
        ratios in vec(any::<i16>().prop_map(|r| r.max(-i16::MAX)), 8 * 3 * GROUP),
        (largest, noise) in (vec(1e-4_f32..1e-2, 8 * 3), vec(any::<u8>(), 977)),
    ) {
        let (n, k) = (groups * GROUP, columns * GROUP);
        let g = Mat::new(&g[..m * n], m, n);
        let (ratios, largest) = (&ratios[..columns * n], &largest[..groups * columns]);
        let base = &base[..m * columns];
        let weights = Weights::plain(n, k, &noise);
        let (codes, ..) = weights.decoded();
        for digits in DIGITS {
            let (scales, q) = rounded(digits, g);
            let want: Vec<_> = (0..m * k).map(|at| {
                let (i, j) = (at / k, at % k);
                let base = f64::from(base[i * columns + j / GROUP]);
                let mut sum = [base, base.abs()];
                for o in 0..n {
                    let ratio = i64::from(ratios[j / GROUP * n + o]);
                    let scaled = (q[i * n + o] * ratio + (1 << 14)) >> 15;
                    let scale = f64::from(scales[i * groups + o / GROUP])
                        * f64::from(largest[o / GROUP * columns + j / GROUP]);
                    let term = scale * scaled as f64 * f64::from(codes[o * k + j]);
                    sum = [sum[0] + term, sum[1] + term.abs()];
                }
                sum
            }).collect();
            let mut results = Vec::new();
            for kernels in Kernels::available() {
                let rows = Rows::new(kernels, digits, g);
                let got = weights.multiply_t(kernels, &rows, ratios, largest, base);
                near(kernels.isa(), &got, &want);
                results.push((kernels.isa(), got));
            }
            fused_agree(&results);
        }
    }

    /// Any bytes at all, from any address; elements hold the codes of a format in their order.
    #[test]
    fn every_table_decodes_the_integers_of_the_format(
        bytes in vec(any::<u8>(), 4 * 512 + 8), skip in 0_usize..8, blocks in 0_usize..3,
    ) {
        let integers = ALL.iter().filter_map(|&format| Some((format, format.integers()?)));
        for (format, integers) in integers {
            let values = blocks * 256;
            let bytes = &bytes[skip..][..format.row_bytes(values).expect("whole blocks")];
            let groups = values / GROUP;
            let room = || (vec![0_i16; values], vec![0.0; groups], vec![0.0; groups]);
            let mut want = room();
            integers.decode_integers(bytes, &mut want.0, &mut want.1, &mut want.2);
            for kernels in Kernels::available() {
                let name = format!("{}: {}", kernels.isa(), format.name());
                let same = |a: &[f32], b: &[f32]| a.iter().zip(b)
                    .all(|(a, b)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan());
                let mut got = room();
                assert!(kernels.decode_integers(format, bytes, &mut got.0, &mut got.1, &mut got.2));
                assert_eq!(&got.0, &want.0, "{name}");
                assert!(same(&got.1, &want.1) && same(&got.2, &want.2), "{name}");
                for digits in DIGITS {
                    let per = kernels.codes_per_element(digits);
                    if per > 2 && !integers.codes_are_bytes() {
                        continue;
                    }
                    let (_, mut scales, mut minima) = room();
                    let mut codes = vec![0; values / per];
                    let to = (&mut codes[..], &mut scales[..], &mut minima[..]);
                    assert!(kernels.decode_elements(digits, format, bytes, to.0, to.1, to.2));
                    assert!(same(&scales, &want.1) && same(&minima, &want.2), "{name}");
                    let bytes: Vec<u8> = codes.iter().flat_map(|x| x.to_ne_bytes()).collect();
                    let got: Vec<i16> = if per == 2 {
                        bytes.as_chunks().0.iter().map(|&x| i16::from_ne_bytes(x)).collect()
                    } else {
                        bytes.iter().map(|x| x.cast_signed().into()).collect()
                    };
                    assert_eq!(&got, &want.0, "{name} {digits:?}");
                }
            }
        }
    }
}

/// Every code and every value at an end of its range: no sum may saturate on its way.
#[test]
fn extremes_do_not_saturate() {
    let ends = [[i8::MIN, i8::MIN], [i8::MAX, i8::MAX], [i8::MIN, i8::MAX], [-1, 0]];
    for (kernels, digits) in Kernels::available().flat_map(|k| DIGITS.map(|d| (k, d))) {
        let top = digits.top();
        let x: Vec<f32> = [[top, top], [-top, -top], [top, -top]]
            .into_iter()
            .flat_map(|pair| pair.into_iter().cycle().take(GROUP))
            .collect();
        let rows = Rows::new(kernels, digits, Mat::new(&x, 3, GROUP));
        for ends in ends {
            // As outputs by inputs, and, going back, as 32 outputs by 32 inputs.
            let mut weights = Weights::plain(GROUP, GROUP, &[0]);
            for block in weights.bytes.chunks_exact_mut(Q8_0.block_bytes()) {
                let ends = ends.map(i8::cast_unsigned).into_iter().cycle();
                block[2..].iter_mut().zip(ends).for_each(|(to, code)| *to = code);
            }
            let want: Vec<f32> = x
                .chunks(GROUP)
                .flat_map(|x| {
                    let terms = x.iter().zip(ends.into_iter().cycle());
                    [terms.map(|(x, code)| *x as i64 * i64::from(code)).sum::<i64>() as f32; GROUP]
                })
                .collect();
            let got = weights.multiply(kernels, &rows, false, vec![f32::NAN; 3 * GROUP]);
            assert_eq!(got, want, "{} {digits:?} {ends:?}", kernels.isa());
            for sign in [1, -1] {
                let ratios = [sign * i16::MAX; GROUP];
                let scaled = |x: f32| (x as i64 * i64::from(ratios[0]) + (1 << 14)) >> 15;
                let sums = x.chunks(GROUP).map(|x| x.iter().map(|&x| scaled(x)).sum::<i64>());
                let want: Vec<f32> = sums
                    .flat_map(|sum| (0..GROUP).map(move |j| (sum * i64::from(ends[j % 2])) as f32))
                    .collect();
                let got = weights.multiply_t(kernels, &rows, &ratios, &[1.0], &[0.0; 3]);
                assert_eq!(got, want, "{} {digits:?} {ends:?} transposed", kernels.isa());
            }
        }
    }
}

#[test]
fn rows_that_are_not_finite_stay_damaged() {
    for (kernels, digits) in Kernels::available().flat_map(|k| DIGITS.map(|d| (k, d))) {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = vec![0.5; 2 * 2 * GROUP];
            x[2 * GROUP + 3] = bad;
            let rows = Rows::new(kernels, digits, Mat::new(&x, 2, 2 * GROUP));
            let weights = Weights::plain(5, 2 * GROUP, &[1, 2, 3, 4, 5, 6, 7]);
            let c = weights.multiply(kernels, &rows, false, vec![0.0; 10]);
            let damaged: Vec<bool> = c.iter().map(|c| c.is_nan()).collect();
            assert_eq!(damaged, [[false; 5], [true; 5]].concat(), "{}", kernels.isa());
        }
    }
}
