//! The gradient of attention, from log-sum-exp and recomputed probabilities.
//!
//! First, each query's `dout · o` for each head, which is what the softmax's gradient subtracts.
//! Then a unit is one key/value head of one span, with the query heads that share it: it owns its
//! columns of all three gradients, so nothing is computed twice. Tiles of keys run outside,
//! ascending; for each, heads and tiles of queries run inside, ascending. A tile costs five
//! products: scores and the gradients of weights, made again, and one into each gradient.

use std::ops::Range;

use lowtide_backend::{AttentionShape, Req, Span, contract};
use lowtide_kernels::{Kernels, Rhs};
use lowtide_lanes::share;
use lowtide_tensor::{Mat, MatMut, QUANTUM};

use crate::Simd;
use crate::reach::{Reach, Tile, packed, turned};

/// Multiply-adds below which the work stays on the calling thread.
const WORTH_SHARING: usize = 128 * 1024;

/// What [`attention_vjp`] needs.
pub(crate) fn req(be: &Simd, rows: usize, shape: AttentionShape) -> Req {
    let tile = rows.min(QUANTUM);
    // Keys and values turned, keys packed, and two packed tiles of queries; scores and slopes.
    let each = 5 * tile * shape.head_dim + 2 * tile * Kernels::SCORES;
    Req { scratch: 2 * rows * shape.heads + be.threads() * each, library_bytes: 0 }
}

/// What the forward pass took and gave.
#[derive(Clone, Copy)]
pub(crate) struct Forward<'a> {
    pub(crate) q: Mat<'a, f32>,
    pub(crate) k: Mat<'a, f32>,
    pub(crate) v: Mat<'a, f32>,
    pub(crate) o: Mat<'a, f32>,
    pub(crate) lse: Mat<'a, f32>,
    pub(crate) dout: Mat<'a, f32>,
}

/// `dq`, `dk` and `dv`, or some rows and columns of them.
pub(crate) struct Gradients<'a> {
    pub(crate) dq: MatMut<'a, f32>,
    pub(crate) dk: MatMut<'a, f32>,
    pub(crate) dv: MatMut<'a, f32>,
}

/// `dq +=`, `dk +=`, `dv +=`.
pub(crate) fn attention_vjp(
    be: &Simd,
    forward: Forward<'_>,
    shape: AttentionShape,
    spans: &[Span],
    gradients: Gradients<'_>,
    scratch: &mut [f32],
) {
    let Forward { q, k, v, o, lse, dout } = forward;
    let views = [gradients.dq.as_ref(), gradients.dk.as_ref(), gradients.dv.as_ref()];
    contract::attention_vjp([q, k, v], o, lse, dout, shape, spans, views);
    let rows = q.rows();
    let longest = spans.iter().map(Span::len).max().unwrap_or(0);
    let threads = if rows * longest * q.cols() < WORTH_SHARING { 1 } else { be.threads() };
    let (rows_of, own) = scratch.split_at_mut(2 * rows * shape.heads);
    softmaxes(be.kernels(), threads, forward, shape, rows_of);
    let rows_of = &*rows_of;

    let each = req(be, rows, shape).scratch - 2 * rows * shape.heads;
    let each = each / be.threads();
    let units = Units { shape, spans: spans.iter(), rest: Some(gradients), at: 0, band: None };
    share(threads, own, each, units, |unit, own| {
        let Unit { span, head, mut gradients } = unit;
        let work = Work {
            kernels: be.kernels(),
            forward,
            softmaxes: rows_of,
            shape,
            reach: Reach::new(span, rows, rows, shape.window),
            span,
            head,
        };
        for at in (0..span.len()).step_by(QUANTUM) {
            work.keys(at..span.len().min(at + QUANTUM), &mut gradients, own);
        }
    });
}

/// For each head, `lse` and then `dout · o` of all rows.
fn softmaxes(
    kernels: &Kernels,
    threads: usize,
    forward: Forward<'_>,
    shape: AttentionShape,
    out: &mut [f32],
) {
    let rows = forward.q.rows();
    if rows == 0 {
        return;
    }
    let heads = out.chunks_exact_mut(2 * rows).enumerate();
    share(threads, &mut [], 0, heads, |(head, out), _| {
        let (lse, means) = out.split_at_mut(rows);
        lse.iter_mut().enumerate().for_each(|(i, lse)| *lse = forward.lse.get(i, head));
        let at = head * shape.head_dim..(head + 1) * shape.head_dim;
        kernels.dot_rows(forward.dout.cols_range(at.clone()), forward.o.cols_range(at), means);
    });
}

/// One unit's constant part.
struct Work<'a> {
    kernels: &'static Kernels,
    forward: Forward<'a>,
    softmaxes: &'a [f32],
    shape: AttentionShape,
    reach: Reach,
    span: Span,
    /// The key/value head.
    head: usize,
}

/// A tile of keys and values, as products read it.
struct Keys<'a> {
    /// Counted from the first key of the span.
    at: Range<usize>,
    /// As they lie.
    k: Mat<'a, f32>,
    packed: Rhs<'a>,
    turned: Rhs<'a>,
    values: Rhs<'a>,
}

