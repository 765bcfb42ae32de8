//! The facts about matrixmultiply that the backend's promises rest on.

use super::*;

fn numbers(len: usize, seed: f32) -> Vec<f32> {
    (0..len).map(|i| (i as f32 * 0.731 + seed).sin()).collect()
}

fn product(a: &[f32], b: &[f32], (m, k, n): (usize, usize, usize)) -> Vec<f32> {
    let mut c = vec![f32::NAN; m * n];
    gemm(view(a, m, k), view(b, k, n), Write::Replace, view_mut(&mut c, m, n));
    c
}

#[test]
fn an_element_does_not_know_where_it_lies() {
    let (m, k, n) = (70, 300, 45);
    let (a, b) = (numbers(m * k, 0.1), numbers(k * n, 0.7));
    let whole = product(&a, &b, (m, k, n));
    for (first, rows) in [(0, 1), (3, 5), (16, 17), (69, 1), (64, 6)] {
        let part = product(&a[first * k..], &b, (rows, k, n));
        assert_eq!(part, whole[first * n..(first + rows) * n], "rows {first} and on");
    }
    for (first, cols) in [(0, 1), (7, 9), (16, 29), (44, 1)] {
        let mut got = vec![0.0; m * cols];
        let b = part(Mat::new(&b, k, n), 0..k, first..first + cols, &mut []);
        gemm(view(&a, m, k), b, Write::Replace, view_mut(&mut got, m, cols));
        let want: Vec<f32> =
            whole.chunks(n).flat_map(|row| row[first..first + cols].iter().copied()).collect();
        assert_eq!(got, want, "columns {first} and on");
    }
}

#[test]
fn strides_change_no_bit() {
    let (m, k, n) = (33, 80, 20);
    let (a, b) = (numbers(m * k, 0.3), numbers(k * n, 0.9));
    let whole = product(&a, &b, (m, k, n));
    let mut transposed = vec![0.0; k * m];
    for i in 0..m {
        for p in 0..k {
            transposed[p * m + i] = a[i * k + p];
        }
    }
    let mut c = vec![0.0; m * n];
    let at = view(&transposed, k, m).reversed_axes();
    gemm(at, view(&b, k, n), Write::Replace, view_mut(&mut c, m, n));
    assert_eq!(c, whole);
}

#[test]
fn chains_restart_where_the_backend_thinks() {
    let (m, k, n) = (5, 2 * CHAIN + 40, 3);
    let (a, b) = (numbers(m * k, 0.2), numbers(k * n, 0.4));
    let whole = product(&a, &b, (m, k, n));
    let mut c = vec![f32::NAN; m * n];
    for (at, write) in [(0, Write::Replace), (CHAIN, Write::Add), (2 * CHAIN, Write::Add)] {
        let end = k.min(at + CHAIN);
        let a = part(Mat::new(&a, m, k), 0..m, at..end, &mut []);
        let b = part(Mat::new(&b, k, n), at..end, 0..n, &mut []);
        gemm(a, b, write, view_mut(&mut c, m, n));
    }
    assert_eq!(c, whole);
}

#[test]
fn parts_are_views_without_gaps_and_copies_with_them() {
    let data = numbers(6 * 8, 0.5);
    let x = Mat::new(&data, 6, 8);
    let direct = part(x, 2..5, 1..7, &mut []);
    let mut room = [0.0; 18];
    let gapped = part(x.cols_range(0..7), 2..5, 1..7, &mut room);
    assert_eq!(direct, gapped);
    assert_eq!(direct[[0, 0]], data[2 * 8 + 1]);
    let turned = part(x.t(), 1..7, 2..5, &mut []);
    assert_eq!(turned, direct.reversed_axes());
}
