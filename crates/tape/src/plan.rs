//! The plan: every byte a program will hold inside its executor, before anything is reserved.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::num::NonZeroUsize;

use lowtide_backend::Backend;
use lowtide_memory::{ByCategory, Category, Span, Timeline};
use lowtide_tensor::{Float, QUANTUM};

use crate::checkpoints::Checkpoints;
use crate::compiler::{Compiled, Compiler};
use crate::schedule::{Schedule, aligned};
use crate::{Checkpointing, Limits, LossHead, Policy, Program, Segment, Store, kept};

/// What an executor will hold and do for any batch within its limits.
#[derive(Clone, Debug)]
pub struct Plan {
    pub(crate) limits: Limits,
    checkpointing: Checkpointing,
    pub(crate) checkpoints: Checkpoints,
    /// Lowest differentiated segment; the number of segments when only the loss is wanted.
    pub(crate) first: usize,
    pub(crate) forward: Vec<Arc<Schedule>>,
    /// From segment `first` up.
    pub(crate) backward: Vec<Arc<Schedule>>,
    pub(crate) head_tile: usize,
    /// Elements of one `[tokens, hidden]` value.
    pub(crate) boundary: usize,
    /// Elements of the arena, boundaries included.
    pub(crate) arena: usize,
    /// Elements of a segment input that is kept in memory in another form.
    pub(crate) lent: usize,
    /// Segments that backward goes through in a step, at most.
    pub(crate) most: usize,
    /// Elements of the arena's third boundary value, which a pair needs.
    pub(crate) spare: usize,
    /// Elements that go with the parameters and are not trained.
    fixed: usize,
    bytes: ByCategory,
    /// Bytes of the arena beyond the most that is alive in it at once.
    packing_bytes: u64,
    library_bytes: u64,
    timeline: Timeline,
    work: u64,
    /// Of deriving values from the parameters.
    prepare_work: u64,
}

/// What a plan is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Train,
    /// Training through so many segments at most.
    Partial {
        most: usize,
    },
    Evaluate,
    /// Evaluation of two sets of parameters.
    Pair,
}

impl Plan {
    /// Plans training (`train`) or evaluation of `program`. `checkpointing` is a [`Policy`], or a
    /// policy and a store.
    ///
    /// # Panics
    /// When the limits allow more tokens than positions can count, a tile is not of whole quanta,
    /// or the program's parts disagree about the width of what flows between them.
    #[must_use]
    pub fn new<F: Float>(
        program: &Program<'_, F>,
        be: &dyn Backend<F>,
        limits: Limits,
        checkpointing: impl Into<Checkpointing>,
        train: bool,
    ) -> Self {
        let mode = if train { Mode::Train } else { Mode::Evaluate };
        Self::of(program, be, limits, checkpointing.into(), mode)
    }

    /// Plans [`Executor::pair`](crate::Executor::pair), in tiles of rows if that is said. Beyond
    /// evaluation it takes one value of what flows between segments.
    ///
    /// # Panics
    /// As [`Plan::new`].
    #[must_use]
    pub fn pair<F: Float>(
        program: &Program<'_, F>,
        be: &dyn Backend<F>,
        limits: Limits,
        tile: Option<NonZeroUsize>,
    ) -> Self {
        let checkpointing = Checkpointing { tile, ..Policy::Block.into() };
        Self::of(program, be, limits, checkpointing, Mode::Pair)
    }

    /// Plans training whose backward goes through at most `most` segments, which
    /// [`Executor::choose`](crate::Executor::choose) names before each step; before it does, they
    /// are the topmost. Only their inputs are kept, so there is one policy, [`Policy::Block`], with
    /// any store.
    ///
    /// # Panics
    /// As [`Plan::new`], and when no segment or more than are differentiated are asked for.
    #[must_use]
    pub fn partial<F: Float>(
        program: &Program<'_, F>,
        be: &dyn Backend<F>,
        limits: Limits,
        checkpointing: impl Into<Checkpointing>,
        most: usize,
    ) -> Self {
        let checkpointing = Checkpointing { policy: Policy::Block, ..checkpointing.into() };
        Self::of(program, be, limits, checkpointing, Mode::Partial { most })
    }

