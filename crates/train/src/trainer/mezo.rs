//! Updates along a random direction (MeZO, arXiv 2305.17333).

use std::ops::Range;

use lowtide_data::Dataset;
use lowtide_optim::{Noise, StepHyper, clip_factor};
use lowtide_tape::{LossSum, Pair, Params};

use super::params::Parameters;
use super::update::filled;
use super::{Trainer, Update};
use crate::{Clip, TrainError};

/// A trainer's parameters a way to either side in a direction.
struct Sides<'a> {
    params: &'a mut Parameters,
    ranges: &'a [Range<usize>],
    /// Takes the parameters of a segment.
    room: &'a mut [f32],
    noise: Noise,
    eps: f32,
}

impl Pair<f32> for Sides<'_> {
    fn params(&mut self, segment: usize, which: usize) -> &[f32] {
        let range = self.ranges[segment].clone();
        let (here, room) = (self.params.get(range.clone()), &mut self.room[..range.len()]);
        let way = if which == 0 { self.eps } else { -self.eps };
        self.noise.each(range.start, range.len(), |i, z| room[i] = here[i] + way * z);
        room
    }
}

impl Trainer<'_, '_> {
    /// The slope of an update's loss in direction `noise`, from both sides, over the examples of
    /// all its micro-batches; with it, the mean of the losses on both sides, and the tokens read.
    pub(super) fn slope(
        &mut self,
        data: &Dataset,
        mut examples: impl ExactSizeIterator<Item = usize>,
        sequences: usize,
        labelled: usize,
        noise: Noise,
        eps: f64,
    ) -> Result<(f64, LossSum, u64), TrainError> {
        let (mut sums, mut tokens) = ([LossSum::default(); 2], 0);
        while examples.len() > 0 {
            let (some, counter) = (examples.by_ref().take(sequences), &mut self.micro_batches);
            let batch = filled(&mut self.batch, &mut self.union, data, some, counter)?;
            tokens += batch.ids.len() as u64;
            let mut sides = Sides {
                params: &mut self.held.params,
                ranges: &self.ranges,
                room: self.held.grads.get_mut(),
                noise,
                eps: eps as f32,
            };
            let pair = self.executor.pair(&mut sides, &batch);
            sums.iter_mut().zip(pair).for_each(|(sum, of)| *sum += of);
        }
        let [above, below] = sums;
        let slope = (above.loss - below.loss) / (2.0 * f64::from(eps as f32) * labelled as f64);
        let mean = LossSum {
            loss: 0.5 * (above.loss + below.loss),
            labelled: above.labelled,
            correct: (above.correct + below.correct) / 2,
        };
        Ok((slope, mean, tokens))
    }

    /// One update along `slope * z`, which the optimizer is handed block by block. Clipping
    /// is of the slope, whose mean square over directions is the square of the gradient's norm.
    pub(super) fn update_mezo(
        &mut self,
        data: &Dataset,
        examples: impl ExactSizeIterator<Item = usize>,
        sequences: usize,
        labelled: usize,
        hyper: StepHyper,
        eps: f64,
    ) -> Result<Update, TrainError> {
        let noise = Noise::new(self.seed, hyper.step);
        let (slope, sum, tokens) = self.slope(data, examples, sequences, labelled, noise, eps)?;
        let (grad_norm, finite) = (Some(slope.abs()), slope.is_finite());
        if finite {
            let (params, room) = (&mut self.held.params, self.held.grads.get_mut());
            let factor = match self.clip {
                Clip::Off => 1.0,
                Clip::Whole(most) | Clip::PerBlock(most) => clip_factor(slope * slope, most),
            };
            let hyper = StepHyper { grad_scale: hyper.grad_scale * factor, ..hyper };
            let slope = slope as f32;
            for (range, (tensors, words)) in self.ranges.iter().zip(&self.segments) {
                let g: &mut [f32] = &mut room[..range.len()];
                noise.each(range.start, range.len(), |i, z| g[i] = slope * z);
                let (by, states) = ((self.optimizer, self.be), &mut self.held.states);
                let mut applied = Ok(());
                params.change(range.clone(), &mut |p| {
                    let of = (tensors.clone(), &self.tensor_lens[..]);
                    applied = states.with(words.clone(), |state| {
                        self.rates.update(by, of, p, g, state, &hyper);
                    });
                });
                applied?;
            }
        }
        Ok(Update { sum, tokens, grad_norm, non_finite: usize::from(!finite) })
    }
}
