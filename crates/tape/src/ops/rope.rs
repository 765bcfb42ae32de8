//! Rotary position embedding.

use alloc::boxed::Box;
use alloc::vec::Vec;

use lowtide_backend::{Direction, Pairing};
use lowtide_tensor::Float;

use super::given;
use crate::{Cx, Facts, Forward, GradRule, MAX_INPUTS, Op, Vjp};

/// Rotates each head of `x [T, H * d]` by its position; the adjoint is the inverse rotation, so
/// backward needs no value.
#[derive(Clone, Debug)]
pub struct Rope<F> {
    /// Width of one head.
    pub head_dim: usize,
    /// Angular speed of each rotating pair.
    pub inv_freq: Box<[F]>,
    /// Which elements rotate together.
    pub pairing: Pairing,
}

impl<F: Float> Op<F> for Rope<F> {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn out_cols(&self, in_cols: &[usize]) -> Vec<usize> {
        assert!(
            in_cols.len() == 1 && in_cols[0].is_multiple_of(self.head_dim),
            "rope of widths {in_cols:?} with heads of {}",
            self.head_dim
        );
        in_cols.to_vec()
    }

    fn facts(&self) -> Facts {
        Facts {
            reads_inputs: 0,
            reads_outputs: 0,
            in_place: 0b1,
            history: 0,
            grads: [GradRule::OverDy; MAX_INPUTS],
        }
    }

    fn forward(&self, cx: &Cx<'_, F>, operands: Forward<'_, F>) {
        let [x, ..] = operands.x;
        let [y, ..] = operands.y;
        let mut y = given(y, "the rotated heads");
        if let Some(x) = x {
            y.copy_from(x);
        }
        let (d, freq) = (self.head_dim, &self.inv_freq);
        cx.be.rope(y, d, cx.positions, freq, self.pairing, Direction::Forward);
    }

    fn vjp(&self, cx: &Cx<'_, F>, operands: Vjp<'_, F>) {
        let [dx, ..] = operands.dx;
        let (dx, d, freq) = (given(dx, "the gradient"), self.head_dim, &self.inv_freq);
        cx.be.rope(dx, d, cx.positions, freq, self.pairing, Direction::Backward);
    }
}
