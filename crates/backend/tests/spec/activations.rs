//! Gated activations, normalisation, rotation, and what a slice looks like.

use lowtide_backend::{Activation, Backend, Direction, Pairing, Stats};
use lowtide_tensor::{Float, Mat, MatMut};
use lowtide_testkit::compare::{assert_bits, assert_close};
use proptest::prelude::*;

use crate::support::{SPEC, assert_gradient, inner, normal, poison};

const BOTH: [Activation; 2] = [Activation::Silu, Activation::GeluTanh];
const ROWS: usize = 3;
const COLS: usize = 7;

fn view<F: Float>(data: &[F]) -> Mat<'_, F> {
    Mat::new(data, ROWS, data.len() / ROWS)
}

fn view_mut<F: Float>(data: &mut [F]) -> MatMut<'_, F> {
    let cols = data.len() / ROWS;
    MatMut::new(data, ROWS, cols)
}

fn glu<F: Float>(act: Activation, gate: &[F], up: &[F]) -> Vec<F> {
    let mut y = poison(gate.len());
    SPEC.glu(act, view(gate), view(up), view_mut(&mut y));
    y
}

#[test]
fn glu_has_the_published_values() {
    let x = [-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0, -40.0, 40.0];
    let ones = [1.0; 9];
    // From the formulas in double precision, GELU through its logistic form.
    let silu = [
        -0.14227761953270035,
        -0.2689414213699951,
        -0.1887703343990727,
        0.0,
        0.3112296656009273,
        0.7310585786300049,
        2.8577223804672998,
        -40.0 / (1.0 + 40.0_f64.exp()),
        40.0,
    ];
    let gelu = [
        -0.003637392081773019,
        -0.15880800939172326,
        -0.15428599017485609,
        0.0,
        0.34571400982514394,
        0.8411919906082768,
        2.9963626079182273,
        0.0,
        40.0,
    ];
    assert_close("silu", &glu(Activation::Silu, &x, &ones), &silu, 1e-14, 1e-12);
    assert_close("gelu", &glu(Activation::GeluTanh, &x, &ones), &gelu, 1e-14, 1e-12);
}

#[test]
fn extreme_gates_stay_finite() {
    let gate = [-1e4_f32, 1e4, -88.8, 88.8, -1e-38, 0.0];
    for act in BOTH {
        let y = glu(act, &gate, &[1.0; 6]);
        let (mut dgate, mut dup) = (gate, [1.0; 6]);
        SPEC.glu_vjp(act, view(&[1.0; 6]), view_mut(&mut dgate), view_mut(&mut dup));
        let all = y.iter().chain(&dgate).chain(&dup);
        assert!(all.copied().all(f32::is_finite), "{act:?}: {y:?} {dgate:?} {dup:?}");
        assert_eq!((dgate[0], dgate[1]), (0.0, 1.0), "{act:?} saturates");
    }
}

#[test]
fn infinite_gates_have_their_limits() {
    fn check<F: Float>(most: F) {
        let infinity = F::ONE / F::ZERO;
        let gate = [-infinity, -most, most, infinity, F::NAN, F::ZERO];
        for act in BOTH {
            let y = glu(act, &gate, &[F::ONE; 6]);
            let (mut dgate, mut dup) = (gate, [F::ONE; 6]);
            SPEC.glu_vjp(act, view(&[F::ONE; 6]), view_mut(&mut dgate), view_mut(&mut dup));
            assert_eq!(y[..4], [F::ZERO, F::ZERO, most, infinity], "{act:?}");
            assert_eq!(dup[..4], y[..4], "{act:?}");
            assert_eq!(dgate[..4], [F::ZERO, F::ZERO, F::ONE, F::ONE], "slope of {act:?}");
            assert!([y[4], dup[4], dgate[4]].iter().all(|x| x.to_f64().is_nan()), "{act:?}");
        }
    }
    check(f32::MAX);
    check(f64::MAX);
}

