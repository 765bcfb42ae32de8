//! Products with packed and dense matrices, decoding, sums of rows.

use lowtide_backend::{Backend, OpShape};
use lowtide_quant::formats::{self, F32, Q4_1, Q8_0};
use lowtide_tensor::{Float, Mat, MatMut, QUANTUM};
use lowtide_testkit::compare::{assert_bits, assert_close};
use proptest::prelude::*;

use crate::support::{Packed, SPEC, inner, normal, poison, quantum_sum, scratch};

fn qmatmul<F: Float>(x: &[F], w: &Packed) -> Vec<F> {
    let w = w.view();
    let rows = x.len() / w.cols();
    let (out_features, in_features) = (w.rows(), w.cols());
    let mut scratch = scratch(OpShape::Qmatmul { rows, out_features, in_features });
    let mut y = poison(rows * w.rows());
    let out = MatMut::new(&mut y, rows, w.rows());
    SPEC.qmatmul(Mat::new(x, rows, w.cols()), w, out, &mut scratch);
    y
}

fn qmatmul_t<F: Float>(dy: &[F], w: &Packed, dx: &mut [F]) {
    let w = w.view();
    let rows = dy.len() / w.rows();
    let (out_features, in_features) = (w.rows(), w.cols());
    let mut scratch = scratch(OpShape::QmatmulT { rows, out_features, in_features });
    let dx = MatMut::new(dx, rows, w.cols());
    SPEC.qmatmul_t(Mat::new(dy, rows, w.rows()), w, dx, &mut scratch);
}

/// Sizes around the quantum, the lanes and the decoding buffer; widths grow to whole blocks.
const SIZES: [(usize, usize, usize); 5] =
    [(1, 1, 32), (3, 17, 96), (2, 64, 256), (5, 131, 288), (1, 40, 544)];

#[test]
fn every_format_multiplies_with_the_bits_of_the_rule() {
    for &format in formats::ALL {
        for (rows, outs, ins) in SIZES {
            let ins = ins.next_multiple_of(format.block_len());
            let w = Packed::random(format, outs, ins, 1);
            let (x, dense) = (normal::<f32>(2, rows * ins), w.dense::<f32>());
            let mut want = Vec::new();
            for x in x.chunks(ins) {
                for row in dense.chunks(ins) {
                    let terms: Vec<f32> = x.iter().zip(row).map(|(x, w)| x * w).collect();
                    want.push(quantum_sum(0.0, &terms));
                }
            }
            assert_bits(format.name(), &qmatmul(&x, &w), &want);
        }
    }
}

#[test]
fn every_format_multiplies_back_with_the_bits_of_the_rule() {
    for &format in formats::ALL {
        for (rows, outs, ins) in SIZES {
            let ins = ins.next_multiple_of(format.block_len());
            let w = Packed::random(format, outs, ins, 3);
            let (dy, dense) = (normal::<f32>(4, rows * outs), w.dense::<f32>());
            let start = normal::<f32>(5, rows * ins);
            let mut want = Vec::new();
            for (dy, start) in dy.chunks(outs).zip(start.chunks(ins)) {
                for (i, &start) in start.iter().enumerate() {
                    let column = dense.chunks(ins).map(|row| row[i]);
                    let terms: Vec<f32> = dy.iter().zip(column).map(|(dy, w)| dy * w).collect();
                    want.push(quantum_sum(start, &terms));
                }
            }
            let mut dx = start;
            qmatmul_t(&dy, &w, &mut dx);
            assert_bits(format.name(), &dx, &want);
        }
    }
}

#[test]
fn a_packed_product_has_the_bits_of_a_dense_one() {
    let (rows, outs, ins) = (5, 37, 160);
    let w = Packed::random(&Q8_0, outs, ins, 6);
    let (x, dense) = (normal::<f32>(7, rows * ins), w.dense::<f32>());
    let (x_view, w_view) = (Mat::new(&x, rows, ins), Mat::new(&dense, outs, ins));
    let mut y = poison(rows * outs);
    SPEC.matmul(1.0, x_view, w_view.t(), 0.0, MatMut::new(&mut y, rows, outs), &mut []);
    assert_bits("y", &qmatmul(&x, &w), &y);

    let (mut dx, mut back) = (normal::<f32>(8, rows * ins), normal::<f32>(8, rows * ins));
    qmatmul_t(&y, &w, &mut dx);
    let y_view = Mat::new(&y, rows, outs);
    SPEC.matmul(1.0, y_view, w_view, 1.0, MatMut::new(&mut back, rows, ins), &mut []);
    assert_bits("dx", &dx, &back);
}