    fn of<F: Float>(
        program: &Program<'_, F>,
        be: &dyn Backend<F>,
        limits: Limits,
        checkpointing: Checkpointing,
        mode: Mode,
    ) -> Self {
        let Checkpointing { policy, store, tile } = checkpointing;
        // Any sum of sizes below fits an address space if this does.
        assert!(u32::try_from(limits.tokens).is_ok(), "{} tokens at once", limits.tokens);
        program.check_widths();
        let count = program.segments.len();
        let tile = tile.map_or(limits.tokens, NonZeroUsize::get);
        assert!(
            tile >= limits.tokens || tile.is_multiple_of(QUANTUM),
            "tiles of {tile} rows are not of whole quanta of {QUANTUM}"
        );
        let first = match mode {
            Mode::Train | Mode::Partial { .. } => program.first_trained().unwrap_or(count),
            Mode::Evaluate | Mode::Pair => count,
        };
        let compiled = Compiler::new(program, be, limits, first).compile(policy, tile);
        let Compiled { forward, backward } = compiled;
        let boundary = aligned(limits.tokens * program.hidden());
        let element = size_of::<F>();
        let lent = kept::format(store)
            .map_or(0, |format| aligned(kept::bytes(format, boundary).div_ceil(element)));
        let checkpoints = match mode {
            Mode::Partial { most } => {
                let through = count - first;
                assert!((1..=through).contains(&most), "backward through {most} of {through}");
                let topmost: Vec<usize> = (count - most..count).collect();
                Checkpoints::sparse(&topmost, count, store)
            }
            _ => Checkpoints::new(first, count, policy, store, (lent, boundary), &|i| {
                program.segments[i].is_reversible()
            }),
        };
        let mut plan = Self {
            limits,
            checkpointing,
            checkpoints,
            first,
            forward,
            backward,
            head_tile: 0,
            boundary,
            arena: 0,
            lent,
            most: if let Mode::Partial { most } = mode { most } else { count - first },
            spare: if mode == Mode::Pair { boundary } else { 0 },
            fixed: program.fixed(),
            bytes: ByCategory::new(),
            packing_bytes: 0,
            library_bytes: 0,
            timeline: Timeline::new(),
            work: 0,
            prepare_work: program.segments.iter().map(Segment::prepare_work).sum(),
        };
        plan.size_arena(program, be);
        plan.work = plan.count_work(program.head.work(limits.labelled, first < count));
        plan
    }

    /// Finds the arena's extent, what is alive at its fullest, and the head's tile: the largest
    /// that does not make the arena larger.
    fn size_arena<F: Float>(&mut self, program: &Program<'_, F>, be: &dyn Backend<F>) {
        let two = 2 * self.boundary + self.spare;
        let there = self.forward.iter().map(|s| two + s.arena);
        let back = self.backward.iter().map(|s| self.boundary + s.arena);
        let blocks = there.chain(back).max().unwrap_or(two);
        let mut tile = LossHead::<F>::largest_tile(self.limits.labelled);
        let fits = |tile: usize| {
            let (elements, _) = program.head.elements(be, tile);
            two as u64 + elements.held() <= blocks as u64
        };
        while tile > QUANTUM && !fits(tile) {
            tile -= QUANTUM;
        }
        let (head, head_library) = program.head.elements(be, tile);
        self.head_tile = tile;
        self.arena = blocks.max(two + usize::try_from(head.held()).expect("elements fit"));
        let library = self.forward.iter().chain(&self.backward).map(|s| s.library_bytes);
        self.library_bytes = library.max().unwrap_or(0).max(head_library) as u64;
        self.record_timeline(head, size_of::<F>() as u64);
    }

    fn record_timeline(&mut self, head: ByCategory, element: u64) {
        let count = self.forward.len();
        let fixed = self.fixed as u64;
        let (one, two) = (self.boundary as u64, (2 * self.boundary + self.spare) as u64);
        let arena = |live: ByCategory, boundaries: u64| live.with(Category::Workspace, boundaries);
        let mut course = Timeline::new();
        let mut fullest = ByCategory::new();
        let mut push = |phase, segment, arena: ByCategory, kept: usize| {
            if arena.held() > fullest.held() {
                fullest = arena;
            }
            let live = arena.with(Category::Checkpoint, kept as u64);
            let live = scaled(live.with(Category::Adapter, fixed), element);
            course.push(Span { phase, segment, live });
        };
        for (segment, schedule) in self.forward.iter().enumerate() {
            let kept = self.kept(self.checkpoints.taken_forward(segment), segment + 1);
            push("forward", segment, arena(schedule.live_at_peak, two), kept);
        }
        let last = count.checked_sub(1).filter(|_| self.first < count);
        let top = last.map_or((0, 0), |last| self.checkpoints.taken_forward(last));
        push("head", count, arena(head, two), self.kept(top, count));
        for group in (0..self.checkpoints.len()).rev() {
            for segment in self.checkpoints.again(group) {
                let kept = self.kept(self.checkpoints.taken_backward(segment + 1), 0);
                push("recompute", segment, arena(self.forward[segment].live_at_peak, one), kept);
            }
            for segment in self.checkpoints.segments(group).rev() {
                let live = self.backward[segment - self.first].live_at_peak;
                let kept = self.kept(self.checkpoints.taken_backward(segment), segment + 1);
                push("backward", segment, arena(live, one), kept);
            }
        }
        // What is reserved but not alive at the fullest moment is the arena's packing loss; it is
        // workspace too.
        let loss = self.arena as u64 - fullest.held();
        let reserved = fullest
            .with(Category::Workspace, loss)
            .with(Category::Checkpoint, self.kept(self.apart(), count) as u64)
            .with(Category::Adapter, fixed);
        self.bytes = scaled(reserved, element);
        self.packing_bytes = loss * element;
        self.timeline = course;
    }