#[test]
fn glu_in_place_has_the_same_bits() {
    for act in BOTH {
        let (gate, up) = (normal::<f32>(1, ROWS * COLS), normal::<f32>(2, ROWS * COLS));
        let mut in_place = gate.clone();
        SPEC.glu_in_place(act, view_mut(&mut in_place), view(&up));
        assert_bits("gate", &in_place, &glu(act, &gate, &up));
    }
}

#[test]
fn glu_vjp_is_the_gradient() {
    for act in BOTH {
        let [gate, up, dy] = [3, 4, 5].map(|seed| normal::<f64>(seed, ROWS * COLS));
        let (mut dgate, mut dup) = (gate.clone(), up.clone());
        SPEC.glu_vjp(act, view(&dy), view_mut(&mut dgate), view_mut(&mut dup));
        assert_gradient("gate", &gate, &dgate, 99, |gate| inner(&glu(act, gate, &up), &dy));
        assert_gradient("up", &up, &dup, 99, |up| inner(&glu(act, &gate, up), &dy));
    }
}

fn rmsnorm<F: Float>(x: &[F], w: &[F], eps: F) -> (Vec<F>, Vec<F>) {
    let (mut y, mut rstd) = (poison(x.len()), poison(ROWS));
    SPEC.rmsnorm(view(x), w, eps, view_mut(&mut y), &mut rstd);
    (y, rstd)
}

#[test]
fn rmsnorm_is_its_formula() {
    for cols in [1, 7, 64, 130] {
        let (x, w) = (normal::<f64>(6, ROWS * cols), normal::<f64>(7, cols));
        let (y, rstd) = rmsnorm(&x, &w, 1e-5);
        for t in 0..ROWS {
            let row = &x[t * cols..][..cols];
            let want = 1.0 / (inner(row, row) / cols as f64 + 1e-5).sqrt();
            assert_close("rstd", &rstd[t..=t], &[want], 1e-14, 1e-13);
            let want: Vec<f64> = row.iter().zip(&w).map(|(x, w)| x * want * w).collect();
            assert_close("y", &y[t * cols..][..cols], &want, 1e-13, 1e-13);
        }
    }
    let (y, rstd) = rmsnorm(&[0.0_f32; ROWS * 4], &[2.0; 4], 1e-6);
    assert_eq!(y, [0.0; ROWS * 4]);
    assert_close("a row of zeros", &rstd, &[1000.0; ROWS], 0.0, 1e-6);
}

#[test]
fn rmsnorm_vjp_accumulates_the_gradient() {
    let cols = 70;
    let (x, w) = (normal::<f64>(8, ROWS * cols), normal::<f64>(9, cols));
    let (dy, start) = (normal::<f64>(10, ROWS * cols), normal::<f64>(11, ROWS * cols));
    let (_, rstd) = rmsnorm(&x, &w, 1e-2);
    let mut dx = start.clone();
    SPEC.rmsnorm_vjp(view(&x), &w, &rstd, view(&dy), view_mut(&mut dx));
    let gradient: Vec<f64> = dx.iter().zip(&start).map(|(dx, start)| dx - start).collect();
    assert_gradient("x", &x, &gradient, 60, |x| inner(&rmsnorm(x, &w, 1e-2).0, &dy));
}

#[derive(Clone, Copy)]
struct Rope<'a> {
    head_dim: usize,
    pos: &'a [u32],
    inv_freq: &'a [f64],
    pairing: Pairing,
}

impl Rope<'_> {
    fn turn(self, x: &[f64], direction: Direction) -> Vec<f64> {
        let mut x = x.to_vec();
        let Self { head_dim, pos, inv_freq, pairing } = self;
        SPEC.rope(view_mut(&mut x), head_dim, pos, inv_freq, pairing, direction);
        x
    }
}

const POSITIONS: [u32; ROWS] = [0, 5, 4_000];
const FREQUENCIES: [f64; 3] = [1.0, 0.1, 0.01];

