//! The pooled adapter: forward, backward, decoding.

use lowtide_adapter::{
    Adapter, BadValue, Config, Cx, Facts, Forward, Keeps, Linear, ParamSpec, State, Vjp,
};
use lowtide_backend::{Backend, Req};
use lowtide_tensor::{Float, Mat, MatMut};

use crate::chain::{Chain, Drop};
use crate::pool::{
    CHUNK, Pool, Share, attend, attend_vjp, finish_mean, mean_and_last, mean_and_last_vjp,
};
use crate::slab::{Grads, Weights, Widths, next};
use crate::{KIND, check};

/// LARS on one linear of `I` features in and `O` out: one bias for each pooled sequence.
///
/// Parameters: `A [r, I]`, `B [O, r]`, `Wx [r, I]`, `Wh` and `M [r, r]`, `U1 [4r, r]` and `U2
/// [r, 4r]` with their biases, scale and shift of the norm, `α`, `τ1`, `τ2`, and `P [1, I]` of
/// learned pooling.
#[derive(Clone, Debug, PartialEq)]
pub struct Pooled {
    widths: Widths,
    pool: Pool,
    dropout: f64,
    params: [ParamSpec; 15],
}

/// Room for one share.
struct Room<'s, F> {
    chain: Chain<'s, F>,
    /// The pooled vector and its gradient, `[I]`.
    p: &'s mut [F],
    dp: &'s mut [F],
    /// The bias, or its gradient, `[O]`.
    bias: &'s mut [F],
    /// Of learned pooling.
    weights: &'s mut [F],
    rest: &'s mut [F],
}

impl Pooled {
    /// An adapter of a linear `[out_features, in_features]`; it reads rank and dropout of the
    /// configuration.
    ///
    /// # Errors
    /// [`BadValue`] when the rank is 0 or above [`RANK_MAX`](crate::RANK_MAX), dropout lies outside
    /// `[0, 1)`, or a chunk has no row or more than [`CHUNK`].
    pub fn new(
        in_features: usize,
        out_features: usize,
        pool: Pool,
        config: &Config,
    ) -> Result<Self, BadValue> {
        check(config)?;
        if let Pool::Chunk(len) = pool
            && !(1..=CHUNK).contains(&len)
        {
            let expected = "a whole number from 1 to 64";
            return Err(BadValue { method: KIND, field: "chunk", value: len as f64, expected });
        }
        let widths = Widths { inputs: in_features, outputs: out_features, rank: config.rank };
        Ok(Self { widths, pool, dropout: config.dropout, params: widths.specs() })
    }

    /// What is pooled.
    #[must_use]
    pub fn pool(&self) -> Pool {
        self.pool
    }

    fn own_len(&self, rows: usize) -> usize {
        let Widths { inputs, outputs, rank } = self.widths;
        Chain::<f32>::len(rank) + 2 * inputs + outputs + self.pool.weights_len(rows)
    }

    fn room<'s, F: Float>(&self, rows: usize, mut scratch: &'s mut [F]) -> Room<'s, F> {
        let Widths { inputs, outputs, rank } = self.widths;
        let chain = Chain::cut(rank, &mut scratch);
        let (p, dp) = (next(&mut scratch, inputs), next(&mut scratch, inputs));
        let bias = next(&mut scratch, outputs);
        let weights = next(&mut scratch, self.pool.weights_len(rows));
        Room { chain, p, dp, bias, weights, rest: scratch }
    }

    /// Pools rows into `room.p`.
    fn gather<F: Float>(
        &self,
        be: &dyn Backend<F>,
        w: &Weights<'_, F>,
        x: Mat<'_, F>,
        room: &mut Room<'_, F>,
    ) {
        match self.pool {
            Pool::Learned => {
                let weights = &mut room.weights[..x.rows()];
                attend(be, x, w.pool, room.p, weights, room.rest);
            }
            Pool::Prompt | Pool::All | Pool::Chunk(_) => mean_and_last(be, x, room.p),
        }
    }

    /// Columns in which a chunk's pooled vector is kept in the chunk's own rows.
    fn columns(&self, chunk: usize) -> usize {
        self.widths.inputs.div_ceil(chunk)
    }

    /// Keeps the pooled vector of a share.
    fn keep<F: Float>(&self, share: &Share, p: &[F], mut kept: MatMut<'_, F>) {
        match self.pool {
            Pool::Chunk(len) => {
                let pieces = p.chunks(self.columns(len));
                for (row, piece) in share.from.clone().zip(pieces) {
                    kept.row_mut(row)[..piece.len()].copy_from_slice(piece);
                }
            }
            _ => kept.row_mut(share.sequence).copy_from_slice(p),
        }
    }

    /// What [`keep`](Self::keep) kept.
    fn recall<F: Float>(&self, share: &Share, kept: Mat<'_, F>, p: &mut [F]) {
        match self.pool {
            Pool::Chunk(len) => {
                let pieces = p.chunks_mut(self.columns(len));
                for (row, piece) in share.from.clone().zip(pieces) {
                    piece.copy_from_slice(&kept.row(row)[..piece.len()]);
                }
            }
            _ => p.copy_from_slice(kept.row(share.sequence)),
        }
    }

    /// Adds the bias while decoding, and makes what the sequence is to have of it.
    fn decode<F: Float>(
        &self,
        cx: &Cx<'_, F>,
        (x, y): (Mat<'_, F>, MatMut<'_, F>),
        State { values, made_from }: State<'_, F>,
        mut room: Room<'_, F>,
    ) {
        let (be, past) = (cx.be, cx.rows.past);
        let w = Weights::cut(self.widths, cx.p);
        if let Pool::Chunk(len) = self.pool {
            self.decode_chunks(cx, &w, len, (x, y), values, room);
            *made_from = past + x.rows();
            return;
        }
        if past == 0 && x.rows() > 0 {
            self.gather(be, &w, x, &mut room);
            let Room { chain, p, rest, .. } = &mut room;
            chain.forward(be, &w, p, None, 0, rest);
            chain.bias(be, &w, values, rest);
            *made_from = x.rows();
        }
        be.add_bias(values, y);
    }

    /// Chunk by chunk: the state holds the sum over the rows of the last one, and the bias.
    fn decode_chunks<F: Float>(
        &self,
        cx: &Cx<'_, F>,
        w: &Weights<'_, F>,
        len: usize,
        (x, mut y): (Mat<'_, F>, MatMut<'_, F>),
        state: &mut [F],
        room: Room<'_, F>,
    ) {
        let (be, Room { mut chain, rest, .. }) = (cx.be, room);
        if cx.rows.past == 0 {
            state.fill(F::ZERO);
        }
        let (sum, bias) = state.split_at_mut(self.widths.inputs);
        for t in 0..x.rows() {
            be.add_bias(bias, y.rb().rows_range(t..t + 1));
            // Row by row: the order of a whole chunk's sum.
            be.sum_rows(x.rows_range(t..t + 1), sum);
            if (cx.rows.past + t + 1).is_multiple_of(len) {
                finish_mean(sum, len, x.row(t));
                chain.forward(be, w, sum, None, 0, rest);
                chain.bias(be, w, bias, rest);
                sum.fill(F::ZERO);
            }
        }
    }
}

