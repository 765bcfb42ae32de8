//! LoRA-FA: the first factor is frozen where it starts, the second is trained.
//!
//! Backward needs the low-rank product `h = s · dropout(x) Aᵀ` only, `[T, r]`, which forward keeps:
//! the input of the linear is not read, so it need not live.
//!
//! Paper: Zhang et al., "LoRA-FA: Memory-efficient Low-rank Adaptation for Large Language Models
//! Fine-tuning" (2023).

use core::ops::Range;

use lowtide_adapter::{
    Adapter, BadValue, Config, Cx, Facts, Forward, Keeps, Linear, NotMergeable, ParamSpec, Vjp,
};
use lowtide_backend::{Backend, OpShape, Req};
use lowtide_tensor::{Float, Mat, MatMut};

use crate::low_rank::{LowRank, front, input_gradient, masked, tiles};

/// LoRA-FA on one linear of `I` features in and `O` out: `B [O, r]` is trained, `A [r, I]` frozen.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraFa {
    in_features: usize,
    out_features: usize,
    low: LowRank,
    params: [ParamSpec; 1],
    frozen: [ParamSpec; 1],
}

impl LoraFa {
    /// Name of the method in configurations.
    pub const KIND: &'static str = "lora-fa";

    /// An adapter of a linear `[out_features, in_features]`.
    ///
    /// # Errors
    /// [`BadValue`] when the rank is 0 or above [`RANK_MAX`](crate::RANK_MAX), alpha is not finite,
    /// or dropout lies outside `[0, 1)`.
    pub fn new(in_features: usize, out_features: usize, config: &Config) -> Result<Self, BadValue> {
        let low = LowRank::new(Self::KIND, config)?;
        let (params, frozen) = ([low.b(out_features)], [low.a(in_features)]);
        Ok(Self { in_features, out_features, low, params, frozen })
    }

    /// `A [r, I]`, from the front of the fixed values.
    fn a<'p, F: Float>(&self, fixed: &'p [F]) -> Mat<'p, F> {
        let len = self.low.rank * self.in_features;
        Mat::new(&fixed[..len], self.low.rank, self.in_features)
    }

    /// `B [O, r]`.
    fn b<'p, F: Float>(&self, p: &'p [F]) -> Mat<'p, F> {
        Mat::new(p, self.out_features, self.low.rank)
    }

    /// Cuts the scratch into `[rows, r]`, room for dropped inputs, and the rest, which is lent on.
    fn cut<'s, F>(
        &self,
        rows: usize,
        scratch: &'s mut [F],
    ) -> (&'s mut [F], &'s mut [F], &'s mut [F]) {
        let (low, scratch) = scratch.split_at_mut(rows * self.low.rank);
        let tile = self.low.tile_rows(rows);
        let (dropped, rest) = scratch.split_at_mut(self.low.dropped_len(tile, self.in_features));
        (low, dropped, rest)
    }
}

impl<F: Float> Adapter<F> for LoraFa {
    fn kind(&self) -> &'static str {
        Self::KIND
    }

    fn params(&self) -> &[ParamSpec] {
        &self.params
    }

    fn facts(&self) -> Facts {
        Facts { reads_x: false, reads_y: false, whole_sequence: false, mergeable: true }
    }

    fn frozen(&self) -> &[ParamSpec] {
        &self.frozen
    }

    fn keeps(&self) -> Keeps {
        Keeps::PerRow(self.low.rank)
    }

    fn work(&self, rows: usize) -> u64 {
        2 * (rows * self.low.rank * (self.in_features + self.out_features)) as u64
    }

    fn req(&self, be: &dyn Backend<F>, base: &dyn Linear<F>, rows: usize) -> Req {
        let (i, o, r) = (self.in_features, self.out_features, self.low.rank);
        let tile = self.low.tile_rows(rows);
        let matmul = |m, k, n| be.req(OpShape::Matmul { m, k, n });
        let inside = matmul(tile, i, r) // h = x Aᵀ
            .max(matmul(rows, r, o)) // y += h Bᵀ
            .max(matmul(o, rows, r)) // dB += dyᵀ h
            .max(matmul(rows, o, r)) // dh = dy B
            .max(matmul(tile, r, i)); // dx += dh A
        let held = rows * r + self.low.dropped_len(tile, i);
        base.req(be, rows).max(inside.plus(held)).max(matmul(rows, r, i)) // merge
    }

    fn apply(&self, cx: &Cx<'_, F>, operands: Forward<'_, F>) {
        let (be, Forward { x, mut y, kept, scratch, .. }) = (cx.be, operands);
        cx.base.apply(be, x, y.rb(), scratch);
        let (a, b) = (self.a(cx.fixed), self.b(cx.p));
        let mask = self.low.mask(&cx.rows);
        let (low, dropped, rest) = self.cut(x.rows(), scratch);
        let mut h = kept.unwrap_or_else(|| front(low, x.rows(), self.low.rank));
        for range in tiles(x.rows(), self.low.tile_rows(x.rows())) {
            let x = masked(mask, be, x, range.clone(), dropped);
            let h = h.rb().rows_range(range);
            be.matmul(F::from_f64(self.low.scale), x, a.t(), F::ZERO, h, rest);
        }
        be.matmul(F::ONE, h.as_ref(), b.t(), F::ONE, y, rest);
    }

    fn vjp(&self, cx: &Cx<'_, F>, operands: Vjp<'_, F>) {
        let (be, Vjp { kept, dy, dx, grad, scratch, .. }) = (cx.be, operands);
        let h = kept.expect("the backward of lora-fa reads the low-rank product");
        let (a, b) = (self.a(cx.fixed), self.b(cx.p));
        let db = MatMut::new(grad, b.rows(), b.cols());
        be.matmul(F::ONE, dy.t(), h, F::ONE, db, scratch);
        let Some(mut dx) = dx else { return };
        cx.base.vjp(be, dy, dx.rb(), scratch);
        let mask = self.low.mask(&cx.rows);
        let (low, dropped, rest) = self.cut(dy.rows(), scratch);
        let mut dh = front(low, dy.rows(), self.low.rank);
        be.matmul(F::from_f64(self.low.scale), dy, b, F::ZERO, dh.rb(), rest);
        for range in tiles(dy.rows(), self.low.tile_rows(dy.rows())) {
            let (start, dx) = (range.start, dx.rb().rows_range(range.clone()));
            let dh = dh.as_ref().rows_range(range);
            input_gradient(mask, be, dh, a, start, dx, dropped, rest);
        }
    }

    fn merge_rows(
        &self,
        be: &dyn Backend<F>,
        p: &[F],
        fixed: &[F],
        rows: Range<usize>,
        out: MatMut<'_, F>,
        scratch: &mut [F],
    ) -> Result<(), NotMergeable> {
        let (a, b) = (self.a(fixed), self.b(p).rows_range(rows));
        be.matmul(F::from_f64(self.low.scale), b, a, F::ONE, out, scratch);
        Ok(())
    }
}
