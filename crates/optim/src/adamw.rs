//! AdamW with moments in f32 or in 8 bits.
//!
//! Decoupled weight decay: Loshchilov and Hutter, "Decoupled Weight Decay Regularization" (2019),
//! in the order of operations of `torch.optim.AdamW`. Block-wise 8-bit moments: Dettmers et al.,
//! "8-bit Optimizers via Block-wise Quantization" (2022), with nearest rounding and without a size
//! below which tensors would keep f32 moments: adapters are many small tensors.

use bytemuck::cast_slice_mut;
use lowtide_backend::{AdamHyper, Backend, Moments8};
use lowtide_quant::dynamic8;

use crate::slabs::{Part, for_each_tensor};
use crate::{Optimizer, StepHyper};

/// AdamW with f32 moments: 8 bytes a parameter. The state of a tensor of `n` parameters is its
/// first moment `[n]`, then its second `[n]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the denominator.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
}

impl Default for AdamW {
    /// Betas 0.9 and 0.999, eps 1e-8, no decay.
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0 }
    }
}

impl AdamW {
    fn hyper(&self, step: &StepHyper) -> AdamHyper {
        AdamHyper {
            lr: step.lr,
            beta1: self.beta1,
            beta2: self.beta2,
            eps: self.eps,
            weight_decay: self.weight_decay,
            step: step.step,
            grad_scale: step.grad_scale,
        }
    }
}

impl Optimizer for AdamW {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn state_words(&self, tensors: &[usize]) -> usize {
        tensors.iter().map(|&n| words(n)).sum()
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
        for_each_tensor(tensors, p, g, state, words, |Part { p, g, state }| {
            let (m, v) = state.split_at_mut(p.len());
            be.adamw(p, g, m, v, &hyper);
        });
    }

    fn forget(&self, n: usize, state: &mut [f32], which: &dyn Fn(usize) -> bool) {
        let (m, v) = state.split_at_mut(n);
        for i in (0..n).filter(|&i| which(i)) {
            (m[i], v[i]) = (0.0, 0.0);
        }
    }
}

/// AdamW with 8-bit moments in blocks of 256: 2 bytes a parameter and 8 bytes a block.
///
/// Blocks start anew at each tensor, and every tensor is stored so, however small. The state of a
/// tensor of `n` parameters, in bytes:
///
/// | bytes | what |
/// |---|---|
/// | `n` | codes of the first moment, signed map |
/// | `n` | codes of the second moment, unsigned map |
/// | 0 or 2 | zeros up to a whole word |
/// | `4 * ceil(n / 256)` | absmax of the blocks of the first moment, f32 |
/// | `4 * ceil(n / 256)` | absmax of the blocks of the second moment, f32 |
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct AdamW8(
    /// The rule, which is the same.
    pub AdamW,
);

impl Optimizer for AdamW8 {
    fn name(&self) -> &'static str {
        "adamw8bit"
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
            be.adamw8(p, g, moments8(p.len(), state), &hyper);
        });
    }

    fn forget(&self, n: usize, state: &mut [f32], which: &dyn Fn(usize) -> bool) {
        let Moments8 { m, v, .. } = moments8(n, state);
        for i in (0..n).filter(|&i| which(i)) {
            (m[i], v[i]) = (dynamic8::ZERO_SIGNED, dynamic8::ZERO_UNSIGNED);
        }
    }
}

/// State of one tensor with f32 moments.
fn words(n: usize) -> usize {
    2 * n
}

/// State of one tensor with 8-bit moments.
fn words8(n: usize) -> usize {
    code_words(n) + 2 * dynamic8::blocks(n)
}

/// Words that the `2 n` codes of one tensor fill.
fn code_words(n: usize) -> usize {
    n.div_ceil(2)
}

/// The moments of one tensor of `n` parameters in its part of the state.
fn moments8(n: usize, state: &mut [f32]) -> Moments8<'_> {
    let (codes, absmax) = state.split_at_mut(code_words(n));
    let (m, v) = cast_slice_mut(codes)[..2 * n].split_at_mut(n);
    let (m_absmax, v_absmax) = absmax.split_at_mut(dynamic8::blocks(n));
    Moments8 { m, v, m_absmax, v_absmax }
}

#[cfg(test)]
mod tests;
