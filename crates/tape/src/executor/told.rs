//! Those whom an executor tells what it does: who keeps the weights, and who observes.

use alloc::boxed::Box;

use lowtide_tensor::Float;

use super::Executor;
use crate::{Observer, Part, Stage, WeightKeeper};

impl<'p, F: Float> Executor<'p, '_, F> {
    /// Gives it someone to tell which weights are read when.
    pub fn set_keeper(&mut self, keeper: Box<dyn WeightKeeper + 'p>) {
        self.keeper = Some(keeper);
    }

    /// Gives it someone to tell what it is at.
    pub fn set_observer(&mut self, observer: Box<dyn Observer + 'p>) {
        self.observer = Some(observer);
    }

    /// Does work that belongs to a stage and that the executor does not do itself, such as an
    /// update of accumulated gradients.
    pub fn observe<R>(&mut self, stage: Stage, work: impl FnOnce() -> R) -> R {
        self.begin(stage);
        let done = work();
        self.end(stage);
        done
    }

    pub(super) fn begin(&mut self, stage: Stage) {
        if let Some(observer) = &mut self.observer {
            observer.begin(stage);
        }
    }

    pub(super) fn end(&mut self, stage: Stage) {
        if let Some(observer) = &mut self.observer {
            observer.end(stage);
        }
    }

    pub(super) fn enter(&mut self, part: Part, next: Part) {
        if let Some(keeper) = &mut self.keeper {
            keeper.enter(part, next);
        }
    }

    /// The weights of segment `i`, or those above the topmost.
    pub(super) fn part(&self, i: usize) -> Part {
        if i < self.program.segments.len() { Part::Segment(i) } else { Part::Head }
    }
}
