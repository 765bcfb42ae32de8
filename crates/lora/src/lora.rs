//! The adapter: shapes, scale, forward, backward, merge.

use core::ops::Range;

use lowtide_adapter::{
    Adapter, BadValue, Config, Cx, Facts, Forward, Init, Linear, NotMergeable, ParamSpec, Phase,
    Rows, Vjp,
};
use lowtide_backend::{Backend, DropoutKey, OpShape, Req};
use lowtide_tensor::{Float, Mat, MatMut, QUANTUM};

/// The largest rank that is accepted.
pub const RANK_MAX: usize = 1 << 16;

/// LoRA on one linear of `I` features in and `O` out.
///
/// Parameters, one after another: `A [r, I]`, `B [O, r]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Lora {
    in_features: usize,
    out_features: usize,
    rank: usize,
    scale: f64,
    dropout: f64,
    params: [ParamSpec; 2],
}

impl Lora {
    /// Name of the method in configurations.
    pub const KIND: &'static str = "lora";

    /// An adapter of a linear `[out_features, in_features]`.
    ///
    /// # Errors
    /// [`BadValue`] when the rank is 0 or above [`RANK_MAX`], alpha is not finite, or dropout lies
    /// outside `[0, 1)`.
    pub fn new(in_features: usize, out_features: usize, config: &Config) -> Result<Self, BadValue> {
        let Config { rank, alpha, dropout, use_rslora, .. } = *config;
        let bad = |field, value, expected| BadValue { method: Self::KIND, field, value, expected };
        if rank == 0 || rank > RANK_MAX {
            return Err(bad("rank", rank as f64, "a whole number from 1 to 65536"));
        }
        if !alpha.is_finite() {
            return Err(bad("alpha", alpha, "a finite number"));
        }
        if !(0.0..1.0).contains(&dropout) {
            return Err(bad("dropout", dropout, "a number from 0 to below 1"));
        }
        let divisor = if use_rslora { Float::sqrt(rank as f64) } else { rank as f64 };
        // Kaiming-uniform with a = sqrt(5): sqrt(6 / ((1 + 5) I)).
        let bound = 1.0 / Float::sqrt(in_features as f32);
        let a = ParamSpec {
            name: "lora_A.weight",
            shape: [rank, in_features],
            init: Init::Uniform { bound },
            output_axis: None,
        };
        let b = ParamSpec {
            name: "lora_B.weight",
            shape: [out_features, rank],
            init: Init::Zeros,
            output_axis: Some(0),
        };
        let scale = alpha / divisor;
        Ok(Self { in_features, out_features, rank, scale, dropout, params: [a, b] })
    }

    /// Inner width `r`.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// The factor `s` on the product of the two matrices.
    #[must_use]
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// `A [r, I]` and `B [O, r]`.
    fn factors<'p, F: Float>(&self, p: &'p [F]) -> (Mat<'p, F>, Mat<'p, F>) {
        let (a, b) = p.split_at(self.rank * self.in_features);
        (Mat::new(a, self.rank, self.in_features), Mat::new(b, self.out_features, self.rank))
    }

    /// How many rows are worked on at a time. Without dropout all of them; with it, as many as the
    /// scratch for dropped inputs holds. Tiles are whole quanta, so the bits are the same.
    fn tile_rows(&self, rows: usize) -> usize {
        if self.dropout > 0.0 { rows.min(QUANTUM) } else { rows }
    }

    /// Elements that hold a tile of dropped inputs, or two half tiles of input gradients.
    fn dropped_len(&self, tile: usize) -> usize {
        if self.dropout > 0.0 { tile.next_multiple_of(2) * self.in_features } else { 0 }
    }

    /// What the adapter itself needs, between two calls of its base.
    fn own_req<F: Float>(&self, be: &dyn Backend<F>, rows: usize) -> Req {
        let (i, o, r) = (self.in_features, self.out_features, self.rank);
        let tile = self.tile_rows(rows);
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
        tile * self.rank + self.dropped_len(tile)
    }

    /// Cuts the scratch into `[tile, r]` for the low-rank product, room for dropped inputs, and the
    /// rest, which is lent on.
    fn cut<'s, F>(
        &self,
        tile: usize,
        scratch: &'s mut [F],
    ) -> (&'s mut [F], &'s mut [F], &'s mut [F]) {
        let (low, scratch) = scratch.split_at_mut(tile * self.rank);
        let (dropped, rest) = scratch.split_at_mut(self.dropped_len(tile));
        (low, dropped, rest)
    }

    /// The dropout of this call, if there is any.
    fn mask(&self, rows: &Rows<'_>) -> Option<Mask> {
        (self.dropout > 0.0 && rows.phase == Phase::Train).then_some(Mask {
            p: self.dropout,
            key: rows.key,
            row0: rows.row0,
        })
    }
}

