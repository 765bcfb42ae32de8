//! Residual addition.

use alloc::vec::Vec;

use lowtide_tensor::Float;

use super::given;
use crate::{Cx, Facts, Forward, GradRule, MAX_INPUTS, Op, Vjp};

/// `y = a + b`, both `[T, cols]`.
#[derive(Clone, Copy, Debug)]
pub struct Add;

impl<F: Float> Op<F> for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn out_cols(&self, in_cols: &[usize]) -> Vec<usize> {
        assert!(in_cols.len() == 2 && in_cols[0] == in_cols[1], "add of widths {in_cols:?}");
        alloc::vec![in_cols[0]]
    }

    fn facts(&self) -> Facts {
        Facts {
            reads_inputs: 0,
            reads_outputs: 0,
            in_place: 0b11,
            history: 0,
            grads: [GradRule::PassThrough; MAX_INPUTS],
        }
    }

    fn forward(&self, cx: &Cx<'_, F>, operands: Forward<'_, F>) {
        let [a, b, ..] = operands.x;
        let [y, ..] = operands.y;
        let mut y = given(y, "the sum");
        // Addition commutes bit for bit, so it does not matter which term lies in `y`.
        let rest = match (a, b) {
            (Some(a), Some(b)) => {
                y.copy_from(a);
                b
            }
            (Some(rest), None) | (None, Some(rest)) => rest,
            (None, None) => panic!("both terms of a sum cannot lie in its storage"),
        };
        cx.be.axpby(F::ONE, rest, F::ONE, y);
    }

    fn vjp(&self, _cx: &Cx<'_, F>, _operands: Vjp<'_, F>) {}
}
