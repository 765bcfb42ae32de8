//! QA-LoRA: low-rank updates that are constant over groups of the input.
//!
//! `y = x Wᵀ + b + s · (pool(x̃) Aᵀ) Bᵀ` with `A [r, I / g]`: the input is pooled over groups of
//! `g` neighbours before the first factor. So the update of a row of the matrix is one number a
//! group, and can be added to the minimum of each block of a format that has minima, without
//! touching its codes: [`QaLora::group_corrections`] has these numbers.
//!
//! Pooling is PEFT's: the mean of the group times the number of groups, `I / g`. Backward reads the
//! pooled input only, `[T, I / g]`, which forward keeps.
//!
//! Paper: Xu et al., "QA-LoRA: Quantization-Aware Low-Rank Adaptation of Large Language Models"
//! (2023).

use core::ops::Range;

use lowtide_adapter::{
    Adapter, BadValue, Config, Cx, Facts, Forward, Keeps, Linear, NotMergeable, ParamSpec, Vjp,
};
use lowtide_backend::{Backend, OpShape, Req};
use lowtide_tensor::{Float, Mat, MatMut, QUANTUM};

use crate::low_rank::{LowRank, front, masked, tiles};

/// QA-LoRA on one linear of `I` features in and `O` out.
///
/// Parameters, one after another: `A [r, I / g]`, `B [O, r]`.
#[derive(Clone, Debug, PartialEq)]
pub struct QaLora {
    in_features: usize,
    out_features: usize,
    group: usize,
    low: LowRank,
    params: [ParamSpec; 2],
}

impl QaLora {
    /// Name of the method in configurations.
    pub const KIND: &'static str = "qalora";

    /// Features in a group when nobody says otherwise: a block of most packed formats.
    pub const GROUP_SIZE: usize = 32;

    /// An adapter of a linear `[out_features, in_features]` that pools `group_size` features.
    ///
    /// # Errors
    /// [`BadValue`] when the group size does not divide the input, the rank is 0 or above
    /// [`RANK_MAX`](crate::RANK_MAX), alpha is not finite, or dropout lies outside `[0, 1)`.
    pub fn new(
        in_features: usize,
        out_features: usize,
        group_size: usize,
        config: &Config,
    ) -> Result<Self, BadValue> {
        let method = Self::KIND;
        let low = LowRank::new(method, config)?;
        if group_size == 0 || !in_features.is_multiple_of(group_size) {
            let (value, expected) = (group_size as f64, "a divisor of the width of the input");
            return Err(BadValue { method, field: "group_size", value, expected });
        }
        let params = [low.a(in_features / group_size), low.b(out_features)];
        Ok(Self { in_features, out_features, group: group_size, low, params })
    }

    /// Features in a group.
    #[must_use]
    pub fn group_size(&self) -> usize {
        self.group
    }

    /// Groups of the input.
    #[must_use]
    pub fn groups(&self) -> usize {
        self.in_features / self.group
    }

    /// What merging adds to every weight of each group, for some rows of the matrix:
    /// `out [rows.len(), groups]`, overwritten.
    ///
    /// # Panics
    /// When `out` has another shape.
    pub fn group_corrections<F: Float>(
        &self,
        be: &dyn Backend<F>,
        p: &[F],
        rows: Range<usize>,
        out: MatMut<'_, F>,
        scratch: &mut [F],
    ) {
        let (a, b) = self.factors(p);
        let factor = F::from_f64(self.low.scale * self.pool_factor());
        be.matmul(factor, b.rows_range(rows), a, F::ZERO, out, scratch);
    }

    /// Scratch that [`group_corrections`](Self::group_corrections) needs for at most `rows` rows.
    #[must_use]
    pub fn group_corrections_req<F: Float>(&self, be: &dyn Backend<F>, rows: usize) -> Req {
        be.req(OpShape::Matmul { m: rows, k: self.low.rank, n: self.groups() })
    }

    /// What the sum of a group is multiplied by.
    fn pool_factor(&self) -> f64 {
        self.groups() as f64 / self.group as f64
    }

    /// `A [r, I / g]` and `B [O, r]`.
    fn factors<'p, F: Float>(&self, p: &'p [F]) -> (Mat<'p, F>, Mat<'p, F>) {
        let (rank, groups) = (self.low.rank, self.groups());
        let (a, b) = p.split_at(rank * groups);
        (Mat::new(a, rank, groups), Mat::new(b, self.out_features, rank))
    }

    /// Elements of a low-rank product, of pooled rows, and of dropped inputs, in a call of so many
    /// rows.
    fn lens(&self, rows: usize) -> (usize, usize, usize) {
        let dropped = self.low.dropped_len(rows.min(QUANTUM), self.in_features);
        (rows * self.low.rank, rows * self.groups(), dropped)
    }

    /// Cuts the scratch into the three that [`lens`](Self::lens) measures, and the rest.
    fn cut<'s, F>(&self, rows: usize, scratch: &'s mut [F]) -> [&'s mut [F]; 4] {
        let (low, pooled, dropped) = self.lens(rows);
        let (low, scratch) = scratch.split_at_mut(low);
        let (pooled, scratch) = scratch.split_at_mut(pooled);
        let (dropped, rest) = scratch.split_at_mut(dropped);
        [low, pooled, dropped, rest]
    }
}

