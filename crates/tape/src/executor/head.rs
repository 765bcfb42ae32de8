//! The loss at the top of a program, and how far an approximate one is from it.

use lowtide_adapter::Phase;
use lowtide_tensor::{Float, MatMut};

use super::{Executor, rows_of};
use crate::boundary::Parts;
use crate::head::Labelled;
use crate::params::ReadOnly;
use crate::{Batch, Cx, HeadGap, LossSum, Params, Part};

impl<'w, F: Float> Executor<'_, 'w, F> {
    /// Loss at the top; with `scale`, also the gradient of the topmost output.
    pub(super) fn run_head(
        &mut self,
        cx: &Cx<'_, F>,
        batch: &Batch<'_>,
        scale: Option<F>,
    ) -> LossSum {
        let (program, be) = (self.program, self.be);
        let (rows, hidden) = (cx.rows(), program.hidden());
        let poison = self.poison;
        let back = if scale.is_some() { self.plan.checkpoints.read_first() } else { 0 };
        self.enter(Part::Head, self.part(back));
        let labelled = self.labelled(batch);
        let Parts { gradient, top, work, .. } = Parts::of(&mut self.reserved, &self.plan);
        if poison {
            gradient.fill(F::NAN);
            work.fill(F::NAN);
        }
        let x = rows_of(top, rows, hidden);
        let Some(scale) = scale else { return program.head.run(be, x, labelled, None, work) };
        let mut dx = MatMut::new(&mut gradient[..rows * hidden], rows, hidden);
        dx.fill(F::ZERO);
        let mut put = |row: usize, d: &[F]| dx.row_mut(row).copy_from_slice(d);
        program.head.run(be, x, labelled, Some((scale, &mut put)), work)
    }

    /// How far the loss of `batch`, whose softmax runs over some words, and the gradient of the
    /// topmost output are from the exact ones, with `targets` numbering rows of the whole head.
    /// Nothing is dropped out.
    ///
    /// # Panics
    /// As [`Executor::step`].
    pub fn head_gap(&mut self, params: &[F], batch: &Batch<'_>, targets: &[u32]) -> HeadGap {
        self.head_gap_with(&mut ReadOnly(params), batch, targets)
    }

    /// As [`Executor::head_gap`], with parameters wherever they are.
    ///
    /// # Panics
    /// As [`Executor::step`].
    pub fn head_gap_with(
        &mut self,
        params: &mut dyn Params<F>,
        batch: &Batch<'_>,
        targets: &[u32],
    ) -> HeadGap {
        let trains = self.plan.first < self.program.segments.len() || self.plan.spare > 0;
        assert!(trains, "this plan is for evaluation");
        let exact = Batch { words: None, targets, ..*batch };
        let cx = self.context(&exact, Phase::Prefill);
        self.forward(&cx, params, &exact, false);
        let exact = self.run_head(&cx, &exact, Some(F::ONE));
        let (labelled, program) = (self.labelled(batch), self.program);
        let (rows, hidden) = (cx.rows(), program.hidden());
        let Parts { gradient, top, work, .. } = Parts::of(&mut self.reserved, &self.plan);
        let mut gap = HeadGap::over(exact);
        let dx = rows_of(gradient, rows, hidden);
        let mut compare = |row: usize, d: &[F]| gap.take(dx.row(row), d);
        let x = rows_of(top, rows, hidden);
        let sum = program.head.run(self.be, x, labelled, Some((F::ONE, &mut compare)), work);
        gap.approximate = sum;
        gap
    }

    pub(super) fn labelled<'b>(&self, batch: &Batch<'b>) -> Labelled<'b>
    where
        'w: 'b,
    {
        let words = batch.words.unwrap_or(self.program.head.weight);
        Labelled { rows: batch.labelled, targets: batch.targets, words, tile: self.plan.head_tile }
    }
}