impl<F: Float> Adapter<F> for Lora {
    fn kind(&self) -> &'static str {
        Self::KIND
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
        let mask = self.mask(&cx.rows);
        let tile = self.tile_rows(x.rows());
        let (low, dropped, rest) = self.cut(tile, scratch);
        for range in tiles(x.rows(), tile) {
            let x = masked(mask, be, x, range.clone(), dropped);
            let mut h = low_rank(low, range.len(), self.rank);
            be.matmul(F::from_f64(self.scale), x, a.t(), F::ZERO, h.rb(), rest);
            be.matmul(F::ONE, h.as_ref(), b.t(), F::ONE, y.rb().rows_range(range), rest);
        }
    }

    fn vjp(&self, cx: &Cx<'_, F>, operands: Vjp<'_, F>) {
        let (be, Vjp { x, dy, mut dx, grad, scratch, .. }) = (cx.be, operands);
        if let Some(dx) = &mut dx {
            cx.base.vjp(be, dy, dx.rb(), scratch);
        }
        let x = x.expect("the backward of lora reads the input of its linear");
        let scale = F::from_f64(self.scale);
        let (a, b) = self.factors(cx.p);
        let (da, db) = grad.split_at_mut(a.len());
        let mask = self.mask(&cx.rows);
        let tile = self.tile_rows(x.rows());
        let (low, dropped, rest) = self.cut(tile, scratch);
        for range in tiles(x.rows(), tile) {
            let dy = dy.rows_range(range.clone());
            let x = masked(mask, be, x, range.clone(), dropped);
            // The scale enters with h and dh, so that the sums over tokens carry none and splitting
            // them changes no bit.
            let mut h = low_rank(low, range.len(), self.rank);
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
        be.matmul(F::from_f64(self.scale), b.rows_range(rows), a, F::ONE, out, scratch);
        Ok(())
    }
}

/// The dropout of one call.
#[derive(Clone, Copy)]
struct Mask {
    p: f64,
    key: DropoutKey,
    row0: usize,
}

/// Ranges of `tile` rows, the last one shorter.
fn tiles(rows: usize, tile: usize) -> impl Iterator<Item = Range<usize>> {
    (0..rows).step_by(tile.max(1)).map(move |start| start..rows.min(start + tile))
}

/// `[rows, rank]` at the front of the scratch for the low-rank product.
fn low_rank<F: Float>(low: &mut [F], rows: usize, rank: usize) -> MatMut<'_, F> {
    MatMut::new(&mut low[..rows * rank], rows, rank)
}

/// What the adapter sees of rows `range` of `x`: the rows, or their dropped copy in `dropped`.
fn masked<'a, F: Float>(
    mask: Option<Mask>,
    be: &dyn Backend<F>,
    x: Mat<'a, F>,
    range: Range<usize>,
    dropped: &'a mut [F],
) -> Mat<'a, F> {
    let x = x.rows_range(range.clone());
    let Some(Mask { p, key, row0 }) = mask else { return x };
    let mut out = MatMut::new(&mut dropped[..x.len()], x.rows(), x.cols());
    be.dropout(x, p, key, row0 + range.start, out.rb());
    out.into_ref()
}

/// `dx += mask ⊙ (dh A)` for rows that start at row `start` of the call. Dropout cannot work in
/// place, so with a mask the rows go through two halves of `dropped`.
fn input_gradient<F: Float>(
    mask: Option<Mask>,
    be: &dyn Backend<F>,
    dh: Mat<'_, F>,
    a: Mat<'_, F>,
    start: usize,
    mut dx: MatMut<'_, F>,
    dropped: &mut [F],
    scratch: &mut [F],
) {
    let Some(Mask { p, key, row0 }) = mask else {
        return be.matmul(F::ONE, dh, a, F::ONE, dx, scratch);
    };
    let width = a.cols();
    let half = dropped.len() / 2;
    let (before, after) = dropped.split_at_mut(half);
    for range in tiles(dh.rows(), half / width.max(1)) {
        let (rows, len) = (range.len(), range.len() * width);
        let mut whole = MatMut::new(&mut before[..len], rows, width);
        be.matmul(F::ONE, dh.rows_range(range.clone()), a, F::ZERO, whole.rb(), scratch);
        let mut kept = MatMut::new(&mut after[..len], rows, width);
        be.dropout(whole.as_ref(), p, key, row0 + start + range.start, kept.rb());
        be.axpby(F::ONE, kept.as_ref(), F::ONE, dx.rb().rows_range(range));
    }
}
