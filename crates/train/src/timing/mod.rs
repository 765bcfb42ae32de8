//! How long each block takes: what the executor tells, put beside a clock.

mod trace;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use lowtide_tape::{Observer, Stage};
use serde::{Deserialize, Serialize};
use tracing::Span;

use self::trace::Trace;
use crate::TrainError;

/// Seconds of an update by block and by what it does there, as means over the updates that were
/// measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Times {
    /// Updates that were measured.
    pub updates: u64,
    /// Each block's, from the bottom.
    pub blocks: Vec<BlockTimes>,
    /// Of logits, loss and their gradient.
    pub head: f64,
}

/// Seconds that an update spends in a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BlockTimes {
    /// Going forward.
    pub forward: f64,
    /// Going forward again for inputs that were not kept.
    pub again: f64,
    /// Going backward, with what is computed again inside.
    pub backward: f64,
    /// Taking gradients over and updating parameters.
    pub update: f64,
}

/// The clock of a run. Where an update is not measured it costs a look at a flag a stage.
pub(crate) struct Timing(Arc<Mutex<Clock>>);

impl Timing {
    /// For a program of so many segments, with a trace of the first updates in `trace`, if asked.
    ///
    /// # Errors
    /// [`TrainError::Output`] when the folder of the trace takes no file.
    pub(crate) fn new(segments: usize, trace: Option<&Path>) -> Result<Self, TrainError> {
        let trace = match trace {
            Some(path) => {
                let open = Trace::open(path);
                let refused = |source| TrainError::Output { path: path.to_owned(), source };
                Some(open.map_err(refused)?)
            }
            None => None,
        };
        let now = Instant::now();
        let sums = Times { blocks: vec![BlockTimes::default(); segments], ..Times::default() };
        let clock = Clock {
            measures: false,
            sums,
            trace,
            traces: false,
            update: now,
            stage: now,
            span: Span::none(),
        };
        Ok(Self(Arc::new(Mutex::new(clock))))
    }

    /// Who is to be told by the executor.
    pub(crate) fn observer(&self) -> Box<dyn Observer> {
        Box::new(Watcher(Arc::clone(&self.0)))
    }

    /// An update begins, which is measured if `measure` says so, and traced if it is among the
    /// first.
    pub(crate) fn begin(&self, measure: bool) {
        let mut clock = lock(&self.0);
        clock.measures = measure;
        clock.traces = clock.trace.as_ref().is_some_and(Trace::has_room);
        clock.update = Instant::now();
    }

    /// The update `step` is done.
    pub(crate) fn end(&self, step: u64) {
        let mut guard = lock(&self.0);
        let clock = &mut *guard;
        clock.sums.updates += u64::from(clock.measures);
        if clock.traces
            && let Some(trace) = &mut clock.trace
        {
            trace.update(step, clock.update, Instant::now());
        }
        (clock.measures, clock.traces) = (false, false);
        if clock.trace.as_ref().is_some_and(|trace| !trace.has_room()) {
            clock.write_trace();
        }
    }

    /// What was measured; a trace that is not written yet is.
    pub(crate) fn finish(&self) -> Times {
        let mut clock = lock(&self.0);
        clock.write_trace();
        clock.sums.mean()
    }
}

impl Times {
    fn mean(&self) -> Self {
        let share = 1.0 / self.updates.max(1) as f64;
        let mean = |of: &BlockTimes| BlockTimes {
            forward: of.forward * share,
            again: of.again * share,
            backward: of.backward * share,
            update: of.update * share,
        };
        let blocks = match self.updates {
            0 => Vec::new(),
            _ => self.blocks.iter().map(mean).collect(),
        };
        Self { updates: self.updates, blocks, head: self.head * share }
    }

    fn add(&mut self, stage: Stage, seconds: f64) {
        let (at, part): (_, fn(&mut BlockTimes) -> &mut f64) = match stage {
            Stage::Forward(at) => (at, |block| &mut block.forward),
            Stage::Again(at) => (at, |block| &mut block.again),
            Stage::Backward(at) => (at, |block| &mut block.backward),
            Stage::Update(at) => (at, |block| &mut block.update),
            Stage::Head => {
                self.head += seconds;
                return;
            }
        };
        if let Some(block) = self.blocks.get_mut(at) {
            *part(block) += seconds;
        }
    }
}

