//! Causal grouped-query attention with an online softmax: never more than a tile of scores.
//!
//! A unit is a tile of queries for one key/value head. The query heads that share it are stacked,
//! so that keys and values are copied once for all of them and the products have enough rows. Keys
//! come in panels of [`KEYS`], counted from the first key of the span: a panel that a query does
//! not see changes nothing of its row, hence no result depends on how queries are tiled.

use std::ops::Range;

use lowtide_backend::{AttentionShape, Req, Span};
use lowtide_lanes::share;
use lowtide_tensor::{Mat, MatMut, QUANTUM, quanta};

use crate::exp::{exp, exp_all, max, sum};
use crate::gemm::{Write, copy, gemm, packing_bytes, view, view_mut};

/// Keys of a panel: fixed, because sums over keys restart there.
pub(crate) const KEYS: usize = QUANTUM;

/// Stacked rows to aim for: query heads of a group times queries of a tile.
const STACK: usize = 192;

/// Query heads stacked at most, and queries of a tile at most.
const HEADS: usize = 4;
const QUERIES: usize = 96;

/// How queries are tiled and heads stacked: a function of the shape alone.
#[derive(Clone, Copy)]
pub(crate) struct Tiling {
    /// Query heads that share a key/value head.
    pub(crate) group: usize,
    /// Query heads stacked; the last stack of a group may have fewer.
    pub(crate) heads: usize,
    /// Queries of a tile; the last tile of a span may have fewer.
    pub(crate) queries: usize,
    /// Width of a head.
    pub(crate) width: usize,
}

impl Tiling {
    pub(crate) fn new(shape: AttentionShape) -> Self {
        let group = shape.heads / shape.kv_heads;
        let heads = group.min(HEADS);
        Self { group, heads, queries: (STACK / heads).min(QUERIES), width: shape.head_dim }
    }

    /// The same with tiles of queries that lie in a quantum of rows.
    pub(crate) fn in_quanta(self) -> Self {
        Self { queries: QUANTUM, ..self }
    }

    /// Stacked rows, where a tile has `rows` queries at most.
    pub(crate) fn stack(self, rows: usize) -> usize {
        self.heads * self.queries.min(rows)
    }
}

/// What [`attention`] needs on `lanes` threads.
pub(crate) fn req(lanes: usize, queries: usize, keys: usize, shape: AttentionShape) -> Req {
    let tiling = Tiling::new(shape);
    let (stack, panel, d) = (tiling.stack(queries), keys.min(KEYS), tiling.width);
    let scores = packing_bytes(stack, d, panel);
    Req {
        scratch: lanes * (stack * (2 * d + panel + 2) + 2 * panel * d),
        library_bytes: lanes * scores.max(packing_bytes(stack, panel, d)),
    }
}

/// `o [Tq, H * d]` and `lse [Tq, H]` of `q [Tq, H * d]` over `k`, `v [Tk, K * d]`.
pub(crate) fn attention(
    lanes: usize,
    q: Mat<'_, f32>,
    k: Mat<'_, f32>,
    v: Mat<'_, f32>,
    shape: AttentionShape,
    spans: &[Span],
    o: MatMut<'_, f32>,
    lse: MatMut<'_, f32>,
    scratch: &mut [f32],
) {
    let tiling = Tiling::new(shape);
    let each = req(1, q.rows(), k.rows(), shape).scratch;
    let spans = spans.iter().rev();
    let spans = spans.map(|&span| (span, queries_of(span, q.rows(), k.rows())));
    let units =
        Units { tiling, tiles: tiles(spans, tiling.queries), rest: Some((o, lse)), band: None };
    share(lanes, scratch, each, units, |unit, own| {
        let reach = Reach::new(unit.span, q.rows(), k.rows(), shape.window);
        let head = unit.head / tiling.group;
        let columns = head * tiling.width..(head + 1) * tiling.width;
        let (k, v) = (k.cols_range(columns.clone()), v.cols_range(columns));
        unit.attend(q, k, v, &reach, shape.scale as f32, own);
    });
}

