//! What changes no bit: the policy, poison, room to spare, what else is in the batch.

use std::num::NonZeroUsize;

use lowtide_tape::{Accumulate, Checkpointing, Limits, Policy};
use lowtide_testkit::compare::{assert_bits, assert_close};

use crate::gain::Gain;
use crate::model::{Data, HIDDEN, Model, Trained, VOCAB, lora, params};
use crate::{EVERY_SITE, How, step, with_executor};

/// Choices of trained sites that put the lowest trained block at 0, 1, 2 and 3, and leave gaps.
const CHOICES: [Trained; 7] = [
    EVERY_SITE,
    |block, _| block >= 1,
    |block, _| block >= 2,
    |block, _| block == 3,
    |block, site| block == 0 && site == "k_proj",
    |block, site| (block == 0 && site == "down_proj") || (block == 3 && site == "q_proj"),
    |block, site| block == 1 && site == "gate_proj",
];

fn roomy(data: &Data) -> Limits {
    let Limits { tokens, sequences, labelled } = data.limits();
    Limits { tokens: tokens + 13, sequences: sequences + 2, labelled: labelled + 90 }
}

#[test]
fn policy_poison_and_room_change_no_bit() {
    let (model, data) = (Model::new(4), Data::new(1, &[6, 3, 1]));
    for (n, trained) in CHOICES.into_iter().enumerate() {
        let program = model.program::<f32>(trained);
        let at = params(&program);
        let (want_sum, want) = step(&program, &at, &data, How::tight(Policy::Block, &data));
        assert!(want.iter().all(|g| g.is_finite()) && want.iter().any(|g| *g != 0.0));
        for policy in Policy::ALL {
            for poison in [false, true] {
                for limits in [data.limits(), roomy(&data)] {
                    let how = How { checkpointing: policy.into(), limits, poison };
                    let (sum, grads) = step(&program, &at, &data, how);
                    assert_eq!(sum, want_sum, "choice {n}, {how:?}");
                    assert_bits(&format!("choice {n}, {how:?}"), &grads, &want);
                }
            }
        }
    }
}

/// Tiles of so many rows.
fn tiled(policy: Policy, rows: usize) -> Checkpointing {
    Checkpointing::from(policy).tiled(NonZeroUsize::new(rows).unwrap())
}

#[test]
fn tiles_of_rows_change_no_bit() {
    // Sequences that begin and end inside of tiles, and one that spans two.
    let data = Data::new(1, &[37, 72, 1, 20]);
    let models = [("plain", Model::new(4)), ("ornate", Model::ornate(4))];
    for n in [0, 5, 6] {
        let (trained, (name, model)) = (CHOICES[n], &models[n % 2]);
        let program = model.program_with::<f32>(trained, &lora(0.3));
        let at = params(&program);
        let (want_sum, want) = step(&program, &at, &data, How::tight(Policy::Store, &data));
        for (rows, policy) in [(64, Policy::Block), (128, Policy::Sqrt)] {
            let checkpointing = tiled(policy, rows);
            let how = How { checkpointing, limits: roomy(&data), poison: true };
            let (sum, grads) = step(&program, &at, &data, how);
            assert_eq!(sum, want_sum, "{name}, choice {n}, {how:?}");
            assert_bits(&format!("{name}, choice {n}, {how:?}"), &grads, &want);
        }
        let loss = |policy: Checkpointing| {
            let how = How::tight(policy, &data);
            with_executor(&program, how, false, |e| e.loss(&at, &data.batch()))
        };
        let (some, all) = (loss(tiled(Policy::Store, 64)), loss(Policy::Store.into()));
        assert_eq!(some, all, "{name}, choice {n}: evaluation");
    }
}

#[test]
fn adapters_that_read_their_output_give_the_same_bits_too() {
    let (model, data) = (Model::ornate(2), Data::new(1, &[6, 3, 1]));
    let program = model.program_with::<f32>(EVERY_SITE, &|_, rows| Box::new(Gain::new(rows)));
    let at = params(&program);
    let (want_sum, want) = step(&program, &at, &data, How::tight(Policy::Block, &data));
    let (sum, grads) = step(&program, &at, &data, How::tight(Policy::Store, &data));
    assert_eq!(sum, want_sum);
    assert_bits("gradients", &grads, &want);
    let (long, tile) = (Data::new(1, &[60, 90]), tiled(Policy::Block, 64));
    let (want_sum, want) = step(&program, &at, &long, How::tight(Policy::Block, &long));
    let (sum, grads) = step(&program, &at, &long, How::tight(tile, &long));
    assert_eq!(sum, want_sum);
    assert_bits("gradients in tiles", &grads, &want);
}

#[test]
fn dropout_draws_the_same_masks_when_recomputing() {
    let (model, data) = (Model::new(2), Data::new(2, &[7, 4]));
    let at = params(&model.program::<f32>(EVERY_SITE));
    let run = |policy, dropout| {
        let program = model.program_with(EVERY_SITE, &lora(dropout));
        step(&program, &at, &data, How::tight(policy, &data))
    };
    let (sum, grads) = run(Policy::Store, 0.3);
    let (again, same) = run(Policy::Block, 0.3);
    assert_eq!(again, sum);
    assert_bits("gradients under dropout", &same, &grads);
    assert_ne!(run(Policy::Store, 0.0).0, sum, "dropout does something");
}

