//! Passes that approximate a gradient: losses of two sets of parameters, and backward through some
//! segments only.

use lowtide_adapter::Phase;
use lowtide_tensor::{Float, MatMut};

use super::{Executor, rows_of};
use crate::boundary::{Boundary, Parts};
use crate::{Batch, Cx, LossSum, Part, Stage};

/// Two sets of parameters whose losses are wanted beside each other.
pub trait Pair<F: Float> {
    /// The parameters of a segment in one of the two, `0` or `1`. Segments are asked for in
    /// ascending order, each with `0` first and then with `1`; what was lent before is done with.
    fn params(&mut self, segment: usize, which: usize) -> &[F];
}

impl<F: Float> Executor<'_, '_, F> {
    /// Losses of a batch with two sets of parameters, in one pass over the weights: each segment
    /// runs with one set and then with the other, while its weights are at hand. What lies below
    /// the lowest trained segment is the same for both and runs once. Dropout, where there is any,
    /// drops the same for both.
    ///
    /// # Panics
    /// When the plan is for something else than a pair, the batch exceeds its limits, or its parts
    /// disagree.
    pub fn pair(&mut self, pair: &mut dyn Pair<F>, batch: &Batch<'_>) -> [LossSum; 2] {
        assert!(self.plan.spare > 0, "this plan is not for a pair");
        let cx = self.context(batch, Phase::Train);
        let count = self.program.segments.len();
        let split = self.program.first_trained().unwrap_or(count);
        let mut at = [Boundary::Top; 2];
        self.embed(at[0], batch);
        for i in 0..count {
            self.enter(Part::Segment(i), self.part(i + 1));
            self.begin(Stage::Forward(i));
            if i < split {
                let to = free(at);
                self.run_forward(i, at[0], to, &cx, &[]);
                at = [to; 2];
                self.end(Stage::Forward(i));
                continue;
            }
            for which in 0..2 {
                let (to, params) = (free(at), pair.params(i, which));
                let work = Parts::of(&mut self.reserved, &self.plan).work;
                self.fixed.prepare(self.program, i, self.be, params, work);
                self.run_forward(i, at[which], to, &cx, params);
                at[which] = to;
            }
            self.end(Stage::Forward(i));
        }
        self.fixed.changed();
        self.enter(Part::Head, self.part(0));
        self.begin(Stage::Head);
        let sums = at.map(|at| self.loss_at(at, &cx, batch));
        self.end(Stage::Head);
        sums
    }

    /// Lets backward go through these segments only, ascending, from the next step on. The others
    /// hand the gradient on as it is, as if they were the identity, and the sink does not hear of
    /// them. This is an approximation, even of the gradients of the segments that are chosen: see
    /// LCSB, arXiv 2602.13073.
    ///
    /// # Panics
    /// When the plan is not partial, or these are more than it foresees, not ascending, or none
    /// that training differentiates.
    pub fn choose(&mut self, segments: &[usize]) {
        let plan = &mut self.plan;
        assert!(plan.checkpoints.is_sparse(), "this plan is not for partial backward");
        let ascend = segments.windows(2).all(|pair| pair[0] < pair[1]);
        let inside = segments.first().is_some_and(|&lowest| lowest >= plan.first)
            && segments.last().is_some_and(|&top| top < plan.forward.len());
        assert!(
            ascend && inside && segments.len() <= plan.most,
            "{segments:?}: expected up to {} ascending segments from {} on",
            plan.most,
            plan.first
        );
        plan.checkpoints.choose(segments);
    }

    /// Loss of what lies at a boundary.
    fn loss_at(&mut self, at: Boundary, cx: &Cx<'_, F>, batch: &Batch<'_>) -> LossSum {
        let (program, rows, labelled) = (self.program, cx.rows(), self.labelled(batch));
        let Parts { gradient, top, spare, work, .. } = Parts::of(&mut self.reserved, &self.plan);
        if self.poison {
            work.fill(F::NAN);
        }
        let x = match at {
            Boundary::Gradient => gradient,
            Boundary::Top => top,
            Boundary::Spare => spare,
            Boundary::Slot(_) => unreachable!("nothing is kept for backward"),
        };
        program.head.run(self.be, rows_of(x, rows, program.hidden()), labelled, None, work)
    }

    /// The rows of a batch's ids into the input of the lowest segment.
    pub(super) fn embed(&mut self, at: Boundary, batch: &Batch<'_>) {
        let (program, rows) = (self.program, batch.ids.len());
        let x = &mut Parts::of(&mut self.reserved, &self.plan).only(at)[..rows * program.hidden()];
        program.embedding.rows(self.be, batch.ids, MatMut::new(x, rows, program.hidden()));
    }
}

/// A place of three that neither of two values is in.
fn free(taken: [Boundary; 2]) -> Boundary {
    let places = [Boundary::Gradient, Boundary::Top, Boundary::Spare];
    places.into_iter().find(|place| !taken.contains(place)).expect("two of three are taken")
}
