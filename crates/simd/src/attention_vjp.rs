//! The gradient of attention, from log-sum-exp and recomputed probabilities.
//!
//! First, each query's `dout · o` for each head, which is what the softmax's gradient subtracts.
//! Then a unit is one key/value head of one span, with the query heads that share it: it owns its
//! columns of all three gradients, so nothing is computed twice. Tiles of keys run outside,
//! ascending; for each, tiles of queries and in them heads run inside, ascending. A tile costs five
//! products: scores and the gradients of weights, made again, and one into each gradient.
//!
//! Units that would leave threads idle at the end are cut further, into tiles of keys (for `dk` and
//! `dv`) and tiles of queries (for `dq`). That makes scores twice and changes no bit: every
//! gradient's chain is the same.
//!
//! A tile of queries lies in one quantum of all rows, and each of its products goes into a gradient
//! by itself. So queries may come in several calls.

use std::ops::Range;

use lowtide_backend::{AttentionShape, Req, Span, contract};
use lowtide_kernels::{Kernels, Rhs};
use lowtide_lanes::share;
use lowtide_tensor::{Mat, MatMut, QUANTUM};

use crate::Simd;
use crate::reach::{Reach, Tile, cut, packed, queries_of, turned, whole};

/// Multiply-adds below which the work stays on the calling thread.
const WORTH_SHARING: usize = 128 * 1024;

/// What [`attention_vjp`] needs.
pub(crate) fn req(be: &Simd, queries: usize, keys: usize, shape: AttentionShape) -> Req {
    let each = each(queries, keys, shape);
    Req { scratch: 2 * queries * shape.heads + be.threads() * each, library_bytes: 0 }
}