#[test]
fn rows_of_a_packed_product_do_not_depend_on_their_neighbours() {
    let (rows, outs, ins) = (6, 33, 96);
    let w = Packed::random(&Q4_1, outs, ins, 9);
    let x = normal::<f32>(10, rows * ins);
    let all = qmatmul(&x, &w);
    let mut back = vec![0.0; rows * ins];
    qmatmul_t(&all, &w, &mut back);
    for t in 0..rows {
        let one = qmatmul(&x[t * ins..][..ins], &w);
        assert_bits("y", &one, &all[t * outs..][..outs]);
        let mut dx = vec![0.0; ins];
        qmatmul_t(&one, &w, &mut dx);
        assert_bits("dx", &dx, &back[t * ins..][..ins]);
    }
}

#[test]
fn decodes_and_gathers_rows() {
    for &format in formats::ALL {
        let (outs, ins) = (9, 320usize.next_multiple_of(format.block_len()));
        let w = Packed::random(format, outs, ins, 11);
        let dense = w.dense::<f32>();
        let mut out = poison(4 * ins);
        SPEC.qdecode(w.view(), 3..7, MatMut::new(&mut out, 4, ins));
        assert_bits(format.name(), &out, &dense[3 * ins..7 * ins]);
        let ids = [8, 0, 8];
        let mut out = poison(ids.len() * ins);
        SPEC.qgather(w.view(), &ids, MatMut::new(&mut out, ids.len(), ins));
        let want = ids.map(|id| &dense[id as usize * ins..][..ins]).concat();
        assert_bits(format.name(), &out, &want);
    }
}

#[test]
fn empty_operands_are_fine() {
    let w = Packed::random(&F32, 3, 5, 12);
    assert!(qmatmul::<f32>(&[], &w).is_empty());
    qmatmul_t::<f32>(&[], &w, &mut []);
    let mut c = poison::<f32>(6);
    let (a, b) = (Mat::new(&[], 2, 0), Mat::new(&[], 0, 3));
    SPEC.matmul(1.0, a, b, 0.0, MatMut::new(&mut c, 2, 3), &mut []);
    assert_eq!(c, [0.0; 6], "an empty sum is zero");
}