impl Work<'_> {
    /// Adds what one tile of keys contributes.
    fn keys(&self, at: Range<usize>, gradients: &mut Gradients<'_>, own: &mut [f32]) {
        let d = self.shape.head_dim;
        let (rows, columns) = (self.reach.rows(&at), self.head * d..(self.head + 1) * d);
        let k = self.forward.k.rows_range(rows.clone()).cols_range(columns.clone());
        let v = self.forward.v.rows_range(rows).cols_range(columns);
        let len = at.len() * d;
        let (room, own) = own.split_at_mut(len);
        let packed = packed(self.kernels, k, room);
        let (room, own) = own.split_at_mut(len);
        let turned_keys = turned(self.kernels, k, room);
        let (room, own) = own.split_at_mut(len);
        let values = turned(self.kernels, v, room);
        let keys = Keys { at, k, packed, turned: turned_keys, values };

        let group = self.shape.heads / self.shape.kv_heads;
        // Before the tile that holds the first of these keys nobody sees them.
        for head in 0..group {
            for at in (keys.at.start..self.span.len()).step_by(QUANTUM) {
                let rows =
                    self.span.start + at..self.span.start + self.span.len().min(at + QUANTUM);
                let tile = Tile {
                    rows: rows.len(),
                    columns: keys.at.len(),
                    seen: self.reach.seen(rows.start, &keys.at, 1),
                };
                if tile.is_empty() {
                    break;
                }
                self.tile(&keys, tile, rows, head, gradients, own);
            }
        }
    }

    /// Adds what one tile of one head's queries contributes.
    fn tile(
        &self,
        keys: &Keys<'_>,
        tile: Tile,
        rows: Range<usize>,
        head: usize,
        gradients: &mut Gradients<'_>,
        own: &mut [f32],
    ) {
        let (kernels, d, n) = (self.kernels, self.shape.head_dim, tile.columns);
        let first = self.head * (self.shape.heads / self.shape.kv_heads) + head;
        let at = first * d..(first + 1) * d;
        let q = self.forward.q.rows_range(rows.clone()).cols_range(at.clone());
        let dout = self.forward.dout.rows_range(rows.clone()).cols_range(at);
        let (probs, own) = own.split_at_mut(tile.rows * Kernels::SCORES);
        let (slopes, own) = own.split_at_mut(tile.rows * Kernels::SCORES);

        let scale = self.shape.scale as f32;
        kernels.gemm(scale, q, keys.turned, false, whole(probs).cols_range(0..n));
        kernels.gemm(1.0, dout, keys.values, false, whole(slopes).cols_range(0..n));
        let total = self.forward.q.rows();
        let (lse, means) =
            self.softmaxes[2 * first * total..2 * (first + 1) * total].split_at(total);
        let (lse, means) = (&lse[rows.clone()], &means[rows.clone()]);
        kernels.soften_vjp(probs, slopes, n, tile.seen, scale, lse, means);

        let probs = Mat::new(probs, tile.rows, Kernels::SCORES).cols_range(0..n);
        let slopes = Mat::new(slopes, tile.rows, Kernels::SCORES).cols_range(0..n);
        let dk = gradients.dk.rb().rows_range(keys.at.clone());
        let dv = gradients.dv.rb().rows_range(keys.at.clone());
        let local = rows.start - self.span.start..rows.end - self.span.start;
        let dq = gradients.dq.rb().rows_range(local).cols_range(head * d..(head + 1) * d);
        if tile.is_whole() || [q, dout, keys.k].iter().all(|&x| kernels.finite(x)) {
            let (room, own) = own.split_at_mut(tile.rows * d);
            kernels.gemm(1.0, probs.t(), packed(kernels, dout, room), true, dv);
            kernels.gemm(1.0, slopes.t(), packed(kernels, q, &mut own[..tile.rows * d]), true, dk);
            kernels.gemm(1.0, slopes, keys.packed, true, dq);
        } else {
            tile.scatter(kernels, probs, dout, dv);
            tile.scatter(kernels, slopes, q, dk);
            tile.gather(kernels, slopes, keys.k, dq);
        }
    }
}

/// A tile of scores as a matrix.
fn whole(tile: &mut [f32]) -> MatMut<'_, f32> {
    let rows = tile.len() / Kernels::SCORES;
    MatMut::new(tile, rows, Kernels::SCORES)
}

/// One key/value head of one span.
struct Unit<'a> {
    span: Span,
    head: usize,
    gradients: Gradients<'a>,
}

/// The units of a batch, span by span and head by head.
struct Units<'a, 's> {
    shape: AttentionShape,
    spans: std::slice::Iter<'s, Span>,
    /// Rows from `at` on.
    rest: Option<Gradients<'a>>,
    at: usize,
    /// Heads of the current span not handed out so far.
    band: Option<Unit<'a>>,
}

impl<'a> Iterator for Units<'a, '_> {
    type Item = Unit<'a>;

    fn next(&mut self) -> Option<Unit<'a>> {
        let band = match self.band.take().filter(|band| band.gradients.dk.cols() > 0) {
            Some(band) => band,
            None => {
                let span = *self.spans.next()?;
                let cut = |from: MatMut<'a, f32>| {
                    from.split_rows(span.start - self.at).1.split_rows(span.len())
                };
                let Gradients { dq, dk, dv } = self.rest.take()?;
                let ((dq, dq_rest), (dk, dk_rest), (dv, dv_rest)) = (cut(dq), cut(dk), cut(dv));
                self.at = span.end;
                self.rest = Some(Gradients { dq: dq_rest, dk: dk_rest, dv: dv_rest });
                Unit { span, head: 0, gradients: Gradients { dq, dk, dv } }
            }
        };
        let Unit { span, head, gradients: Gradients { dq, dk, dv } } = band;
        let (d, group) = (self.shape.head_dim, self.shape.heads / self.shape.kv_heads);
        let (dq, dq_rest) = dq.split_cols(group * d);
        let ((dk, dk_rest), (dv, dv_rest)) = (dk.split_cols(d), dv.split_cols(d));
        let rest = Gradients { dq: dq_rest, dk: dk_rest, dv: dv_rest };
        self.band = Some(Unit { span, head: head + 1, gradients: rest });
        Some(Unit { span, head, gradients: Gradients { dq, dk, dv } })
    }
}
