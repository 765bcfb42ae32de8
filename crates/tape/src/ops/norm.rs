//! Root-mean-square normalisation, of whole rows or head by head.

use alloc::boxed::Box;
use alloc::vec::Vec;

use lowtide_tensor::Float;

use super::{given, per_head, per_head_mut};
use crate::{Cx, Facts, Forward, GradRule, MAX_INPUTS, Op, Vjp};

/// `y = x / rms(x) ⊙ w` over groups of `w.len()` columns: one group is a block's norm, one a head
/// is the q/k norm of Qwen3 and Gemma 3. Output 1 is `[T, groups]`, the reciprocal root mean
/// squares.
#[derive(Clone, Debug)]
pub struct RmsNorm<F> {
    /// Frozen weight, one a column of a group.
    pub weight: Box<[F]>,
    /// Added to the mean square.
    pub eps: F,
}

impl<F: Float> Op<F> for RmsNorm<F> {
    fn name(&self) -> &'static str {
        "rmsnorm"
    }

    fn out_cols(&self, in_cols: &[usize]) -> Vec<usize> {
        let width = self.weight.len();
        assert!(
            in_cols.len() == 1 && width > 0 && in_cols[0].is_multiple_of(width),
            "rmsnorm of widths {in_cols:?} in groups of {width}"
        );
        alloc::vec![in_cols[0], in_cols[0] / width]
    }

    fn facts(&self) -> Facts {
        Facts {
            reads_inputs: 0b1,
            reads_outputs: 0b10,
            in_place: 0,
            history: 0,
            grads: [GradRule::Accumulate; MAX_INPUTS],
        }
    }

    fn forward(&self, cx: &Cx<'_, F>, operands: Forward<'_, F>) {
        let [x, ..] = operands.x;
        let [y, rstd] = operands.y;
        let width = self.weight.len();
        let x = per_head(given(x, "the norm's input"), width);
        let y = per_head_mut(given(y, "the norm's output"), width);
        let (rstd, _) = given(given(rstd, "the norm's reciprocals").contiguous(), "one slice");
        cx.be.rmsnorm(x, &self.weight, self.eps, y, rstd);
    }

    fn vjp(&self, cx: &Cx<'_, F>, operands: Vjp<'_, F>) {
        let [x, ..] = operands.x;
        let [_, rstd] = operands.y;
        let [dx, ..] = operands.dx;
        let Some(dx) = dx else { return };
        let width = self.weight.len();
        let x = per_head(given(x, "the norm's input"), width);
        let dy = per_head(given(operands.dy, "the norm's gradient"), width);
        let (rstd, _) = given(given(rstd, "the norm's reciprocals").contiguous(), "one slice");
        cx.be.rmsnorm_vjp(x, &self.weight, rstd, dy, per_head_mut(dx, width));
    }
}
