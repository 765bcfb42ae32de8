//! Which entries move, and what is kept of them.

use lowtide_backend::Scalar;
use std::vec;
use std::vec::Vec;

use super::*;
use crate::{AdamW, AdamW8, Sgd};

fn hyper(step: u64) -> StepHyper {
    StepHyper { lr: 0.5, step, grad_scale: 1.0 }
}

#[test]
fn only_the_largest_of_a_first_gradient_are_ever_updated() {
    let top = SparseTop { inner: Sgd::default(), share: 0.4 };
    let mut p = [0.0; 5];
    let mut state = vec![0.0; top.state_words(&[5])];
    assert_eq!(state.len(), 2);
    top.init(&[5], &mut state);
    // Nothing to choose by yet.
    top.update(&Scalar, &[5], &mut p, &[0.0; 5], &mut state, &hyper(1));
    assert_eq!(state[0].to_bits(), NONE);
    let g = [1.0, -3.0, 2.0, 2.0, -0.5];
    top.update(&Scalar, &[5], &mut p, &g, &mut state, &hyper(2));
    // Of the two equal ones, the first.
    assert_eq!(p, [0.0, 1.5, -1.0, 0.0, 0.0]);
    top.update(&Scalar, &[5], &mut p, &[4.0, 1.0, 0.0, 4.0, 4.0], &mut state, &hyper(3));
    assert_eq!(p, [0.0, 1.0, -1.0, 0.0, 0.0]);
}

#[test]
fn states_exist_for_the_chosen_only() {
    let adamw = SparseTop { inner: AdamW::default(), share: 0.1 };
    // 30 indices and two moments of each.
    assert_eq!((adamw.chosen(300), adamw.state_words(&[300])), (30, 90));
    assert_eq!((adamw.chosen(1), adamw.chosen(0), adamw.state_words(&[0])), (1, 0, 0));
    let packed = SparseTop { inner: AdamW8::default(), share: 0.1 };
    let inner = AdamW8::default();
    assert_eq!(packed.state_words(&[5000]), 500 + inner.state_words(&[256, 244]));
    let threshold = SparseThreshold { inner: Sgd::default(), threshold: 0.1 };
    assert_eq!(threshold.state_words(&[5000]), 0);
}

#[test]
fn all_entries_are_the_rule_itself() {
    let n = 700;
    let g: Vec<f32> = (0..n).map(|i| (i as f32 * 0.7).sin() + 0.01).collect();
    let run = |optimizer: &dyn Optimizer| {
        let mut p: Vec<f32> = (0..n).map(|i| (i as f32).cos()).collect();
        let mut state = vec![0.0; optimizer.state_words(&[n])];
        optimizer.init(&[n], &mut state);
        for step in 1..=3 {
            optimizer.update(&Scalar, &[n], &mut p, &g, &mut state, &hyper(step));
        }
        p
    };
    let inner = AdamW { weight_decay: 0.1, ..AdamW::default() };
    assert_eq!(run(&SparseTop { inner, share: 1.0 }), run(&inner));
    assert_eq!(run(&SparseThreshold { inner, threshold: 0.0 }), run(&inner));
    let packed = AdamW8(inner);
    assert_eq!(run(&SparseTop { inner: packed, share: 1.0 }), run(&packed));
}

#[test]
fn below_the_threshold_nothing_moves() {
    let rule = SparseThreshold { inner: AdamW::default(), threshold: 0.5 };
    let (mut p, mut state) = ([1.0, 1.0], vec![0.0; rule.state_words(&[2])]);
    assert_eq!(state.len(), 5);
    let step = StepHyper { grad_scale: 0.25, ..hyper(1) };
    rule.update(&Scalar, &[2], &mut p, &[1.9, -2.0], &mut state, &step);
    assert!(p[0] == 1.0 && p[1] > 1.0, "{p:?}");
    assert_eq!(state[..2], [0.0, 0.0]);
    assert!(state[2] != 0.0 && state[3] != 0.0);
}

#[test]
fn an_entry_that_comes_late_starts_as_the_first_ones_did() {
    let inner = AdamW::default();
    let rule = SparseThreshold { inner, threshold: 0.5 };
    let n = 3;
    let (mut p, mut state) = (vec![0.0; n], vec![0.0; rule.state_words(&[n])]);
    rule.init(&[n], &mut state);
    // Entry 1 has its gradient in every update, entry 2 in the last two of fifty.
    for step in 1..=50 {
        let late = if step > 48 { 2.0 } else { 0.4 };
        rule.update(&Scalar, &[n], &mut p, &[0.0, 2.0, late], &mut state, &hyper(step));
    }
    let (mut alone, mut own) = ([0.0], vec![0.0; inner.state_words(&[1])]);
    let mut after = Vec::new();
    for step in 1..=50 {
        inner.update(&Scalar, &[1], &mut alone, &[2.0], &mut own, &hyper(step));
        after.push(alone[0]);
    }
    assert_eq!(p, [0.0, after[49], after[1]]);
    // Each of its two updates is as large as the rate, as every one of Adam's here is.
    assert!((p[2] + 2.0 * 0.5).abs() < 1e-5, "{}", p[2]);
}

#[test]
fn counts_of_neighbours_stop_each_at_their_most() {
    let mut counts = [0.0; 2];
    for _ in 0..70_000 {
        count(&mut counts, 1);
    }
    assert_eq!((count(&mut counts, 0), count(&mut counts, 1)), (1, 65_535));
    assert_eq!((count(&mut counts, 2), count(&mut counts, 0)), (1, 2));
}
