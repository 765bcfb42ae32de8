//! An adapter of another kind than LoRA: backward reads the output of its linear, not the input.

use lowtide_adapter::{Adapter, Cx, Facts, Forward, Init, Linear, ParamSpec, Vjp};
use lowtide_backend::{Backend, Req};
use lowtide_tensor::{Float, MatMut};

/// `y = g ⊙ (x Wᵀ + b)` with a trained `g [O]` that has no zero.
pub(crate) struct Gain {
    params: [ParamSpec; 1],
}

impl Gain {
    pub(crate) fn new(out_features: usize) -> Self {
        let (shape, init) = ([out_features, 1], Init::Constant(1.0));
        let (output_axis, rank_axis) = (Some(0), None);
        Self { params: [ParamSpec { name: "gain", shape, init, output_axis, rank_axis }] }
    }
}

impl<F: Float> Adapter<F> for Gain {
    fn kind(&self) -> &'static str {
        "gain"
    }

    fn params(&self) -> &[ParamSpec] {
        &self.params
    }

    fn facts(&self) -> Facts {
        Facts { reads_x: false, reads_y: true, whole_sequence: false, mergeable: false }
    }

    fn req(&self, be: &dyn Backend<F>, base: &dyn Linear<F>, rows: usize) -> Req {
        base.req(be, rows).plus(rows * self.params[0].len())
    }

    fn apply(&self, cx: &Cx<'_, F>, operands: Forward<'_, F>) {
        let (Cx { be, base, p, .. }, Forward { x, mut y, scratch, .. }) = (*cx, operands);
        base.apply(be, x, y.rb(), scratch);
        for t in 0..y.rows() {
            y.row_mut(t).iter_mut().zip(p).for_each(|(y, g)| *y *= *g);
        }
    }

    fn vjp(&self, cx: &Cx<'_, F>, operands: Vjp<'_, F>) {
        let (p, Vjp { x, y, dy, dx, grad, scratch, .. }) = (cx.p, operands);
        assert!(x.is_none(), "an input that is not read is not lent");
        let y = y.expect("an output that is read is lent");
        let (scaled, scratch) = scratch.split_at_mut(dy.len());
        let mut scaled = MatMut::new(scaled, dy.rows(), dy.cols());
        for t in 0..dy.rows() {
            for o in 0..dy.cols() {
                grad[o] += dy.get(t, o) * y.get(t, o) / p[o];
                *scaled.at(t, o) = dy.get(t, o) * p[o];
            }
        }
        if let Some(dx) = dx {
            cx.base.vjp(cx.be, scaled.as_ref(), dx, scratch);
        }
    }
}