/// Query rows `rows` of a span, for some stacked heads, and the outputs they own.
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
        q: Mat<'_, f32>,
        k: Mat<'_, f32>,
        v: Mat<'_, f32>,
        reach: &Reach,
        scale: f32,
        own: &mut [f32],
    ) {
        let (heads, queries, d) = (self.lse.cols(), self.rows.len(), k.cols());
        let stack = heads * queries;
        let (qs, own) = own.split_at_mut(stack * d);
        let (os, own) = own.split_at_mut(stack * d);
        let (maxima, own) = own.split_at_mut(stack);
        let (sums, own) = own.split_at_mut(stack);
        let q = q.rows_range(self.rows.clone());
        for (h, qs) in qs.chunks_exact_mut(queries * d).enumerate() {
            let at = (self.head + h) * d;
            copy(q.cols_range(at..at + d), qs);
        }
        os.fill(0.0);
        maxima.fill(f32::NEG_INFINITY);
        sums.fill(0.0);
        for panel in reach.panels(&self.rows) {
            let (ks, own) = own.split_at_mut(panel.len() * d);
            let (vs, own) = own.split_at_mut(panel.len() * d);
            let scores = &mut own[..stack * panel.len()];
            copy(k.rows_range(reach.rows(&panel)), ks);
            copy(v.rows_range(reach.rows(&panel)), vs);
            let keys = view(ks, panel.len(), d).reversed_axes();
            gemm(view(qs, stack, d), keys, Write::Replace, view_mut(scores, stack, panel.len()));
            for (r, scores) in scores.chunks_exact_mut(panel.len()).enumerate() {
                let seen = reach.seen(self.rows.start + r % queries, &panel);
                let fade = soften(scores, seen, scale, &mut maxima[r], &mut sums[r]);
                os[r * d..][..d].iter_mut().for_each(|o| *o *= fade);
            }
            let weights = view(scores, stack, panel.len());
            gemm(weights, view(vs, panel.len(), d), Write::Add, view_mut(os, stack, d));
        }
        for (r, os) in os.chunks_exact(d).enumerate() {
            let (h, i) = (r / queries, r % queries);
            let out = &mut self.o.row_mut(i)[h * d..(h + 1) * d];
            out.iter_mut().zip(os).for_each(|(out, o)| *out = o / sums[r]);
            *self.lse.at(i, h) = maxima[r] + sums[r].ln();
        }
    }
}

/// Turns a row's scores into weights against its new maximum, zero where it does not see; updates
/// maximum and sum, and returns the factor by which what was summed before must shrink.
fn soften(
    scores: &mut [f32],
    seen: Range<usize>,
    scale: f32,
    maximum: &mut f32,
    total: &mut f32,
) -> f32 {
    scores[..seen.start].fill(0.0);
    scores[seen.end..].fill(0.0);
    if seen.is_empty() {
        return 1.0;
    }
    // Scaling may turn the order round, so it comes first.
    scores[seen.clone()].iter_mut().for_each(|score| *score *= scale);
    let best = max(&scores[seen.clone()]);
    let best = if best > *maximum { best } else { *maximum };
    let fade = exp(*maximum - best);
    // Exponentials of what is seen, then the sum over the whole panel: where `seen` begins and ends
    // must not decide which chain an element is added in.
    exp_all(&mut scores[seen], best);
    *total = *total * fade + sum(scores);
    *maximum = best;
    fade
}

/// Who sees whom in one span. Queries are numbered as rows of `q`, keys from the first key of the
/// span.
#[derive(Clone, Copy)]
pub(crate) struct Reach {
    /// Row of `k` and `v` at which keys are counted from.
    key0: usize,
    /// Rows of `k` before the one at which the first row of `q` stands.
    before: usize,
    /// Keys a query sees at most, itself included.
    window: usize,
}

