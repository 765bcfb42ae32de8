//! VeRA: two trained vectors a site between frozen random matrices that all sites share.
//!
//! `y = x Wᵀ + bias + b ⊙ ((d ⊙ (x̃ Aᵀ)) Bᵀ)` with `d [r]` and `b [O]` trained, and `A [r, I]`, `B
//! [O, r]` the front of the shared [`Projections`]. Names and initial values are those of Hugging
//! Face PEFT: `vera_lambda_d` starts at 0.1, `vera_lambda_b` at zero, so that training starts from
//! the base's own output. Backward reads the input of the linear and computes both products anew.
//!
//! Paper: Kopiczko et al., "VeRA: Vector-based Random Matrix Adaptation" (2023).

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use lowtide_adapter::{
    Adapter, BadValue, Config, Cx, Facts, Forward, Init, Linear, NotMergeable, ParamSpec, Vjp,
};
use lowtide_backend::{Backend, OpShape, Req};
use lowtide_tensor::{Float, Mat, MatMut, QUANTUM};

use crate::Projections;
use crate::low_rank::{LowRank, front, input_gradient, masked, tiles};

/// VeRA on one linear of `I` features in and `O` out.
///
/// Parameters, one after another: `d [r, 1]`, `b [O, 1]`.
#[derive(Clone, Debug)]
pub struct Vera<F = f32> {
    in_features: usize,
    out_features: usize,
    low: LowRank,
    shared: Arc<Projections<F>>,
    /// Elements of matrices that this adapter answers for.
    counted: usize,
    params: [ParamSpec; 2],
}

/// The scratch of a call, cut up.
struct Room<'s, F> {
    /// `x̃ Aᵀ`, a tile.
    u: &'s mut [F],
    /// The same times `d`, or what comes back from the output.
    v: &'s mut [F],
    /// A tile as wide as the output.
    wide: &'s mut [F],
    /// A tile of dropped inputs.
    dropped: &'s mut [F],
    /// Lent on.
    rest: &'s mut [F],
}

impl<F: Float> Vera<F> {
    /// Name of the method in configurations.
    pub const KIND: &'static str = "vera";

    /// The rank when nobody says otherwise, as in PEFT: one costs a number a linear.
    pub const DEFAULT_RANK: usize = 256;

    /// Where `d` starts when nobody says otherwise.
    pub const D_INITIAL: f32 = 0.1;

    /// An adapter of a linear `[out_features, in_features]` over matrices at least as wide, whose
    /// rank is the configuration's. `d` starts at `d_initial`.
    ///
    /// # Errors
    /// [`BadValue`] when the rank is 0 or above [`RANK_MAX`](crate::RANK_MAX) or not that of the
    /// matrices, dropout lies outside `[0, 1)`, or `d_initial` is not finite.
    pub fn new(
        in_features: usize,
        out_features: usize,
        config: &Config,
        shared: Arc<Projections<F>>,
        d_initial: f32,
    ) -> Result<Self, BadValue> {
        let method = Self::KIND;
        let low = LowRank::new(method, config)?;
        if low.rank != shared.rank() {
            let (value, expected) = (low.rank as f64, "the rank of the shared matrices");
            return Err(BadValue { method, field: "rank", value, expected });
        }
        if !d_initial.is_finite() {
            let (value, expected) = (f64::from(d_initial), "a finite number");
            return Err(BadValue { method, field: "d_initial", value, expected });
        }
        // The ranks are those of the shared matrices: no site can do without one.
        let rank_axis = None;
        let vector = |name, len, init, output_axis| ParamSpec {
            name,
            shape: [len, 1],
            init,
            output_axis,
            rank_axis,
        };
        let params = [
            vector("vera_lambda_d", low.rank, Init::Constant(d_initial), None),
            vector("vera_lambda_b", out_features, Init::Zeros, Some(0)),
        ];
        Ok(Self { in_features, out_features, low, shared, counted: 0, params })
    }

    /// The same adapter as the one that answers for the bytes of the shared matrices.
    #[must_use]
    pub fn counting_shared(self) -> Self {
        Self { counted: self.shared.len(), ..self }
    }

    /// The shared matrices.
    #[must_use]
    pub fn projections(&self) -> &Projections<F> {
        &self.shared
    }

    fn matrices(&self) -> (Mat<'_, F>, Mat<'_, F>) {
        (self.shared.a(self.in_features), self.shared.b(self.out_features))
    }

