//! Causal grouped-query attention that never holds more than a tile of scores (the online softmax
//! of FlashAttention, Dao et al. 2022), and its gradient by recomputation.
//!
//! Queries are the last rows of the keys, and all rows are counted as those of keys. Keys come in
//! tiles of [`QUANTUM`] counted from the first key of the span, queries in the quanta of all rows.
//! What a query sees inside a tile is one range, so a mask is two numbers. A tile that a query does
//! not see at all changes nothing, hence row `t` depends on its own inputs only.

use core::ops::Range;

use lowtide_tensor::{Float, Mat, MatMut, QUANTUM, quanta};

use super::lanes::{LANES, add, axpy, dot, dots, panel_len};
use crate::contract;
use crate::shapes::{AttentionShape, Span};

pub(super) fn scratch(head_dim: usize) -> usize {
    Tile::<f32>::len(head_dim) + head_dim
}

pub(super) fn scratch_vjp(head_dim: usize) -> usize {
    2 * Tile::<f32>::len(head_dim) + 2 * QUANTUM * QUANTUM + head_dim
}

/// `o [Tq, H * d]` and `lse [Tq, H]` of `q [Tq, H * d]` over `k`, `v [Tk, K * d]`.
///
/// For each tile of keys in ascending order, with `m`, `l` the running maximum and sum:
/// `m' = max(m, max s)`, `o = o e^(m - m') + Σ e^(s - m') v`, `l = l e^(m - m') + Σ e^(s - m')`,
/// both sums from zero inside the tile; at the end `o / l` and `lse = m + ln l`.
pub fn attention<F: Float>(
    q: Mat<'_, F>,
    k: Mat<'_, F>,
    v: Mat<'_, F>,
    shape: AttentionShape,
    spans: &[Span],
    mut o: MatMut<'_, F>,
    mut lse: MatMut<'_, F>,
    scratch: &mut [F],
) {
    contract::attention(q, k, v, shape, spans, o.as_ref(), lse.as_ref());
    let (keys, partial) = scratch.split_at_mut(Tile::<F>::len(shape.head_dim));
    let partial = &mut partial[..shape.head_dim];
    for span in spans {
        let reach = Reach::new(*span, q.rows(), k.rows(), shape.window);
        for head in 0..shape.heads {
            let (hq, hk) = columns(shape, head);
            let (q, mut o) = (q.cols_range(hq.clone()), o.rb().cols_range(hq));
            let (k, v) = (k.cols_range(hk.clone()), v.cols_range(hk));
            for queries in quanta(reach.queries.clone()) {
                let mut running = [Running::NOTHING; QUANTUM];
                let rows = reach.query_rows(&queries);
                for row in rows.clone() {
                    o.row_mut(row).fill(F::ZERO);
                }
                for tile in reach.key_tiles(&queries) {
                    let block = Block { reach: &reach, queries: queries.clone(), tile };
                    let keys = Tile::pack(keys, k, block.tile.clone());
                    for (i, row) in rows.clone().enumerate() {
                        let seen = block.seen(i);
                        if !seen.is_empty() {
                            let mut scores = [F::ZERO; QUANTUM];
                            keys.dots(q.row(row), &mut scores);
                            let values = seen.clone().map(|j| v.row(block.tile.start + j));
                            let (scores, o) = (&mut scores[seen], o.row_mut(row));
                            running[i].merge(scores, shape.scale, values, partial, o);
                        }
                    }
                }
                for (row, Running { max, sum }) in rows.zip(running) {
                    o.row_mut(row).iter_mut().for_each(|o| *o /= sum);
                    *lse.at(row, head) = max + sum.ln();
                }
            }
        }
    }
}

/// What a query knows of its softmax after some tiles.
#[derive(Clone, Copy)]
struct Running<F> {
    max: F,
    sum: F,
}

impl<F: Float> Running<F> {
    const NOTHING: Self = Self { max: F::NEG_INFINITY, sum: F::ZERO };

    /// Merges a tile's scores and values; `out` holds the weighted values so far.
    fn merge<'a>(
        &mut self,
        scores: &mut [F],
        scale: f64,
        values: impl Iterator<Item = &'a [F]>,
        partial: &mut [F],
        out: &mut [F],
    ) {
        let scale = F::from_f64(scale);
        let mut max = self.max;
        for score in &mut *scores {
            *score *= scale;
            max = max.max(*score);
        }
        let fade = (self.max - max).exp();
        partial.fill(F::ZERO);
        let mut sum = F::ZERO;
        for (score, value) in scores.iter().zip(values) {
            let weight = (*score - max).exp();
            sum += weight;
            axpy(weight, value, partial);
        }
        for (out, part) in out.iter_mut().zip(partial) {
            *out = *out * fade + *part;
        }
        *self = Self { max, sum: self.sum * fade + sum };
    }
}

