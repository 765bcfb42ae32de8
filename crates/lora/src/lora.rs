//! The adapter: shapes, scale, forward, backward, merge.

use core::ops::Range;

use lowtide_adapter::{
    Adapter, BadValue, Config, Cx, Facts, Forward, Linear, NotMergeable, ParamSpec, Vjp,
};
use lowtide_backend::{Backend, OpShape, Req};
use lowtide_tensor::{Float, Mat, MatMut};

use crate::low_rank::{LowRank, front, input_gradient, masked, tiles};

/// LoRA on one linear of `I` features in and `O` out.
///
/// Parameters, one after another: `A [r, I]`, `B [O, r]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Lora {
    kind: &'static str,
    in_features: usize,
    out_features: usize,
    low: LowRank,
    params: [ParamSpec; 2],
}

impl Lora {
    /// Name of the method in configurations.
    pub const KIND: &'static str = "lora";

    /// Name of the method with the scale of rsLoRA.
    pub const KIND_RANK_STABILIZED: &'static str = "rslora";

    /// An adapter of a linear `[out_features, in_features]`.
    ///
    /// # Errors
    /// [`BadValue`] when the rank is 0 or above [`RANK_MAX`](crate::RANK_MAX), alpha is not finite,
    /// or dropout lies outside `[0, 1)`.
    pub fn new(in_features: usize, out_features: usize, config: &Config) -> Result<Self, BadValue> {
        let low = LowRank::new(Self::KIND, config)?;
        Ok(Self::of(Self::KIND, in_features, out_features, low))
    }

    /// The same under the name `rslora`, with the scale `alpha / sqrt(rank)` whatever the
    /// configuration says.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn rank_stabilized(
        in_features: usize,
        out_features: usize,
        config: &Config,
    ) -> Result<Self, BadValue> {
        let config = Config { use_rslora: true, ..config.clone() };
        let low = LowRank::new(Self::KIND_RANK_STABILIZED, &config)?;
        Ok(Self::of(Self::KIND_RANK_STABILIZED, in_features, out_features, low))
    }

    fn of(kind: &'static str, in_features: usize, out_features: usize, low: LowRank) -> Self {
        let params = [low.a(in_features), low.b(out_features)];
        Self { kind, in_features, out_features, low, params }
    }

    /// Inner width `r`.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.low.rank
    }

    /// The factor `s` on the product of the two matrices.
    #[must_use]
    pub fn scale(&self) -> f64 {
        self.low.scale
    }

    /// `A [r, I]` and `B [O, r]`.
    fn factors<'p, F: Float>(&self, p: &'p [F]) -> (Mat<'p, F>, Mat<'p, F>) {
        let rank = self.low.rank;
        let (a, b) = p.split_at(rank * self.in_features);
        (Mat::new(a, rank, self.in_features), Mat::new(b, self.out_features, rank))
    }

    /// What the adapter itself needs, between two calls of its base.
    fn own_req<F: Float>(&self, be: &dyn Backend<F>, rows: usize) -> Req {
        let (i, o, r) = (self.in_features, self.out_features, self.low.rank);
        let tile = self.low.tile_rows(rows);
        let matmul = |m, k, n| be.req(OpShape::Matmul { m, k, n });
        let inside = matmul(tile, i, r) // h = x Aᵀ
            .max(matmul(tile, r, o)) // y += h Bᵀ
            .max(matmul(o, tile, r)) // dB += dyᵀ h
            .max(matmul(tile, o, r)) // dh = dy B
            .max(matmul(r, tile, i)) // dA += dhᵀ x
            .max(matmul(tile, r, i)); // dx += dh A
        inside.plus(self.held_len(tile)).max(matmul(rows, r, i)) // merge
    }

    /// Elements held while working on a tile: the low-rank product and the dropped inputs.
    fn held_len(&self, tile: usize) -> usize {
        tile * self.low.rank + self.low.dropped_len(tile, self.in_features)
    }

    /// Cuts the scratch into `[tile, r]` for the low-rank product, room for dropped inputs, and the
    /// rest, which is lent on.
    fn cut<'s, F>(
        &self,
        tile: usize,
        scratch: &'s mut [F],
    ) -> (&'s mut [F], &'s mut [F], &'s mut [F]) {
        let (low, scratch) = scratch.split_at_mut(tile * self.low.rank);
        let (dropped, rest) = scratch.split_at_mut(self.low.dropped_len(tile, self.in_features));
        (low, dropped, rest)
    }
}

