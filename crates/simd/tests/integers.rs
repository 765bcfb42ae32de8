//! Products in integers: close to those in floats, and with the same bits however they are cut.

use lowtide_backend::{Backend, OpShape};
use lowtide_conformance::threads;
use lowtide_kernels::{Digits, Kernels};
use lowtide_quant::formats::{ALL, Q4_1, Q8_0};
use lowtide_quant::{BlockFormat, QMat};
use lowtide_simd::{Compute, Simd};
use lowtide_tensor::{Mat, MatMut};

const INTEGERS: [Compute; 2] = [Compute::Int8x2, Compute::Int8];

/// Numbers in ±1 without a pattern.
fn numbers(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// A packed matrix and rows to multiply it with, both ways.
struct Case {
    format: &'static dyn BlockFormat,
    outputs: usize,
    inputs: usize,
    bytes: Vec<u8>,
}

impl Case {
    fn new(format: &'static dyn BlockFormat, outputs: usize, inputs: usize) -> Self {
        let mut bytes = vec![0; outputs * format.row_bytes(inputs).expect("whole blocks")];
        format.encode(&numbers(outputs * inputs, 7), &mut bytes);
        Self { format, outputs, inputs, bytes }
    }

    fn w(&self) -> QMat<'_> {
        QMat::new(self.format, self.outputs, self.inputs, &self.bytes).expect("made for it")
    }

    /// `x Wᵀ` over scratch that holds NaN.
    fn forward(&self, be: &Simd, x: &[f32]) -> Vec<f32> {
        let (out_features, in_features) = (self.outputs, self.inputs);
        let rows = x.len() / in_features;
        let shape = OpShape::Qmatmul { rows, out_features, in_features };
        let mut scratch = vec![f32::NAN; be.req(shape).scratch];
        let mut y = vec![f32::NAN; rows * out_features];
        let out = MatMut::new(&mut y, rows, out_features);
        be.qmatmul(Mat::new(x, rows, in_features), self.w(), out, &mut scratch);
        y
    }

    /// `1 + dy W` over scratch that holds NaN.
    fn backward(&self, be: &Simd, dy: &[f32]) -> Vec<f32> {
        let (out_features, in_features) = (self.outputs, self.inputs);
        let rows = dy.len() / out_features;
        let shape = OpShape::QmatmulT { rows, out_features, in_features };
        let mut scratch = vec![f32::NAN; be.req(shape).scratch];
        let mut dx = vec![1.0; rows * in_features];
        let out = MatMut::new(&mut dx, rows, in_features);
        be.qmatmul_t(Mat::new(dy, rows, out_features), self.w(), out, &mut scratch);
        dx
    }
}

/// The distance of two results as a share of the length of one.
fn error(got: &[f32], want: &[f32]) -> f64 {
    let square = |x: f64| x * x;
    let apart: f64 = got.iter().zip(want).map(|(a, b)| square(f64::from(*a) - f64::from(*b))).sum();
    let length: f64 = want.iter().map(|b| square(f64::from(*b))).sum();
    (apart / length).sqrt()
}

#[test]
fn two_digits_are_close_to_floats_and_one_is_not_far() {
    for kernels in Kernels::available() {
        let floats = Simd::with(kernels, 2);
        for &format in ALL {
            let case = Case::new(format, 70, 512);
            let (x, dy) = (numbers(21 * 512, 1), numbers(21 * 70, 2));
            let (y, dx) = (case.forward(&floats, &x), case.backward(&floats, &dy));
            for (compute, bound) in [(Compute::Int8x2, 3e-4), (Compute::Int8, 0.03)] {
                let be = floats.computing(compute);
                let what = format!("{} of {} on {}", compute.name(), format.name(), kernels.isa());
                let forward = error(&case.forward(&be, &x), &y);
                let backward = error(&case.backward(&be, &dy), &dx);
                assert!(forward < bound && backward < bound, "{what}: {forward} {backward}");
                // Formats whose codes are no bytes take two digits, and stay in floats where a
                // table computes these with bytes, too.
                let bytes = kernels.codes_per_element(Digits::Two) > 2;
                let rounds = format.integers().is_some_and(|i| i.codes_are_bytes() || !bytes);
                assert_eq!(forward > 0.0, rounds, "{what}: forward {forward}");
                assert_eq!(backward > 0.0, rounds, "{what}: backward {backward}");
            }
        }
    }
}

