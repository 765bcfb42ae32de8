//! The plan: every byte a program will hold inside its executor, before anything is reserved.

use alloc::sync::Arc;
use alloc::vec::Vec;

use lowtide_backend::Backend;
use lowtide_memory::{ByCategory, Category, Span, Timeline};
use lowtide_tensor::Float;

use crate::schedule::{Schedule, aligned};
use crate::{Limits, LossHead, Policy, Program};

/// What an executor will hold and do for any batch within its limits.
#[derive(Clone, Debug)]
pub struct Plan {
    pub(crate) limits: Limits,
    pub(crate) policy: Policy,
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
    /// Elements of the kept segment inputs and intermediates.
    pub(crate) checkpoint: usize,
    bytes: ByCategory,
    library_bytes: u64,
    timeline: Timeline,
}

impl Plan {
    /// Plans training (`train`) or evaluation of `program`.
    ///
    /// # Panics
    /// When the limits allow more tokens than positions can count, or the program's parts disagree
    /// about the width of what flows between them.
    #[must_use]
    pub fn new<F: Float>(
        program: &Program<'_, F>,
        be: &dyn Backend<F>,
        limits: Limits,
        policy: Policy,
        train: bool,
    ) -> Self {
        // Any sum of sizes below fits an address space if this does.
        assert!(u32::try_from(limits.tokens).is_ok(), "{} tokens at once", limits.tokens);
        program.check_widths();
        let count = program.segments.len();
        let first = if train { program.first_trained().unwrap_or(count) } else { count };
        let mut forward: Vec<Arc<Schedule>> = Vec::with_capacity(count);
        let mut backward: Vec<Arc<Schedule>> = Vec::with_capacity(count - first);
        for (i, segment) in program.segments.iter().enumerate() {
            let needs = (i >= first).then(|| segment.needs(i > first));
            let keep = needs.as_ref().filter(|_| policy == Policy::Store);
            let there = segment.plan_forward(keep, be, limits);
            if let Some(needs) = &needs {
                let back = segment.plan_backward(needs, keep.map(|_| &there), be, limits);
                share(&mut backward, back);
            }
            share(&mut forward, there);
        }
        let boundary = aligned(limits.tokens * program.hidden());
        let slots = count - first;
        let kept: usize = forward[first..].iter().map(|s| s.kept).sum();
        let mut plan = Self {
            limits,
            policy,
            first,
            forward,
            backward,
            head_tile: 0,
            boundary,
            arena: 0,
            checkpoint: slots * boundary + kept,
            bytes: ByCategory::new(),
            library_bytes: 0,
            timeline: Timeline::new(),
        };
        plan.size_arena(program, be);
        plan
    }

    /// Finds the arena's extent, what is alive at its fullest, and the head's tile: the largest
    /// that does not make the arena larger.
    fn size_arena<F: Float>(&mut self, program: &Program<'_, F>, be: &dyn Backend<F>) {
        let two = 2 * self.boundary;
        let there = self.forward.iter().map(|s| two + s.arena);
        let back = self.backward.iter().map(|s| self.boundary + s.arena);
        let blocks = there.chain(back).max().unwrap_or(two);
        let mut tile = LossHead::<F>::largest_tile(self.limits.labelled);
        let fits = |tile: usize| {
            let (elements, _) = program.head.elements(be, tile);
            two as u64 + elements.held() <= blocks as u64
        };
        while tile > lowtide_tensor::QUANTUM && !fits(tile) {
            tile -= lowtide_tensor::QUANTUM;
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
        let (one, two) = (self.boundary as u64, 2 * self.boundary as u64);
        let arena = |live: ByCategory, boundaries: u64| live.with(Category::Workspace, boundaries);
        let mut course = Timeline::new();
        let mut fullest = ByCategory::new();
        let mut push = |phase, segment, arena: ByCategory, kept: usize| {
            if arena.held() > fullest.held() {
                fullest = arena;
            }
            let live = scaled(arena.with(Category::Checkpoint, kept as u64), element);
            course.push(Span { phase, segment, live });
        };
        for (segment, schedule) in self.forward.iter().enumerate() {
            let kept = self.kept_up_to(segment);
            push("forward", segment, arena(schedule.live_at_peak, two), kept);
        }
        push("head", count, arena(head, two), self.checkpoint);
        for segment in (self.first..count).rev() {
            let live = self.backward[segment - self.first].live_at_peak;
            push("backward", segment, arena(live, one), self.kept_up_to(segment));
        }
        // What is reserved but not alive at the fullest moment is the arena's packing loss; it is
        // workspace too.
        let loss = self.arena as u64 - fullest.held();
        let reserved = fullest
            .with(Category::Workspace, loss)
            .with(Category::Checkpoint, self.checkpoint as u64);
        self.bytes = scaled(reserved, element);
        self.timeline = course;
    }

    /// Elements kept for backward while segment `segment` runs, its own included.
    fn kept_up_to(&self, segment: usize) -> usize {
        let Some(above) = (segment + 1).checked_sub(self.first) else { return 0 };
        let kept = self.forward[self.first..].iter().take(above).map(|s| s.kept);
        above * self.boundary + kept.sum::<usize>()
    }

    /// Bytes the executor will reserve, by category as alive at the fullest moment.
    #[must_use]
    pub fn bytes(&self) -> ByCategory {
        self.bytes
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

    /// What is kept between forward and backward.
    #[must_use]
    pub fn policy(&self) -> Policy {
        self.policy
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

/// Appends a schedule; blocks of one shape share one.
fn share(schedules: &mut Vec<Arc<Schedule>>, schedule: Schedule) {
    let shared = match schedules.last() {
        Some(last) if **last == schedule => Arc::clone(last),
        _ => Arc::new(schedule),
    };
    schedules.push(shared);
}

fn scaled(elements: ByCategory, element: u64) -> ByCategory {
    let mut bytes = ByCategory::new();
    for (category, n) in elements.iter() {
        bytes[category] = n * element;
    }
    bytes
}