    fn cut<'s>(&self, rows: usize, scratch: &'s mut [F]) -> Room<'s, F> {
        let tile = rows.min(QUANTUM);
        let (u, scratch) = scratch.split_at_mut(tile * self.low.rank);
        let (v, scratch) = scratch.split_at_mut(tile * self.low.rank);
        let (wide, scratch) = scratch.split_at_mut(tile * self.out_features);
        let (dropped, rest) = scratch.split_at_mut(self.low.dropped_len(tile, self.in_features));
        Room { u, v, wide, dropped, rest }
    }
}

impl<F: Float> Adapter<F> for Vera<F> {
    fn kind(&self) -> &'static str {
        Self::KIND
    }

    fn params(&self) -> &[ParamSpec] {
        &self.params
    }

    fn facts(&self) -> Facts {
        Facts { reads_x: true, reads_y: false, whole_sequence: false, mergeable: true }
    }

    fn held(&self) -> usize {
        self.counted
    }

    fn work(&self, rows: usize) -> u64 {
        2 * (rows * self.low.rank * (self.in_features + self.out_features)) as u64
    }

    fn req(&self, be: &dyn Backend<F>, base: &dyn Linear<F>, rows: usize) -> Req {
        let (i, o, r) = (self.in_features, self.out_features, self.low.rank);
        let tile = rows.min(QUANTUM);
        let matmul = |m, k, n| be.req(OpShape::Matmul { m, k, n });
        let inside = matmul(tile, i, r) // u = x Aᵀ
            .max(matmul(tile, r, o)) // z = (d ⊙ u) Bᵀ
            .max(matmul(tile, o, r)) // (b ⊙ dy) B
            .max(matmul(tile, r, i)); // dx += du A
        let held = tile * (2 * r + o) + self.low.dropped_len(tile, i);
        let merge = matmul(rows, r, i).plus(rows * r);
        base.req(be, rows).max(inside.plus(held)).max(merge)
    }

    fn apply(&self, cx: &Cx<'_, F>, operands: Forward<'_, F>) {
        let (be, Forward { x, mut y, scratch, .. }) = (cx.be, operands);
        cx.base.apply(be, x, y.rb(), scratch);
        let (a, b) = self.matrices();
        let (lambda_d, lambda_b) = cx.p.split_at(self.low.rank);
        let mask = self.low.mask(&cx.rows);
        let Room { v, wide, dropped, rest, .. } = self.cut(x.rows(), scratch);
        for range in tiles(x.rows(), QUANTUM) {
            let x = masked(mask, be, x, range.clone(), dropped);
            let mut v = front(v, range.len(), self.low.rank);
            be.matmul(F::ONE, x, a.t(), F::ZERO, v.rb(), rest);
            scale_columns(lambda_d, v.rb());
            let mut z = front(wide, range.len(), self.out_features);
            be.matmul(F::ONE, v.as_ref(), b.t(), F::ZERO, z.rb(), rest);
            scale_columns(lambda_b, z.rb());
            be.axpby(F::ONE, z.as_ref(), F::ONE, y.rb().rows_range(range));
        }
    }

    fn vjp(&self, cx: &Cx<'_, F>, operands: Vjp<'_, F>) {
        let (be, Vjp { x, dy, mut dx, grad, scratch, .. }) = (cx.be, operands);
        if let Some(dx) = &mut dx {
            cx.base.vjp(be, dy, dx.rb(), scratch);
        }
        let x = x.expect("the backward of vera reads the input of its linear");
        let (a, b) = self.matrices();
        let (lambda_d, lambda_b) = cx.p.split_at(self.low.rank);
        let (grad_d, grad_b) = grad.split_at_mut(self.low.rank);
        let mask = self.low.mask(&cx.rows);
        let Room { u, v, wide, dropped, rest } = self.cut(x.rows(), scratch);
        for range in tiles(x.rows(), QUANTUM) {
            let dy = dy.rows_range(range.clone());
            let mut u = front(u, range.len(), self.low.rank);
            let mut v = front(v, range.len(), self.low.rank);
            let mut g = front(wide, range.len(), self.out_features);
            let x = masked(mask, be, x, range.clone(), dropped);
            be.matmul(F::ONE, x, a.t(), F::ZERO, u.rb(), rest);
            v.copy_from(u.as_ref());
            scale_columns(lambda_d, v.rb());
            be.matmul(F::ONE, v.as_ref(), b.t(), F::ZERO, g.rb(), rest);
            multiply(dy, g.rb());
            be.sum_rows(g.as_ref(), grad_b);
            g.copy_from(dy);
            scale_columns(lambda_b, g.rb());
            be.matmul(F::ONE, g.as_ref(), b, F::ZERO, v.rb(), rest);
            multiply(v.as_ref(), u.rb());
            be.sum_rows(u.as_ref(), grad_d);
            if let Some(dx) = &mut dx {
                scale_columns(lambda_d, v.rb());
                let dx = dx.rb().rows_range(range.clone());
                input_gradient(mask, be, v.as_ref(), a, range.start, dx, dropped, rest);
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
        let (a, b) = self.matrices();
        let (lambda_d, lambda_b) = p.split_at(self.low.rank);
        let (scaled, rest) = scratch.split_at_mut(rows.len() * self.low.rank);
        let mut scaled = front(scaled, rows.len(), self.low.rank);
        for (at, row) in rows.enumerate() {
            for (column, out) in scaled.row_mut(at).iter_mut().enumerate() {
                *out = lambda_b[row] * b.get(row, column) * lambda_d[column];
            }
        }
        be.matmul(F::ONE, scaled.as_ref(), a, F::ONE, out, rest);
        Ok(())
    }
}

/// A site to be built: its widths, what it is told, and the order of its outputs where that is not
/// Hugging Face's: each row's row there.
pub(crate) struct Seat<'c> {
    pub(crate) dims: [usize; 2],
    pub(crate) config: &'c Config,
    pub(crate) order: Option<Vec<usize>>,
}

