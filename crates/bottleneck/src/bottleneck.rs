//! The adapter: shapes, forward, backward.

use core::ops::Range;

use lowtide_adapter::{
    Adapter, BadValue, Config, Cx, Facts, Forward, Init, Keeps, Linear, ParamSpec, Place, Vjp,
};
use lowtide_backend::{Backend, OpShape, Req};
use lowtide_tensor::{Float, Mat, MatMut, QUANTUM};

use crate::NonLinearity;

/// The largest inner width that is accepted.
pub const RANK_MAX: usize = 1 << 16;

/// Rows that are worked on at a time: whole quanta, so the bits are those of any other number.
const TILE: usize = 2 * QUANTUM;

/// A bottleneck of inner width `r` behind a base that gives `O` features.
///
/// Parameters, one after another: `D [O, r]`, `b1 [r, 1]`, `U [O, r]`, `b2 [O, 1]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Bottleneck {
    width: usize,
    rank: usize,
    place: Place,
    act: NonLinearity,
    params: [ParamSpec; 4],
}

/// The parameters as matrices, or room for their gradients cut the same way.
struct Weights<'p, F> {
    /// `[O, r]`: its rows are those of the base's outputs, so that files can follow their order.
    down: Mat<'p, F>,
    down_bias: &'p [F],
    up: Mat<'p, F>,
    up_bias: &'p [F],
}

/// Room for one tile of rows.
struct Room<'s, F> {
    /// `[tile, O]`.
    wide: MatMut<'s, F>,
    /// Three of `[tile, r]`.
    inner: [MatMut<'s, F>; 3],
    rest: &'s mut [F],
}

impl Bottleneck {
    /// Name of the method in configurations.
    pub const KIND: &'static str = "bottleneck";

    /// An adapter behind a base that gives `width` features; its inner width is `config.rank`.
    ///
    /// # Errors
    /// [`BadValue`] when the rank is 0 or above [`RANK_MAX`], or a dropout is asked for, which this
    /// method does not have.
    pub fn new(
        width: usize,
        place: Place,
        act: NonLinearity,
        config: &Config,
    ) -> Result<Self, BadValue> {
        let bad = |field, value, expected| BadValue { method: Self::KIND, field, value, expected };
        let rank = config.rank;
        if rank == 0 || rank > RANK_MAX {
            return Err(bad("rank", rank as f64, "a whole number from 1 to 65536"));
        }
        if config.dropout != 0.0 {
            return Err(bad("dropout", config.dropout, "0: this method drops nothing"));
        }
        let bound = 1.0 / Float::sqrt(width as f32);
        // The rank is the width of a layer with a non-linearity, not of a product.
        let rank_axis = None;
        let spec = |name, shape, init, output_axis| ParamSpec {
            name,
            shape,
            init,
            output_axis,
            rank_axis,
        };
        let params = [
            spec("adapter_down.weight", [width, rank], Init::Uniform { bound }, Some(0)),
            spec("adapter_down.bias", [rank, 1], Init::Zeros, None),
            spec("adapter_up.weight", [width, rank], Init::Zeros, Some(0)),
            spec("adapter_up.bias", [width, 1], Init::Zeros, Some(0)),
        ];
        Ok(Self { width, rank, place, act, params })
    }

    /// Inner width `r`.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.rank
    }

    fn weights<'p, F: Float>(&self, p: &'p [F]) -> Weights<'p, F> {
        let (down, p) = p.split_at(self.width * self.rank);
        let (down_bias, p) = p.split_at(self.rank);
        let (up, up_bias) = p.split_at(self.width * self.rank);
        let (down, up) =
            (Mat::new(down, self.width, self.rank), Mat::new(up, self.width, self.rank));
        Weights { down, down_bias, up, up_bias }
    }

    /// Elements of a tile's room.
    fn room_len(&self, tile: usize) -> usize {
        tile * (self.width + 3 * self.rank)
    }

    fn room<'s, F: Float>(&self, rows: usize, scratch: &'s mut [F]) -> Room<'s, F> {
        let (wide, rest) = scratch.split_at_mut(rows * self.width);
        let (inner, rest) = rest.split_at_mut(3 * rows * self.rank);
        let wide = MatMut::new(wide, rows, self.width);
        let (first, more) = inner.split_at_mut(rows * self.rank);
        let (second, third) = more.split_at_mut(rows * self.rank);
        let inner = [first, second, third].map(|inner| MatMut::new(inner, rows, self.rank));
        Room { wide, inner, rest }
    }

    /// What the inner layer needs, on a tile.
    fn own_req<F: Float>(&self, be: &dyn Backend<F>, tile: usize) -> Req {
        let (o, r) = (self.width, self.rank);
        let matmul = |m, k, n| be.req(OpShape::Matmul { m, k, n });
        matmul(tile, o, r) // h D, dy U
            .max(matmul(tile, r, o)) // a Uᵀ, da Dᵀ
            .max(matmul(o, tile, r)) // dyᵀ a, hᵀ da
    }

    /// `a = act(inner)`, and `y += a Uᵀ + b2`.
    fn add_up<F: Float>(
        &self,
        be: &dyn Backend<F>,
        weights: &Weights<'_, F>,
        [mut a, room]: [MatMut<'_, F>; 2],
        mut y: MatMut<'_, F>,
        rest: &mut [F],
    ) {
        self.act.apply(be, a.rb(), room);
        be.matmul(F::ONE, a.as_ref(), weights.up.t(), F::ONE, y.rb(), rest);
        be.add_bias(weights.up_bias, y);
    }
}