impl Reach {
    /// Queries are the last rows of the keys.
    pub(crate) fn new(span: Span, queries: usize, keys: usize, window: Option<usize>) -> Self {
        let window = window.unwrap_or(usize::MAX);
        Self { key0: span.start, before: keys - queries, window }
    }

    /// The keys that query row `row` sees.
    fn keys(&self, row: usize) -> Range<usize> {
        let end = self.before + row + 1 - self.key0;
        end.saturating_sub(self.window)..end
    }

    /// The keys that at least one of some query rows sees, from the first of a panel on.
    pub(crate) fn seen_by(&self, rows: &Range<usize>) -> Range<usize> {
        self.keys(rows.start).start / KEYS * KEYS..self.keys(rows.end - 1).end
    }

    /// The panels of keys that at least one of some query rows sees, the last one cut short.
    pub(crate) fn panels(&self, rows: &Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
        let Range { start, end } = self.seen_by(rows);
        (start..end).step_by(KEYS).map(move |at| at..end.min(at + KEYS))
    }

    /// Cuts those of some query rows that come no earlier than a key where the quanta of all rows
    /// meet.
    pub(crate) fn quanta(
        &self,
        rows: &Range<usize>,
        key: usize,
    ) -> impl Iterator<Item = Range<usize>> + use<> {
        let before = self.before;
        let first = (before + rows.start).max(self.key0 + key);
        quanta(first..before + rows.end).map(move |rows| rows.start - before..rows.end - before)
    }

    /// The rows of `k` and `v` that hold some keys.
    pub(crate) fn rows(&self, keys: &Range<usize>) -> Range<usize> {
        self.key0 + keys.start..self.key0 + keys.end
    }

    /// The part of a panel that query row `row` sees, counted from the panel's first key.
    pub(crate) fn seen(&self, row: usize, panel: &Range<usize>) -> Range<usize> {
        let keys = self.keys(row);
        let clamp = |key: usize| key.clamp(panel.start, panel.end) - panel.start;
        clamp(keys.start)..clamp(keys.end)
    }
}

/// The rows of `q`, the last `queries` of `keys` rows, that belong to a span.
pub(crate) fn queries_of(span: Span, queries: usize, keys: usize) -> Range<usize> {
    let (rows, before) = (span.queries(queries, keys), keys - queries);
    rows.start - before..rows.end - before
}

/// Tiles of query rows from last to first: the last see most keys, and the longest work should
/// begin first. Spans come from last to first too, each with its rows of `q`.
fn tiles(
    spans: impl Iterator<Item = (Span, Range<usize>)> + Send,
    queries: usize,
) -> impl Iterator<Item = (Span, Range<usize>)> + Send {
    spans.flat_map(move |(span, rows)| {
        let tiles = rows.clone().step_by(queries).rev();
        tiles.map(move |at| (span, at..rows.end.min(at + queries)))
    })
}

/// The units of a batch: tiles of rows, and in each the stacks of heads.
struct Units<'a, I> {
    tiling: Tiling,
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
                let ((o_rest, o), (lse_rest, lse)) =
                    (o.split_rows(rows.start), lse.split_rows(rows.start));
                self.rest = Some((o_rest, lse_rest));
                let (o, lse) = (o.rows_range(0..rows.len()), lse.rows_range(0..rows.len()));
                Unit { span, rows, head: 0, o, lse }
            }
        };
        let heads = self.tiling.heads.min(self.tiling.group - band.head % self.tiling.group);
        let (o, o_rest) = band.o.split_cols(heads * self.tiling.width);
        let (lse, lse_rest) = band.lse.split_cols(heads);
        let (span, rows, head) = (band.span, band.rows, band.head);
        let next = Unit { span, rows: rows.clone(), head: head + heads, o: o_rest, lse: lse_rest };
        self.band = Some(next);
        Some(Unit { span, rows, head, o, lse })
    }
}
