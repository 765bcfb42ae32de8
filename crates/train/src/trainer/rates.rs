//! Learning rates of single tensors, relative to an update's: LoRA+.

use std::ops::Range;

use lowtide_backend::Backend;
use lowtide_model::Site;
use lowtide_optim::{Optimizer, StepHyper};

/// Name of the tensors that LoRA+ lets learn faster: the second factors, which start at zero.
const FASTER: &str = "lora_B.weight";

/// Of each tensor, the factor on the learning rate. Nothing where all are one.
#[derive(Default)]
pub(super) struct Rates(Vec<f64>);

/// Whether there is something for LoRA+ to let learn faster.
pub(crate) fn has_second_factors(sites: &[Site]) -> bool {
    sites.iter().flat_map(|site| &site.params).any(|spec| spec.name == FASTER)
}

impl Rates {
    /// `ratio` for the second factors of low-rank updates, one for all others (Hayou et al.,
    /// "LoRA+: Efficient Low Rank Adaptation of Large Models", 2024). `None` where there is none.
    pub(super) fn lora_plus(sites: &[Site], ratio: f64) -> Option<Self> {
        let specs = || sites.iter().flat_map(|site| &site.params);
        let factor = |faster| if faster { ratio } else { 1.0 };
        let factors = || specs().map(|spec| factor(spec.name == FASTER)).collect();
        has_second_factors(sites).then(|| Self(if ratio == 1.0 { Vec::new() } else { factors() }))
    }

    /// One update of `tensors`, of which `lens` has the lengths and the slabs hold no others.
    /// Neighbours with the same rate are updated in one call, which changes no bit: a tensor's
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
        if self.0.is_empty() {
            return optimizer.update(be, lens, p, g, state, hyper);
        }
        for same in self.0[tensors].chunk_by(|a, b| a == b) {
            let (now, later) = lens.split_at(same.len());
            let len = now.iter().sum();
            let (p_now, p_later) = p.split_at_mut(len);
            let (g_now, g_later) = g.split_at(len);
            let (state_now, state_later) = state.split_at_mut(optimizer.state_words(now));
            let hyper = StepHyper { lr: hyper.lr * same[0], ..*hyper };
            optimizer.update(be, now, p_now, g_now, state_now, &hyper);
            (lens, p, g, state) = (later, p_later, g_later, state_later);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Rates;
    use lowtide_backend::Scalar;
    use lowtide_optim::{AdamW8, Optimizer, Sgd, StepHyper};

    const LENS: [usize; 5] = [3, 2, 4, 300, 1];

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
        let p = updated(&rule, &Rates(vec![9.0, 4.0, 1.0, 1.0, 4.0]));
        for (i, (p, once)) in p.iter().zip(&once).enumerate() {
            let factor = if i < 2 || i == 306 { 4.0 } else { 1.0 };
            assert_eq!(1.0 - p, factor * (1.0 - once), "element {i}");
        }
    }

    #[test]
    fn tensors_at_the_common_rate_keep_their_bits() {
        let rule = AdamW8::default();
        let (together, apart) = (Rates::default(), Rates(vec![1.0, 1.0, 3.0, 1.0, 3.0]));
        let (together, apart) = (updated(&rule, &together), updated(&rule, &apart));
        assert_eq!((&together[..2], &together[6..306]), (&apart[..2], &apart[6..306]));
        assert!(together[2..6].iter().zip(&apart[2..6]).all(|(a, b)| a != b));
    }
}
