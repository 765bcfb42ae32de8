//! DoRA: the rows of the adapted matrix get trained lengths.
//!
//! `y = (m / n) ⊙ (x Wᵀ + s · (x Aᵀ) Bᵀ) + b`, where `m [O]` is trained and `n [O]` holds the
//! lengths of the rows of `W + s B A`. As in PEFT, `m` starts as the lengths of the base's rows, so
//! that training starts from the base's own output; the lengths `n` are computed anew after every
//! update and are constants in backward (section 4.3 of the paper); and dropout of `x` concerns
//! everything but the base's own output:
//! `y = x Wᵀ + b + (m / n - 1) ⊙ (x̃ Wᵀ) + (m / n) ⊙ s · (x̃ Aᵀ) Bᵀ`.
//!
//! The lengths are taken from decoded tiles of rows, to which the matching rows of `s B A` are
//! added: nothing of size `[O, I]` exists at any time. The gradient of `m` is read off the output
//! of the linear, `dm = Σ dy ⊙ (y - b) / m`. Where that would divide by almost nothing, and with
//! dropout, the product is computed anew instead.
//!
//! Paper: Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation" (2024).

use core::ops::Range;

use lowtide_adapter::{
    Adapter, BadValue, Config, Cx, Facts, Forward, Init, Linear, NotMergeable, ParamSpec, Vjp,
};
use lowtide_backend::{Backend, OpShape, Req};
use lowtide_tensor::{Float, Mat, MatMut, QUANTUM};

use crate::low_rank::{LowRank, Mask, front, masked, tiles};

/// Rows of the base that are decoded at a time to measure them.
const DECODED_ROWS: usize = 32;

/// Where `m / n` is smaller than this, `(y - b) / m` has lost too many digits to the bias.
const RATIO_MIN: f64 = 1.0 / 64.0;

/// DoRA on one linear of `I` features in and `O` out.
///
/// Parameters, one after another: `A [r, I]`, `B [O, r]`, `m [O, 1]`. Derived: `n [O]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Dora {
    in_features: usize,
    out_features: usize,
    low: LowRank,
    params: [ParamSpec; 3],
}

/// `A [r, I]`, `B [O, r]`, `m [O]`.
struct Parts<'p, F> {
    a: Mat<'p, F>,
    b: Mat<'p, F>,
    m: &'p [F],
}

/// The scratch of a call, cut up.
struct Room<'s, F> {
    /// `m / n`, `[O]`.
    ratio: &'s mut [F],
    /// What turns an output into its share of the gradient of `m`, `[O]`.
    inverse: &'s mut [F],
    /// A low-rank product.
    low: &'s mut [F],
    /// A tile as wide as the output.
    wide: &'s mut [F],
    /// Two tiles as wide as the input, for dropout.
    dropped: [&'s mut [F]; 2],
    /// Lent on.
    rest: &'s mut [F],
}

impl Dora {
    /// Name of the method in configurations.
    pub const KIND: &'static str = "dora";

    /// An adapter of a linear `[out_features, in_features]`.
    ///
    /// # Errors
    /// [`BadValue`] when the rank is 0 or above [`RANK_MAX`](crate::RANK_MAX), alpha is not finite,
    /// or dropout lies outside `[0, 1)`.
    pub fn new(in_features: usize, out_features: usize, config: &Config) -> Result<Self, BadValue> {
        let low = LowRank::new(Self::KIND, config)?;
        let m = ParamSpec {
            name: "lora_magnitude_vector",
            shape: [out_features, 1],
            init: Init::Constant(1.0),
            output_axis: Some(0),
            rank_axis: None,
        };
        let params = [low.a(in_features), low.b(out_features), m];
        Ok(Self { in_features, out_features, low, params })
    }

