//! Dropout: a mask that is a function of position.

use lowtide_backend::{Backend, DropoutKey};
use lowtide_tensor::{Mat, MatMut};

use crate::support::{SPEC, normal, poison};

const KEY: DropoutKey = DropoutKey { seed: 7, step: 3, site: 11 };

fn dropout(x: &[f32], cols: usize, p: f64, key: DropoutKey, row0: usize) -> Vec<f32> {
    let (rows, mut y) = (x.len() / cols, poison(x.len()));
    let out = MatMut::new(&mut y, rows, cols);
    SPEC.dropout(Mat::new(x, rows, cols), p, key, row0, out);
    y
}

fn kept(key: DropoutKey, row0: usize) -> Vec<bool> {
    dropout(&[1.0; 4096], 64, 0.5, key, row0).into_iter().map(|y| y != 0.0).collect()
}

#[test]
fn keeps_the_stated_part_and_the_mean() {
    for p in [0.05, 0.1, 0.5, 0.9] {
        let len = 100_000;
        let y = dropout(&vec![1.0; len], 100, p, KEY, 0);
        let keep = (1.0 / (1.0 - p)) as f32;
        assert!(y.iter().all(|&y| y == 0.0 || y == keep));
        let dropped = y.iter().filter(|&&y| y == 0.0).count() as f64 / len as f64;
        let deviation = (p * (1.0 - p) / len as f64).sqrt();
        assert!((dropped - p).abs() < 4.0 * deviation, "p = {p}: dropped {dropped}");
    }
}

#[test]
fn a_mask_depends_on_the_key_and_the_position_only() {
    let mask = kept(KEY, 0);
    assert_eq!(mask, kept(KEY, 0));
    assert_eq!(kept(KEY, 10)[..54 * 64], mask[10 * 64..], "rows count from row0");
    let others = [
        DropoutKey { seed: 8, ..KEY },
        DropoutKey { step: 4, ..KEY },
        DropoutKey { site: 12, ..KEY },
        DropoutKey { seed: 3, step: 7, ..KEY },
    ];
    for other in others {
        let same = kept(other, 0).iter().zip(&mask).filter(|(a, b)| a == b).count();
        assert!((1900..2200).contains(&same), "{other:?} agrees with the mask in {same} of 4096");
    }
}

#[test]
fn a_narrower_call_draws_the_same() {
    let x = normal::<f32>(1, 6 * 20);
    let all = dropout(&x, 20, 0.3, KEY, 5);
    let mut left = poison(6 * 8);
    let view = Mat::new(&x, 6, 20).cols_range(0..8);
    SPEC.dropout(view, 0.3, KEY, 5, MatMut::new(&mut left, 6, 8));
    for t in 0..6 {
        assert_eq!(left[t * 8..][..8], all[t * 20..][..8]);
    }
}

#[test]
fn rows_and_columns_are_not_correlated() {
    let mask = kept(KEY, 0);
    let agree = |shift: usize| {
        let pairs = mask.iter().zip(&mask[shift..]);
        pairs.filter(|(a, b)| a == b).count() as f64 / (mask.len() - shift) as f64
    };
    for shift in [1, 2, 63, 64, 65, 128] {
        assert!((agree(shift) - 0.5).abs() < 0.035, "shift {shift}: {}", agree(shift));
    }
}

#[test]
fn without_dropout_nothing_changes_and_a_dropped_nan_is_zero() {
    let x = normal::<f32>(2, 60);
    assert_eq!(dropout(&x, 6, 0.0, KEY, 0), x);
    let y = dropout(&[f32::NAN; 400], 20, 0.5, KEY, 0);
    let zeros = y.iter().filter(|&&y| y == 0.0).count();
    assert!((140..260).contains(&zeros));
    assert_eq!(y.iter().filter(|y| y.is_nan()).count(), 400 - zeros);
}

#[test]
fn the_draws_never_change() {
    // A saved run resumes with the masks it had: these bits are part of the format of a run. They
    // were reckoned apart from this code, from the words of the specification.
    let mask = |key| {
        dropout(&[1.0; 64], 16, 0.5, key, 0)
            .iter()
            .fold(0_u64, |m, &y| m << 1 | u64::from(y != 0.0))
    };
    let zero = DropoutKey { seed: 0, step: 0, site: 0 };
    assert_eq!([mask(zero), mask(KEY)], [0x4935_8fb9_d12b_f9e4, 0xcf39_6f5d_3f21_c9a2]);
}
