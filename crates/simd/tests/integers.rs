//! Products in integers are near those in floats, on every instruction set there is here.

use lowtide_backend::{Backend, OpShape};
use lowtide_kernels::Kernels;
use lowtide_quant::formats::{ALL, Q4_1};
use lowtide_quant::{BlockFormat, QMat};
use lowtide_simd::{Compute, Simd};
use lowtide_tensor::{Mat, MatMut};
use lowtide_testkit::compare::assert_bits;
use lowtide_testkit::rng::Rng;

/// More terms than one chain has, in both directions; columns that no register divides.
const OUTPUTS: usize = 301;
const INPUTS: usize = 512;

/// Weights, activations and gradients.
struct Case {
    format: &'static dyn BlockFormat,
    rows: usize,
    bytes: Vec<u8>,
    x: Vec<f32>,
    dy: Vec<f32>,
}

impl Case {
    fn new(format: &'static dyn BlockFormat, rows: usize) -> Self {
        let mut rng = Rng::new(rows as u64);
        let mut bytes = vec![0; OUTPUTS * format.row_bytes(INPUTS).expect("whole blocks")];
        format.encode(&rng.uniform_vec(OUTPUTS * INPUTS, -1.0, 1.0), &mut bytes);
        let x = rng.uniform_vec(rows * INPUTS, -1.0, 1.0);
        Self { format, rows, bytes, x, dy: rng.uniform_vec(rows * OUTPUTS, -1.0, 1.0) }
    }

    /// `x Wᵀ` and `dy W`.
    fn run(&self, be: &Simd) -> [Vec<f32>; 2] {
        let (rows, out_features, in_features) = (self.rows, OUTPUTS, INPUTS);
        let w = QMat::new(self.format, OUTPUTS, INPUTS, &self.bytes).expect("a matrix");
        let room = |shape| vec![f32::NAN; be.req(shape).scratch];
        let mut y = vec![f32::NAN; rows * OUTPUTS];
        let mut scratch = room(OpShape::Qmatmul { rows, out_features, in_features });
        let x = Mat::new(&self.x, rows, INPUTS);
        be.qmatmul(x, w, MatMut::new(&mut y, rows, OUTPUTS), &mut scratch);
        let mut dx = vec![0.0; rows * INPUTS];
        let mut scratch = room(OpShape::QmatmulT { rows, out_features, in_features });
        let dy = Mat::new(&self.dy, rows, OUTPUTS);
        be.qmatmul_t(dy, w, MatMut::new(&mut dx, rows, INPUTS), &mut scratch);
        [y, dx]
    }
}

/// The largest difference, in units of the root of the mean square.
fn worst(got: &[f32], want: &[f32]) -> f64 {
    let squares: f64 = want.iter().map(|&x| f64::from(x).powi(2)).sum();
    let unit = (squares / want.len() as f64).sqrt();
    let off = got.iter().zip(want).map(|(&a, &b)| (f64::from(a) - f64::from(b)).abs());
    off.fold(0.0, |worst, off| if off <= worst { worst } else { off }) / unit
}

#[test]
fn integers_are_near_floats() {
    let bounds = [(Compute::Int8x2, 5e-4), (Compute::Int8, 6e-2)];
    for kernels in Kernels::available() {
        let be = Simd::with(kernels, 2);
        for &format in ALL {
            let case = Case::new(format, 5);
            let want = case.run(&be);
            for (compute, bound) in bounds {
                let got = case.run(&be.computing(compute));
                for (what, (got, want)) in ["x Wᵀ", "dy W"].iter().zip(got.iter().zip(&want)) {
                    let off = worst(got, want);
                    let (isa, format) = (kernels.isa(), format.name());
                    assert!(off < bound, "{isa}: {what} of {format} by {compute:?}: {off}");
                }
            }
        }
    }
}

#[test]
fn bits_depend_on_neither_threads_nor_other_rows() {
    for kernels in Kernels::available() {
        for compute in [Compute::Int8x2, Compute::Int8] {
            let be = Simd::with(kernels, 1).computing(compute);
            let case = Case::new(&Q4_1, 7);
            let [y, dx] = case.run(&be);
            let [other_y, other_dx] = case.run(&Simd::with(kernels, 3).computing(compute));
            assert_bits("y by three threads", &other_y, &y);
            assert_bits("dx by three threads", &other_dx, &dx);
            for row in 0..case.rows {
                let x = case.x[row * INPUTS..][..INPUTS].to_vec();
                let dy = case.dy[row * OUTPUTS..][..OUTPUTS].to_vec();
                let alone = Case { rows: 1, bytes: case.bytes.clone(), x, dy, ..case };
                let [own_y, own_dx] = alone.run(&be);
                assert_bits("a row of y alone", &own_y, &y[row * OUTPUTS..][..OUTPUTS]);
                assert_bits("a row of dx alone", &own_dx, &dx[row * INPUTS..][..INPUTS]);
            }
        }
    }
}