impl<F: Float> Adapter<F> for QaLora {
    fn kind(&self) -> &'static str {
        Self::KIND
    }

    fn params(&self) -> &[ParamSpec] {
        &self.params
    }

    fn facts(&self) -> Facts {
        Facts { reads_x: false, reads_y: false, whole_sequence: false, mergeable: true }
    }

    fn keeps(&self) -> Keeps {
        Keeps::PerRow(self.groups())
    }

    fn work(&self, rows: usize) -> u64 {
        let products = self.low.rank * (self.groups() + self.out_features);
        2 * (rows * (products + self.in_features)) as u64
    }

    fn req(&self, be: &dyn Backend<F>, base: &dyn Linear<F>, rows: usize) -> Req {
        let (o, r, groups) = (self.out_features, self.low.rank, self.groups());
        let matmul = |m, k, n| be.req(OpShape::Matmul { m, k, n });
        let inside = matmul(rows, groups, r) // h = pool(x) Aᵀ
            .max(matmul(rows, r, o)) // y += h Bᵀ
            .max(matmul(o, rows, r)) // dB += dyᵀ h
            .max(matmul(rows, o, r)) // dh = dy B
            .max(matmul(r, rows, groups)) // dA += dhᵀ pool(x)
            .max(matmul(rows, r, groups)); // dh A
        let (low, pooled, dropped) = self.lens(rows);
        let merge = matmul(rows, r, groups).plus(rows * groups);
        base.req(be, rows).max(inside.plus(low + pooled + dropped)).max(merge)
    }

    fn apply(&self, cx: &Cx<'_, F>, operands: Forward<'_, F>) {
        let (be, Forward { x, mut y, kept, scratch, .. }) = (cx.be, operands);
        cx.base.apply(be, x, y.rb(), scratch);
        let (a, b) = self.factors(cx.p);
        let mask = self.low.mask(&cx.rows);
        let factor = F::from_f64(self.pool_factor());
        let [low, pooled, dropped, rest] = self.cut(x.rows(), scratch);
        let mut pooled = kept.unwrap_or_else(|| front(pooled, x.rows(), self.groups()));
        for range in tiles(x.rows(), QUANTUM) {
            let x = masked(mask, be, x, range.clone(), dropped);
            pool(x, self.group, factor, pooled.rb().rows_range(range));
        }
        let mut h = front(low, x.rows(), self.low.rank);
        let scale = F::from_f64(self.low.scale);
        be.matmul(scale, pooled.as_ref(), a.t(), F::ZERO, h.rb(), rest);
        be.matmul(F::ONE, h.as_ref(), b.t(), F::ONE, y, rest);
    }

    fn vjp(&self, cx: &Cx<'_, F>, operands: Vjp<'_, F>) {
        let (be, Vjp { kept, dy, mut dx, grad, scratch, .. }) = (cx.be, operands);
        if let Some(dx) = &mut dx {
            cx.base.vjp(be, dy, dx.rb(), scratch);
        }
        let pooled = kept.expect("the backward of qalora reads the pooled input");
        let scale = F::from_f64(self.low.scale);
        let (a, b) = self.factors(cx.p);
        let (da, db) = grad.split_at_mut(a.len());
        let [low, spread, dropped, rest] = self.cut(dy.rows(), scratch);
        let mut h = front(low, dy.rows(), self.low.rank);
        be.matmul(scale, pooled, a.t(), F::ZERO, h.rb(), rest);
        let db = MatMut::new(db, b.rows(), b.cols());
        be.matmul(F::ONE, dy.t(), h.as_ref(), F::ONE, db, rest);
        let mut dh = h;
        be.matmul(scale, dy, b, F::ZERO, dh.rb(), rest);
        let da = MatMut::new(da, a.rows(), a.cols());
        be.matmul(F::ONE, dh.as_ref().t(), pooled, F::ONE, da, rest);
        let Some(mut dx) = dx else { return };
        let mut spread = front(spread, dy.rows(), self.groups());
        let factor = F::from_f64(self.pool_factor());
        be.matmul(factor, dh.as_ref(), a, F::ZERO, spread.rb(), rest);
        let Some(mask) = self.low.mask(&cx.rows) else {
            return add_spread(spread.as_ref(), self.group, dx);
        };
        let half = dropped.len() / 2;
        let (before, after) = dropped.split_at_mut(half);
        for range in tiles(dy.rows(), half / self.in_features.max(1)) {
            let mut whole = front(before, range.len(), self.in_features);
            whole.fill(F::ZERO);
            add_spread(spread.as_ref().rows_range(range.clone()), self.group, whole.rb());
            let mut kept = front(after, range.len(), self.in_features);
            mask.drop(be, whole.as_ref(), range.start, kept.rb());
            be.axpby(F::ONE, kept.as_ref(), F::ONE, dx.rb().rows_range(range));
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
        let (corrections, rest) = scratch.split_at_mut(rows.len() * self.groups());
        let mut corrections = front(corrections, rows.len(), self.groups());
        self.group_corrections(be, p, rows, corrections.rb(), rest);
        add_spread(corrections.as_ref(), self.group, out);
        Ok(())
    }
}

/// `out [T, I / g]`: the sum of every group of `x [T, I]`, times `factor`.
fn pool<F: Float>(x: Mat<'_, F>, group: usize, factor: F, mut out: MatMut<'_, F>) {
    for t in 0..x.rows() {
        for (out, group) in out.row_mut(t).iter_mut().zip(x.row(t).chunks(group)) {
            let mut sum = F::ZERO;
            for &x in group {
                sum += x;
            }
            *out = factor * sum;
        }
    }
}

/// Adds each value of `groups [T, I / g]` to all of its group of `out [T, I]`.
fn add_spread<F: Float>(groups: Mat<'_, F>, group: usize, mut out: MatMut<'_, F>) {
    for t in 0..groups.rows() {
        for (out, &value) in out.row_mut(t).chunks_mut(group).zip(groups.row(t)) {
            for out in out {
                *out += value;
            }
        }
    }
}