    fn parts<'p, F: Float>(&self, p: &'p [F]) -> Parts<'p, F> {
        let (i, o, r) = (self.in_features, self.out_features, self.low.rank);
        let (a, p) = p.split_at(r * i);
        let (b, m) = p.split_at(o * r);
        Parts { a: Mat::new(a, r, i), b: Mat::new(b, o, r), m }
    }

    /// Lengths of the rows of `W + s B A`.
    fn lengths<F: Float>(
        &self,
        be: &dyn Backend<F>,
        base: &dyn Linear<F>,
        (a, b): (Mat<'_, F>, Mat<'_, F>),
        lengths: &mut [F],
        scratch: &mut [F],
    ) {
        let (tile, rest) = scratch.split_at_mut(DECODED_ROWS * self.in_features);
        for range in tiles(self.out_features, DECODED_ROWS) {
            let mut w = front(tile, range.len(), self.in_features);
            base.decode_rows(be, range.clone(), w.rb());
            let b = b.rows_range(range.clone());
            be.matmul(F::from_f64(self.low.scale), b, a, F::ONE, w.rb(), rest);
            for (at, length) in lengths[range].iter_mut().enumerate() {
                *length = norm(w.row(at));
            }
        }
    }

    /// Elements of a low-rank product, of a tile as wide as the output, and of one of the two tiles
    /// for dropout, in a call of so many rows.
    fn lens(&self, rows: usize) -> (usize, usize, usize) {
        let tile = rows.min(QUANTUM);
        let dropped = if self.low.dropout > 0.0 { tile * self.in_features } else { 0 };
        (rows * self.low.rank, tile * self.out_features, dropped)
    }

    fn cut<'s, F>(&self, rows: usize, scratch: &'s mut [F]) -> Room<'s, F> {
        let (low, wide, dropped) = self.lens(rows);
        let (ratio, scratch) = scratch.split_at_mut(self.out_features);
        let (inverse, scratch) = scratch.split_at_mut(self.out_features);
        let (low, scratch) = scratch.split_at_mut(low);
        let (wide, scratch) = scratch.split_at_mut(wide);
        let (first, scratch) = scratch.split_at_mut(dropped);
        let (second, rest) = scratch.split_at_mut(dropped);
        Room { ratio, inverse, low, wide, dropped: [first, second], rest }
    }

    /// `y` with dropout. The base's own output is that of the whole input.
    fn apply_dropped<F: Float>(
        &self,
        cx: &Cx<'_, F>,
        mask: Mask,
        x: Mat<'_, F>,
        mut y: MatMut<'_, F>,
        scratch: &mut [F],
    ) {
        let be = cx.be;
        cx.base.apply(be, x, y.rb(), scratch);
        let Parts { a, b, m } = self.parts(cx.p);
        let Room { ratio, low, wide, dropped: [dropped, _], rest, .. } =
            self.cut(x.rows(), scratch);
        ratios(m, cx.fixed, ratio);
        for range in tiles(x.rows(), QUANTUM) {
            let x = masked(Some(mask), be, x, range.clone(), dropped);
            let mut product = front(wide, x.rows(), self.out_features);
            cx.base.apply_no_bias(be, x, product.rb(), rest);
            let mut y = y.rb().rows_range(range);
            each_row(y.rb(), product.as_ref(), |y, w| {
                for ((y, &w), &ratio) in y.iter_mut().zip(w).zip(&*ratio) {
                    *y += (ratio - F::ONE) * w;
                }
            });
            let mut h = front(low, x.rows(), self.low.rank);
            be.matmul(F::from_f64(self.low.scale), x, a.t(), F::ZERO, h.rb(), rest);
            be.matmul(F::ONE, h.as_ref(), b.t(), F::ZERO, product.rb(), rest);
            each_row(y, product.as_ref(), |y, update| {
                for ((y, &update), &ratio) in y.iter_mut().zip(update).zip(&*ratio) {
                    *y += ratio * update;
                }
            });
        }
    }

    /// `out = dy ⊙ (what m / n scales) / n`, whose sum over the rows is the gradient of `m`. The
    /// forward's output is not read. `h` is the low-rank product of `x`.
    fn shares<F: Float>(
        &self,
        cx: &Cx<'_, F>,
        (x, h, dy): (Mat<'_, F>, Mat<'_, F>, Mat<'_, F>),
        inverse: &[F],
        mut out: MatMut<'_, F>,
        scratch: &mut [F],
    ) {
        let Parts { b, .. } = self.parts(cx.p);
        cx.base.apply_no_bias(cx.be, x, out.rb(), scratch);
        cx.be.matmul(F::ONE, h, b.t(), F::ONE, out.rb(), scratch);
        each_row(out, dy, |out, dy| {
            for ((out, &dy), &inverse) in out.iter_mut().zip(dy).zip(inverse) {
                *out = dy * (*out * inverse);
            }
        });
    }

    /// Adds what rows `range` say to all gradients.
    fn vjp_tile<F: Float>(
        &self,
        cx: &Cx<'_, F>,
        range: Range<usize>,
        (x, y, dy): (Mat<'_, F>, Option<Mat<'_, F>>, Mat<'_, F>),
        dx: Option<MatMut<'_, F>>,
        grad: &mut [F],
        room: &mut Room<'_, F>,
    ) {
        let (be, scale, mask) = (cx.be, F::from_f64(self.low.scale), self.low.mask(&cx.rows));
        let Parts { a, b, .. } = self.parts(cx.p);
        let (da, grad) = grad.split_at_mut(a.len());
        let (db, dm) = grad.split_at_mut(b.len());
        let Room { ratio, inverse, low, wide, dropped: [dropped, second], rest } = room;
        let mut h = front(low, range.len(), self.low.rank);
        let mut g = front(wide, range.len(), self.out_features);
        let dy = dy.rows_range(range.clone());
        {
            let x = masked(mask, be, x, range.clone(), dropped);
            be.matmul(scale, x, a.t(), F::ZERO, h.rb(), rest);
            match y {
                Some(y) => {
                    let y = y.rows_range(range.clone());
                    shares_of_output(dy, y, cx.base.bias(), inverse, g.rb());
                }
                None => self.shares(cx, (x, h.as_ref(), dy), inverse, g.rb(), rest),
            }
            be.sum_rows(g.as_ref(), dm);
            scaled(dy, g.rb(), ratio, F::ZERO);
            let db = MatMut::new(db, b.rows(), b.cols());
            be.matmul(F::ONE, g.as_ref().t(), h.as_ref(), F::ONE, db, rest);
            be.matmul(scale, g.as_ref(), b, F::ZERO, h.rb(), rest);
            let da = MatMut::new(da, a.rows(), a.cols());
            be.matmul(F::ONE, h.as_ref().t(), x, F::ONE, da, rest);
        }
        let Some(mut dx) = dx else { return };
        let dh = h.as_ref();
        let Some(mask) = mask else {
            cx.base.vjp(be, g.as_ref(), dx.rb(), rest);
            return be.matmul(F::ONE, dh, a, F::ONE, dx, rest);
        };
        cx.base.vjp(be, dy, dx.rb(), rest);
        scaled(dy, g.rb(), ratio, F::ONE);
        let mut whole = front(dropped, range.len(), self.in_features);
        be.matmul(F::ONE, dh, a, F::ZERO, whole.rb(), rest);
        cx.base.vjp(be, g.as_ref(), whole.rb(), rest);
        let mut kept = front(second, range.len(), self.in_features);
        mask.drop(be, whole.as_ref(), range.start, kept.rb());
        be.axpby(F::ONE, kept.as_ref(), F::ONE, dx);
    }
}

impl<F: Float> Adapter<F> for Dora {
    fn kind(&self) -> &'static str {
        Self::KIND
    }

    fn params(&self) -> &[ParamSpec] {
        &self.params
    }

    fn facts(&self) -> Facts {
        let reads_y = self.low.dropout == 0.0;
        Facts { reads_x: true, reads_y, whole_sequence: false, mergeable: true }
    }

    fn derived(&self) -> usize {
        self.out_features
    }

    fn start(
        &self,
        be: &dyn Backend<F>,
        base: &dyn Linear<F>,
        p: &mut [F],
        _fixed: &mut [F],
        scratch: &mut [F],
    ) {
        let (factors, m) = p.split_at_mut((self.in_features + self.out_features) * self.low.rank);
        let (a, b) = factors.split_at(self.in_features * self.low.rank);
        let a = Mat::new(a, self.low.rank, self.in_features);
        let b = Mat::new(b, self.out_features, self.low.rank);
        self.lengths(be, base, (a, b), m, scratch);
    }

    fn prepare(
        &self,
        be: &dyn Backend<F>,
        base: &dyn Linear<F>,
        p: &[F],
        fixed: &mut [F],
        scratch: &mut [F],
    ) {
        let Parts { a, b, .. } = self.parts(p);
        self.lengths(be, base, (a, b), fixed, scratch);
    }

    fn work(&self, rows: usize) -> u64 {
        let (i, o, r) = (self.in_features, self.out_features, self.low.rank);
        // With dropout the base is multiplied twice.
        let base = if self.low.dropout > 0.0 { i * o } else { 0 };
        (rows * (2 * (r * (i + o) + o) + base)) as u64
    }

    fn prepare_work(&self) -> u64 {
        // Every element is decoded, added to and squared.
        (self.in_features * self.out_features * (16 + 2 * self.low.rank + 1)) as u64
    }

    fn req(&self, be: &dyn Backend<F>, base: &dyn Linear<F>, rows: usize) -> Req {
        let (i, o, r) = (self.in_features, self.out_features, self.low.rank);
        let tile = rows.min(QUANTUM);
        let matmul = |m, k, n| be.req(OpShape::Matmul { m, k, n });
        let inside = matmul(rows, i, r) // h = x Aᵀ
            .max(matmul(rows, r, o)) // y += h Bᵀ
            .max(matmul(o, tile, r)) // dB += gᵀ h
            .max(matmul(tile, o, r)) // dh = g B
            .max(matmul(r, tile, i)) // dA += dhᵀ x
            .max(matmul(tile, r, i)) // dx += dh A
            .max(base.req(be, tile));
        let (low, wide, dropped) = self.lens(rows);
        let lengths = matmul(DECODED_ROWS, r, i).plus(DECODED_ROWS * i);
        base.req(be, rows)
            .max(inside.plus(2 * o + low + wide + 2 * dropped))
            .max(lengths)
            .max(matmul(rows, r, i)) // merge
    }

    fn apply(&self, cx: &Cx<'_, F>, operands: Forward<'_, F>) {
        let (be, Forward { x, mut y, scratch, .. }) = (cx.be, operands);
        if let Some(mask) = self.low.mask(&cx.rows) {
            return self.apply_dropped(cx, mask, x, y, scratch);
        }
        cx.base.apply_no_bias(be, x, y.rb(), scratch);
        let Parts { a, b, m } = self.parts(cx.p);
        let Room { ratio, low, rest, .. } = self.cut(x.rows(), scratch);
        let mut h = front(low, x.rows(), self.low.rank);
        be.matmul(F::from_f64(self.low.scale), x, a.t(), F::ZERO, h.rb(), rest);
        be.matmul(F::ONE, h.as_ref(), b.t(), F::ONE, y.rb(), rest);
        ratios(m, cx.fixed, ratio);
        for t in 0..y.rows() {
            for (y, &ratio) in y.row_mut(t).iter_mut().zip(&*ratio) {
                *y *= ratio;
            }
        }
        if let Some(bias) = cx.base.bias() {
            be.add_bias(bias, y);
        }
    }

    fn vjp(&self, cx: &Cx<'_, F>, operands: Vjp<'_, F>) {
        let Vjp { x, y, dy, mut dx, grad, scratch, .. } = operands;
        let x = x.expect("the backward of dora reads the input of its linear");
        let Parts { m, .. } = self.parts(cx.p);
        let mut room = self.cut(x.rows(), scratch);
        ratios(m, cx.fixed, room.ratio);
        let lost = |ratio: &F| *ratio != F::ZERO && ratio.abs() < F::from_f64(RATIO_MIN);
        let zero = |(m, n): (&F, &F)| *m == F::ZERO && *n != F::ZERO;
        let far = room.ratio.iter().any(lost) || m.iter().zip(cx.fixed).any(zero);
        let y = if far { None } else { y };
        for ((inverse, &m), &n) in room.inverse.iter_mut().zip(m).zip(cx.fixed) {
            let divisor = if y.is_some() { m } else { n };
            *inverse = if n == F::ZERO { F::ZERO } else { F::ONE / divisor };
        }
        for range in tiles(x.rows(), QUANTUM) {
            let dx = dx.as_mut().map(|dx| dx.rb().rows_range(range.clone()));
            self.vjp_tile(cx, range, (x, y, dy), dx, grad, &mut room);
        }
    }

    fn merge_rows(
        &self,
        be: &dyn Backend<F>,
        p: &[F],
        fixed: &[F],
        rows: Range<usize>,
        mut out: MatMut<'_, F>,
        scratch: &mut [F],
    ) -> Result<(), NotMergeable> {
        let Parts { a, b, m } = self.parts(p);
        let b = b.rows_range(rows.clone());
        be.matmul(F::from_f64(self.low.scale), b, a, F::ONE, out.rb(), scratch);
        for (at, row) in rows.enumerate() {
            let ratio = ratio(m[row], fixed[row]);
            for w in out.row_mut(at) {
                *w *= ratio;
            }
        }
        Ok(())
    }
}

