//! Running a program inside the slabs its plan foretold.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use lowtide_adapter::Phase;
use lowtide_backend::Backend;
use lowtide_memory::{Category, Ledger, ReserveError};
use lowtide_tensor::{Float, Mat, MatMut};

use crate::boundary::{Boundary, Parts};
use crate::head::Labelled;
use crate::operands::Memory;
use crate::reserved::Reserved;
use crate::{Batch, Cx, GradSink, LossSum, Plan, Program};

/// A program with the memory to run it.
///
/// Arena layout: one boundary value for the gradient that travels down, one for the topmost
/// segment's output, then the working set of whatever runs. Backward does not need the second, so
/// its working set starts over it.
pub struct Executor<'p, 'w, F: Float> {
    program: &'p Program<'w, F>,
    be: &'p dyn Backend<F>,
    plan: Plan,
    ranges: Vec<Range<usize>>,
    /// The arena, and apart from it the checkpoints.
    reserved: Reserved,
    seed: u64,
    poison: bool,
}

impl<'p, 'w, F: Float> Executor<'p, 'w, F> {
    /// Reserves what the plan says.
    ///
    /// # Errors
    /// [`ReserveError`] when the ledger or the system refuses; nothing stays reserved then.
    ///
    /// # Panics
    /// When the plan is for a program of another number of segments.
    pub fn reserve(
        program: &'p Program<'w, F>,
        be: &'p dyn Backend<F>,
        plan: Plan,
        seed: u64,
        ledger: &mut Ledger,
    ) -> Result<Self, ReserveError> {
        let (planned, given) = (plan.forward.len(), program.segments.len());
        assert!(planned == given, "a plan for {planned} segments, a program of {given}");
        let (bytes, library) = (plan.bytes(), plan.library_bytes());
        let reserved = Reserved::reserve(ledger, bytes, Category::Checkpoint, library)?;
        let ranges = program.param_ranges();
        Ok(Self { program, be, plan, ranges, reserved, seed, poison: false })
    }

    /// Gives everything back.
    pub fn release(self, ledger: &mut Ledger) {
        self.reserved.release(ledger);
    }

    /// The plan it runs.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Where each segment's parameters lie in the adapter slab.
    #[must_use]
    pub fn param_ranges(&self) -> &[Range<usize>] {
        &self.ranges
    }

    /// Fills memory with NaN before its first writer and after its last reader, so that a test can
    /// show that nothing reads what is not there.
    pub fn set_poison(&mut self, poison: bool) {
        self.poison = poison;
        if poison {
            self.reserved.arena.get_mut::<F>().fill(F::NAN);
            self.reserved.apart.get_mut::<F>().fill(F::NAN);
        }
    }

    /// Loss of a batch with the given parameters.
    ///
    /// # Panics
    /// When the batch exceeds the plan's limits or its parts disagree.
    pub fn loss(&mut self, params: &[F], batch: &Batch<'_>) -> LossSum {
        let cx = self.context(batch, Phase::Prefill);
        self.forward(&cx, params, batch);
        self.run_head(&cx, batch, None)
    }

    /// Loss of a batch, and `scale` times its gradient handed to `sink` segment by segment, from
    /// the top down. `sink` may change a segment's parameters once their gradients are complete.
    ///
    /// # Panics
    /// When the plan is for evaluation, the batch exceeds its limits, or its parts disagree.
    pub fn step(
        &mut self,
        params: &mut [F],
        batch: &Batch<'_>,
        scale: F,
        sink: &mut dyn GradSink<F>,
    ) -> LossSum {
        let count = self.program.segments.len();
        assert!(self.plan.first < count, "this plan is for evaluation");
        let cx = self.context(batch, Phase::Train);
        self.forward(&cx, params, batch);
        let sum = self.run_head(&cx, batch, Some(scale));
        for segment in (self.plan.first..count).rev() {
            let range = self.ranges[segment].clone();
            self.backward(segment, &cx, &params[range.clone()], sink.slab(segment));
            sink.complete(segment, &mut params[range]);
        }
        sum
    }

    /// Logits of some rows of a batch, at most as many as the plan's labelled tile:
    /// `out [rows.len(), V]`.
    ///
    /// # Panics
    /// When the batch exceeds the plan's limits, or more rows are asked for than fit the tile.
    pub fn logits(&mut self, params: &[F], batch: &Batch<'_>, rows: &[u32], out: MatMut<'_, F>) {
        assert!(rows.len() <= self.plan.head_tile, "logits of {} rows at once", rows.len());
        let cx = self.context(batch, Phase::Prefill);
        self.forward(&cx, params, batch);
        let (program, be) = (self.program, self.be);
        let parts = self.parts();
        let x = rows_of(parts.top, cx.rows(), program.hidden());
        program.head.logits(be, x, rows, out, parts.work);
    }

