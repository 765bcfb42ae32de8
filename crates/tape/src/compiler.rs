//! From a program to the schedules of its segments, in both directions.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use lowtide_backend::Backend;
use lowtide_tensor::Float;

use crate::schedule::{Keep, Needs, Schedule, aligned};
use crate::selection::{Pick, picks, select};
use crate::{Limits, Policy, Program};

/// What the schedules of a program depend on, but for what is kept and for tiles.
pub(crate) struct Compiler<'c, 'w, F: Float> {
    program: &'c Program<'w, F>,
    be: &'c dyn Backend<F>,
    limits: Limits,
    /// The segments that are differentiated.
    trained: Range<usize>,
    /// Of each of these, what its backward needs.
    needs: Vec<Needs>,
}

/// The schedules of all segments forward, and of those that are differentiated backward.
pub(crate) struct Compiled {
    pub(crate) forward: Vec<Arc<Schedule>>,
    pub(crate) backward: Vec<Arc<Schedule>>,
}

impl<'c, 'w, F: Float> Compiler<'c, 'w, F> {
    /// For training from segment `first` up.
    pub(crate) fn new(
        program: &'c Program<'w, F>,
        be: &'c dyn Backend<F>,
        limits: Limits,
        first: usize,
    ) -> Self {
        let trained = first..program.segments.len();
        let needs = trained.clone().map(|i| program.segments[i].needs(i > first)).collect();
        Self { program, be, limits, trained, needs }
    }

    /// The schedules under a policy, over tiles of `tile` rows. Forward takes larger tiles where
    /// that makes the arena no larger: weights are decoded once for each tile.
    pub(crate) fn compile(&self, policy: Policy, tile: usize) -> Compiled {
        let keeps = self.keeps(policy);
        let mut forward = self.forward(&keeps, tile);
        let backward = self.backward(&keeps, tile, &forward);
        if backward.is_empty() {
            return Compiled { forward, backward };
        }
        let boundary = aligned(self.limits.tokens * self.program.hidden());
        // Backward has one boundary value in the arena, forward two.
        let room = (extent(&forward) + boundary).max(extent(&backward));
        let library = library(&forward).max(library(&backward));
        let mut wide = tile;
        while wide < self.limits.tokens {
            wide = wide.saturating_mul(2);
            let wider = self.forward(&keeps, wide);
            if extent(&wider) + boundary > room || self::library(&wider) > library {
                break;
            }
            forward = wider;
        }
        Compiled { forward, backward }
    }

    fn forward(&self, keeps: &[Keep], tile: usize) -> Vec<Arc<Schedule>> {
        let mut schedules = Vec::with_capacity(self.trained.end);
        for (i, segment) in self.program.segments.iter().enumerate() {
            let keep = i.checked_sub(self.trained.start).map(|i| &keeps[i]).filter(|k| k.any());
            share(&mut schedules, segment.plan_forward(keep, self.be, self.limits, tile));
        }
        schedules
    }

    fn backward(
        &self,
        keeps: &[Keep],
        tile: usize,
        forward: &[Arc<Schedule>],
    ) -> Vec<Arc<Schedule>> {
        let mut schedules = Vec::with_capacity(self.trained.len());
        for ((i, needs), keep) in self.trained.clone().zip(&self.needs).zip(keeps) {
            let kept = keep.any().then(|| (keep, &*forward[i]));
            let segment = &self.program.segments[i];
            let schedule = segment.plan_backward(needs, kept, self.be, self.limits, tile);
            share(&mut schedules, schedule);
        }
        schedules
    }

    /// What each differentiated segment keeps besides its input.
    fn keeps(&self, policy: Policy) -> Vec<Keep> {
        let nothing = |i: usize| Keep::nothing(self.program.segments[i].graph.cols.len());
        match policy {
            Policy::Store => self.needs.iter().map(Keep::everything).collect(),
            Policy::Selective { bytes } => {
                let room = usize::try_from(bytes).unwrap_or(usize::MAX) / size_of::<F>();
                let picks: Vec<Vec<Pick>> = self.trained.clone().map(|i| self.picks(i)).collect();
                let keep = |(i, taken): (usize, usize)| {
                    let mut keep = nothing(self.trained.start + i);
                    let values = picks[i][..taken].iter().flat_map(|pick| &pick.values);
                    values.for_each(|v| keep.add(*v));
                    keep
                };
                select(&picks, room).into_iter().enumerate().map(keep).collect()
            }
            Policy::Block | Policy::Every(_) | Policy::Sqrt => {
                self.trained.clone().map(nothing).collect()
            }
        }
    }

    fn picks(&self, segment: usize) -> Vec<Pick> {
        let needs = &self.needs[segment - self.trained.start];
        picks(&self.program.segments[segment].graph, needs, self.limits)
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

/// Elements of the arena that the widest needs.
fn extent(schedules: &[Arc<Schedule>]) -> usize {
    schedules.iter().map(|schedule| schedule.arena).max().unwrap_or(0)
}

fn library(schedules: &[Arc<Schedule>]) -> usize {
    schedules.iter().map(|schedule| schedule.library_bytes).max().unwrap_or(0)
}