/// `dq +=`, `dk +=`, `dv +=`, by recomputing probabilities tile by tile from `lse`: with
/// `p = e^(scale q·k - lse)` and `ds = scale p (dout·v - dout·o)`, `dq = ds k`, `dk = dsᵀ q` and
/// `dv = pᵀ dout`.
///
/// `dq` sums over tiles of keys in ascending order. `dk` and `dv` sum over tiles of queries in
/// ascending order and, for each, over the query heads of a group in ascending order. Every partial
/// sum of one tile starts from zero.
pub fn attention_vjp<F: Float>(
    q: Mat<'_, F>,
    k: Mat<'_, F>,
    v: Mat<'_, F>,
    o: Mat<'_, F>,
    lse: Mat<'_, F>,
    dout: Mat<'_, F>,
    shape: AttentionShape,
    spans: &[Span],
    mut dq: MatMut<'_, F>,
    mut dk: MatMut<'_, F>,
    mut dv: MatMut<'_, F>,
    scratch: &mut [F],
) {
    let grads = [dq.as_ref(), dk.as_ref(), dv.as_ref()];
    contract::attention_vjp([q, k, v], o, lse, dout, shape, spans, grads);
    let d = shape.head_dim;
    let (keys, scratch) = scratch.split_at_mut(Tile::<F>::len(d));
    let (values, scratch) = scratch.split_at_mut(Tile::<F>::len(d));
    let (probs, scratch) = scratch.split_at_mut(QUANTUM * QUANTUM);
    let (slopes, scratch) = scratch.split_at_mut(QUANTUM * QUANTUM);
    let partial = &mut scratch[..d];
    for span in spans {
        let reach = Reach::new(*span, q.rows(), k.rows(), shape.window);
        let heads =
            |queries: Range<usize>| (0..shape.heads).map(move |head| (queries.clone(), head));
        for (queries, head) in quanta(reach.queries.clone()).flat_map(heads) {
            let (hq, hk) = columns(shape, head);
            let (q, dout) = (q.cols_range(hq.clone()), dout.cols_range(hq.clone()));
            let (k, v) = (k.cols_range(hk.clone()), v.cols_range(hk.clone()));
            let o = o.cols_range(hq.clone());
            for tile in reach.key_tiles(&queries) {
                let block = Block { reach: &reach, queries: queries.clone(), tile };
                let keys = Tile::pack(keys, k, block.tile.clone());
                let values = Tile::pack(values, v, block.tile.clone());
                for (i, row) in reach.query_rows(&queries).enumerate() {
                    let (dout, line) = (dout.row(row), i * QUANTUM..(i + 1) * QUANTUM);
                    let line = (&mut probs[line.clone()], &mut slopes[line]);
                    keys.dots(q.row(row), line.0);
                    values.dots(dout, line.1);
                    let mean = dot(dout, o.row(row));
                    softmax_vjp(line, shape.scale, lse.get(row, head), mean, block.seen(i));
                }
                block.back_to_queries(slopes, k, dq.rb().cols_range(hq.clone()), partial);
                block.back_to_keys(slopes, q, dk.rb().cols_range(hk.clone()), partial);
                block.back_to_keys(probs, dout, dv.rb().cols_range(hk.clone()), partial);
            }
        }
    }
}

/// Turns one query's scores into probabilities and the gradients of its probabilities into those of
/// its unscaled scores. What lies outside `seen` is left as it is: nothing reads it.
fn softmax_vjp<F: Float>(
    (probs, slopes): (&mut [F], &mut [F]),
    scale: f64,
    lse: F,
    mean: F,
    seen: Range<usize>,
) {
    let scale = F::from_f64(scale);
    for (p, slope) in probs[seen.clone()].iter_mut().zip(&mut slopes[seen]) {
        *p = (*p * scale - lse).exp();
        *slope = *p * (*slope - mean) * scale;
    }
}

/// A tile of keys or values `[d, at most QUANTUM]`, packed in panels of [`LANES`].
struct Tile<'a, F> {
    panels: &'a [F],
    head_dim: usize,
}

impl<'a, F: Float> Tile<'a, F> {
    const fn len(head_dim: usize) -> usize {
        QUANTUM * head_dim
    }

