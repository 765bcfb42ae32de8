//! Stochastic gradient descent.

use lowtide_backend::{Backend, SgdHyper};

use crate::slabs::{Part, for_each_tensor};
use crate::{Optimizer, StepHyper};

/// `p -= lr * (g + weight_decay * p)`, without state; with momentum, as torch has it without
/// dampening, `m = momentum * m + g + weight_decay * p` and `p -= lr * m`, with 4 bytes a
/// parameter.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sgd {
    /// Added to the gradient as `weight_decay * p`.
    pub weight_decay: f64,
    /// What is left of the last step in the next; 0 for none, and then there is no state.
    pub momentum: f64,
}

impl Sgd {
    fn words(&self, n: usize) -> usize {
        if self.momentum == 0.0 { 0 } else { n }
    }
}

impl Optimizer for Sgd {
    fn name(&self) -> &'static str {
        "sgd"
    }

    fn state_words(&self, tensors: &[usize]) -> usize {
        tensors.iter().map(|&n| self.words(n)).sum()
    }

    fn update(
        &self,
        be: &dyn Backend<f32>,
        tensors: &[usize],
        p: &mut [f32],
        g: &[f32],
        state: &mut [f32],
        step: &StepHyper,
    ) {
        let hyper =
            SgdHyper { lr: step.lr, weight_decay: self.weight_decay, grad_scale: step.grad_scale };
        for_each_tensor(
            tensors,
            p,
            g,
            state,
            |n| self.words(n),
            |Part { p, g, state }| match self.momentum {
                0.0 => be.sgd(p, g, &hyper),
                momentum => be.sgd_momentum(p, g, state, momentum, &hyper),
            },
        );
    }

    fn forget(&self, n: usize, state: &mut [f32], which: &dyn Fn(usize) -> bool) {
        (0..self.words(n)).filter(|&i| which(i)).for_each(|i| state[i] = 0.0);
    }
}

#[cfg(test)]
mod tests {
    use lowtide_backend::Scalar;

    use super::*;

    #[test]
    fn steps_against_scaled_gradient_and_decay() {
        let sgd = Sgd { weight_decay: 0.5, momentum: 0.0 };
        let mut p = [1.0, -2.0, 4.0];
        let step = StepHyper { lr: 0.25, step: 1, grad_scale: 2.0 };
        sgd.update(&Scalar, &[2, 1], &mut p, &[1.0, 0.0, -1.0], &mut [], &step);
        // p - 0.25 (2 g + 0.5 p)
        assert_eq!(p, [0.375, -1.75, 4.0]);
        assert_eq!(sgd.state_words(&[2, 1]), 0);
    }

    #[test]
    fn momentum_carries_steps_on() {
        let sgd = Sgd { weight_decay: 0.5, momentum: 0.5 };
        let (mut p, mut m) = ([1.0, -2.0], [f32::NAN; 2]);
        assert_eq!(sgd.state_words(&[1, 1]), 2);
        sgd.init(&[1, 1], &mut m);
        let step = StepHyper { lr: 0.25, step: 1, grad_scale: 2.0 };
        sgd.update(&Scalar, &[1, 1], &mut p, &[1.0, 0.0], &mut m, &step);
        // 2 g + 0.5 p, as without momentum.
        assert_eq!((p, m), ([0.375, -1.75], [2.5, -1.0]));
        sgd.update(&Scalar, &[1, 1], &mut p, &[0.0, 1.0], &mut m, &step);
        // Half of that, and 2 g + 0.5 p.
        assert_eq!(m, [1.25 + 0.1875, -0.5 + 2.0 - 0.875]);
        assert_eq!(p, [0.375 - 0.25 * 1.4375, -1.75 - 0.25 * 0.625]);
    }

    #[test]
    #[should_panic(expected = "a gradient slab of 2 words for tensors that take 3")]
    fn gradients_of_another_length_are_refused() {
        let step = StepHyper { lr: 0.25, step: 1, grad_scale: 1.0 };
        Sgd::default().update(&Scalar, &[3], &mut [0.0; 3], &[0.0; 2], &mut [], &step);
    }
}