/// `m / n`. A row without length stays without length.
fn ratio<F: Float>(m: F, n: F) -> F {
    if n == F::ZERO { F::ZERO } else { m / n }
}

fn ratios<F: Float>(m: &[F], n: &[F], ratios: &mut [F]) {
    for ((out, &m), &n) in ratios.iter_mut().zip(m).zip(n) {
        *out = ratio(m, n);
    }
}

/// Length of a row. Eight sums, so that one addition need not wait for the other.
fn norm<F: Float>(row: &[F]) -> F {
    const LANES: usize = 8;
    let mut sums = [F::ZERO; LANES];
    for chunk in row.chunks(LANES) {
        for (sum, &w) in sums.iter_mut().zip(chunk) {
            *sum += w * w;
        }
    }
    let mut total = F::ZERO;
    for sum in sums {
        total += sum;
    }
    total.sqrt()
}

/// `out = dy ⊙ (y - b) / m`; `inverse` holds `1 / m`.
fn shares_of_output<F: Float>(
    dy: Mat<'_, F>,
    y: Mat<'_, F>,
    bias: Option<&[F]>,
    inverse: &[F],
    mut out: MatMut<'_, F>,
) {
    for t in 0..dy.rows() {
        let out = out.row_mut(t);
        match bias {
            Some(bias) => {
                for ((out, &y), &bias) in out.iter_mut().zip(y.row(t)).zip(bias) {
                    *out = y - bias;
                }
            }
            None => out.copy_from_slice(y.row(t)),
        }
        for ((out, &dy), &inverse) in out.iter_mut().zip(dy.row(t)).zip(inverse) {
            *out = dy * (*out * inverse);
        }
    }
}

/// `out = (ratio - less) ⊙ dy`.
fn scaled<F: Float>(dy: Mat<'_, F>, out: MatMut<'_, F>, ratio: &[F], less: F) {
    each_row(out, dy, |out, dy| {
        for ((out, &dy), &ratio) in out.iter_mut().zip(dy).zip(ratio) {
            *out = (ratio - less) * dy;
        }
    });
}

/// Works on every row of `out` beside the same row of `other`.
fn each_row<F: Float>(mut out: MatMut<'_, F>, other: Mat<'_, F>, work: impl Fn(&mut [F], &[F])) {
    for t in 0..other.rows() {
        work(out.row_mut(t), other.row(t));
    }
}
