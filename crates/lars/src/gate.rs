//! The gate: every token's input, scaled in blocks of features.

use core::ops::Range;

use lowtide_adapter::{
    Adapter, BadValue, Config, Cx, Facts, Forward, Init, Linear, ParamSpec, Vjp,
};
use lowtide_backend::{Backend, OpShape, Req};
use lowtide_tensor::{Float, Mat, MatMut, QUANTUM, quanta};

use crate::slab::{next, next_mat};
use crate::{KIND, check};

/// Neighbouring inputs that share a gate.
pub const GATE_WIDTH: usize = 32;

/// Keeps the norm away from a division by zero.
const EPS: f64 = 1e-5;

/// Rows that are worked on at a time: whole quanta, so the bits are those of any other number.
const TILE: usize = 2 * QUANTUM;

/// A gate on the input of one linear of `I` features.
///
/// With `z = x / rms(x)` and `q = (z Uᵀ) Vᵀ`, the linear reads `x ⊙ (1 + α q)`, where each of the
/// `I / 32` gates scales 32 neighbours. Row by row, so what comes later changes nothing; backward
/// reads the input, so nothing is saved over LoRA. Parameters: `U [r, I]`, `V [I / 32, r]`, `α`.
#[derive(Clone, Debug, PartialEq)]
pub struct Gate {
    inputs: usize,
    rank: usize,
    params: [ParamSpec; 3],
}

/// Room for one tile of rows, and what is computed of it anew in both directions.
struct Room<'s, F> {
    ones: &'s mut [F],
    rstd: &'s mut [F],
    /// `z`, `[tile, I]`.
    z: MatMut<'s, F>,
    /// `z Uᵀ` and its gradient, `[tile, r]`.
    low: [MatMut<'s, F>; 2],
    /// `q` and its gradient, `[tile, I / 32]`.
    q: [MatMut<'s, F>; 2],
    /// `[tile, I]`.
    wide: MatMut<'s, F>,
    rest: &'s mut [F],
}

/// The parameters.
struct Weights<'p, F> {
    u: Mat<'p, F>,
    v: Mat<'p, F>,
    alpha: F,
}

impl Gate {
    /// An adapter of a linear with `in_features` inputs; it reads the rank of the configuration.
    /// `None` when the inputs are no multiple of [`GATE_WIDTH`].
    ///
    /// # Errors
    /// [`BadValue`] when the rank is 0 or above [`RANK_MAX`](crate::RANK_MAX), or a dropout is
    /// asked for, which a gate does not have.
    pub fn new(in_features: usize, config: &Config) -> Result<Option<Self>, BadValue> {
        check(config)?;
        if config.dropout != 0.0 {
            let (field, value) = ("dropout", config.dropout);
            let expected = "0: the gate drops nothing";
            return Err(BadValue { method: KIND, field, value, expected });
        }
        if in_features == 0 || !in_features.is_multiple_of(GATE_WIDTH) {
            return Ok(None);
        }
        let rank = config.rank;
        let (output_axis, rank_axis) = (None, None);
        let spec = |name, shape, init| ParamSpec { name, shape, init, output_axis, rank_axis };
        let bound = 1.0 / Float::sqrt(in_features as f32);
        let params = [
            spec("lars_U.weight", [rank, in_features], Init::Uniform { bound }),
            spec("lars_V.weight", [in_features / GATE_WIDTH, rank], Init::Normal { std: 1e-4 }),
            spec("lars_alpha", [1, 1], Init::Constant(0.1)),
        ];
        Ok(Some(Self { inputs: in_features, rank, params }))
    }

    fn gates(&self) -> usize {
        self.inputs / GATE_WIDTH
    }

    fn weights<'p, F: Float>(&self, p: &'p [F]) -> Weights<'p, F> {
        let (u, p) = p.split_at(self.rank * self.inputs);
        let (v, alpha) = p.split_at(self.gates() * self.rank);
        let (u, v) = (Mat::new(u, self.rank, self.inputs), Mat::new(v, self.gates(), self.rank));
        Weights { u, v, alpha: alpha[0] }
    }

    fn room_len(&self, tile: usize) -> usize {
        self.inputs + tile * (1 + 2 * self.inputs + 2 * self.rank + 2 * self.gates())
    }

    fn room<'s, F: Float>(&self, rows: usize, mut scratch: &'s mut [F]) -> Room<'s, F> {
        let slab = &mut scratch;
        let (ones, rstd) = (next(slab, self.inputs), next(slab, rows));
        let (z, wide) = (next_mat(slab, rows, self.inputs), next_mat(slab, rows, self.inputs));
        let low = [next_mat(slab, rows, self.rank), next_mat(slab, rows, self.rank)];
        let q = [next_mat(slab, rows, self.gates()), next_mat(slab, rows, self.gates())];
        Room { ones, rstd, z, low, q, wide, rest: scratch }
    }

    fn own_req<F: Float>(&self, be: &dyn Backend<F>, tile: usize) -> Req {
        let (i, g, r) = (self.inputs, self.gates(), self.rank);
        let matmul = |m, k, n| be.req(OpShape::Matmul { m, k, n });
        matmul(tile, i, r)
            .max(matmul(tile, r, g))
            .max(matmul(g, tile, r))
            .max(matmul(tile, g, r))
            .max(matmul(r, tile, i))
            .max(matmul(tile, r, i))
    }
}

impl<F: Float> Room<'_, F> {
    /// `z`, `z Uᵀ` and `q` of a tile.
    fn forward(&mut self, be: &dyn Backend<F>, w: &Weights<'_, F>, x: Mat<'_, F>) {
        self.ones.fill(F::ONE);
        be.rmsnorm(x, self.ones, F::from_f64(EPS), self.z.rb(), self.rstd);
        let ([low, _], [q, _]) = (&mut self.low, &mut self.q);
        be.matmul(F::ONE, self.z.as_ref(), w.u.t(), F::ZERO, low.rb(), self.rest);
        be.matmul(F::ONE, low.as_ref(), w.v.t(), F::ZERO, q.rb(), self.rest);
    }
}

