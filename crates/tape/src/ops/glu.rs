//! Gated linear unit.

use alloc::vec::Vec;

use lowtide_backend::Activation;
use lowtide_tensor::Float;

use super::given;
use crate::{Cx, Facts, Forward, GradRule, MAX_INPUTS, Op, Vjp};

/// `y = act(gate) ⊙ up`, all `[T, F]`. Backward turns both inputs into their gradients in place.
#[derive(Clone, Copy, Debug)]
pub struct Glu {
    /// The gate's activation.
    pub act: Activation,
}

impl<F: Float> Op<F> for Glu {
    fn name(&self) -> &'static str {
        "glu"
    }

    fn out_cols(&self, in_cols: &[usize]) -> Vec<usize> {
        assert!(in_cols.len() == 2 && in_cols[0] == in_cols[1], "glu of widths {in_cols:?}");
        alloc::vec![in_cols[0]]
    }

    fn facts(&self) -> Facts {
        Facts {
            reads_inputs: 0b11,
            reads_outputs: 0,
            in_place: 0b1,
            history: 0,
            grads: [GradRule::OverValue; MAX_INPUTS],
        }
    }

    fn forward(&self, cx: &Cx<'_, F>, operands: Forward<'_, F>) {
        let [gate, up, ..] = operands.x;
        let [y, ..] = operands.y;
        let (y, up) = (given(y, "the gated product"), given(up, "the up projection"));
        match gate {
            Some(gate) => cx.be.glu(self.act, gate, up, y),
            None => cx.be.glu_in_place(self.act, y, up),
        }
    }

    fn vjp(&self, cx: &Cx<'_, F>, operands: Vjp<'_, F>) {
        let [gate, up, ..] = operands.dx;
        let dy = given(operands.dy, "the product's gradient");
        cx.be.glu_vjp(self.act, dy, given(gate, "the gate"), given(up, "the up projection"));
    }
}
