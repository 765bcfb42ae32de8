//! The softmax of a tile and its gradient, on every instruction set there is here.

use lowtide_kernels::{Kernels, Seen};
use lowtide_tensor::{Mat, MatMut};
use proptest::prelude::*;

const STRIDE: usize = Kernels::SCORES;

/// What every row of any tile sees: all of it.
const ALL: Seen = Seen { start: 0, end: isize::MAX / 2, step: 0 };

/// The weights of one row of scores, and its sum and maximum.
fn soften_row(kernels: &Kernels, scores: &[f32]) -> (Vec<f32>, f32, f32) {
    let mut row = [f32::NAN; STRIDE];
    row[..scores.len()].copy_from_slice(scores);
    let (mut maximum, mut sum) = ([f32::NEG_INFINITY], [0.0]);
    let o = MatMut::new(&mut [], 1, 0);
    kernels.soften(&mut row, scores.len(), ALL, &mut maximum, &mut sum, o);
    (row[..scores.len()].to_vec(), sum[0], maximum[0])
}

#[test]
fn exponentials_are_within_three_units_in_the_last_place() {
    for kernels in Kernels::available() {
        let mut worst = 0.0_f64;
        for first in 0..3000 {
            // The first score is the maximum, so the others are exponentials of themselves.
            let scores: Vec<f32> = (0..STRIDE)
                .map(|i| if i == 0 { 0.0 } else { -87.33 * (first * 63 + i) as f32 / 189_000.0 })
                .collect();
            let (weights, ..) = soften_row(kernels, &scores);
            for (&score, &weight) in scores.iter().zip(&weights) {
                let want = f64::from(score).exp();
                let near = want as f32;
                let ulp = f64::from(f32::from_bits(near.to_bits() + 1)) - f64::from(near);
                worst = worst.max((f64::from(weight) - want).abs() / ulp);
            }
        }
        assert!(worst < 3.0, "{}: {worst} units in the last place", kernels.isa());
    }
}

#[test]
fn special_scores_keep_their_meaning() {
    for kernels in Kernels::available() {
        let isa = kernels.isa();
        let (weights, sum, maximum) = soften_row(kernels, &[0.0, f32::NEG_INFINITY, -90.0, -0.0]);
        assert_eq!((weights, sum, maximum), (vec![1.0, 0.0, 0.0, 1.0], 2.0, 0.0), "{isa}");
        let (weights, sum, maximum) = soften_row(kernels, &[1.0, f32::NAN, 2.0]);
        assert!(weights[1].is_nan() && sum.is_nan() && maximum == 2.0, "{isa}");
        let (weights, sum, _) = soften_row(kernels, &[f32::INFINITY, 1.0]);
        assert!(weights[0].is_nan() && weights[1] == 0.0 && sum.is_nan(), "{isa}");
        let (_, sum, _) = soften_row(kernels, &[f32::NEG_INFINITY; 3]);
        assert!(sum.is_nan(), "{isa}");
    }
}

#[test]
fn a_row_that_sees_nothing_keeps_what_it_had() {
    for kernels in Kernels::available() {
        let mut scores = [7.0; STRIDE];
        let (mut maximum, mut sum, mut o) = ([3.0], [2.0], [5.0, 6.0]);
        let nothing = Seen { start: 9, end: 12, step: 0 };
        let out = MatMut::new(&mut o, 1, 2);
        kernels.soften(&mut scores, 9, nothing, &mut maximum, &mut sum, out);
        assert_eq!((maximum, sum, o), ([3.0], [2.0], [5.0, 6.0]));
        assert_eq!(scores[..9], [0.0; 9]);
    }
}

#[test]
fn finite_finds_every_place() {
    for kernels in Kernels::available() {
        for cols in [1, 5, 16, 37] {
            let mut x = vec![f32::MAX; 3 * cols];
            assert!(kernels.finite(Mat::new(&x, 3, cols)));
            for at in 0..x.len() {
                for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    x[at] = bad;
                    assert!(!kernels.finite(Mat::new(&x, 3, cols)), "{}", kernels.isa());
                }
                x[at] = -1.0;
            }
        }
        assert!(kernels.finite(Mat::new(&[], 0, 4)));
    }
}

/// A tile of scores, what its rows see, and how many rows and columns it has.
fn tiles() -> impl Strategy<Value = (usize, usize, Seen, Vec<f32>)> {
    (1..9_usize, 1..=STRIDE, -70..70_isize, 0..90_isize, 0..2_isize).prop_flat_map(
        |(rows, columns, start, len, step)| {
            let seen = Seen { start, end: start + len, step };
            let scores = proptest::collection::vec(-9.0..9.0_f32, rows * STRIDE);
            (Just(rows), Just(columns), Just(seen), scores)
        },
    )
}

