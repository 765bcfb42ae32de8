//! Segment inputs kept in other forms: exactly, where a store says so, and nearly, where it rounds.

use lowtide_tape::{Accumulate, CheckpointError, CheckpointFile, Checkpointing, Policy, Store};
use lowtide_tensor::Float;
use lowtide_testkit::compare::{assert_bits, cosine};

use crate::model::{Data, Model, Trained, params};
use crate::{EVERY_SITE, How, step, with_executor};

/// A file that is none, and which insists that values are asked for as announced.
pub(crate) struct InMemory<F> {
    values: Vec<Vec<F>>,
    expected: Option<(usize, usize)>,
    /// Operations left before everything fails.
    left: usize,
}

impl<F> Default for InMemory<F> {
    fn default() -> Self {
        Self { values: Vec::new(), expected: None, left: usize::MAX }
    }
}

impl<F> InMemory<F> {
    fn spend(&mut self) -> Result<(), CheckpointError> {
        self.left = self.left.checked_sub(1).ok_or_else(|| CheckpointError("worn out".into()))?;
        Ok(())
    }
}

impl<F: Float> CheckpointFile<F> for InMemory<F> {
    fn put(&mut self, index: usize, value: &[F]) -> Result<(), CheckpointError> {
        self.spend()?;
        self.expected = None;
        self.values.resize_with(self.values.len().max(index + 1), Vec::new);
        self.values[index] = value.to_vec();
        Ok(())
    }

    fn expect(&mut self, index: usize, len: usize) {
        assert_eq!(self.values[index].len(), len);
        self.expected = Some((index, len));
    }

    fn get(&mut self, index: usize, value: &mut [F]) -> Result<(), CheckpointError> {
        self.spend()?;
        assert_eq!(self.expected.take(), Some((index, value.len())));
        value.copy_from_slice(&self.values[index]);
        Ok(())
    }
}

const CHOICES: [Trained; 3] = [EVERY_SITE, |block, _| block >= 2, |block, _| block == 4];

#[test]
fn lossless_stores_change_no_bit() {
    let (model, data) = (Model::new(5), Data::new(1, &[6, 3, 1]));
    for trained in CHOICES {
        let program = model.program::<f32>(trained);
        let at = params(&program);
        let (want_sum, want) = step(&program, &at, &data, How::tight(Policy::Block, &data));
        for policy in Policy::ALL {
            for store in Store::ALL.into_iter().filter(|store| store.is_lossless()) {
                let how = How::tight(Checkpointing::new(policy, store), &data);
                let (sum, grads) = step(&program, &at, &data, how);
                assert_eq!(sum, want_sum, "{how:?}");
                assert_bits(&format!("{how:?}"), &grads, &want);
            }
        }
    }
}

#[test]
fn stores_that_round_give_nearly_the_same_gradients() {
    let (model, data) = (Model::new(5), Data::new(1, &[6, 3, 1]));
    let program = model.program::<f64>(EVERY_SITE);
    let at = params(&program);
    let (want_sum, want) = step(&program, &at, &data, How::tight(Policy::Block, &data));
    for policy in Policy::ALL {
        for (store, least) in [(Store::Bf16, 0.9999), (Store::Int8, 0.998)] {
            let how = How::tight(Checkpointing::new(policy, store), &data);
            let (sum, grads) = step(&program, &at, &data, how);
            assert_eq!(sum, want_sum, "the loss does not depend on what is kept: {how:?}");
            let cosine = cosine(&grads, &want);
            assert!(least < cosine && cosine < 1.0, "{how:?}: {cosine}");
        }
    }
}

#[test]
fn stores_take_the_room_they_say() {
    let (model, data) = (Model::new(5), Data::new(1, &[60]));
    let program = model.program::<f32>(EVERY_SITE);
    let checkpoints = |store| {
        let how = How::tight(Checkpointing::new(Policy::Block, store), &data);
        with_executor(&program, how, true, |executor| {
            executor.plan().bytes()[lowtide_memory::Category::Checkpoint]
        })
    };
    let one = checkpoints(Store::File);
    assert_eq!(checkpoints(Store::F32), 5 * one);
    // One as it is, the four others rounded.
    assert_eq!(checkpoints(Store::Bf16), 3 * one);
    assert_eq!(checkpoints(Store::Int8), one + 4 * (one * 34 / 128).next_multiple_of(64));
}

#[test]
fn a_file_that_fails_ends_the_step() {
    let (model, data) = (Model::new(4), Data::new(1, &[6, 3]));
    let program = model.program::<f32>(EVERY_SITE);
    let (mut at, ranges) = (params(&program), program.param_ranges());
    let before = at.clone();
    let how = How::tight(Checkpointing::new(Policy::Block, Store::File), &data);
    let (want_sum, want) = step(&program, &at, &data, How::tight(Policy::Block, &data));
    with_executor(&program, how, true, |executor| {
        // Three inputs are written, then read.
        for left in 0..6 {
            executor.set_file(Box::new(InMemory { left, ..InMemory::default() }));
            let mut grads = vec![0.0; at.len()];
            let mut sink = Accumulate { grads: &mut grads, ranges: &ranges };
            let error = executor.step(&mut at, &data.batch(), 1.0, &mut sink).unwrap_err();
            assert_eq!(error.to_string(), "worn out");
            // The top segment's gradients need no file.
            assert_eq!(grads.iter().any(|g| *g != 0.0), left >= 3);
            assert_eq!(executor.loss(&at, &data.batch()), want_sum, "evaluation needs none");
        }
        executor.set_file(Box::new(InMemory { left: 6, ..InMemory::default() }));
        let mut grads = vec![0.0; at.len()];
        let mut sink = Accumulate { grads: &mut grads, ranges: &ranges };
        assert_eq!(executor.step(&mut at, &data.batch(), 1.0, &mut sink).unwrap(), want_sum);
        assert_bits("gradients after failures", &grads, &want);
    });
    assert_eq!(at, before);
}