    fn context<'a>(&self, batch: &Batch<'a>, phase: Phase) -> Cx<'a, F>
    where
        'p: 'a,
    {
        let limits = self.plan.limits;
        let Batch { ids, positions, spans, labelled, targets, counter } = *batch;
        assert!(
            ids.len() <= limits.tokens && spans.len() <= limits.sequences,
            "{} tokens in {} sequences exceed {limits:?}",
            ids.len(),
            spans.len()
        );
        assert!(
            labelled.len() <= limits.labelled,
            "{} labelled rows exceed {limits:?}",
            labelled.len()
        );
        assert!(ids.len() == positions.len(), "{} ids, {} positions", ids.len(), positions.len());
        assert!(
            labelled.len() == targets.len(),
            "{} rows, {} targets",
            labelled.len(),
            targets.len()
        );
        let ascend = labelled.windows(2).all(|pair| pair[0] < pair[1]);
        let inside = labelled.last().is_none_or(|&row| (row as usize) < ids.len());
        assert!(ascend && inside, "labelled rows ascend below {}, not {labelled:?}", ids.len());
        Cx { be: self.be, spans, positions, seed: self.seed, counter, phase }
    }

    fn forward(&mut self, cx: &Cx<'_, F>, params: &[F], batch: &Batch<'_>) {
        let (program, hidden, rows) = (self.program, self.program.hidden(), cx.rows());
        let start = self.boundary(0);
        let x = MatMut::new(&mut self.parts().only(start)[..rows * hidden], rows, hidden);
        program.embedding.rows(cx.be, batch.ids, x);
        for (i, segment) in program.segments.iter().enumerate() {
            let (from, to) = (self.boundary(i), self.boundary(i + 1));
            let schedule = Arc::clone(&self.plan.forward[i]);
            let (kept, poison) = (self.kept_range(i), self.poison);
            let params = &params[self.ranges[i].clone()];
            let (input, output, arena, all_kept) = self.parts().between(from, to);
            if poison {
                arena.fill(F::NAN);
                output.fill(F::NAN);
            }
            let (kept, gradient) = (&mut all_kept[kept], &mut [][..]);
            let mut memory = Memory { arena, kept, input, output, gradient };
            segment.run(&schedule, cx, params, &mut [], &mut memory, poison);
        }
    }

    /// Loss at the top; with `scale`, also the gradient of the topmost output.
    fn run_head(&mut self, cx: &Cx<'_, F>, batch: &Batch<'_>, scale: Option<F>) -> LossSum {
        let (program, be) = (self.program, self.be);
        let (rows, hidden, tile) = (cx.rows(), program.hidden(), self.plan.head_tile);
        let poison = self.poison;
        let labelled = Labelled { rows: batch.labelled, targets: batch.targets, tile };
        let Parts { gradient, top, work, .. } = self.parts();
        if poison {
            gradient.fill(F::NAN);
            work.fill(F::NAN);
        }
        let x = rows_of(top, rows, hidden);
        let dx = MatMut::new(&mut gradient[..rows * hidden], rows, hidden);
        program.head.run(be, x, labelled, scale.map(|scale| (scale, dx)), work)
    }

    fn backward(&mut self, segment: usize, cx: &Cx<'_, F>, params: &[F], grads: &mut [F]) {
        let schedule = Arc::clone(&self.plan.backward[segment - self.plan.first]);
        let (kept, poison, boundary) = (self.kept_range(segment), self.poison, self.plan.boundary);
        let (slot, all_slots) = (segment - self.plan.first, self.slots());
        let (slots, all_kept) = self.reserved.apart.get_mut::<F>().split_at_mut(all_slots);
        let (gradient, arena) = self.reserved.arena.get_mut::<F>().split_at_mut(boundary);
        let input = &slots[slot * boundary..][..boundary];
        if poison {
            arena.fill(F::NAN);
        }
        let mut memory =
            Memory { arena, kept: &mut all_kept[kept.clone()], input, output: &mut [], gradient };
        let run = &self.program.segments[segment];
        run.run(&schedule, cx, params, grads, &mut memory, poison);
        if poison {
            slots[slot * boundary..][..boundary].fill(F::NAN);
            all_kept[kept].fill(F::NAN);
        }
    }

    /// Elements of the kept segment inputs.
    fn slots(&self) -> usize {
        (self.program.segments.len() - self.plan.first) * self.plan.boundary
    }

    /// Where a segment's kept intermediates lie.
    fn kept_range(&self, segment: usize) -> Range<usize> {
        if segment < self.plan.first {
            return 0..0;
        }
        let before = &self.plan.forward[self.plan.first..segment];
        let start = before.iter().map(|s| s.kept).sum();
        start..start + self.plan.forward[segment].kept
    }

    /// Where the input of segment `i` lies. Below the lowest differentiated segment two places take
    /// turns, such that its own input comes out where it is kept.
    fn boundary(&self, i: usize) -> Boundary {
        let (first, count) = (self.plan.first, self.program.segments.len());
        if i == count {
            Boundary::Top
        } else if i >= first {
            Boundary::Slot(i - first)
        } else if (first - i) % 2 == 1 {
            Boundary::Gradient
        } else if first == count {
            Boundary::Top
        } else {
            Boundary::Slot(0)
        }
    }

    fn parts(&mut self) -> Parts<'_, F> {
        let (boundary, slots) = (self.plan.boundary, self.slots());
        let (gradient, rest) = self.reserved.arena.get_mut::<F>().split_at_mut(boundary);
        let (top, work) = rest.split_at_mut(boundary);
        let (slots, kept) = self.reserved.apart.get_mut::<F>().split_at_mut(slots);
        Parts { gradient, top, work, slots, kept, boundary }
    }
}

/// The first rows of a boundary value.
fn rows_of<F: Float>(boundary: &[F], rows: usize, hidden: usize) -> Mat<'_, F> {
    Mat::new(&boundary[..rows * hidden], rows, hidden)
}
