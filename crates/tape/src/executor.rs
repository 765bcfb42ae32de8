//! Running a program inside the slabs its plan foretold.

mod approximate;
mod head;
mod told;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use bytemuck::{cast_slice, cast_slice_mut};
use lowtide_adapter::Phase;
use lowtide_backend::Backend;
use lowtide_memory::{Category, Ledger, LockError, ReserveError};
use lowtide_tensor::{Float, Mat, MatMut};

use crate::boundary::{Apart, Boundary, Parts};
use crate::operands::Memory;
use crate::params::{Plain, ReadOnly};
use crate::reserved::{Fixed, Reserved};
use crate::{
    Batch, CheckpointError, CheckpointFile, Cx, GradSink, LossSum, Observer, Params, Part, Plan,
    Program, Stage, WeightKeeper, kept,
};
pub use approximate::Pair;

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
    fixed: Fixed,
    /// Where the plan asks for one.
    file: Option<Box<dyn CheckpointFile<F> + 'p>>,
    /// What the file could not do during forward.
    failed: Option<CheckpointError>,
    /// Told which weights are read when.
    keeper: Option<Box<dyn WeightKeeper + 'p>>,
    /// Told what it is at.
    observer: Option<Box<dyn Observer + 'p>>,
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
        let (mut bytes, library) = (plan.bytes(), plan.library_bytes());
        let fixed = core::mem::take(&mut bytes[Category::Adapter]);
        let fixed = Fixed::reserve(program, fixed, ledger)?;
        let reserved = match Reserved::reserve(ledger, bytes, Category::Checkpoint, library) {
            Ok(reserved) => reserved,
            Err(error) => {
                fixed.release(ledger);
                return Err(error);
            }
        };
        let ranges = program.param_ranges();
        Ok(Self {
            program,
            be,
            plan,
            ranges,
            reserved,
            fixed,
            file: None,
            failed: None,
            keeper: None,
            observer: None,
            seed,
            poison: false,
        })
    }

    /// Gives it the file that a plan with [`Store::File`](crate::Store::File) needs before its
    /// first step.
    pub fn set_file(&mut self, file: Box<dyn CheckpointFile<F> + 'p>) {
        self.file = Some(file);
    }

    /// Locks what it reserved, and what its file did, in memory, so that the system never swaps it
    /// out.
    ///
    /// # Errors
    /// [`LockError`] when the system refuses or cannot.
    pub fn lock(&self) -> Result<(), LockError> {
        self.reserved.lock()?;
        self.fixed.lock()?;
        self.file.as_ref().map_or(Ok(()), |file| file.lock())
    }

    /// Gives everything back.
    pub fn release(self, ledger: &mut Ledger) {
        self.reserved.release(ledger);
        self.fixed.release(ledger);
        if let Some(file) = self.file {
            file.release(ledger);
        }
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

    /// What goes with the parameters and is not trained, as [`Program::fixed_ranges`] divides it.
    #[must_use]
    pub fn fixed(&self) -> &[F] {
        self.fixed.all()
    }

    /// The same, to set.
    #[must_use]
    pub fn fixed_mut(&mut self) -> &mut [F] {
        self.fixed.all_mut()
    }

    /// Room that is idle between passes, and what goes with the parameters, to set.
    #[must_use]
    pub fn idle(&mut self) -> (&mut [F], &mut [F]) {
        (self.reserved.arena.get_mut(), self.fixed.all_mut())
    }

    /// Takes note that parameters have changed by other means than a sink that
    /// [applies](GradSink::applies), so that what is derived from them is derived again.
    pub fn params_changed(&mut self) {
        self.fixed.changed();
    }

    /// Sets what starts from frozen weights, of the parameters and of what goes with them; all else
    /// of these has started.
    pub fn start(&mut self, params: &mut [F]) {
        self.start_with(&mut Plain(params));
    }

    /// As [`Executor::start`], of parameters wherever they are.
    pub fn start_with(&mut self, params: &mut dyn Params<F>) {
        let count = self.program.segments.len();
        // What does not derive anything does not read weights here either.
        let reads = |segment: &usize| self.program.segments[*segment].derives();
        let mut reading = (0..count).filter(reads).collect::<Vec<_>>().into_iter().peekable();
        for i in 0..count {
            if reading.next_if_eq(&i).is_some() {
                self.enter(Part::Segment(i), Part::Segment(reading.peek().copied().unwrap_or(0)));
            }
            let scratch = self.reserved.arena.get_mut();
            params.change(self.ranges[i].clone(), &mut |params| {
                self.fixed.start(self.program, i, self.be, params, scratch);
            });
        }
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
        self.loss_with(&mut ReadOnly(params), batch)
    }

    /// As [`Executor::loss`], with parameters wherever they are.
    ///
    /// # Panics
    /// As there.
    pub fn loss_with(&mut self, params: &mut dyn Params<F>, batch: &Batch<'_>) -> LossSum {
        let cx = self.context(batch, Phase::Prefill);
        self.forward(&cx, params, batch, false);
        self.begin(Stage::Head);
        let sum = self.run_head(&cx, batch, None);
        self.end(Stage::Head);
        sum
    }

    /// Loss of a batch, and `scale` times its gradient handed to `sink` segment by segment, from
    /// the top down. `sink` may change a segment's parameters once their gradients are complete.
    ///
    /// # Errors
    /// [`CheckpointError`] when the plan's checkpoint file fails. Segments that were handed to
    /// `sink` by then are complete; the others' gradients are not.
    ///
    /// # Panics
    /// When the plan is for evaluation, the batch exceeds its limits, or its parts disagree, or the
    /// plan's checkpoint file was not given.
    pub fn step(
        &mut self,
        params: &mut [F],
        batch: &Batch<'_>,
        scale: F,
        sink: &mut dyn GradSink<F>,
    ) -> Result<LossSum, CheckpointError> {
        self.step_with(&mut Plain(params), batch, scale, sink)
    }

    /// As [`Executor::step`], with parameters wherever they are.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Panics
    /// As there.
    pub fn step_with(
        &mut self,
        params: &mut dyn Params<F>,
        batch: &Batch<'_>,
        scale: F,
        sink: &mut dyn GradSink<F>,
    ) -> Result<LossSum, CheckpointError> {
        let count = self.program.segments.len();
        assert!(self.plan.first < count, "this plan is for evaluation");
        let cx = self.context(batch, Phase::Train);
        self.forward(&cx, params, batch, true);
        if sink.applies() {
            self.fixed.changed();
        }
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        self.begin(Stage::Head);
        let sum = self.run_head(&cx, batch, Some(scale));
        self.end(Stage::Head);
        for group in (0..self.plan.checkpoints.len()).rev() {
            self.fetch(group, &cx, params)?;
            for segment in self.plan.checkpoints.segments(group).rev() {
                let next = self.plan.checkpoints.read_after(segment);
                self.enter(Part::Segment(segment), Part::Segment(next));
                let range = self.ranges[segment].clone();
                self.begin(Stage::Backward(segment));
                self.backward(segment, &cx, params.get(range.clone()), sink.slab(segment));
                self.end(Stage::Backward(segment));
                self.observe(Stage::Update(segment), || {
                    params.change(range, &mut |params| sink.complete(segment, params));
                });
            }
        }
        Ok(sum)
    }

    /// Logits of some rows of a batch, at most as many as the plan's labelled tile:
    /// `out [rows.len(), V]`.
    ///
    /// # Panics
    /// When the batch exceeds the plan's limits, or more rows are asked for than fit the tile.
    pub fn logits(&mut self, params: &[F], batch: &Batch<'_>, rows: &[u32], out: MatMut<'_, F>) {
        assert!(rows.len() <= self.plan.head_tile, "logits of {} rows at once", rows.len());
        let cx = self.context(batch, Phase::Prefill);
        self.forward(&cx, &mut ReadOnly(params), batch, false);
        self.enter(Part::Head, self.part(0));
        let (program, be) = (self.program, self.be);
        let parts = Parts::of(&mut self.reserved, &self.plan);
        let x = rows_of(parts.top, cx.rows(), program.hidden());
        program.head.logits(be, x, rows, out, parts.work);
    }

    fn context<'a>(&self, batch: &Batch<'a>, phase: Phase) -> Cx<'a, F>
    where
        'p: 'a,
    {
        let limits = self.plan.limits;
        let Batch { ids, positions, spans, labelled, targets, words, counter } = *batch;
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
        let head = self.program.head.weight;
        if let Some(words) = words {
            let (width, most) = (head.cols(), head.rows());
            assert!(
                words.cols() == width && (1..=most).contains(&words.rows()),
                "{words:?} are no rows of a head of {most} rows of {width}"
            );
        }
        let ascend = labelled.windows(2).all(|pair| pair[0] < pair[1]);
        let inside = labelled.last().is_none_or(|&row| (row as usize) < ids.len());
        assert!(ascend && inside, "labelled rows ascend below {}, not {labelled:?}", ids.len());
        Cx { be: self.be, spans, row0: 0, past: 0, positions, seed: self.seed, counter, phase }
    }

    /// Runs all segments; `keep` says whether backward will follow.
    fn forward(
        &mut self,
        cx: &Cx<'_, F>,
        params: &mut dyn Params<F>,
        batch: &Batch<'_>,
        keep: bool,
    ) {
        let len = cx.rows() * self.program.hidden();
        let stale = self.fixed.take_stale();
        self.embed(self.boundary(0), batch);
        for i in 0..self.program.segments.len() {
            self.enter(Part::Segment(i), self.part(i + 1));
            self.begin(Stage::Forward(i));
            if let Some(place) = self.plan.checkpoints.lent(i).filter(|_| keep) {
                self.keep(i, place, len);
            }
            let params = params.get(self.ranges[i].clone());
            if stale {
                // Now that the segment's weights are at hand.
                let work = Parts::of(&mut self.reserved, &self.plan).work;
                self.fixed.prepare(self.program, i, self.be, params, work);
            }
            self.run_forward(i, self.boundary(i), self.boundary(i + 1), cx, params);
            self.end(Stage::Forward(i));
        }
    }

    /// Runs a segment with its own parameters.
    fn run_forward(
        &mut self,
        i: usize,
        from: Boundary,
        to: Boundary,
        cx: &Cx<'_, F>,
        params: &[F],
    ) {
        let schedule = Arc::clone(&self.plan.forward[i]);
        let (kept, poison) = (self.kept_range(i), self.poison);
        let segment = &self.program.segments[i];
        let (input, output, arena, all_kept) =
            Parts::of(&mut self.reserved, &self.plan).between(from, to);
        if poison {
            arena.fill(F::NAN);
            output.fill(F::NAN);
        }
        let (kept, gradient) = (&mut all_kept[kept], &mut [][..]);
        let mut memory = Memory { arena, kept, input, output, gradient };
        let values = self.fixed.with(i, params);
        segment.run(&schedule, cx, values, &mut [], &mut memory, poison);
    }

    /// Keeps the input of a segment, `len` elements of it, in another form than in a slot.
    fn keep(&mut self, segment: usize, place: usize, len: usize) {
        let at = self.boundary(segment);
        let (value, lent) = Parts::of(&mut self.reserved, &self.plan).lend(at);
        let value = &value[..len];
        match kept::format(self.plan.checkpointing().store) {
            Some(format) => {
                let room = self.plan.lent;
                kept::write(format, value, cast_slice_mut(&mut lent[place * room..][..room]));
            }
            None => {
                let failed = self.file.as_mut().expect(NO_FILE).put(place, value).err();
                self.failed = self.failed.take().or(failed);
            }
        }
    }

    /// Brings the inputs of a group's segments to their slots.
    fn fetch(
        &mut self,
        group: usize,
        cx: &Cx<'_, F>,
        params: &mut dyn Params<F>,
    ) -> Result<(), CheckpointError> {
        let checkpoints = &self.plan.checkpoints;
        let (len, room) = (cx.rows() * self.program.hidden(), self.plan.lent);
        let slot = |segment| checkpoints.slot(segment);
        let start = checkpoints.start(group);
        if let Some(place) = checkpoints.lent(start) {
            let Apart { slots, lent, boundary, .. } =
                Apart::of(&mut self.reserved.apart, &self.plan);
            let value = &mut slots[slot(start) * boundary..][..len];
            match kept::format(self.plan.checkpointing().store) {
                Some(format) => {
                    kept::read(format, cast_slice(&lent[place * room..][..room]), value);
                }
                None => self.file.as_mut().expect(NO_FILE).get(place, value)?,
            }
        }
        if let (Some(next), Some(file)) = (group.checked_sub(1), &mut self.file) {
            file.expect(next, len);
        }
        for segment in checkpoints.again(group) {
            self.enter(Part::Segment(segment), Part::Segment(segment + 1));
            let slot = |segment| Boundary::Slot(self.plan.checkpoints.slot(segment));
            let params = params.get(self.ranges[segment].clone());
            let (from, to) = (slot(segment), slot(segment + 1));
            self.begin(Stage::Again(segment));
            self.run_forward(segment, from, to, cx, params);
            self.end(Stage::Again(segment));
        }
        Ok(())
    }

    fn backward(&mut self, segment: usize, cx: &Cx<'_, F>, params: &[F], grads: &mut [F]) {
        let schedule = Arc::clone(&self.plan.backward[segment - self.plan.first]);
        let (kept, poison, boundary) = (self.kept_range(segment), self.poison, self.plan.boundary);
        let slot = self.plan.checkpoints.slot(segment);
        let run = &self.program.segments[segment];
        let apart: Apart<'_, F> = Apart::of(&mut self.reserved.apart, &self.plan);
        let (gradient, arena) = self.reserved.arena.get_mut::<F>().split_at_mut(boundary);
        let input = &mut apart.slots[slot * boundary..][..boundary];
        let kept = &mut apart.kept[kept];
        if self.plan.checkpoints.is_undone(segment) {
            // The slot holds the output, which nobody reads any more.
            let (value, tile) = (&mut input[..cx.rows() * run.hidden()], schedule.tile);
            run.undo(cx, params, tile, value, arena);
        }
        if poison {
            arena.fill(F::NAN);
        }
        let mut memory = Memory { arena, kept, input, output: &mut [], gradient };
        let values = self.fixed.with(segment, params);
        run.run(&schedule, cx, values, grads, &mut memory, poison);
        if poison {
            let below = segment.checked_sub(1);
            if !below.is_some_and(|below| self.plan.checkpoints.is_undone(below)) {
                input.fill(F::NAN);
            }
            kept.fill(F::NAN);
        }
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

    /// Where forward leaves the input of segment `i`. Two places take turns where it is not kept.
    fn boundary(&self, i: usize) -> Boundary {
        match self.plan.checkpoints.left_in(i) {
            Some(slot) => Boundary::Slot(slot),
            None if (self.program.segments.len() - i).is_multiple_of(2) => Boundary::Top,
            None => Boundary::Gradient,
        }
    }
}

const NO_FILE: &str = "a plan with a checkpoint file is given one before its first step";

/// The first rows of a boundary value.
fn rows_of<F: Float>(boundary: &[F], rows: usize, hidden: usize) -> Mat<'_, F> {
    Mat::new(&boundary[..rows * hidden], rows, hidden)
}
