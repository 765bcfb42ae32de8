//! Causal grouped-query attention with an online softmax: never more than a tile of scores.
//!
//! A unit is a tile of queries for one key/value head, with all query heads that share it. It walks
//! the tiles of keys that its queries see, ascending; keys are turned, and values packed, once for
//! all its heads, nothing else is copied. For each head the tile of scores is a product, becomes
//! weights in place, and is multiplied with the values into the output.
//!
//! *Bits*: keys are tiled from the first key of the span, and within a tile every sum is a chain
//! that what a query does not see, and where the tile ends, leave alone. So a query gives the same
//! in any tile of queries: in a batch, alone, and over a cache.

use std::ops::Range;

use lowtide_backend::{AttentionShape, Req, Span, contract};
use lowtide_kernels::{Kernels, Rhs};
use lowtide_lanes::share;
use lowtide_tensor::{Mat, MatMut, QUANTUM};

use crate::Simd;
use crate::reach::{Reach, Tile, cut, packed, queries_of, turned, whole};

/// Multiply-adds below which attention stays on the calling thread.
const WORTH_SHARING: usize = 256 * 1024;

/// Rows of queries from which on values are packed: with fewer, reading them once where they lie is
/// quicker.
const WORTH_PACKING: usize = 8;

/// What [`attention`] needs.
pub(crate) fn req(be: &Simd, queries: usize, keys: usize, shape: AttentionShape) -> Req {
    let group = shape.heads / shape.kv_heads;
    let queries = queries.min(QUANTUM);
    let panels = 2 * keys.min(QUANTUM) * shape.head_dim;
    // A single query's heads are stacked; otherwise each head has a tile of its own.
    let scores = queries.max(group) * Kernels::SCORES;
    let each = panels + scores + 2 * group * queries;
    Req { scratch: be.threads() * each, library_bytes: 0 }
}

/// `o [Tq, H * d]` and `lse [Tq, H]` of `q [Tq, H * d]` over `k`, `v [Tk, K * d]`.
pub(crate) fn attention(
    be: &Simd,
    q: Mat<'_, f32>,
    k: Mat<'_, f32>,
    v: Mat<'_, f32>,
    shape: AttentionShape,
    spans: &[Span],
    o: MatMut<'_, f32>,
    lse: MatMut<'_, f32>,
    scratch: &mut [f32],
) {
    contract::attention(q, k, v, shape, spans, o.as_ref(), lse.as_ref());
    let each = req(be, q.rows(), k.rows(), shape).scratch / be.threads();
    let work = q.rows() * k.rows() * q.cols();
    let threads = if work < WORTH_SHARING { 1 } else { be.threads() };
    let group = shape.heads / shape.kv_heads;
    let spans = spans.iter().rev();
    let spans = spans.map(|&span| (span, queries_of(span, q.rows(), k.rows())));
    let units = Units { shape, tiles: tiles(spans), rest: Some((o, lse)), band: None };
    share(threads, scratch, each, units, |unit, own| {
        let reach = Reach::new(unit.span, q.rows(), k.rows(), shape.window);
        let (d, head) = (shape.head_dim, unit.head);
        let q = q.rows_range(unit.rows.clone());
        let q = q.cols_range(head * group * d..(head + 1) * group * d);
        let at = head * d..(head + 1) * d;
        let (k, v) = (k.cols_range(at.clone()), v.cols_range(at));
        unit.attend(be.kernels(), q, k, v, &reach, shape.scale as f32, own);
    });
}

/// Query rows `rows` of a span, for the heads of a key/value head, and the outputs they own.
struct Unit<'a> {
    span: Span,
    rows: Range<usize>,
    head: usize,
    o: MatMut<'a, f32>,
    lse: MatMut<'a, f32>,
}

