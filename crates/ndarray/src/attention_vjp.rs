//! The gradient of attention, from log-sum-exp and recomputed probabilities.
//!
//! A unit is one key/value head of one span, with the query heads that share it: it owns its
//! columns of all three gradients, so nothing is computed twice. Panels of keys run outside,
//! ascending; for each, tiles of queries and in them stacks of heads run inside, ascending. A tile
//! lies in one quantum of all rows and goes into the gradients by itself, so that queries may come
//! in several calls.

use std::ops::Range;

use lowtide_backend::{AttentionShape, Req, Span};
use lowtide_lanes::share;
use lowtide_tensor::{Mat, MatMut};

use crate::attention::{KEYS, Reach, Tiling, queries_of};
use crate::exp::{dot, exp};
use crate::gemm::{Write, copy, gemm, packing_bytes, view, view_mut};

/// What [`attention_vjp`] needs on `lanes` threads.
pub(crate) fn req(lanes: usize, queries: usize, keys: usize, shape: AttentionShape) -> Req {
    let tiling = Tiling::new(shape).in_quanta();
    let (stack, panel, d) = (tiling.stack(queries), keys.min(KEYS), tiling.width);
    let packing = [(stack, d, panel), (panel, stack, d), (stack, panel, d)];
    let packing = packing.map(|(m, k, n)| packing_bytes(m, k, n));
    Req {
        scratch: lanes * (stack * (3 * d + 2 * panel) + 4 * panel * d),
        library_bytes: lanes * packing.into_iter().max().unwrap_or(0),
    }
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
    lanes: usize,
    forward: Forward<'_>,
    shape: AttentionShape,
    spans: &[Span],
    gradients: Gradients<'_>,
    scratch: &mut [f32],
) {
    let tiling = Tiling::new(shape).in_quanta();
    let (queries, keys) = (forward.q.rows(), forward.k.rows());
    let each = req(1, queries, keys, shape).scratch;
    let spans = spans.iter().map(|&span| {
        let reach = Reach::new(span, queries, keys, shape.window);
        (reach, queries_of(span, queries, keys))
    });
    let spans = spans.filter(|(_, rows)| !rows.is_empty());
    let units = Units { tiling, spans, rest: Some(gradients), at: (0, 0), band: None };
    share(lanes, scratch, each, units, |unit, own| {
        let Unit { reach, rows, head, mut gradients } = unit;
        let work = Work { forward, tiling, reach, rows, head, scale: shape.scale as f32 };
        for panel in work.reach.panels(&work.rows) {
            work.panel(panel, &mut gradients, own);
        }
    });
}

/// One unit's constant part.
struct Work<'a> {
    forward: Forward<'a>,
    tiling: Tiling,
    reach: Reach,
    /// The queries of the span, as rows of `q`.
    rows: Range<usize>,
    /// The key/value head.
    head: usize,
    scale: f32,
}

impl Work<'_> {
    /// Adds what one panel of keys contributes. Gradients of keys begin at the span's first.
    fn panel(&self, panel: Range<usize>, gradients: &mut Gradients<'_>, own: &mut [f32]) {
        let d = self.tiling.width;
        let len = panel.len() * d;
        let (ks, own) = own.split_at_mut(len);
        let (vs, own) = own.split_at_mut(len);
        let (dks, own) = own.split_at_mut(len);
        let (dvs, own) = own.split_at_mut(len);
        let (rows, columns) = (self.reach.rows(&panel), self.head * d..(self.head + 1) * d);
        copy(self.forward.k.rows_range(rows.clone()).cols_range(columns.clone()), ks);
        copy(self.forward.v.rows_range(rows).cols_range(columns), vs);
        let Gradients { dq, dk, dv } = gradients;
        copy(dk.as_ref().rows_range(panel.clone()), dks);
        copy(dv.as_ref().rows_range(panel.clone()), dvs);
        let mut keys = Keys { ks, vs, dks, dvs };
        for rows in self.reach.quanta(&self.rows, panel.start) {
            if rows.clone().any(|row| !self.reach.seen(row, &panel).is_empty()) {
                let Tiling { group, heads, .. } = self.tiling;
                for first in (0..group).step_by(heads) {
                    let heads = first..group.min(first + heads);
                    self.tile(&panel, rows.clone(), heads, &mut keys, dq.rb(), own);
                }
            }
        }
        put(dks, dk.rb().rows_range(panel.clone()));
        put(dvs, dv.rb().rows_range(panel));
    }

    /// Adds what one tile of stacked queries contributes.
    fn tile(
        &self,
        panel: &Range<usize>,
        rows: Range<usize>,
        heads: Range<usize>,
        keys: &mut Keys<'_>,
        dq: MatMut<'_, f32>,
        own: &mut [f32],
    ) {
        let (d, n) = (self.tiling.width, panel.len());
        let stack = rows.len() * heads.len();
        let (qs, own) = own.split_at_mut(stack * d);
        let (douts, own) = own.split_at_mut(stack * d);
        let (dqs, own) = own.split_at_mut(stack * d);
        let (probs, own) = own.split_at_mut(stack * n);
        let slopes = &mut own[..stack * n];
        let first = self.head * self.tiling.group + heads.start;
        let tile = |from: Mat<'_, f32>, out: &mut [f32]| {
            for (h, out) in out.chunks_exact_mut(rows.len() * d).enumerate() {
                let columns = (first + h) * d..(first + h + 1) * d;
                copy(from.rows_range(rows.clone()).cols_range(columns), out);
            }
        };
        tile(self.forward.q, qs);
        tile(self.forward.dout, douts);

        let transposed = |x| view(x, n, d).reversed_axes();
        let (q, dout) = (view(qs, stack, d), view(douts, stack, d));
        gemm(q, transposed(keys.ks), Write::Replace, view_mut(probs, stack, n));
        gemm(dout, transposed(keys.vs), Write::Replace, view_mut(slopes, stack, n));
        let lines = probs.chunks_exact_mut(n).zip(slopes.chunks_exact_mut(n)).enumerate();
        for (r, (probs, slopes)) in lines {
            let (row, head) = (rows.start + r % rows.len(), first + r / rows.len());
            let mean = dot(&douts[r * d..][..d], &self.forward.o.row(row)[head * d..][..d]);
            let seen = self.reach.seen(row, panel);
            softmax_vjp(probs, slopes, seen, self.scale, self.forward.lse.get(row, head), mean);
        }

        let (probs, slopes) = (view(probs, stack, n), view(slopes, stack, n));
        let (dks, dvs) = (view_mut(keys.dks, n, d), view_mut(keys.dvs, n, d));
        gemm(probs.reversed_axes(), dout, Write::Add, dvs);
        gemm(slopes.reversed_axes(), q, Write::Add, dks);
        gemm(slopes, view(keys.ks, n, d), Write::Replace, view_mut(dqs, stack, d));
        let local = rows.start - self.rows.start..rows.end - self.rows.start;
        let mut dq = dq.rows_range(local);
        for (h, dqs) in dqs.chunks_exact(rows.len() * d).enumerate() {
            let at = (heads.start + h) * d;
            add(dqs, dq.rb().cols_range(at..at + d));
        }
    }
}

