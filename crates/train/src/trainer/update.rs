//! One update: gradients measured, clipped and applied, all at once or block by block.

use std::ops::Range;

use lowtide_backend::Backend;
use lowtide_data::Dataset;
use lowtide_optim::{Optimizer, StepHyper, clip_factor};
use lowtide_tape::{Accumulate, ApplyNow, Batch, LossSum, Params, Stage};

use super::drawn::Drawn;
use super::rates::Rates;
use super::states::States;
use super::{Trainer, Update};
use crate::ranks::{Ranks, Score};
use crate::softmax::Union;
use crate::{BatchBuffers, Clip, Gradient, TrainError};

impl Trainer<'_, '_> {
    /// One update over the sequences that `examples` number, `sequences` of them in a micro-batch.
    /// `hyper.grad_scale` is the caller's factor, usually 1; averaging over labelled tokens and
    /// clipping come on top.
    ///
    /// Where the plan applies and frees and all gradients together are clipped, the step is
    /// computed twice: first for their norm, then to apply them.
    ///
    /// # Errors
    /// When the data's temporary file cannot be read, or a file of the plan's fails: that of
    /// checkpoints, and then nothing was updated, or where gradients are applied block by block,
    /// the blocks above; or that of states, and then some blocks were updated.
    ///
    /// # Panics
    /// When the plan applies and frees but `examples` do not fit one micro-batch.
    pub fn update(
        &mut self,
        data: &Dataset,
        examples: impl ExactSizeIterator<Item = usize>,
        sequences: usize,
        labelled: usize,
        hyper: StepHyper,
    ) -> Result<Update, TrainError> {
        self.held.params.begin(self.seed, hyper.step);
        if let Gradient::Mezo { eps } = self.gradient {
            return self.update_mezo(data, examples, sequences, labelled, hyper, eps);
        }
        if let Some(drawn) = &mut self.drawn {
            drawn.draw(hyper.step, &self.ranges);
            self.executor.choose(drawn.chosen());
        }
        let scale = 1.0 / labelled as f32;
        let update = if self.apply_and_free {
            assert!(examples.len() <= sequences, "apply-and-free takes one micro-batch an update");
            self.update_and_free(data, examples, scale, hyper)?
        } else {
            self.update_at_once(data, examples, sequences, scale, hyper)?
        };
        if update.non_finite == 0 {
            self.prune(hyper.step)?;
        }
        Ok(update)
    }

    /// Adds up the gradients of all micro-batches, then applies them.
    fn update_at_once(
        &mut self,
        data: &Dataset,
        mut examples: impl ExactSizeIterator<Item = usize>,
        sequences: usize,
        scale: f32,
        hyper: StepHyper,
    ) -> Result<Update, TrainError> {
        let (mut sum, mut tokens) = (LossSum::default(), 0);
        self.held.grads.get_mut::<f32>().fill(0.0);
        let ranges = self.drawn.as_ref().map_or(&self.ranges[..], Drawn::ranges);
        while examples.len() > 0 {
            let (some, counter) = (examples.by_ref().take(sequences), &mut self.micro_batches);
            let batch = filled(&mut self.batch, &mut self.union, data, some, counter)?;
            let mut sink = Accumulate { grads: self.held.grads.get_mut(), ranges };
            tokens += batch.ids.len() as u64;
            sum += self.executor.step_with(&mut self.held.params, &batch, scale, &mut sink)?;
        }
        let grads = self.held.grads.get::<f32>();
        let mut measured = Measured::of(&mut self.squares);
        for (segment, range) in ranges.iter().enumerate() {
            measured.add(self.be, segment, &grads[range.clone()]);
        }
        let (sum_squares, non_finite) = (measured.sum_squares(), measured.non_finite);
        if non_finite == 0 {
            let block_norm = block_norm(self.clip, ranges);
            let hyper = clipped(hyper, self.clip, sum_squares);
            let params = &mut self.held.params;
            let mut blocks = Blocks {
                be: self.be,
                optimizer: self.optimizer,
                rates: &self.rates,
                lens: &self.tensor_lens,
                segments: &self.segments,
                states: &mut self.held.states,
                drawn: self.drawn.as_ref(),
                ranks: self.ranks.as_ref().map(|ranks| (ranks, self.held.scores.get_mut())),
                seen: &mut self.seen,
                block_norm,
            };
            let mut trained = ranges.iter().enumerate().filter(|(_, r)| !r.is_empty());
            let applied = trained.try_for_each(|(segment, range)| {
                let (squares, g) = (self.squares[segment], &grads[range.clone()]);
                let mut applied = Ok(());
                let range = self.ranges[segment].clone();
                self.executor.observe(Stage::Update(segment), || {
                    params.change(range, &mut |p| {
                        applied = blocks.apply(segment, p, g, squares, hyper);
                    });
                });
                applied
            });
            self.executor.params_changed();
            applied?;
        }
        Ok(Update { sum, tokens, grad_norm: Some(sum_squares.sqrt()), non_finite })
    }