impl Unit<'_> {
    fn attend(
        mut self,
        kernels: &Kernels,
        q: Mat<'_, f32>,
        k: Mat<'_, f32>,
        v: Mat<'_, f32>,
        reach: &Reach,
        scale: f32,
        own: &mut [f32],
    ) {
        let (group, queries, d) = (self.lse.cols(), self.rows.len(), k.cols());
        // The heads of a single query lie under each other as they are.
        let (stacks, rows) = if queries == 1 { (1, group) } else { (group, queries) };
        let (maxima, own) = own.split_at_mut(group * queries);
        let (sums, own) = own.split_at_mut(group * queries);
        let (scores, own) = own.split_at_mut(rows * Kernels::SCORES);
        maxima.fill(f32::NEG_INFINITY);
        sums.fill(0.0);
        self.o.fill(0.0);
        for panel in reach.tiles(&self.rows) {
            let n = panel.len();
            let (ks, vs) = own.split_at_mut(n * d);
            let keys = turned(kernels, k.rows_range(reach.rows(&panel)), ks);
            let values = v.rows_range(reach.rows(&panel));
            let tile = Tile {
                rows,
                columns: n,
                seen: reach.seen(self.rows.start, &panel, isize::from(queries > 1)),
            };
            let right = if rows * stacks >= WORTH_PACKING {
                packed(kernels, values, vs)
            } else {
                Rhs::rows(values)
            };
            let local = tile.is_whole() || kernels.finite(values);
            for stack in 0..stacks {
                let at = stack * rows..(stack + 1) * rows;
                let (q, mut o) = stacked(q, self.o.rb(), stack, d);
                for (rows, columns) in tile.bands() {
                    let out = whole(scores).rows_range(rows.clone()).cols_range(0..columns.end);
                    let keys = keys.first_columns(columns.end);
                    kernels.gemm(scale, q.rows_range(rows), keys, false, out);
                }
                let (maxima, sums) = (&mut maxima[at.clone()], &mut sums[at]);
                kernels.soften(scores, n, tile.seen, maxima, sums, o.rb());
                let weights = Mat::new(scores, rows, Kernels::SCORES).cols_range(0..n);
                if local {
                    tile.forth(kernels, weights, right, o);
                } else {
                    tile.gather(kernels, weights, values, o);
                }
            }
        }
        for stack in 0..stacks {
            let at = stack * rows..(stack + 1) * rows;
            let (_, o) = stacked(q, self.o.rb(), stack, d);
            kernels.divide_rows(o, &sums[at]);
        }
        for h in 0..group {
            for i in 0..queries {
                let at = h * queries + i;
                *self.lse.at(i, h) = maxima[at] + sums[at].ln();
            }
        }
    }
}

/// Some stacked heads of `q` and `o`: one head's queries, or one query's heads.
fn stacked<'a, 'b>(
    q: Mat<'a, f32>,
    o: MatMut<'b, f32>,
    stack: usize,
    d: usize,
) -> (Mat<'a, f32>, MatMut<'b, f32>) {
    if q.rows() == 1 {
        let heads = q.cols() / d;
        let (o, _) = o.contiguous().expect("one row of adjacent columns");
        (Mat::new(q.row(0), heads, d), MatMut::new(o, heads, d))
    } else {
        let at = stack * d..(stack + 1) * d;
        (q.cols_range(at.clone()), o.cols_range(at))
    }
}

/// Tiles of query rows from last to first: the last see most keys, and the longest work should
/// begin first. Spans come from last to first too, each with its rows of `q`.
fn tiles(
    spans: impl Iterator<Item = (Span, Range<usize>)> + Send,
) -> impl Iterator<Item = (Span, Range<usize>)> + Send {
    spans.flat_map(|(span, rows)| cut(rows, QUANTUM).rev().map(move |rows| (span, rows)))
}

/// The units of a batch: tiles of rows, and in each the key/value heads.
struct Units<'a, I> {
    shape: AttentionShape,
    tiles: I,
    /// Rows above the tiles handed out so far.
    rest: Option<(MatMut<'a, f32>, MatMut<'a, f32>)>,
    /// Heads of the current tile not handed out so far.
    band: Option<Unit<'a>>,
}

impl<'a, I: Iterator<Item = (Span, Range<usize>)>> Iterator for Units<'a, I> {
    type Item = Unit<'a>;

    fn next(&mut self) -> Option<Unit<'a>> {
        let band = match self.band.take().filter(|band| band.lse.cols() > 0) {
            Some(band) => band,
            None => {
                let (span, rows) = self.tiles.next()?;
                let (o, lse) = self.rest.take()?;
                // Rows below are those of spans without queries, or handed out.
                let ((o_rest, o), (lse_rest, lse)) =
                    (o.split_rows(rows.start), lse.split_rows(rows.start));
                self.rest = Some((o_rest, lse_rest));
                Unit { span, rows, head: 0, o, lse }
            }
        };
        let group = self.shape.heads / self.shape.kv_heads;
        let (o, o_rest) = band.o.split_cols(group * self.shape.head_dim);
        let (lse, lse_rest) = band.lse.split_cols(group);
        let (span, rows, head) = (band.span, band.rows, band.head);
        self.band =
            Some(Unit { span, rows: rows.clone(), head: head + 1, o: o_rest, lse: lse_rest });
        Some(Unit { span, rows, head, o, lse })
    }
}