struct Clock {
    /// Whether the update under way is measured.
    measures: bool,
    sums: Times,
    /// Until it is written.
    trace: Option<Trace>,
    /// Whether the update under way is traced.
    traces: bool,
    /// When the update under way began.
    update: Instant,
    /// When the stage under way began.
    stage: Instant,
    /// Of the stage under way, entered; disabled unless somebody listens.
    span: Span,
}

impl Clock {
    fn write_trace(&mut self) {
        let Some(trace) = self.trace.take() else { return };
        let path = trace.path().to_owned();
        if let Err(error) = trace.write() {
            // Nothing of the run hangs on it.
            tracing::warn!(%error, path = %path.display(), "the trace is not written");
        }
    }
}

fn lock(clock: &Mutex<Clock>) -> MutexGuard<'_, Clock> {
    clock.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The clock as the executor sees it.
struct Watcher(Arc<Mutex<Clock>>);

impl Observer for Watcher {
    fn begin(&mut self, stage: Stage) {
        let mut clock = lock(&self.0);
        clock.span = span(stage);
        clock.span.with_subscriber(|(id, dispatch)| dispatch.enter(id));
        if clock.measures || clock.traces {
            clock.stage = Instant::now();
        }
    }

    fn end(&mut self, stage: Stage) {
        let mut guard = lock(&self.0);
        let clock = &mut *guard;
        if clock.measures || clock.traces {
            let (began, ended) = (clock.stage, Instant::now());
            if clock.measures {
                clock.sums.add(stage, (ended - began).as_secs_f64());
            }
            if clock.traces
                && let Some(trace) = &mut clock.trace
            {
                trace.stage(stage, began, ended);
            }
        }
        let span = std::mem::replace(&mut clock.span, Span::none());
        span.with_subscriber(|(id, dispatch)| dispatch.exit(id));
    }
}

/// A span for whoever subscribes to them.
fn span(stage: Stage) -> Span {
    match stage {
        Stage::Forward(block) => tracing::trace_span!("forward", block),
        Stage::Again(block) => tracing::trace_span!("again", block),
        Stage::Head => tracing::trace_span!("head"),
        Stage::Backward(block) => tracing::trace_span!("backward", block),
        Stage::Update(block) => tracing::trace_span!("update", block),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_become_means_over_what_was_measured() {
        let mut sums = Times { blocks: vec![BlockTimes::default(); 2], ..Times::default() };
        assert_eq!(sums.mean(), Times::default());
        sums.updates = 2;
        let told = [
            (Stage::Forward(0), 2.0),
            (Stage::Forward(1), 4.0),
            (Stage::Again(0), 1.0),
            (Stage::Head, 8.0),
            (Stage::Backward(1), 6.0),
            (Stage::Backward(1), 6.0),
            (Stage::Update(1), 0.5),
            // None of the program's.
            (Stage::Update(2), 9.0),
        ];
        told.into_iter().for_each(|(stage, seconds)| sums.add(stage, seconds));
        let lower = BlockTimes { forward: 1.0, again: 0.5, ..BlockTimes::default() };
        let upper = BlockTimes { forward: 2.0, backward: 6.0, update: 0.25, again: 0.0 };
        assert_eq!(sums.mean(), Times { updates: 2, blocks: vec![lower, upper], head: 4.0 });
    }

    #[test]
    fn only_updates_that_are_to_be_measured_are() {
        let timing = Timing::new(1, None).unwrap();
        let mut observer = timing.observer();
        let mut update = |step, measure| {
            timing.begin(measure);
            observer.begin(Stage::Head);
            observer.end(Stage::Head);
            timing.end(step);
        };
        update(1, false);
        assert_eq!(timing.finish(), Times::default());
        update(2, true);
        update(3, true);
        let times = timing.finish();
        assert_eq!((times.updates, times.blocks.len()), (2, 1));
    }
}