fn close(got: f32, want: f64) -> bool {
    (f64::from(got) - want).abs() <= 4e-6 * (1.0 + want.abs())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn soften_is_a_step_of_the_online_softmax(
        (rows, columns, seen, scores) in tiles(),
        before in -9.0..9.0_f32,
    ) {
        for kernels in Kernels::available() {
            let mut got = scores.clone();
            let (mut maxima, mut sums) = (vec![before; rows], vec![1.5; rows]);
            let mut o = vec![2.0; rows * 19];
            let out = MatMut::new(&mut o, rows, 19);
            kernels.soften(&mut got, columns, seen, &mut maxima, &mut sums, out);
            for i in 0..rows {
                let range = seen.of(i, columns);
                let row = &scores[i * STRIDE..][..columns];
                let best = row[range.clone()].iter().copied().fold(before, f32::max);
                prop_assert_eq!(maxima[i], best);
                let fade = f64::from(before - best).exp();
                let mut sum = 1.5 * fade;
                for (j, &weight) in got[i * STRIDE..][..columns].iter().enumerate() {
                    let want = f64::from(row[j] - best).exp();
                    let want = if range.contains(&j) { want } else { 0.0 };
                    prop_assert!(close(weight, want), "{} for {}", weight, want);
                    sum += want;
                }
                prop_assert!(close(sums[i], sum), "{} for {}", sums[i], sum);
                for &o in &o[i * 19..][..19] {
                    prop_assert!(close(o, 2.0 * fade), "{} for {}", o, 2.0 * fade);
                }
            }
        }
    }

    #[test]
    fn what_a_row_does_not_see_changes_no_bit((rows, columns, seen, scores) in tiles()) {
        for kernels in Kernels::available() {
            let run = |columns: usize, fill: f32| {
                let mut tile = scores.clone();
                for i in 0..rows {
                    let range = seen.of(i, columns);
                    for (j, score) in tile[i * STRIDE..][..STRIDE].iter_mut().enumerate() {
                        *score = if range.contains(&j) { *score } else { fill };
                    }
                }
                let (mut maxima, mut sums) = (vec![-4.0; rows], vec![1.5; rows]);
                let out = MatMut::new(&mut [], rows, 0);
                kernels.soften(&mut tile, columns, seen, &mut maxima, &mut sums, out);
                sums.iter().chain(&maxima).map(|x| x.to_bits()).collect::<Vec<_>>()
            };
            let last = (0..rows).map(|i| seen.of(i, columns).end).max().unwrap_or(0);
            prop_assert_eq!(run(columns, 0.0), run(columns, f32::NAN));
            if last < columns {
                prop_assert_eq!(run(last, 0.0), run(columns, f32::INFINITY));
            }
        }
    }

    #[test]
    fn soften_vjp_gives_probabilities_and_slopes((rows, columns, seen, scores) in tiles()) {
        let (lse, means): (Vec<f32>, Vec<f32>) =
            (0..rows).map(|i| (9.0 + i as f32, i as f32 * 0.3 - 1.0)).unzip();
        for kernels in Kernels::available() {
            let mut probs = scores.clone();
            let mut slopes: Vec<f32> = scores.iter().map(|score| 1.0 - score).collect();
            kernels.soften_vjp(&mut probs, &mut slopes, columns, seen, 0.25, &lse, &means);
            for i in 0..rows {
                for j in 0..columns {
                    let at = i * STRIDE + j;
                    let (score, slope) = (scores[at], 1.0 - scores[at]);
                    let p = f64::from(score - lse[i]).exp();
                    let p = if seen.of(i, columns).contains(&j) { p } else { 0.0 };
                    let want = p * f64::from(slope - means[i]) * 0.25;
                    prop_assert!(close(probs[at], p), "{} for {}", probs[at], p);
                    prop_assert!(close(slopes[at], want), "{} for {}", slopes[at], want);
                }
            }
        }
    }

    #[test]
    fn rows_are_multiplied_and_divided(cols in 0..40_usize, seed in 1..1000_u32) {
        let x: Vec<f32> = (0..3 * cols).map(|i| (i as f32 * 0.7 + seed as f32).sin()).collect();
        let y: Vec<f32> = (0..3 * cols).map(|i| (i as f32 * 0.3 - seed as f32).cos()).collect();
        for kernels in Kernels::available() {
            let mut dots = [f32::NAN; 3];
            kernels.dot_rows(Mat::new(&x, 3, cols), Mat::new(&y, 3, cols), &mut dots);
            for (i, &dot) in dots.iter().enumerate() {
                let row = i * cols..(i + 1) * cols;
                let pairs = x[row.clone()].iter().zip(&y[row]);
                let want: f64 = pairs.map(|(&x, &y)| f64::from(x) * f64::from(y)).sum();
                prop_assert!(close(dot, want), "{} for {}", dot, want);
            }
            let mut quotients = x.clone();
            kernels.divide_rows(MatMut::new(&mut quotients, 3, cols), &[2.0, 3.0, -1.0]);
            for (i, by) in [2.0, 3.0, -1.0].into_iter().enumerate() {
                for at in i * cols..(i + 1) * cols {
                    prop_assert_eq!(quotients[at], x[at] / by);
                }
            }
        }
    }
}