/// Bytes of what [`sharing`] makes of these sites, so far as a number can say it.
pub(crate) fn shared_bytes<F>(sites: &[Seat<'_>]) -> u64 {
    let Some(first) = sites.first() else { return 0 };
    let mut widest = [0, 0];
    let mut ordered: Vec<&[usize]> = Vec::new();
    for Seat { dims, order, .. } in sites {
        widest = [widest[0].max(dims[0]), widest[1].max(dims[1])];
        if let Some(order) = order.as_deref().filter(|order| !ordered.contains(order)) {
            ordered.push(order);
        }
    }
    let rows = ordered.iter().map(|order| order.len()).sum::<usize>() + widest[0] + widest[1];
    (rows as u64).saturating_mul(first.config.rank as u64).saturating_mul(size_of::<F>() as u64)
}

/// The adapters for sites that share one pair of matrices, as wide as the widest of them, and each
/// order of rows that differs. The first that uses matrices answers for their bytes.
///
/// # Errors
/// As [`Vera::new`]; all sites must have one rank.
pub(crate) fn sharing<F: Float>(
    sites: &[Seat<'_>],
    key: u64,
    d_initial: f32,
) -> Result<Vec<Vera<F>>, BadValue> {
    let Some(first) = sites.first() else { return Ok(Vec::new()) };
    let low = LowRank::new(Vera::<F>::KIND, first.config)?;
    let widest = |side: usize| sites.iter().map(|site| site.dims[side]).max().unwrap_or_default();
    let shared = Arc::new(Projections::new(low.rank, widest(0), widest(1), key));
    let mut ordered: Vec<(&[usize], Arc<Projections<F>>)> = Vec::new();
    let mut built = Vec::with_capacity(sites.len());
    for (at, Seat { dims: [i, o], config, order }) in sites.iter().enumerate() {
        let mut counted = if at == 0 { shared.len() } else { 0 };
        let matrices = match order {
            None => Arc::clone(&shared),
            Some(order) => match ordered.iter().find(|(known, _)| known == order) {
                Some((_, known)) => Arc::clone(known),
                None => {
                    let own = Arc::new(shared.with_rows(order));
                    counted += own.b_len();
                    ordered.push((order, Arc::clone(&own)));
                    own
                }
            },
        };
        built.push(Vera { counted, ..Vera::new(*i, *o, config, matrices, d_initial)? });
    }
    Ok(built)
}

/// `m ⊙= factors`, row by row.
fn scale_columns<F: Float>(factors: &[F], mut m: MatMut<'_, F>) {
    for t in 0..m.rows() {
        for (value, &factor) in m.row_mut(t).iter_mut().zip(factors) {
            *value *= factor;
        }
    }
}

/// `out ⊙= other`.
fn multiply<F: Float>(other: Mat<'_, F>, mut out: MatMut<'_, F>) {
    for t in 0..other.rows() {
        for (out, &other) in out.row_mut(t).iter_mut().zip(other.row(t)) {
            *out *= other;
        }
    }
}