#[test]
fn rope_rotates_pairs() {
    // Two heads of eight, of which the first six elements turn.
    let x = normal::<f64>(12, ROWS * 16);
    for pairing in [Pairing::Halves, Pairing::Adjacent] {
        let rope = Rope { head_dim: 8, pos: &POSITIONS, inv_freq: &FREQUENCIES, pairing };
        let y = rope.turn(&x, Direction::Forward);
        let mut want = x.clone();
        for (head, want) in want.chunks_mut(8).enumerate() {
            for (i, frequency) in FREQUENCIES.iter().enumerate() {
                let (first, second) = match pairing {
                    Pairing::Halves => (i, i + 3),
                    Pairing::Adjacent => (2 * i, 2 * i + 1),
                };
                let (sin, cos) = (f64::from(POSITIONS[head / 2]) * frequency).sin_cos();
                let (a, b) = (want[first], want[second]);
                want[first] = a * cos - b * sin;
                want[second] = a * sin + b * cos;
            }
        }
        assert_close("rotated", &y, &want, 1e-12, 1e-12);
    }
}

#[test]
fn rope_backward_is_inverse_and_adjoint() {
    let (x, dy) = (normal::<f64>(13, ROWS * 16), normal::<f64>(14, ROWS * 16));
    for pairing in [Pairing::Halves, Pairing::Adjacent] {
        let rope = Rope { head_dim: 8, pos: &POSITIONS, inv_freq: &FREQUENCIES, pairing };
        let y = rope.turn(&x, Direction::Forward);
        assert_close("inverse", &rope.turn(&y, Direction::Backward), &x, 1e-14, 1e-13);
        let dx = rope.turn(&dy, Direction::Backward);
        assert_close("adjoint", &[inner(&y, &dy)], &[inner(&x, &dx)], 1e-12, 1e-12);
    }
}

#[test]
fn rope_reckons_angles_in_its_own_precision() {
    // 1234567 / 3 in f32 differs from the f64 angle by far more than a radian's last bit.
    let inv_freq = 1.0_f32 / 3.0;
    let mut x = [1.0_f32, 0.0];
    let view = MatMut::new(&mut x, 1, 2);
    SPEC.rope(view, 2, &[1_234_567], &[inv_freq], Pairing::Halves, Direction::Forward);
    let angle = 1_234_567.0_f32 * inv_freq;
    let want = [f64::from(angle).cos() as f32, f64::from(angle).sin() as f32];
    assert_close("angle", &x, &want, 1e-6, 0.0);
}

#[test]
fn stats_look_at_finite_elements() {
    let x = [3.0_f32, f32::NAN, -4.0, f32::INFINITY, f32::NEG_INFINITY, 0.0];
    let want = Stats { sum_squares: 25.0, max_abs: 4.0, non_finite: 3 };
    assert_eq!(SPEC.stats(&x), want);
    assert_eq!(SPEC.stats(&[] as &[f32]), Stats::default());
    let large = SPEC.stats(&[f32::MAX, f32::MAX]);
    assert_close(
        "f64",
        &[large.sum_squares.sqrt()],
        &[2.0_f64.sqrt() * f64::from(f32::MAX)],
        0.0,
        1e-12,
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn rows_do_not_depend_on_their_neighbours(seed in any::<u64>(), cols in 1_usize..90) {
        let (x, w) = (normal::<f32>(seed, ROWS * cols), normal::<f32>(seed ^ 1, cols));
        let (y, rstd) = rmsnorm(&x, &w, 1e-5);
        let up = normal::<f32>(seed ^ 2, ROWS * cols);
        let gated = glu(Activation::Silu, &x, &up);
        for t in 0..ROWS {
            let row = t * cols..(t + 1) * cols;
            let one = Mat::new(&x[row.clone()], 1, cols);
            let (mut out, mut one_rstd) = (poison(cols), poison(1));
            SPEC.rmsnorm(one, &w, 1e-5, MatMut::new(&mut out, 1, cols), &mut one_rstd);
            assert_bits("y", &out, &y[row.clone()]);
            assert_bits("rstd", &one_rstd, &rstd[t..=t]);
            let up = Mat::new(&up[row.clone()], 1, cols);
            SPEC.glu(Activation::Silu, one, up, MatMut::new(&mut out, 1, cols));
            assert_bits("glu", &out, &gated[row]);
        }
    }
}
