//! Pairs of low rank that are switched off while a run goes on.

use lowtide_model::Site;
use lowtide_tape::Params;

use super::Trainer;
use crate::ranks::{Ranks, Score, compact, is_on, restore};
use crate::{AdaptiveRank, TrainError};

impl Trainer<'_, '_> {
    /// Lets the run switch pairs off on its way, as `course` says. The plan must have been made
    /// with room for their scores.
    ///
    /// # Panics
    /// When the plan has no such room, or a site has no pairs.
    pub fn set_adaptive_rank(&mut self, course: AdaptiveRank) {
        let ranks = Ranks::new(course, &self.model.sites, &self.ranges);
        let (pairs, room) = (ranks.left(), self.held.scores.get::<Score>().len());
        assert!(pairs == room, "{pairs} pairs in a plan with room for the scores of {room}");
        self.ranks = Some(ranks);
    }

    /// Pairs of each site that are still trained, where the run switches some off.
    #[must_use]
    pub fn ranks_left(&self) -> Option<Vec<usize>> {
        let (ranks, scores) = (self.ranks.as_ref()?, self.held.scores.get::<Score>());
        let of = |site| scores[ranks.of_site(site)].iter().filter(|score| is_on(score)).count();
        Some((0..self.model.sites.len()).map(of).collect())
    }

    /// All pairs that are still trained, where the run switches some off.
    #[must_use]
    pub fn pairs_left(&self) -> Option<usize> {
        self.ranks.as_ref().map(Ranks::left)
    }

    /// Switches off what is due after update `step`: parameters and frozen tensors become zero, and
    /// the optimizer forgets them. Gradients of such a pair are exactly zero from then on, so it
    /// stays what it is without being looked at again.
    ///
    /// # Errors
    /// When the states lie in a file and it fails.
    pub(super) fn prune(&mut self, step: u64) -> Result<(), TrainError> {
        let Some(ranks) = &mut self.ranks else { return Ok(()) };
        if !ranks.advance(step, self.held.scores.get_mut()) {
            return Ok(());
        }
        let scores = self.held.scores.get::<Score>();
        let (params, states) = (&mut self.held.params, &mut self.held.states);
        let fixed = self.executor.fixed_mut();
        let mut words = 0;
        for (number, site) in self.model.sites.iter().enumerate() {
            let scores = &scores[ranks.of_site(number)];
            let is_off = |pair: Option<usize>| pair.is_some_and(|pair| !is_on(&scores[pair]));
            let mut start = site.range.start;
            for spec in &site.params {
                let off = |element| is_off(spec.pair_of(element));
                let own = words..words + self.optimizer.state_words(&[spec.len()]);
                words = own.end;
                params.change(start..start + spec.len(), &mut |values| zero(values, &off));
                states.with(own, |state| self.optimizer.forget(spec.len(), state, &off))?;
                start += spec.len();
            }
            let mut start = site.fixed.start;
            for spec in &site.frozen {
                zero(&mut fixed[start..start + spec.len()], &|at| is_off(spec.pair_of(at)));
                start += spec.len();
            }
        }
        self.executor.params_changed();
        Ok(())
    }

    /// Lets `look` see the sites and their values as they are saved: without the pairs that are
    /// switched off. Nothing is copied.
    pub(crate) fn compacted<R>(&mut self, look: impl FnOnce(&[Site], (&[f32], &[f32])) -> R) -> R {
        let (sites, ranks) = (&self.model.sites, self.ranks.take());
        let Some(ranks) = ranks else {
            return self.with_values(|values| look(sites, (values.params, values.fixed)));
        };
        // A byte a pair, which is what the site has two floats of in the ledger.
        let on: Vec<bool> = self.held.scores.get::<Score>().iter().map(is_on).collect();
        let on = |site: usize, pair: usize| on[ranks.of_site(site)][pair];
        let seen = self.with_values(|mut values| {
            let kept = compact(sites, &mut values, &on);
            let seen = look(&kept, (values.params, values.fixed));
            restore(sites, &mut values, &on);
            seen
        });
        self.ranks = Some(ranks);
        seen
    }
}

fn zero(values: &mut [f32], which: &dyn Fn(usize) -> bool) {
    values.iter_mut().enumerate().filter(|(at, _)| which(*at)).for_each(|(_, value)| *value = 0.0);
}
