//! Lion with its momentum in f32 or in 8 bits: Chen et al., "Symbolic Discovery of Optimization
//! Algorithms" (2023). Every parameter moves by the rate or not at all; the paper advises a rate a
//! third to a tenth of AdamW's, and a decay that many times as strong.

use bytemuck::cast_slice_mut;
use lowtide_backend::{Backend, LionHyper, Momentum8};
use lowtide_quant::dynamic8;

use crate::slabs::{Part, for_each_tensor};
use crate::{Optimizer, StepHyper};

/// Lion with an f32 momentum: 4 bytes a parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lion {
    /// Share of the momentum in what the direction is taken of.
    pub beta1: f64,
    /// Decay of the momentum.
    pub beta2: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
}

impl Default for Lion {
    /// Betas 0.9 and 0.99, no decay.
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.99, weight_decay: 0.0 }
    }
}

impl Lion {
    fn hyper(&self, step: &StepHyper) -> LionHyper {
        LionHyper {
            lr: step.lr,
            beta1: self.beta1,
            beta2: self.beta2,
            weight_decay: self.weight_decay,
            grad_scale: step.grad_scale,
        }
    }
}

impl Optimizer for Lion {
    fn name(&self) -> &'static str {
        "lion"
    }

    fn state_words(&self, tensors: &[usize]) -> usize {
        tensors.iter().sum()
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
        let hyper = self.hyper(step);
        for_each_tensor(
            tensors,
            p,
            g,
            state,
            |n| n,
            |Part { p, g, state }| {
                be.lion(p, g, state, &hyper);
            },
        );
    }

    fn forget(&self, n: usize, state: &mut [f32], which: &dyn Fn(usize) -> bool) {
        (0..n).filter(|&i| which(i)).for_each(|i| state[i] = 0.0);
    }
}

/// Lion with an 8-bit momentum in blocks of 256: 1 byte a parameter and 4 bytes a block.
///
/// Blocks start anew at each tensor. The state of a tensor of `n` parameters, in bytes: `n` codes
/// of the signed map, zeros up to a whole word, then the absmax of each block as f32.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Lion8(
    /// The rule, which is the same.
    pub Lion,
);

impl Optimizer for Lion8 {
    fn name(&self) -> &'static str {
        "lion8bit"
    }

    fn state_words(&self, tensors: &[usize]) -> usize {
        tensors.iter().map(|&n| words8(n)).sum()
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
        let hyper = self.0.hyper(step);
        for_each_tensor(tensors, p, g, state, words8, |Part { p, g, state }| {
            be.lion8(p, g, momentum8(p.len(), state), &hyper);
        });
    }

    fn forget(&self, n: usize, state: &mut [f32], which: &dyn Fn(usize) -> bool) {
        let Momentum8 { m, .. } = momentum8(n, state);
        (0..n).filter(|&i| which(i)).for_each(|i| m[i] = dynamic8::ZERO_SIGNED);
    }
}

/// State of one tensor with an 8-bit momentum.
fn words8(n: usize) -> usize {
    n.div_ceil(4) + dynamic8::blocks(n)
}

/// The momentum of one tensor of `n` parameters in its part of the state.
fn momentum8(n: usize, state: &mut [f32]) -> Momentum8<'_> {
    let (codes, absmax) = state.split_at_mut(n.div_ceil(4));
    Momentum8 { m: &mut cast_slice_mut(codes)[..n], absmax }
}

#[cfg(test)]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use lowtide_backend::Scalar;

    use super::*;

    /// Five updates of three parameters, and what the paper's formula gives for them in f64.
    fn five(optimizer: &dyn Optimizer) -> (Vec<f32>, Vec<f64>) {
        let grads = [[0.5, -0.25, 0.0], [0.25, 2.0, 0.0], [-4.0, 2.0, 0.0], [1.0, 1.0, 0.0]];
        let mut p = vec![1.0_f32, -1.0, 0.5];
        let mut state = vec![f32::NAN; optimizer.state_words(&[3])];
        optimizer.init(&[3], &mut state);
        let (mut want, mut m) = (vec![1.0_f64, -1.0, 0.5], [0.0_f64; 3]);
        for (step, g) in (1..).zip(grads) {
            let hyper = StepHyper { lr: 0.125, step, grad_scale: 0.5 };
            optimizer.update(&Scalar, &[3], &mut p, &g, &mut state, &hyper);
            for i in 0..3 {
                let g = 0.5 * f64::from(g[i]);
                let c = 0.9 * m[i] + 0.1 * g;
                let sign = if c == 0.0 { 0.0 } else { c.signum() };
                want[i] -= 0.125 * (sign + 0.5 * want[i]);
                m[i] = 0.99 * m[i] + 0.01 * g;
            }
        }
        (p, want)
    }

    #[test]
    fn both_forms_follow_the_formula() {
        let lion = Lion { weight_decay: 0.5, ..Lion::default() };
        for optimizer in [&lion as &dyn Optimizer, &Lion8(lion)] {
            let (p, want) = five(optimizer);
            for (p, want) in p.iter().zip(want) {
                assert!((f64::from(*p) - want).abs() < 1e-6, "{}: {p}, {want}", optimizer.name());
            }
        }
    }

    #[test]
    fn states_take_the_bytes_that_are_documented() {
        let bytes =
            |optimizer: &dyn Optimizer, tensors: &[usize]| 4 * optimizer.state_words(tensors);
        assert_eq!(bytes(&Lion::default(), &[1000, 24]), 4 * 1024);
        let lion8 = Lion8::default();
        assert_eq!(bytes(&lion8, &[]), 0);
        assert_eq!(bytes(&lion8, &[1]), 1 + 3 + 4);
        assert_eq!(bytes(&lion8, &[256]), 256 + 4);
        assert_eq!(bytes(&lion8, &[257]), 257 + 3 + 2 * 4);
        assert_eq!(bytes(&lion8, &[256, 1, 1000]), 260 + 8 + 1016);
    }

    #[test]
    fn codes_and_scales_do_not_overlap() {
        let mut state = [0.0; 3];
        let Momentum8 { m, absmax } = momentum8(5, &mut state);
        m.fill(0x11);
        absmax.fill(3.0);
        let bytes: &[u8] = bytemuck::cast_slice(&state);
        assert_eq!(bytes[..8], [17, 17, 17, 17, 17, 0, 0, 0]);
        assert_eq!(state[2], 3.0);
    }
}