    /// Applies the gradients of each block as soon as they are complete.
    fn update_and_free(
        &mut self,
        data: &Dataset,
        examples: impl Iterator<Item = usize>,
        scale: f32,
        hyper: StepHyper,
    ) -> Result<Update, TrainError> {
        let counter = &mut self.micro_batches;
        let batch = filled(&mut self.batch, &mut self.union, data, examples, counter)?;
        let tokens = batch.ids.len() as u64;
        let (be, ranges, params) = (self.be, &self.ranges, &mut self.held.params);
        let mut hyper = hyper;
        if let Clip::Whole(_) = self.clip {
            let mut measured = Measured::of(&mut self.squares);
            let update = |segment, _: &mut [f32], g: &[f32]| {
                measured.add(be, segment, g);
            };
            let mut sink = ApplyNow { grads: self.held.grads.get_mut(), ranges, update };
            let sum = self.executor.step_with(params, &batch, scale, &mut sink)?;
            let (sum_squares, non_finite) = (measured.sum_squares(), measured.non_finite);
            if non_finite > 0 {
                let grad_norm = Some(sum_squares.sqrt());
                return Ok(Update { sum, tokens, grad_norm, non_finite });
            }
            hyper = clipped(hyper, self.clip, sum_squares);
        }
        let mut blocks = Blocks {
            be,
            optimizer: self.optimizer,
            rates: &self.rates,
            lens: &self.tensor_lens,
            segments: &self.segments,
            states: &mut self.held.states,
            drawn: self.drawn.as_ref(),
            ranks: self.ranks.as_ref().map(|ranks| (ranks, self.held.scores.get_mut())),
            seen: &mut self.seen,
            block_norm: block_norm(
                self.clip,
                self.drawn.as_ref().map_or(&self.ranges[..], Drawn::ranges),
            ),
        };
        let mut measured = Measured::of(&mut self.squares);
        let mut applied = Ok(());
        let update = |segment, p: &mut [f32], g: &[f32]| {
            let squares = measured.add(be, segment, g);
            if let (Some(squares), Ok(())) = (squares, &applied) {
                applied = blocks.apply(segment, p, g, squares, hyper);
            }
        };
        let mut sink = ApplyNow { grads: self.held.grads.get_mut(), ranges, update };
        let sum = self.executor.step_with(params, &batch, scale, &mut sink)?;
        applied?;
        let grad_norm = (self.clip != Clip::Off).then(|| measured.sum_squares().sqrt());
        let non_finite = measured.non_finite;
        Ok(Update { sum, tokens, grad_norm, non_finite })
    }
}

/// The sums of squares of each segment's gradients, in whatever order segments come.
struct Measured<'a> {
    squares: &'a mut [f64],
    non_finite: usize,
}

impl<'a> Measured<'a> {
    fn of(squares: &'a mut [f64]) -> Self {
        squares.fill(0.0);
        Self { squares, non_finite: 0 }
    }

