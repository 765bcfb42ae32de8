//! Stochastic gradient descent.

use lowtide_backend::{Backend, SgdHyper};

use crate::slabs::{Part, for_each_tensor};
use crate::{Optimizer, StepHyper};

/// `p -= lr * (g + weight_decay * p)`, without momentum and without state.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sgd {
    /// Added to the gradient as `weight_decay * p`.
    pub weight_decay: f64,
}

impl Optimizer for Sgd {
    fn name(&self) -> &'static str {
        "sgd"
    }

    fn state_words(&self, _tensors: &[usize]) -> usize {
        0
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
        for_each_tensor(tensors, p, g, state, |_| 0, |Part { p, g, .. }| be.sgd(p, g, &hyper));
    }
}

#[cfg(test)]
mod tests {
    use lowtide_backend::Scalar;

    use super::*;

    #[test]
    fn steps_against_scaled_gradient_and_decay() {
        let sgd = Sgd { weight_decay: 0.5 };
        let mut p = [1.0, -2.0, 4.0];
        let step = StepHyper { lr: 0.25, step: 1, grad_scale: 2.0 };
        sgd.update(&Scalar, &[2, 1], &mut p, &[1.0, 0.0, -1.0], &mut [], &step);
        // p - 0.25 (2 g + 0.5 p)
        assert_eq!(p, [0.375, -1.75, 4.0]);
        assert_eq!(sgd.state_words(&[2, 1]), 0);
    }

    #[test]
    #[should_panic(expected = "a gradient slab of 2 words for tensors that take 3")]
    fn gradients_of_another_length_are_refused() {
        let step = StepHyper { lr: 0.25, step: 1, grad_scale: 1.0 };
        Sgd::default().update(&Scalar, &[3], &mut [0.0; 3], &[0.0; 2], &mut [], &step);
    }
}