/// A panel's keys and values, and their gradients so far.
struct Keys<'a> {
    ks: &'a [f32],
    vs: &'a [f32],
    dks: &'a mut [f32],
    dvs: &'a mut [f32],
}

/// Turns one query's scores into probabilities, and the gradients of its probabilities into those
/// of its unscaled scores; zeros where it does not see.
fn softmax_vjp(
    probs: &mut [f32],
    slopes: &mut [f32],
    seen: Range<usize>,
    scale: f32,
    lse: f32,
    mean: f32,
) {
    for line in [&mut *probs, &mut *slopes] {
        line[..seen.start].fill(0.0);
        line[seen.end..].fill(0.0);
    }
    for (p, slope) in probs[seen.clone()].iter_mut().zip(&mut slopes[seen]) {
        *p = exp(*p * scale - lse);
        *slope = *p * (*slope - mean) * scale;
    }
}

/// `to += x`, with `x` row-major.
fn add(x: &[f32], mut to: MatMut<'_, f32>) {
    for (i, x) in x.chunks_exact(to.cols()).enumerate() {
        to.row_mut(i).iter_mut().zip(x).for_each(|(to, x)| *to += x);
    }
}

/// `to = x`, with `x` row-major.
fn put(x: &[f32], mut to: MatMut<'_, f32>) {
    for (i, x) in x.chunks_exact(to.cols()).enumerate() {
        to.row_mut(i).copy_from_slice(x);
    }
}

/// One key/value head of one span: gradients of its queries, and of its keys from the first on.
struct Unit<'a> {
    reach: Reach,
    rows: Range<usize>,
    head: usize,
    gradients: Gradients<'a>,
}

/// The units of a batch, span by span and head by head.
struct Units<'a, I> {
    tiling: Tiling,
    /// Spans that have queries, and those as rows of `q`.
    spans: I,
    /// Queries and keys from `at` on.
    rest: Option<Gradients<'a>>,
    at: (usize, usize),
    /// Heads of the current span not handed out so far.
    band: Option<Unit<'a>>,
}

impl<'a, I: Iterator<Item = (Reach, Range<usize>)>> Iterator for Units<'a, I> {
    type Item = Unit<'a>;

    fn next(&mut self) -> Option<Unit<'a>> {
        let band = match self.band.take().filter(|band| band.gradients.dk.cols() > 0) {
            Some(band) => band,
            None => {
                let (reach, rows) = self.spans.next()?;
                let keys = reach.rows(&(0..reach.seen_by(&rows).end));
                let cut = |from: MatMut<'a, f32>, at: usize, rows: &Range<usize>| {
                    from.split_rows(rows.start - at).1.split_rows(rows.len())
                };
                let Gradients { dq, dk, dv } = self.rest.take()?;
                let (dq, dq_rest) = cut(dq, self.at.0, &rows);
                let (dk, dk_rest) = cut(dk, self.at.1, &keys);
                let (dv, dv_rest) = cut(dv, self.at.1, &keys);
                self.at = (rows.end, keys.end);
                self.rest = Some(Gradients { dq: dq_rest, dk: dk_rest, dv: dv_rest });
                Unit { reach, rows, head: 0, gradients: Gradients { dq, dk, dv } }
            }
        };
        let Unit { reach, rows, head, gradients: Gradients { dq, dk, dv } } = band;
        let d = self.tiling.width;
        let (dq, dq_rest) = dq.split_cols(self.tiling.group * d);
        let ((dk, dk_rest), (dv, dv_rest)) = (dk.split_cols(d), dv.split_cols(d));
        let rest = Gradients { dq: dq_rest, dk: dk_rest, dv: dv_rest };
        self.band = Some(Unit { reach, rows: rows.clone(), head: head + 1, gradients: rest });
        Some(Unit { reach, rows, head, gradients: Gradients { dq, dk, dv } })
    }
}
