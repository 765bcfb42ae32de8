//! Gradients of the whole program against finite differences of its loss, in f64.

use lowtide_tape::{Policy, Program};

use crate::gain::Gain;
use crate::model::{Data, Model, Trained, params};
use crate::{EVERY_SITE, How, step, with_executor};

/// Central differences of the summed loss at every `stride`th parameter.
fn differences(
    program: &Program<'_, f64>,
    at: &[f64],
    data: &Data,
    stride: usize,
) -> Vec<(usize, f64)> {
    const H: f64 = 1e-5;
    let how = How::tight(Policy::Block, data);
    with_executor(program, how, false, |executor| {
        let mut moved = at.to_vec();
        let mut loss = |moved: &[f64]| executor.loss(moved, &data.batch()).loss;
        let slope = |i: usize| {
            moved[i] = at[i] + H;
            let above = loss(&moved);
            moved[i] = at[i] - H;
            let below = loss(&moved);
            moved[i] = at[i];
            (i, (above - below) / (2.0 * H))
        };
        (0..at.len()).step_by(stride).map(slope).collect()
    })
}

fn check(trained: Trained, stride: usize) {
    check_program(&Model::new(3).program(trained), stride);
}

pub(crate) fn check_program(program: &Program<'_, f64>, stride: usize) {
    let (at, data) = (params(program), Data::new(3, &[5, 1, 4]));
    let want = differences(program, &at, &data, stride);
    let largest = want.iter().map(|(_, slope)| slope.abs()).fold(0.0, f64::max);
    assert!(want.len() > 10 && largest > 1e-3, "the loss depends on the parameters");
    for policy in Policy::ALL {
        let (sum, grads) = step(program, &at, &data, How::tight(policy, &data));
        assert_eq!(sum.labelled, data.limits().labelled);
        for (i, want) in &want {
            let off = (grads[*i] - want).abs();
            assert!(off < 1e-7 * (1.0 + want.abs()), "{policy:?}, {i}: {} not {want}", grads[*i]);
        }
    }
}

#[test]
fn every_site_trained() {
    check(EVERY_SITE, 29);
}

#[test]
fn only_keys_of_the_lowest_block() {
    check(|block, site| block == 0 && site == "k_proj", 7);
}

#[test]
fn only_the_middle_block() {
    check(|block, site| block == 1 && (site == "v_proj" || site == "up_proj"), 11);
}

#[test]
fn only_the_top_block() {
    check(|block, _| block == 2, 17);
}

#[test]
fn one_site_a_block() {
    check(|block, site| site == ["down_proj", "o_proj", "gate_proj"][block], 13);
}

#[test]
fn what_other_families_add() {
    check_program(&Model::ornate(2).program(EVERY_SITE), 29);
}

#[test]
fn an_adapter_that_reads_its_output_and_not_its_input() {
    let model = Model::new(2);
    check_program(&model.program_with(EVERY_SITE, &|_, rows| Box::new(Gain::new(rows))), 7);
}