/// Ranges of [`TILE`] rows, the last one shorter.
fn tiles(rows: usize) -> impl Iterator<Item = Range<usize>> {
    (0..rows).step_by(TILE).map(move |start| start..rows.min(start + TILE))
}

/// `out = combine(out, x, 1 + alpha q)`, each gate over its neighbours.
fn gated<F: Float>(
    x: Mat<'_, F>,
    q: Mat<'_, F>,
    alpha: F,
    mut out: MatMut<'_, F>,
    combine: impl Fn(F, F) -> F,
) {
    for t in 0..x.rows() {
        let blocks = out.row_mut(t).chunks_mut(GATE_WIDTH).zip(x.row(t).chunks(GATE_WIDTH));
        for ((out, x), &q) in blocks.zip(q.row(t)) {
            let gate = F::ONE + alpha * q;
            out.iter_mut().zip(x).for_each(|(out, &x)| *out = combine(*out, x * gate));
        }
    }
}

/// `out[t, j] = Σ a b` over the neighbours of gate `j`.
fn block_products<F: Float>(a: Mat<'_, F>, b: Mat<'_, F>, mut out: MatMut<'_, F>) {
    for t in 0..a.rows() {
        let blocks = a.row(t).chunks(GATE_WIDTH).zip(b.row(t).chunks(GATE_WIDTH));
        for (out, (a, b)) in out.row_mut(t).iter_mut().zip(blocks) {
            *out = F::ZERO;
            a.iter().zip(b).for_each(|(&a, &b)| *out += a * b);
        }
    }
}

/// `sum += Σ a b`, in quanta of rows.
fn add_product<F: Float>(a: Mat<'_, F>, b: Mat<'_, F>, sum: &mut F) {
    for rows in quanta(0..a.rows()) {
        let mut part = F::ZERO;
        for t in rows {
            a.row(t).iter().zip(b.row(t)).for_each(|(&a, &b)| part += a * b);
        }
        *sum += part;
    }
}

impl<F: Float> Adapter<F> for Gate {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn params(&self) -> &[ParamSpec] {
        &self.params
    }

    fn facts(&self) -> Facts {
        Facts { reads_x: true, reads_y: false, whole_sequence: false, mergeable: false }
    }

    fn req(&self, be: &dyn Backend<F>, base: &dyn Linear<F>, rows: usize) -> Req {
        let tile = rows.min(TILE);
        let inside = self.own_req(be, tile).max(base.req(be, tile));
        inside.plus(self.room_len(tile)).max(base.req(be, rows))
    }

    fn apply(&self, cx: &Cx<'_, F>, operands: Forward<'_, F>) {
        let (be, Forward { x, mut y, scratch, .. }) = (cx.be, operands);
        let w = self.weights(cx.p);
        for tile in tiles(x.rows()) {
            let x = x.rows_range(tile.clone());
            let mut room = self.room(x.rows(), scratch);
            room.forward(be, &w, x);
            let Room { q: [q, _], mut wide, rest, .. } = room;
            gated(x, q.as_ref(), w.alpha, wide.rb(), |_, gated| gated);
            cx.base.apply(be, wide.as_ref(), y.rb().rows_range(tile), rest);
        }
    }

    fn vjp(&self, cx: &Cx<'_, F>, operands: Vjp<'_, F>) {
        let (be, Vjp { x, dy, mut dx, grad, scratch, .. }) = (cx.be, operands);
        let x = x.expect("the backward of a gate reads the input of its linear");
        let w = self.weights(cx.p);
        let (du, grad) = grad.split_at_mut(w.u.len());
        let (dv, d_alpha) = grad.split_at_mut(w.v.len());
        for tile in tiles(x.rows()) {
            let (x, dy) = (x.rows_range(tile.clone()), dy.rows_range(tile.clone()));
            let mut room = self.room(x.rows(), scratch);
            room.forward(be, &w, x);
            let Room { ones, rstd, z, low: [low, mut d_low], q: [q, mut dq], mut wide, rest } =
                room;
            wide.fill(F::ZERO);
            cx.base.vjp(be, dy, wide.rb(), rest);
            block_products(wide.as_ref(), x, dq.rb());
            add_product(dq.as_ref(), q.as_ref(), &mut d_alpha[0]);
            // The factor enters with these, so that the sums over rows carry none.
            for t in 0..x.rows() {
                dq.row_mut(t).iter_mut().for_each(|d| *d *= w.alpha);
            }
            let dv = MatMut::new(dv, w.v.rows(), w.v.cols());
            be.matmul(F::ONE, dq.as_ref().t(), low.as_ref(), F::ONE, dv, rest);
            be.matmul(F::ONE, dq.as_ref(), w.v, F::ZERO, d_low.rb(), rest);
            let du = MatMut::new(du, w.u.rows(), w.u.cols());
            be.matmul(F::ONE, d_low.as_ref().t(), z.as_ref(), F::ONE, du, rest);
            let Some(dx) = &mut dx else { continue };
            let mut dx = dx.rb().rows_range(tile);
            gated(wide.as_ref(), q.as_ref(), w.alpha, dx.rb(), |dx, gated| dx + gated);
            let mut dz = wide;
            be.matmul(F::ONE, d_low.as_ref(), w.u, F::ZERO, dz.rb(), rest);
            be.rmsnorm_vjp(x, ones, rstd, dz.as_ref(), dx);
        }
    }
}