    /// Work of forward, of what backward computes again, of backward itself, and of the head.
    fn count_work(&self, head: u64) -> u64 {
        let of = |schedules: &[Arc<Schedule>]| schedules.iter().map(|s| s.work).sum::<u64>();
        let groups = 0..self.checkpoints.len();
        let again = groups.map(|group| of(&self.forward[self.checkpoints.again(group)]));
        let back = self.checkpoints.groups().flatten().map(|i| self.backward[i - self.first].work);
        let sides = if self.spare > 0 { 2 } else { 1 };
        sides * (of(&self.forward) + head) + again.sum::<u64>() + back.sum::<u64>()
    }

    /// Numbers of slots, and of segment inputs kept in another form.
    pub(crate) fn apart(&self) -> (usize, usize) {
        (self.checkpoints.slots(), self.checkpoints.lent_count())
    }

    /// Elements that so many slots and inputs in another form take, together with what the segments
    /// below `end` keep besides their inputs.
    fn kept(&self, (slots, lent): (usize, usize), end: usize) -> usize {
        let kept = self.forward.iter().take(end).skip(self.first).map(|s| s.kept);
        slots * self.boundary + lent * self.lent + kept.sum::<usize>()
    }

    /// How many segment inputs a [`CheckpointFile`](crate::CheckpointFile) has to keep, and the
    /// most elements of one; `None` when no file is asked for.
    #[must_use]
    pub fn file(&self) -> Option<(usize, usize)> {
        let file = self.checkpointing.store == Store::File;
        file.then(|| (self.checkpoints.lent_count(), self.boundary))
    }

    /// Bytes the executor will reserve, by category as alive at the fullest moment.
    #[must_use]
    pub fn bytes(&self) -> ByCategory {
        self.bytes
    }

    /// Bytes of the arena, which boundaries, working sets and the head share.
    #[must_use]
    pub fn arena_bytes(&self) -> u64 {
        self.bytes.held() - self.bytes[Category::Checkpoint] - self.bytes[Category::Adapter]
    }

    /// By how much the arena is larger than the most that is alive in it at once, as a share of
    /// that: what placing buffers at offsets that never change costs.
    #[must_use]
    pub fn packing_overhead(&self) -> f64 {
        let alive = self.arena_bytes() - self.packing_bytes;
        if alive == 0 { 0.0 } else { self.packing_bytes as f64 / alive as f64 }
    }

    /// Bytes a library inside the backend allocates during one operation: held by nobody in
    /// between, charged as scratch all the same.
    #[must_use]
    pub fn library_bytes(&self) -> u64 {
        self.library_bytes
    }

    /// The largest batch.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// What is kept between forward and backward, and how.
    #[must_use]
    pub fn checkpointing(&self) -> Checkpointing {
        self.checkpointing
    }

    /// Roughly the work of a step with the largest batch, in multiply-adds: a measure to compare
    /// plans of one program by. What an operation costs besides arithmetic is in it as the
    /// arithmetic that takes as long; see [`Work`](crate::Work).
    #[must_use]
    pub fn work(&self) -> u64 {
        self.work
    }

    /// The same of an update of so many steps. What adapters derive from their parameters they
    /// derive once, but for each of a pair's two sides, whose parameters change with each step.
    #[must_use]
    pub fn update_work(&self, steps: u64) -> u64 {
        let derived = if self.spare > 0 { 2 * steps } else { 1 };
        steps * self.work + derived * self.prepare_work
    }

    /// How many segments a step goes through, forward, again and backward, and how many there are.
    /// Each time a segment's weights are read.
    #[must_use]
    pub fn segment_runs(&self) -> (usize, usize) {
        let groups = 0..self.checkpoints.len();
        let again: usize = groups.map(|group| self.checkpoints.again(group).len()).sum();
        let back = self.checkpoints.groups().flatten().count();
        (self.forward.len() + again + back, self.forward.len())
    }

    /// Columns of all values that are kept besides segment inputs.
    #[must_use]
    pub fn kept_columns(&self) -> usize {
        let kept = self.forward.iter().skip(self.first).map(|s| s.kept);
        kept.sum::<usize>() / self.limits.tokens.max(1)
    }

    /// Labelled rows the head works on at a time.
    #[must_use]
    pub fn head_tile(&self) -> usize {
        self.head_tile
    }

    /// The course of a step: bytes of the executor alive in each stretch, in order. What is kept
    /// for backward grows block by block and shrinks again.
    #[must_use]
    pub fn timeline(&self) -> &Timeline {
        &self.timeline
    }
}

fn scaled(elements: ByCategory, element: u64) -> ByCategory {
    let mut bytes = ByCategory::new();
    for (category, n) in elements.iter() {
        bytes[category] = n * element;
    }
    bytes
}
