//! The adapter: which side is scaled, forward, backward, merge.

use core::ops::Range;

use lowtide_adapter::{Adapter, Cx, Facts, Forward, Init, Linear, NotMergeable, ParamSpec, Vjp};
use lowtide_backend::{Backend, Req};
use lowtide_tensor::{Float, MatMut, QUANTUM};

use crate::columns::{add_products, add_scaled, scale, scaled};

/// The smallest magnitude that a scale has in the computation: smaller ones count as this, with
/// their sign.
pub const SMALLEST: f32 = 1e-6;

/// Rows that are scaled at a time, where the scaled ones need room of their own: whole quanta, so
/// the bits are those of any other number.
const TILE: usize = 2 * QUANTUM;

/// `l`, but not closer to zero than [`SMALLEST`].
pub(crate) fn held_off<F: Float>(l: F) -> F {
    let smallest = F::from_f32(SMALLEST);
    if l.abs() < smallest {
        if l < F::ZERO { -smallest } else { smallest }
    } else {
        // What is not a number stays so, and is seen.
        l
    }
}

/// Which side of the linear is scaled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scales {
    /// The outputs, the bias included.
    Outputs,
    /// The inputs: feed-forward linears.
    Inputs,
}

/// IA3 on one linear of `I` features in and `O` out.
///
/// One parameter: `l [O, 1]` or `l [1, I]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Ia3 {
    in_features: usize,
    out_features: usize,
    scales: Scales,
    params: [ParamSpec; 1],
}

impl Ia3 {
    /// Name of the method in configurations.
    pub const KIND: &'static str = "ia3";

    /// An adapter of a linear `[out_features, in_features]`.
    #[must_use]
    pub fn new(in_features: usize, out_features: usize, scales: Scales) -> Self {
        let (shape, output_axis) = match scales {
            Scales::Outputs => ([out_features, 1], Some(0)),
            Scales::Inputs => ([1, in_features], None),
        };
        let (init, rank_axis) = (Init::Constant(1.0), None);
        let l = ParamSpec { name: "ia3_l", shape, init, output_axis, rank_axis };
        Self { in_features, out_features, scales, params: [l] }
    }

    /// Which side is scaled.
    #[must_use]
    pub fn scales(&self) -> Scales {
        self.scales
    }

    /// Width of the scaled rows that need room.
    fn width(&self) -> usize {
        match self.scales {
            Scales::Outputs => self.out_features,
            Scales::Inputs => self.in_features,
        }
    }

    /// Tiles of rows, each with room for as many scaled ones and the scratch left for the base.
    fn tiles<F: Float>(
        &self,
        rows: usize,
        scratch: &mut [F],
        mut work: impl FnMut(Range<usize>, MatMut<'_, F>, &mut [F]),
    ) {
        let width = self.width();
        let (room, rest) = scratch.split_at_mut(rows.min(TILE) * width);
        for start in (0..rows).step_by(TILE) {
            let tile = start..rows.min(start + TILE);
            let room = MatMut::new(&mut room[..tile.len() * width], tile.len(), width);
            work(tile, room, rest);
        }
    }

    /// `dx += (dy ⊙ l) W` and `dl += Σ dy y / l`.
    fn outputs_vjp<F: Float>(&self, cx: &Cx<'_, F>, operands: Vjp<'_, F>) {
        let Vjp { y, dy, dx, grad, scratch, .. } = operands;
        let y = y.expect("the backward of ia3 on outputs reads the output of its linear");
        add_products(dy, y, Some(cx.p), grad);
        let Some(mut dx) = dx else { return };
        self.tiles(dy.rows(), scratch, |tile, mut room, rest| {
            scaled(dy.rows_range(tile.clone()), cx.p, room.rb());
            cx.base.vjp(cx.be, room.as_ref(), dx.rb().rows_range(tile), rest);
        });
    }

    /// With `d = dy W`: `dx += d ⊙ l` and `dl += Σ d x`.
    fn inputs_vjp<F: Float>(&self, cx: &Cx<'_, F>, operands: Vjp<'_, F>) {
        let Vjp { x, dy, mut dx, grad, scratch, .. } = operands;
        let x = x.expect("the backward of ia3 on inputs reads the input of its linear");
        self.tiles(dy.rows(), scratch, |tile, mut d, rest| {
            d.fill(F::ZERO);
            cx.base.vjp(cx.be, dy.rows_range(tile.clone()), d.rb(), rest);
            add_products(d.as_ref(), x.rows_range(tile.clone()), None, grad);
            if let Some(dx) = &mut dx {
                add_scaled(d.as_ref(), cx.p, dx.rb().rows_range(tile));
            }
        });
    }
}

impl<F: Float> Adapter<F> for Ia3 {
    fn kind(&self) -> &'static str {
        Self::KIND
    }

    fn params(&self) -> &[ParamSpec] {
        &self.params
    }

    fn facts(&self) -> Facts {
        let reads_y = self.scales == Scales::Outputs;
        Facts { reads_x: !reads_y, reads_y, whole_sequence: false, mergeable: true }
    }

    fn req(&self, be: &dyn Backend<F>, base: &dyn Linear<F>, rows: usize) -> Req {
        let tile = rows.min(TILE);
        base.req(be, tile).plus(tile * self.width()).max(base.req(be, rows))
    }

    fn apply(&self, cx: &Cx<'_, F>, operands: Forward<'_, F>) {
        let Forward { x, mut y, scratch, .. } = operands;
        match self.scales {
            Scales::Outputs => {
                cx.base.apply(cx.be, x, y.rb(), scratch);
                scale(y, cx.p);
            }
            Scales::Inputs => self.tiles(x.rows(), scratch, |tile, mut room, rest| {
                scaled(x.rows_range(tile.clone()), cx.p, room.rb());
                cx.base.apply(cx.be, room.as_ref(), y.rb().rows_range(tile), rest);
            }),
        }
    }

    fn vjp(&self, cx: &Cx<'_, F>, operands: Vjp<'_, F>) {
        match self.scales {
            Scales::Outputs => self.outputs_vjp(cx, operands),
            Scales::Inputs => self.inputs_vjp(cx, operands),
        }
    }

    fn merge_rows(
        &self,
        _be: &dyn Backend<F>,
        p: &[F],
        _fixed: &[F],
        rows: Range<usize>,
        mut out: MatMut<'_, F>,
        _scratch: &mut [F],
    ) -> Result<(), NotMergeable> {
        match self.scales {
            Scales::Inputs => scale(out, p),
            Scales::Outputs => {
                for (at, &l) in p[rows].iter().enumerate() {
                    out.row_mut(at).iter_mut().for_each(|w| *w *= held_off(l));
                }
            }
        }
        Ok(())
    }

    fn merge_bias(&self, p: &[F], _fixed: &[F], rows: Range<usize>, out: &mut [F]) -> bool {
        if self.scales == Scales::Inputs {
            return false;
        }
        let mut changed = false;
        for (bias, &l) in out.iter_mut().zip(&p[rows]) {
            let merged = *bias * held_off(l);
            changed |= merged != *bias;
            *bias = merged;
        }
        changed
    }
}