/// What one thread needs of it.
fn each(queries: usize, keys: usize, shape: AttentionShape) -> usize {
    let (queries, keys) = (queries.min(QUANTUM), keys.min(QUANTUM));
    // Keys and values turned, and keys packed; two packed tiles of queries; scores and slopes.
    3 * keys * shape.head_dim + 2 * queries * shape.head_dim + 2 * queries * Kernels::SCORES
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
    let (queries, keys) = (q.rows(), k.rows());
    let stretches = spans.iter().filter_map(|&span| {
        let rows = queries_of(span, queries, keys);
        let reach = Reach::new(span, queries, keys, shape.window);
        (!rows.is_empty()).then(|| Stretch { reach, keys: reach.seen_by(&rows), queries: rows })
    });
    let longest = stretches.clone().map(|stretch| stretch.keys.len()).max().unwrap_or(0);
    let threads = if queries * longest * q.cols() < WORTH_SHARING { 1 } else { be.threads() };
    let (rows_of, own) = scratch.split_at_mut(2 * queries * shape.heads);
    softmaxes(be.kernels(), threads, forward, shape, rows_of);
    let rows_of = &*rows_of;

    let all = stretches.clone().count() * shape.kv_heads;
    let units = Units {
        shape,
        stretches,
        rest: Some(gradients),
        at: (0, 0),
        band: None,
        // All threads finish what is left uncut at about the same time.
        uncut: if threads == 1 { all } else { all / threads * threads },
        cut: None,
    };
    share(threads, own, each(queries, keys, shape), units, |unit, own| {
        let Unit { stretch, head, part, mut gradients } = unit;
        let keys = match &part {
            Part::All => stretch.keys.clone(),
            Part::Keys(keys) => keys.clone(),
            Part::Queries(queries) => stretch.reach.seen_by(queries),
        };
        let kernels = be.kernels();
        let work = Work { kernels, forward, softmaxes: rows_of, shape, stretch, head, part };
        for at in cut(keys, QUANTUM) {
            work.keys(at, &mut gradients, own);
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

/// What a call is about of one span.
#[derive(Clone)]
struct Stretch {
    reach: Reach,
    /// Rows of `q`.
    queries: Range<usize>,
    /// The keys they see, from the first of a tile on; counted from the span's first.
    keys: Range<usize>,
}

/// One unit's constant part.
struct Work<'a> {
    kernels: &'static Kernels,
    forward: Forward<'a>,
    softmaxes: &'a [f32],
    shape: AttentionShape,
    stretch: Stretch,
    /// The key/value head.
    head: usize,
    part: Part,
}

/// What of its head's gradients a unit owns.
#[derive(Clone)]
enum Part {
    All,
    /// `dk` and `dv` of some keys, counted from the span's first.
    Keys(Range<usize>),
    /// `dq` of some rows.
    Queries(Range<usize>),
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
        let Stretch { reach, queries, .. } = &self.stretch;
        let queries = if let Part::Queries(queries) = &self.part { queries } else { queries };
        let tile = |rows: Range<usize>| Tile {
            rows: rows.len(),
            columns: at.len(),
            seen: reach.seen(rows.start, &at, 1),
        };
        let tiles = reach.quanta(queries, at.start).map(|rows| (tile(rows.clone()), rows));
        // From where these keys are out of the window's reach on, nobody sees them.
        let mut tiles = tiles.take_while(|(tile, _)| !tile.is_empty()).peekable();
        if tiles.peek().is_none() {
            return;
        }
        let d = self.shape.head_dim;
        let (rows, columns) = (reach.rows(&at), self.head * d..(self.head + 1) * d);
        let k = self.forward.k.rows_range(rows.clone()).cols_range(columns.clone());
        let v = self.forward.v.rows_range(rows).cols_range(columns);
        let len = at.len() * d;
        let (room, own) = own.split_at_mut(len);
        let packed = packed(self.kernels, k, room);
        let (room, own) = own.split_at_mut(len);
        let turned_keys = turned(self.kernels, k, room);
        let (room, own) = own.split_at_mut(len);
        let values = turned(self.kernels, v, room);
        let keys = Keys { at: at.clone(), k, packed, turned: turned_keys, values };

        for (tile, rows) in tiles {
            for head in 0..self.shape.heads / self.shape.kv_heads {
                self.tile(&keys, tile, rows.clone(), head, gradients, own);
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
        for (rows, columns) in tile.bands() {
            let n = columns.end;
            let out = |tile| whole(tile).rows_range(rows.clone()).cols_range(0..n);
            let (q, dout) = (q.rows_range(rows.clone()), dout.rows_range(rows.clone()));
            kernels.gemm(scale, q, keys.turned.first_columns(n), false, out(&mut *probs));
            kernels.gemm(1.0, dout, keys.values.first_columns(n), false, out(&mut *slopes));
        }
        let total = self.forward.q.rows();
        let (lse, means) =
            self.softmaxes[2 * first * total..2 * (first + 1) * total].split_at(total);
        let (lse, means) = (&lse[rows.clone()], &means[rows.clone()]);
        kernels.soften_vjp(probs, slopes, n, tile.seen, scale, lse, means);

        let probs = Mat::new(probs, tile.rows, Kernels::SCORES).cols_range(0..n);
        let slopes = Mat::new(slopes, tile.rows, Kernels::SCORES).cols_range(0..n);
        let clean = tile.is_whole() || [q, dout, keys.k].iter().all(|&x| kernels.finite(x));
        if !matches!(self.part, Part::Queries(_)) {
            let owned = if let Part::Keys(keys) = &self.part { keys } else { &self.stretch.keys };
            let first = owned.start;
            let at = keys.at.start - first..keys.at.end - first;
            let mut dk = gradients.dk.rb().rows_range(at.clone());
            let mut dv = gradients.dv.rb().rows_range(at);
            if clean {
                let (room, own) = own.split_at_mut(tile.rows * d);
                let douts = packed(kernels, dout, room);
                let queries = packed(kernels, q, &mut own[..tile.rows * d]);
                tile.back(kernels, probs, douts, dv.rb());
                tile.back(kernels, slopes, queries, dk.rb());
            } else {
                tile.scatter(kernels, probs, dout, dv.rb());
                tile.scatter(kernels, slopes, q, dk.rb());
            }
        }
        if !matches!(self.part, Part::Keys(_)) {
            let owned = &self.stretch.queries;
            let owned = if let Part::Queries(queries) = &self.part { queries } else { owned };
            let first = owned.start;
            let dq = gradients.dq.rb().rows_range(rows.start - first..rows.end - first);
            let dq = dq.cols_range(head * d..(head + 1) * d);
            if clean {
                tile.forth(kernels, slopes, keys.packed, dq);
            } else {
                tile.gather(kernels, slopes, keys.k, dq);
            }
        }
    }
}

/// One key/value head of one span, or a part of it.
struct Unit<'a> {
    stretch: Stretch,
    head: usize,
    part: Part,
    gradients: Gradients<'a>,
}

/// The units of a batch, span by span and head by head.
struct Units<'a, I> {
    shape: AttentionShape,
    stretches: I,
    /// Queries and keys from `at` on.
    rest: Option<Gradients<'a>>,
    at: (usize, usize),
    /// Heads of the current span not handed out so far.
    band: Option<Unit<'a>>,
    /// Heads to hand out whole.
    uncut: usize,
    /// The head that is cut: keys ascending, then queries ascending; `part` is the last handed out.
    cut: Option<Unit<'a>>,
}

impl<'a, I: Iterator<Item = Stretch>> Iterator for Units<'a, I> {
    type Item = Unit<'a>;

    fn next(&mut self) -> Option<Unit<'a>> {
        loop {
            if let Some(part) = self.cut.take().and_then(|head| self.part(head)) {
                return Some(part);
            }
            let head = self.head()?;
            if self.uncut > 0 {
                self.uncut -= 1;
                return Some(head);
            }
            self.cut = Some(head);
        }
    }
}

impl<'a, I: Iterator<Item = Stretch>> Units<'a, I> {
    /// The next part of a head that is cut.
    fn part(&mut self, unit: Unit<'a>) -> Option<Unit<'a>> {
        let Unit { stretch, head, part, gradients: Gradients { dq, dk, dv } } = unit;
        let next = |stretch, gradients| Unit { stretch, head, part, gradients };
        if dk.rows() > 0 {
            let keys = stretch.keys.end - dk.rows()..stretch.keys.end;
            let at = cut(keys, QUANTUM).next()?;
            let ((dk, dk_rest), (dv, dv_rest)) = (dk.split_rows(at.len()), dv.split_rows(at.len()));
            let (none, dq) = dq.split_rows(0);
            let rest = Gradients { dq, dk: dk_rest, dv: dv_rest };
            self.cut = Some(next(stretch.clone(), rest));
            let gradients = Gradients { dq: none, dk, dv };
            return Some(Unit { stretch, head, part: Part::Keys(at), gradients });
        }
        let queries = stretch.queries.end - dq.rows()..stretch.queries.end;
        let at = stretch.reach.quanta(&queries, 0).next()?;
        let (dq, dq_rest) = dq.split_rows(at.len());
        let ((no_dk, dk), (no_dv, dv)) = (dk.split_rows(0), dv.split_rows(0));
        self.cut = Some(next(stretch.clone(), Gradients { dq: dq_rest, dk, dv }));
        let gradients = Gradients { dq, dk: no_dk, dv: no_dv };
        Some(Unit { stretch, head, part: Part::Queries(at), gradients })
    }

    /// The next head of a span, whole.
    fn head(&mut self) -> Option<Unit<'a>> {
        let band = match self.band.take().filter(|band| band.gradients.dk.cols() > 0) {
            Some(band) => band,
            None => {
                let stretch = self.stretches.next()?;
                let (queries, keys) = (&stretch.queries, stretch.reach.rows(&stretch.keys));
                let cut = |from: MatMut<'a, f32>, at: usize, rows: &Range<usize>| {
                    from.split_rows(rows.start - at).1.split_rows(rows.len())
                };
                let Gradients { dq, dk, dv } = self.rest.take()?;
                let (dq, dq_rest) = cut(dq, self.at.0, queries);
                let (dk, dk_rest) = cut(dk, self.at.1, &keys);
                let (dv, dv_rest) = cut(dv, self.at.1, &keys);
                self.at = (queries.end, keys.end);
                self.rest = Some(Gradients { dq: dq_rest, dk: dk_rest, dv: dv_rest });
                let gradients = Gradients { dq, dk, dv };
                Unit { stretch, head: 0, part: Part::All, gradients }
            }
        };
        let Unit { stretch, head, gradients: Gradients { dq, dk, dv }, .. } = band;
        let (d, group) = (self.shape.head_dim, self.shape.heads / self.shape.kv_heads);
        let (dq, dq_rest) = dq.split_cols(group * d);
        let ((dk, dk_rest), (dv, dv_rest)) = (dk.split_cols(d), dv.split_cols(d));
        let gradients = Gradients { dq: dq_rest, dk: dk_rest, dv: dv_rest };
        let (next, part) = (stretch.clone(), Part::All);
        self.band = Some(Unit { stretch: next, head: head + 1, part, gradients });
        let gradients = Gradients { dq, dk, dv };
        Some(Unit { stretch, head, part: Part::All, gradients })
    }
}