#[test]
fn a_row_alone_has_the_bits_it_has_among_others() {
    for kernels in Kernels::available() {
        for &format in ALL {
            let case = Case::new(format, 53, 768);
            let (x, dy) = (numbers(9 * 768, 3), numbers(9 * 53, 4));
            for compute in Compute::ALL {
                let be = Simd::with(kernels, 1).computing(compute);
                let alone: Vec<f32> = x.chunks(768).flat_map(|x| case.forward(&be, x)).collect();
                let what = format!("{} of {} on {}", compute.name(), format.name(), kernels.isa());
                assert_eq!(alone, case.forward(&be, &x), "{what}");
                let alone: Vec<f32> = dy.chunks(53).flat_map(|d| case.backward(&be, d)).collect();
                assert_eq!(alone, case.backward(&be, &dy), "{what}, transposed");
            }
        }
    }
}

#[test]
fn results_do_not_depend_on_threads() {
    for (kernels, compute) in Kernels::available().flat_map(|k| INTEGERS.map(|c| (k, c))) {
        let make =
            |count| -> Box<dyn Backend> { Box::new(Simd::with(kernels, count).computing(compute)) };
        threads(&make, &[1, 2, 4]);
    }
}

#[test]
fn damage_stays_visible_and_in_its_row() {
    for (kernels, compute) in Kernels::available().flat_map(|k| INTEGERS.map(|c| (k, c))) {
        let be = Simd::with(kernels, 1).computing(compute);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let case = Case::new(&Q4_1, 40, 96);
            let (mut x, mut dy) = (numbers(5 * 96, 5), numbers(5 * 40, 6));
            x[2 * 96 + 70] = bad;
            dy[3 * 40 + 11] = bad;
            let (y, dx) = (case.forward(&be, &x), case.backward(&be, &dy));
            for (row, y) in y.chunks(40).enumerate() {
                assert!(y.iter().all(|y| y.is_nan() == (row == 2)), "row {row}: {y:?}");
            }
            for (row, dx) in dx.chunks(96).enumerate() {
                let damaged = dx.iter().all(|dx| dx.is_finite() != (row == 3));
                assert!(damaged, "row {row}: {dx:?}");
            }
        }
        // A scale of the weights: an output of every row, or its 32 inputs.
        let mut case = Case::new(&Q8_0, 3, 64);
        let block = 34;
        case.bytes[3 * block..3 * block + 2].copy_from_slice(&[0xff, 0x7f]);
        let (y, dx) =
            (case.forward(&be, &numbers(2 * 64, 8)), case.backward(&be, &numbers(2 * 3, 9)));
        for y in y.chunks(3) {
            assert!(y[0].is_finite() && y[1].is_nan() && y[2].is_finite(), "{y:?}");
        }
        for dx in dx.chunks(64) {
            let (whole, damaged) = dx.split_at(32);
            assert!(whole.iter().all(|dx| dx.is_finite()), "{dx:?}");
            assert!(damaged.iter().all(|dx| dx.is_nan()), "{dx:?}");
        }
    }
}

#[test]
fn zeros_and_tiny_values_give_zeros() {
    for (kernels, compute) in Kernels::available().flat_map(|k| INTEGERS.map(|c| (k, c))) {
        let be = Simd::with(kernels, 1).computing(compute);
        let case = Case::new(&Q4_1, 40, 64);
        for value in [0.0, -0.0, f32::MIN_POSITIVE, 1e-40] {
            assert!(case.forward(&be, &[value; 64]).iter().all(|y| y.abs() < 1e-30));
            assert!(case.backward(&be, &[value; 40]).iter().all(|dx| *dx == 1.0));
        }
    }
}