impl<F: Float> Adapter<F> for Pooled {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn params(&self) -> &[ParamSpec] {
        if self.pool == Pool::Learned { &self.params } else { &self.params[..14] }
    }

    fn facts(&self) -> Facts {
        let reads_x = self.pool == Pool::Learned;
        Facts { reads_x, reads_y: false, whole_sequence: true, mergeable: false }
    }

    fn keeps(&self) -> Keeps {
        match self.pool {
            Pool::Chunk(len) => Keeps::PerRow(self.columns(len)),
            Pool::Prompt | Pool::All | Pool::Learned => Keeps::PerSequence(self.widths.inputs),
        }
    }

    fn looks_ahead(&self) -> bool {
        self.pool == Pool::All
    }

    fn state(&self) -> usize {
        let Widths { inputs, outputs, .. } = self.widths;
        if matches!(self.pool, Pool::Chunk(_)) { inputs + outputs } else { outputs }
    }

    fn req(&self, be: &dyn Backend<F>, base: &dyn Linear<F>, rows: usize) -> Req {
        let products = Chain::req(be, self.widths);
        let products = products.max(self.pool.req(be, rows, self.widths.inputs));
        products.plus(self.own_len(rows)).max(base.req(be, rows))
    }

    fn apply(&self, cx: &Cx<'_, F>, operands: Forward<'_, F>) {
        let (be, Forward { x, mut y, mut kept, state, scratch }) = (cx.be, operands);
        cx.base.apply(be, x, y.rb(), scratch);
        let mut room = self.room(x.rows(), scratch);
        if let Some(state) = state {
            return self.decode(cx, (x, y), state, room);
        }
        let (w, drop) = (Weights::cut(self.widths, cx.p), Drop::of(self.dropout, &cx.rows));
        if let Some(kept) = &mut kept {
            kept.fill(F::ZERO);
        }
        for share in self.pool.shares(cx.rows.spans) {
            self.gather(be, &w, x.rows_range(share.from.clone()), &mut room);
            if let Some(kept) = &mut kept {
                self.keep(&share, room.p, kept.rb());
            }
            let Room { chain, p, bias, rest, .. } = &mut room;
            chain.forward(be, &w, p, drop, cx.rows.row0 + share.to.start, rest);
            chain.bias(be, &w, bias, rest);
            be.add_bias(bias, y.rb().rows_range(share.to));
        }
    }

    fn vjp(&self, cx: &Cx<'_, F>, operands: Vjp<'_, F>) {
        let (be, Vjp { x, kept, dy, mut dx, grad, scratch, .. }) = (cx.be, operands);
        if let Some(dx) = &mut dx {
            cx.base.vjp(be, dy, dx.rb(), scratch);
        }
        let kept = kept.expect("lars keeps its pooled vectors");
        let (w, drop) = (Weights::cut(self.widths, cx.p), Drop::of(self.dropout, &cx.rows));
        let mut grads = Grads::cut(self.widths, grad);
        let Room { mut chain, p, dp, bias: g, weights, rest } = self.room(dy.rows(), scratch);
        for share in self.pool.shares(cx.rows.spans) {
            self.recall(&share, kept, p);
            let at = cx.rows.row0 + share.to.start;
            chain.forward(be, &w, p, drop, at, rest);
            g.fill(F::ZERO);
            be.sum_rows(dy.rows_range(share.to), g);
            chain.backward(be, &w, (p, g), drop, at, &mut grads, dp, rest);
            let dx = dx.as_mut().map(|dx| dx.rb().rows_range(share.from.clone()));
            if self.pool == Pool::Learned {
                let x = x.expect("the backward of learned pooling reads the input of its linear");
                let x = x.rows_range(share.from);
                attend_vjp(be, x, w.pool, (p, dp), grads.pool, dx, weights, rest);
            } else if let Some(dx) = dx {
                mean_and_last_vjp(be, dp, dx);
            }
        }
    }
}