    /// Packs some rows of `from [Tk, d]`; lanes without a row are zero.
    fn pack(buffer: &'a mut [F], from: Mat<'_, F>, rows: Range<usize>) -> Self {
        let head_dim = from.cols();
        buffer.fill(F::ZERO);
        for (j, row) in rows.enumerate() {
            let panel = &mut buffer[j / LANES * panel_len(head_dim)..];
            for (lanes, &value) in panel.chunks_mut(LANES).zip(from.row(row)) {
                lanes[j % LANES] = value;
            }
        }
        Self { panels: buffer, head_dim }
    }

    /// `out[j] = x · row j` of the tile.
    fn dots(&self, x: &[F], out: &mut [F]) {
        let panels = self.panels.chunks(panel_len(self.head_dim));
        for (out, panel) in out.chunks_mut(LANES).zip(panels) {
            out.copy_from_slice(&dots(x, panel));
        }
    }
}

/// Who sees whom in one span. Queries and keys are counted as rows of `k`.
struct Reach {
    /// Rows before the first of `q`.
    before: usize,
    /// First key of the span.
    first: usize,
    /// The queries of the span.
    queries: Range<usize>,
    /// Keys a query sees at most, itself included.
    window: usize,
}

impl Reach {
    fn new(span: Span, queries: usize, keys: usize, window: Option<usize>) -> Self {
        Self {
            before: keys - queries,
            first: span.start,
            queries: span.queries(queries, keys),
            window: window.unwrap_or(usize::MAX),
        }
    }

    /// The rows of `q` that hold some queries.
    fn query_rows(&self, queries: &Range<usize>) -> Range<usize> {
        queries.start - self.before..queries.end - self.before
    }

    /// The keys that a query sees.
    fn keys(&self, query: usize) -> Range<usize> {
        let end = query + 1;
        end.saturating_sub(self.window).max(self.first)..end
    }

    /// The tiles of keys that at least one of some queries sees.
    fn key_tiles(&self, queries: &Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
        let (seen, end) = (self.keys(queries.start).start - self.first, queries.end);
        let starts = (self.first + seen / QUANTUM * QUANTUM..end).step_by(QUANTUM);
        starts.map(move |start| start..end.min(start + QUANTUM))
    }
}

/// A tile of queries against a tile of keys.
struct Block<'a> {
    reach: &'a Reach,
    queries: Range<usize>,
    tile: Range<usize>,
}

impl Block<'_> {
    /// The rows of `q`.
    fn query_rows(&self) -> Range<usize> {
        self.reach.query_rows(&self.queries)
    }

    /// The keys of the tile that query `i` of the tile sees.
    fn seen(&self, i: usize) -> Range<usize> {
        let keys = self.reach.keys(self.queries.start + i);
        let start = keys.start.clamp(self.tile.start, self.tile.end) - self.tile.start;
        let end = keys.end.clamp(self.tile.start, self.tile.end) - self.tile.start;
        start..end
    }

    /// `to[query] += Σ_keys weight[query, key] * from[key]`.
    fn back_to_queries<F: Float>(
        &self,
        weights: &[F],
        from: Mat<'_, F>,
        mut to: MatMut<'_, F>,
        partial: &mut [F],
    ) {
        for (i, row) in self.query_rows().enumerate() {
            partial.fill(F::ZERO);
            for j in self.seen(i) {
                axpy(weights[i * QUANTUM + j], from.row(self.tile.start + j), partial);
            }
            add(partial, to.row_mut(row));
        }
    }

    /// `to[key] += Σ_queries weight[query, key] * from[query]`.
    fn back_to_keys<F: Float>(
        &self,
        weights: &[F],
        from: Mat<'_, F>,
        mut to: MatMut<'_, F>,
        partial: &mut [F],
    ) {
        for (j, row) in self.tile.clone().enumerate() {
            partial.fill(F::ZERO);
            for (i, query) in self.query_rows().enumerate() {
                if self.seen(i).contains(&j) {
                    axpy(weights[i * QUANTUM + j], from.row(query), partial);
                }
            }
            add(partial, to.row_mut(row));
        }
    }
}

/// The columns of a query head, and of the key and value head it reads.
fn columns(shape: AttentionShape, head: usize) -> (Range<usize>, Range<usize>) {
    let (d, kv) = (shape.head_dim, head / (shape.heads / shape.kv_heads));
    (head * d..(head + 1) * d, kv * d..(kv + 1) * d)
}