#[test]
fn a_batch_of_two_sequences_equals_two_batches_of_one() {
    let (model, lengths) = (Model::new(3), [9, 6]);
    let program = model.program::<f32>(EVERY_SITE);
    let at = params(&program);
    for policy in Policy::ALL {
        let together = Data::new(4, &lengths);
        let (sum, grads) = step(&program, &at, &together, How::tight(policy, &together));
        let alone = [0, 1].map(|n| {
            let data = Data::only(4, &lengths, n);
            step(&program, &at, &data, How::tight(policy, &together))
        });
        assert_eq!(sum.labelled, alone[0].0.labelled + alone[1].0.labelled);
        assert_eq!(sum.correct, alone[0].0.correct + alone[1].0.correct);
        assert_close("loss", &[alone[0].0.loss + alone[1].0.loss], &[sum.loss], 0.0, 1e-12);
        let added: Vec<f32> = alone[0].1.iter().zip(&alone[1].1).map(|(a, b)| a + b).collect();
        assert_close("gradients", &added, &grads, 1e-6, 1e-6);
    }
}

#[test]
fn a_batch_without_labels_has_no_loss_and_no_gradient() {
    let (model, data) = (Model::new(2), Data::new(1, &[4]).unlabelled());
    let program = model.program::<f32>(EVERY_SITE);
    for policy in Policy::ALL {
        let (sum, grads) = step(&program, &params(&program), &data, How::tight(policy, &data));
        assert_eq!((sum.loss, sum.labelled, sum.correct), (0.0, 0, 0));
        assert!(sum.mean().is_nan());
        assert!(grads.iter().all(|g| *g == 0.0));
    }
}

#[test]
fn a_batch_without_rows_runs() {
    let model = Model::new(2);
    let program = model.program::<f32>(EVERY_SITE);
    let (nothing, some) = (Data::new(1, &[]), Data::new(1, &[3]));
    for limits in [nothing.limits(), some.limits()] {
        let how = How { checkpointing: Policy::Store.into(), limits, poison: true };
        let (sum, grads) = step(&program, &params(&program), &nothing, how);
        assert_eq!(sum.labelled, 0);
        assert!(grads.iter().all(|g| *g == 0.0));
    }
}

#[test]
fn evaluation_gives_the_loss_of_training() {
    let (model, data) = (Model::new(4), Data::new(1, &[6, 3]));
    for trained in CHOICES {
        let program = model.program::<f32>(trained);
        let at = params(&program);
        for policy in Policy::ALL {
            let how = How::tight(policy, &data);
            let (trained, _) = step(&program, &at, &data, how);
            for train in [false, true] {
                let evaluated = with_executor(&program, how, train, |e| e.loss(&at, &data.batch()));
                assert_eq!(evaluated, trained, "a plan for training: {train}");
            }
        }
    }
}

#[test]
fn a_step_leaves_nothing_behind_for_the_next() {
    let (model, data) = (Model::new(3), Data::new(1, &[6, 3]));
    let program = model.program::<f32>(EVERY_SITE);
    let (at, ranges) = (params(&program), program.param_ranges());
    for policy in Policy::ALL {
        let how = How::tight(policy, &data);
        let (sum, want) = step(&program, &at, &data, how);
        with_executor(&program, how, true, |executor| {
            let mut run = |data: &Data| {
                let mut grads = vec![0.0; at.len()];
                let mut sink = Accumulate { grads: &mut grads, ranges: &ranges };
                let sum = executor.step(&mut at.clone(), &data.batch(), 1.0, &mut sink).unwrap();
                let evaluated = executor.loss(&at, &data.batch());
                assert_eq!(evaluated, sum);
                (sum, grads)
            };
            for other in [Data::new(8, &[2]), Data::new(9, &[3, 6])] {
                assert_ne!(run(&other).0, sum);
                let (again, grads) = run(&data);
                assert_eq!(again, sum);
                assert_bits("gradients", &grads, &want);
            }
        });
    }
}

#[test]
fn logits_give_the_loss() {
    let (model, data) = (Model::new(3), Data::new(6, &[5, 4]));
    let program = model.program::<f64>(EVERY_SITE);
    let (at, batch) = (params(&program), data.batch());
    let rows = batch.labelled.len();
    let mut out = vec![f64::NAN; rows * VOCAB];
    let sum = with_executor(&program, How::tight(Policy::Block, &data), false, |executor| {
        let logits = lowtide_tensor::MatMut::new(&mut out, rows, VOCAB);
        executor.logits(&at, &batch, batch.labelled, logits);
        executor.loss(&at, &batch)
    });
    let loss = out
        .chunks(VOCAB)
        .zip(batch.targets)
        .map(|(row, &target)| row.iter().map(|l| l.exp()).sum::<f64>().ln() - row[target as usize]);
    assert_close("loss", &[sum.loss], &[loss.sum::<f64>()], 0.0, 1e-12);
    assert!(sum.mean() < (VOCAB as f64).ln() * 4.0 && HIDDEN < VOCAB);
}