/// A view of random numbers, row-major or transposed, with gaps.
fn view<F: Float>(data: &[F], rows: usize, cols: usize, turned: bool) -> Mat<'_, F> {
    if turned {
        Mat::strided(data, cols, rows, rows + 1, 1).t()
    } else {
        Mat::strided(data, rows, cols, cols + 2, 1)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn matmul_is_its_formula(
        (m, k, n) in (0_usize..20, 0_usize..150, 0_usize..40),
        (turn_a, turn_b, turn_c) in any::<(bool, bool, bool)>(),
        (alpha, beta) in (prop_oneof![Just(1.0), Just(0.0), -2.0..2.0], prop_oneof![
            Just(1.0), Just(0.0), -2.0..2.0
        ]),
    ) {
        let (a, b) = (normal::<f64>(13, (m + 2) * (k + 2)), normal::<f64>(14, (k + 2) * (n + 2)));
        let (a, b) = (view(&a, m, k, turn_a), view(&b, k, n, turn_b));
        let start = if beta == 0.0 { poison(m * n) } else { normal::<f64>(15, m * n) };
        let mut want = Vec::new();
        for i in 0..m {
            for j in 0..n {
                let product: f64 = (0..k).map(|k| a.get(i, k) * b.get(k, j)).sum();
                let at = if turn_c { j * m + i } else { i * n + j };
                let kept = if beta == 0.0 { 0.0 } else { beta * start[at] };
                want.push(alpha * product + kept);
            }
        }
        let mut c = start;
        let mut out =
            if turn_c { MatMut::new(&mut c, n, m).t() } else { MatMut::new(&mut c, m, n) };
        SPEC.matmul(alpha, a, b, beta, out.rb(), &mut []);
        let got: Vec<f64> = (0..m * n).map(|at| out.get(at / n, at % n)).collect();
        assert_close("c", &got, &want, 1e-12, 1e-12);
    }

    #[test]
    fn a_product_may_be_cut_at_a_quantum(
        (m, k, n, cut) in (1_usize..8, 65_usize..300, 1_usize..20, 1_usize..5),
        alpha in -2.0_f32..2.0,
    ) {
        let cut = (cut * QUANTUM).min(k / QUANTUM * QUANTUM);
        let (a, b) = (normal::<f32>(16, m * k), normal::<f32>(17, k * n));
        let (a, b) = (Mat::new(&a, m, k), Mat::new(&b, k, n));
        let mut whole = poison(m * n);
        SPEC.matmul(alpha, a, b, 0.0, MatMut::new(&mut whole, m, n), &mut []);
        let mut parts = poison(m * n);
        for (range, beta) in [(0..cut, 0.0), (cut..k, 1.0)] {
            let (a, b) = (a.cols_range(range.clone()), b.rows_range(range));
            SPEC.matmul(alpha, a, b, beta, MatMut::new(&mut parts, m, n), &mut []);
        }
        assert_bits("cut", &parts, &whole);
    }

    #[test]
    fn products_and_their_transposes_are_adjoint(
        (rows, outs, blocks) in (1_usize..6, 1_usize..150, 1_usize..12),
    ) {
        let ins = 32 * blocks;
        let w = Packed::random(&Q8_0, outs, ins, 18);
        let (x, dy) = (normal::<f64>(19, rows * ins), normal::<f64>(20, rows * outs));
        let mut dx = vec![0.0; rows * ins];
        qmatmul_t(&dy, &w, &mut dx);
        let (there, back) = (inner(&qmatmul(&x, &w), &dy), inner(&x, &dx));
        assert_close("<xW', dy> = <x, dy W>", &[there], &[back], 1e-9, 1e-12);
    }

    #[test]
    fn a_sum_of_rows_is_the_adjoint_of_a_bias((rows, cols) in (0_usize..200, 1_usize..150)) {
        let (x, start) = (normal::<f32>(21, rows * cols), normal::<f32>(22, cols));
        let column = |c: usize| (0..rows).map(|t| x[t * cols + c]).collect::<Vec<_>>();
        let want: Vec<f32> = (0..cols).map(|c| quantum_sum(start[c], &column(c))).collect();
        let mut sums = start.clone();
        SPEC.sum_rows(Mat::new(&x, rows, cols), &mut sums);
        assert_bits("dsum", &sums, &want);

        let mut y = x.clone();
        SPEC.add_bias(&start, MatMut::new(&mut y, rows, cols));
        let want: Vec<f32> = (0..rows * cols).map(|at| x[at] + start[at % cols]).collect();
        assert_bits("bias", &y, &want);
    }
}

#[test]
fn axpby_combines_and_overwrites() {
    let x = [1.0_f32, -2.0, 3.0, f32::MAX];
    let mut y = [f32::NAN, f32::INFINITY, 0.5, -1.0];
    SPEC.axpby(2.0, Mat::new(&x[..2], 1, 2), 0.0, MatMut::new(&mut y[..2], 1, 2));
    SPEC.axpby(2.0, Mat::new(&x[2..3], 1, 1), -4.0, MatMut::new(&mut y[2..3], 1, 1));
    assert_eq!(y, [2.0, -4.0, 4.0, -1.0]);
    let mut turned = [10.0_f32, 20.0, 30.0, 40.0];
    SPEC.axpby(1.0, Mat::new(&[1.0, 2.0, 3.0, 4.0], 2, 2).t(), 1.0, MatMut::new(&mut turned, 2, 2));
    assert_eq!(turned, [11.0, 23.0, 32.0, 44.0]);
}
