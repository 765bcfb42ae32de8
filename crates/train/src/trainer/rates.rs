//! Learning rates and decays of single tensors: LoRA+ and patterns of names.

use std::ops::Range;

use lowtide_backend::Backend;
use lowtide_optim::{Optimizer, StepHyper};

use crate::groups::Group;

/// Of each tensor, the factor on the learning rate and which optimizer updates it. Nothing where
/// all are alike.
#[derive(Default)]
pub(super) struct Rates {
    tensors: Vec<(f64, Option<usize>)>,
    /// Those for decays of their own: the run's with another constant, and states of the same form.
    decays: Vec<(f64, Box<dyn Optimizer>)>,
}

impl Rates {
    /// For tensors of these groups; `with_decay` makes the run's optimizer with another decay.
    pub(super) fn of(
        groups: &[Group],
        mut with_decay: impl FnMut(f64) -> Box<dyn Optimizer>,
    ) -> Self {
        if groups.iter().all(|group| *group == Group::default()) {
            return Self::default();
        }
        let mut decays: Vec<(f64, Box<dyn Optimizer>)> = Vec::new();
        let mut tensor = |group: &Group| {
            let which = group.decay.map(|decay| {
                let known = decays.iter().position(|(known, _)| *known == decay);
                known.unwrap_or_else(|| {
                    decays.push((decay, with_decay(decay)));
                    decays.len() - 1
                })
            });
            (group.rate, which)
        };
        let tensors = groups.iter().map(&mut tensor).collect();
        Self { tensors, decays }
    }

    /// One update of `tensors`, of which `lens` has the lengths and the slabs hold no others.
    /// Neighbours of the same group are updated in one call, which changes no bit: a tensor's
    /// update reads nothing of another's.
    pub(super) fn update(
        &self,
        (optimizer, be): (&dyn Optimizer, &dyn Backend<f32>),
        (tensors, lens): (Range<usize>, &[usize]),
        mut p: &mut [f32],
        mut g: &[f32],
        mut state: &mut [f32],
        hyper: &StepHyper,
    ) {
        let mut lens = &lens[tensors.clone()];
        if self.tensors.is_empty() {
            return optimizer.update(be, lens, p, g, state, hyper);
        }
        for same in self.tensors[tensors].chunk_by(|a, b| a == b) {
            let (rate, decay) = same[0];
            let own = decay.map_or(optimizer, |which| self.decays[which].1.as_ref());
            let (now, later) = lens.split_at(same.len());
            let len = now.iter().sum();
            let (p_now, p_later) = p.split_at_mut(len);
            let (g_now, g_later) = g.split_at(len);
            let (state_now, state_later) = state.split_at_mut(own.state_words(now));
            let hyper = StepHyper { lr: hyper.lr * rate, ..*hyper };
            own.update(be, now, p_now, g_now, state_now, &hyper);
            (lens, p, g, state) = (later, p_later, g_later, state_later);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lowtide_backend::Scalar;
    use lowtide_optim::{AdamW8, Sgd};

    const LENS: [usize; 5] = [3, 2, 4, 300, 1];

    fn rates(of: [f64; 5]) -> Rates {
        let groups = of.map(|rate| Group { rate, decay: None });
        Rates::of(&groups, |_| panic!("no decay of its own"))
    }

    fn updated(optimizer: &dyn Optimizer, rates: &Rates) -> Vec<f32> {
        let len = LENS[1..].iter().sum();
        let mut p = vec![1.0; len];
        let g: Vec<f32> = (0..len).map(|i| 1.0 + i as f32).collect();
        let mut state = vec![0.0; optimizer.state_words(&LENS[1..])];
        let hyper = StepHyper { lr: 0.5, step: 1, grad_scale: 1.0 };
        let (of, tensors) = ((optimizer, &Scalar as _), (1..5, &LENS[..]));
        rates.update(of, tensors, &mut p, &g, &mut state, &hyper);
        p
    }

    #[test]
    fn each_tensor_learns_at_its_own_rate() {
        let rule = Sgd::default();
        let once = updated(&rule, &Rates::default());
        let p = updated(&rule, &rates([9.0, 4.0, 1.0, 1.0, 4.0]));
        for (i, (p, once)) in p.iter().zip(&once).enumerate() {
            let factor = if i < 2 || i == 306 { 4.0 } else { 1.0 };
            assert_eq!(1.0 - p, factor * (1.0 - once), "element {i}");
        }
    }

    #[test]
    fn tensors_at_the_common_rate_keep_their_bits() {
        let rule = AdamW8::default();
        let (together, apart) = (rates([1.0; 5]), rates([1.0, 1.0, 3.0, 1.0, 3.0]));
        let (together, apart) = (updated(&rule, &together), updated(&rule, &apart));
        assert_eq!((&together[..2], &together[6..306]), (&apart[..2], &apart[6..306]));
        assert!(together[2..6].iter().zip(&apart[2..6]).all(|(a, b)| a != b));
    }

    #[test]
    fn each_tensor_decays_as_its_group_says() {
        let decays = [None, Some(0.25), None, Some(0.5), Some(0.25)];
        let groups = decays.map(|decay| Group { rate: 1.0, decay });
        let mut made = Vec::new();
        let rates = Rates::of(&groups, |weight_decay| {
            made.push(weight_decay);
            Box::new(Sgd { weight_decay, momentum: 0.0 })
        });
        assert_eq!(made, [0.25, 0.5]);
        let p = updated(&Sgd { weight_decay: 1.0, momentum: 0.0 }, &rates);
        // 1 - 0.5 (g + decay), by tensors of 2, 4, 300 and 1.
        let want = |i: usize, decay: f32| 1.0 - 0.5 * (1.0 + i as f32 + decay);
        assert_eq!(
            [p[0], p[2], p[6], p[306]],
            [want(0, 0.25), want(2, 1.0), want(6, 0.5), want(306, 0.25)]
        );
    }
}