impl<F: Float> Adapter<F> for Lora {
    fn kind(&self) -> &'static str {
        self.kind
    }

    fn params(&self) -> &[ParamSpec] {
        &self.params
    }

    fn facts(&self) -> Facts {
        Facts { reads_x: true, reads_y: false, whole_sequence: false, mergeable: true }
    }

    fn req(&self, be: &dyn Backend<F>, base: &dyn Linear<F>, rows: usize) -> Req {
        base.req(be, rows).max(self.own_req(be, rows))
    }

    fn apply(&self, cx: &Cx<'_, F>, operands: Forward<'_, F>) {
        let (be, Forward { x, mut y, scratch, .. }) = (cx.be, operands);
        cx.base.apply(be, x, y.rb(), scratch);
        let (a, b) = self.factors(cx.p);
        let mask = self.low.mask(&cx.rows);
        let tile = self.low.tile_rows(x.rows());
        let (low, dropped, rest) = self.cut(tile, scratch);
        for range in tiles(x.rows(), tile) {
            let x = masked(mask, be, x, range.clone(), dropped);
            let mut h = front(low, range.len(), self.low.rank);
            be.matmul(F::from_f64(self.low.scale), x, a.t(), F::ZERO, h.rb(), rest);
            be.matmul(F::ONE, h.as_ref(), b.t(), F::ONE, y.rb().rows_range(range), rest);
        }
    }

    fn vjp(&self, cx: &Cx<'_, F>, operands: Vjp<'_, F>) {
        let (be, Vjp { x, dy, mut dx, grad, scratch, .. }) = (cx.be, operands);
        if let Some(dx) = &mut dx {
            cx.base.vjp(be, dy, dx.rb(), scratch);
        }
        let x = x.expect("the backward of lora reads the input of its linear");
        let scale = F::from_f64(self.low.scale);
        let (a, b) = self.factors(cx.p);
        let (da, db) = grad.split_at_mut(a.len());
        let mask = self.low.mask(&cx.rows);
        let tile = self.low.tile_rows(x.rows());
        let (low, dropped, rest) = self.cut(tile, scratch);
        for range in tiles(x.rows(), tile) {
            let dy = dy.rows_range(range.clone());
            let x = masked(mask, be, x, range.clone(), dropped);
            // The scale enters with h and dh, so that the sums over tokens carry none and splitting
            // them changes no bit.
            let mut h = front(low, range.len(), self.low.rank);
            be.matmul(scale, x, a.t(), F::ZERO, h.rb(), rest);
            let db = MatMut::new(db, b.rows(), b.cols());
            be.matmul(F::ONE, dy.t(), h.as_ref(), F::ONE, db, rest);
            let mut dh = h;
            be.matmul(scale, dy, b, F::ZERO, dh.rb(), rest);
            let da = MatMut::new(da, a.rows(), a.cols());
            be.matmul(F::ONE, dh.as_ref().t(), x, F::ONE, da, rest);
            if let Some(dx) = &mut dx {
                let dx = dx.rb().rows_range(range.clone());
                input_gradient(mask, be, dh.as_ref(), a, range.start, dx, dropped, rest);
            }
        }
    }

    fn merge_rows(
        &self,
        be: &dyn Backend<F>,
        p: &[F],
        _fixed: &[F],
        rows: Range<usize>,
        out: MatMut<'_, F>,
        scratch: &mut [F],
    ) -> Result<(), NotMergeable> {
        let (a, b) = self.factors(p);
        be.matmul(F::from_f64(self.low.scale), b.rows_range(rows), a, F::ONE, out, scratch);
        Ok(())
    }
}