    /// Takes note of a segment's gradients; the sum of their squares, if all are finite.
    fn add(&mut self, be: &dyn Backend<f32>, segment: usize, g: &[f32]) -> Option<f64> {
        let stats = be.stats(g);
        self.squares[segment] = stats.sum_squares;
        self.non_finite += stats.non_finite;
        (stats.non_finite == 0).then_some(stats.sum_squares)
    }

    /// Of all: segments add up from the lowest, so that it has the same bits however they came.
    fn sum_squares(&self) -> f64 {
        self.squares.iter().sum()
    }
}

/// `hyper` for gradients whose squares sum to `sum_squares`.
fn clipped(hyper: StepHyper, clip: Clip, sum_squares: f64) -> StepHyper {
    match clip {
        Clip::Whole(most) => {
            StepHyper { grad_scale: hyper.grad_scale * clip_factor(sum_squares, most), ..hyper }
        }
        Clip::Off | Clip::PerBlock(_) => hyper,
    }
}

/// The norm that each block's gradients are scaled down to, if they are.
fn block_norm(clip: Clip, ranges: &[Range<usize>]) -> Option<f64> {
    let trained = ranges.iter().filter(|range| !range.is_empty()).count();
    match clip {
        Clip::PerBlock(norm) => Some(norm / (trained as f64).sqrt()),
        Clip::Off | Clip::Whole(_) => None,
    }
}

/// Updates in which it is looked at whether tensors have gradients.
const FIRST: u64 = 3;

/// Updates one segment after another.
struct Blocks<'a> {
    be: &'a dyn Backend<f32>,
    optimizer: &'a dyn Optimizer,
    rates: &'a Rates,
    lens: &'a [usize],
    segments: &'a [(Range<usize>, Range<usize>)],
    states: &'a mut States,
    /// Which they are, where they are not all.
    drawn: Option<&'a Drawn>,
    /// Pairs of low rank with their scores, where some are switched off on the way.
    ranks: Option<(&'a Ranks, &'a mut [Score])>,
    /// Of each tensor, whether it had a gradient in one of the first updates.
    seen: &'a mut [bool],
    /// Norm that the gradients of each are scaled down to.
    block_norm: Option<f64>,
}

impl Blocks<'_> {
    /// Takes note of which tensors of a segment have a gradient.
    fn see(&mut self, segment: usize, mut g: &[f32]) {
        for tensor in self.segments[segment].0.clone() {
            let (own, rest) = g.split_at(self.lens[tensor]);
            self.seen[tensor] |= own.iter().any(|g| *g != 0.0);
            g = rest;
        }
    }

    fn apply(
        &mut self,
        segment: usize,
        p: &mut [f32],
        g: &[f32],
        squares: f64,
        hyper: StepHyper,
    ) -> Result<(), TrainError> {
        if let Some((ranks, scores)) = &mut self.ranks {
            ranks.observe(segment, p, g, scores);
        }
        if hyper.step <= FIRST {
            self.see(segment, g);
        }
        let factor = self.block_norm.map_or(1.0, |most| clip_factor(squares, most));
        let step = self.drawn.map_or(hyper.step, |drawn| drawn.update_of(segment));
        let hyper = StepHyper { grad_scale: hyper.grad_scale * factor, step, ..hyper };
        let (tensors, words) = &self.segments[segment];
        let (by, of) = ((self.optimizer, self.be), (tensors.clone(), self.lens));
        self.states.with(words.clone(), |state| self.rates.update(by, of, p, g, state, &hyper))
    }
}

/// The next micro-batch of training, with its softmax; `counter` counts them.
pub(super) fn filled<'b>(
    buffers: &'b mut BatchBuffers,
    union: &'b mut Option<Union<'_, '_>>,
    data: &Dataset,
    examples: impl Iterator<Item = usize>,
    counter: &mut u64,
) -> Result<Batch<'b>, TrainError> {
    let batch = buffers.fill(data, examples, *counter)?;
    *counter += 1;
    match union {
        Some(union) => union.over(batch),
        None => Ok(batch),
    }
}