/// `inner = h D + b1`.
fn squeeze<F: Float>(
    be: &dyn Backend<F>,
    weights: &Weights<'_, F>,
    h: Mat<'_, F>,
    mut inner: MatMut<'_, F>,
    rest: &mut [F],
) {
    be.matmul(F::ONE, h, weights.down, F::ZERO, inner.rb(), rest);
    be.add_bias(weights.down_bias, inner);
}

/// Ranges of [`TILE`] rows, the last one shorter.
fn tiles(rows: usize) -> impl Iterator<Item = Range<usize>> {
    (0..rows).step_by(TILE).map(move |start| start..rows.min(start + TILE))
}

impl<F: Float> Adapter<F> for Bottleneck {
    fn kind(&self) -> &'static str {
        Self::KIND
    }

    fn params(&self) -> &[ParamSpec] {
        &self.params
    }

    fn facts(&self) -> Facts {
        let reads_x = self.place == Place::Branch;
        Facts { reads_x, reads_y: !reads_x, whole_sequence: false, mergeable: false }
    }

    fn keeps(&self) -> Keeps {
        match self.place {
            Place::Branch => Keeps::Nothing,
            Place::Linear => Keeps::PerRow(self.rank),
        }
    }

    fn req(&self, be: &dyn Backend<F>, base: &dyn Linear<F>, rows: usize) -> Req {
        let tile = rows.min(TILE);
        let inside = self.own_req(be, tile).max(base.req(be, tile));
        inside.plus(self.room_len(tile)).max(base.req(be, rows))
    }

    fn apply(&self, cx: &Cx<'_, F>, operands: Forward<'_, F>) {
        let (be, Forward { x, mut y, mut kept, scratch, .. }) = (cx.be, operands);
        cx.base.apply(be, x, y.rb(), scratch);
        let weights = self.weights(cx.p);
        for tile in tiles(x.rows()) {
            let Room { inner: [mut inner, room, _], rest, .. } = self.room(tile.len(), scratch);
            let mut y = y.rb().rows_range(tile.clone());
            squeeze(be, &weights, y.as_ref(), inner.rb(), rest);
            if let Some(kept) = &mut kept {
                kept.rb().rows_range(tile).copy_from(inner.as_ref());
            }
            self.add_up(be, &weights, [inner, room], y.rb(), rest);
        }
    }

    fn vjp(&self, cx: &Cx<'_, F>, operands: Vjp<'_, F>) {
        let (be, Vjp { x, y, kept, dy, mut dx, grad, scratch }) = (cx.be, operands);
        let weights = self.weights(cx.p);
        let (o, r) = (self.width, self.rank);
        let (d_down, grad) = grad.split_at_mut(o * r);
        let (d_down_bias, grad) = grad.split_at_mut(r);
        let (d_up, d_up_bias) = grad.split_at_mut(o * r);
        be.sum_rows(dy, d_up_bias);
        for tile in tiles(dy.rows()) {
            let dy = dy.rows_range(tile.clone());
            let Room { mut wide, inner: [mut inner, mut a, mut room], rest } =
                self.room(tile.len(), scratch);
            // The inner values before and after the non-linearity, and h.
            let h = match self.place {
                Place::Branch => {
                    let x = x.expect("the backward of a bottleneck on a branch reads its input");
                    let h = x.rows_range(tile.clone());
                    squeeze(be, &weights, h, inner.rb(), rest);
                    a.copy_from(inner.as_ref());
                    self.act.apply(be, a.rb(), room.rb());
                    h
                }
                Place::Linear => {
                    let y = y.expect("the backward of a bottleneck on a linear reads its output");
                    let kept = kept.expect("a bottleneck on a linear keeps its inner values");
                    inner.copy_from(kept.rows_range(tile.clone()));
                    a.copy_from(inner.as_ref());
                    wide.fill(F::ZERO);
                    self.add_up(be, &weights, [a.rb(), room.rb()], wide.rb(), rest);
                    be.axpby(F::ONE, y.rows_range(tile.clone()), -F::ONE, wide.rb());
                    wide.as_ref()
                }
            };
            be.matmul(F::ONE, dy.t(), a.as_ref(), F::ONE, MatMut::new(d_up, o, r), rest);
            let mut da = a;
            be.matmul(F::ONE, dy, weights.up, F::ZERO, da.rb(), rest);
            self.act.vjp(be, da.as_ref(), inner.rb(), room);
            let da = inner.as_ref();
            be.sum_rows(da, d_down_bias);
            be.matmul(F::ONE, h.t(), da, F::ONE, MatMut::new(d_down, o, r), rest);
            if let Some(dx) = &mut dx {
                wide.copy_from(dy);
                be.matmul(F::ONE, da, weights.down.t(), F::ONE, wide.rb(), rest);
                cx.base.vjp(be, wide.as_ref(), dx.rb().rows_range(tile), rest);
            }
        }
    }
}
