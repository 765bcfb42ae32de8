//! Products with packed matrices in integers: see `lowtide_kernels`' algorithm.
//!
//! Two phases. First all rows of activations or gradients are rounded, 32 neighbours to a scale.
//! Then units of output columns unpack codes and scales into panels, a tile at a time, and multiply
//! them with every row. Weights are never rounded.
//!
//! Going back, `dx = g W` with `w = d c + m`: the minima's part, `g m`, is a product in floats that
//! is 32 times narrower than the result; the codes' part is one in integers.

use std::ops::Range;

use bytemuck::{cast_slice, cast_slice_mut};
use lowtide_kernels::{Digits, IntRhs, IntRhsT, Kernels, Rhs, Rounded};
use lowtide_lanes::{ColBlock, ColBlocks, RowBlock, RowBlocks, level_width, share, share_out};
use lowtide_quant::integers::GROUP;
use lowtide_quant::{Integers, QMat};
use lowtide_tensor::{Mat, MatMut};

use crate::{Compute, Simd};

/// Columns of a result computed together.
const WIDTH: usize = 192;

/// Terms after which a sum restarts.
const DEPTH: usize = IntRhsT::K_MAX;

/// Columns of a transposed result computed together. It is wider, because minima make a product as
/// many times narrower as there are values in a group, which then still fills registers.
const WIDTH_T: usize = 512;

/// Elements of rounded rows held at once for each thread: 3 MiB.
const ROUNDED_MAX: usize = 3 << 18;

/// What rows are rounded to that are multiplied with the matrix, where the backend computes in
/// integers and the format is small integers with complete blocks. Codes too large for bytes take
/// two digits where one wants bytes, and floats where both do.
pub(crate) fn integers(be: &Simd, w: &QMat<'_>) -> Option<Digits> {
    let digits = match be.compute() {
        Compute::F32 => return None,
        Compute::Int8x2 => Digits::Two,
        Compute::Int8 => Digits::One,
    };
    let integers = w.format().integers().filter(|_| w.scales_apart().is_none())?;
    let fits = |digits| integers.codes_are_bytes() || be.kernels().codes_per_element(digits) == 2;
    [digits, Digits::Two].into_iter().find(|&digits| fits(digits))
}

/// Scratch of [`qmatmul`].
pub(crate) fn scratch(be: &Simd, rows: usize, outputs: usize, inputs: usize) -> usize {
    let width = forward_width(be, outputs).min(outputs);
    rounded(be, rows, inputs) + be.threads() * panel(be, width, inputs)
}

/// Scratch of [`qmatmul_t`], for any format.
pub(crate) fn scratch_t(be: &Simd, rows: usize, outputs: usize, inputs: usize) -> usize {
    let shared = Shared::new(be, rows, outputs);
    let width = inputs.min(WIDTH_T);
    let unit = |digits| Transposed::new(be, digits, shared.rows, outputs, width).len();
    shared.len() + be.threads() * unit(Digits::One).max(unit(Digits::Two))
}

/// `y = x Wᵀ` with rows rounded to `digits`, which are those of [`integers`].
pub(crate) fn qmatmul(
    be: &Simd,
    digits: Digits,
    x: Mat<'_, f32>,
    w: QMat<'_>,
    mut y: MatMut<'_, f32>,
    scratch: &mut [f32],
) {
    let inputs = w.cols();
    let shared = Shared::new(be, x.rows(), inputs);
    let width = forward_width(be, w.rows());
    let each = panel(be, width.min(w.rows()), inputs);
    for rows in passes(x.rows(), shared.rows) {
        let (room, own) = scratch.split_at_mut(shared.len());
        let rounded = shared.round(be, digits, x.rows_range(rows.clone()), room);
        let units = ColBlocks::new(y.rb().rows_range(rows), width);
        share(be.threads(), own, each, units, |ColBlock { start, cols: mut y }, own| {
            times(be, rounded, w.slice_rows(start..start + y.cols()), y.rb(), own);
        });
    }
}

/// The largest number of rows, up to `rows`, that are rounded at once.
pub(crate) fn at_once(be: &Simd, rows: usize, inputs: usize) -> usize {
    Shared::new(be, rows, inputs).rows
}

/// Room for rows that are rounded at once.
pub(crate) fn rounded(be: &Simd, rows: usize, inputs: usize) -> usize {
    Shared::new(be, rows, inputs).len()
}

/// Rounds rows, no more than [`at_once`], to be multiplied with several matrices.
pub(crate) fn round<'a>(
    be: &Simd,
    digits: Digits,
    x: Mat<'_, f32>,
    room: &'a mut [f32],
) -> Parts<'a> {
    Shared::new(be, x.rows(), x.cols()).round(be, digits, x, room)
}

/// Scratch of [`times`], whatever rows are rounded to.
pub(crate) fn panel(be: &Simd, width: usize, inputs: usize) -> usize {
    Forward::new(be, Digits::Two, width, inputs).len()
}

/// `y = x Wᵀ` on the calling thread, through a panel in `own`.
pub(crate) fn times(be: &Simd, x: Parts<'_>, w: QMat<'_>, mut y: MatMut<'_, f32>, own: &mut [f32]) {
    let (kernels, inputs) = (be.kernels(), w.cols());
    if inputs == 0 {
        return y.fill(0.0);
    }
    if y.rows() == 1 && kernels.one_row_int(columns(x, 0..inputs), w, DEPTH, y.row_mut(0)) {
        return;
    }
    let unit = Forward::new(be, x.digits, w.rows(), inputs);
    for at in passes(inputs, DEPTH) {
        let panel = unit.pack(kernels, w, &at, own);
        kernels.int_gemm(columns(x, at.clone()), panel, at.start > 0, y.rb());
    }
}

/// `dx += dy W` with rows rounded to `digits`, which are those of [`integers`].
pub(crate) fn qmatmul_t(
    be: &Simd,
    digits: Digits,
    dy: Mat<'_, f32>,
    w: QMat<'_>,
    mut dx: MatMut<'_, f32>,
    scratch: &mut [f32],
) {
    let kernels = be.kernels();
    let (outputs, inputs) = (w.rows(), w.cols());
    let shared = Shared::new(be, dy.rows(), outputs);
    let width = level_width(inputs, WIDTH_T, w.format().block_len(), be.threads());
    let unit = Transposed::new(be, digits, shared.rows, outputs, width.min(inputs));
    for rows in passes(dy.rows(), shared.rows) {
        let (room, own) = scratch.split_at_mut(shared.len());
        let dy = dy.rows_range(rows.clone());
        let rounded = shared.round(be, digits, dy, room);
        let units = ColBlocks::new(dx.rb().rows_range(rows), width);
        share(be.threads(), own, unit.len(), units, |ColBlock { start, cols: mut dx }, own| {
            let cols = start..start + dx.cols();
            for at in passes(outputs, DEPTH) {
                let g = columns(rounded, at.start..at.end.next_multiple_of(GROUP));
                let dy = dy.cols_range(at.clone());
                let (panel, base) = unit.pack(kernels, w, &at, &cols, dy, own);
                kernels.int_gemm_t(g, panel, base, dx.rb());
            }
        });
    }
}

/// Ascending parts of at most `step`.
fn passes(total: usize, step: usize) -> impl Iterator<Item = Range<usize>> {
    (0..total).step_by(step.max(1)).map(move |at| at..total.min(at + step))
}

fn forward_width(be: &Simd, outputs: usize) -> usize {
    level_width(outputs, WIDTH, be.kernels().group(), be.threads())
}

/// Rounded rows, as three matrices.
#[derive(Clone, Copy)]
pub(crate) struct Parts<'a> {
    pub(crate) digits: Digits,
    codes: Mat<'a, i16>,
    scales: Mat<'a, f32>,
    sums: Mat<'a, f32>,
}

/// Columns `at` of rounded rows: whole groups.
fn columns(parts: Parts<'_>, at: Range<usize>) -> Rounded<'_> {
    let groups = at.start / GROUP..at.end / GROUP;
    Rounded::new(
        parts.digits,
        parts.codes.cols_range(at),
        parts.scales.cols_range(groups.clone()),
        parts.sums.cols_range(groups),
    )
}

/// Room for rounded rows, which all units read.
struct Shared {
    /// Rows at once.
    rows: usize,
    /// Terms of a row, in whole groups.
    terms: usize,
}

impl Shared {
    fn new(be: &Simd, rows: usize, terms: usize) -> Self {
        let terms = terms.next_multiple_of(GROUP);
        let most = (be.threads() * ROUNDED_MAX / Self::row(terms).max(1)).max(1);
        Self { rows: rows.min(most), terms }
    }

    /// Elements of a row: codes of half an element each, a scale and a sum for each group.
    fn row(terms: usize) -> usize {
        terms / 2 + 2 * (terms / GROUP)
    }

    fn len(&self) -> usize {
        self.rows * Self::row(self.terms)
    }

    fn round<'a>(
        &self,
        be: &Simd,
        digits: Digits,
        x: Mat<'_, f32>,
        room: &'a mut [f32],
    ) -> Parts<'a> {
        let (rows, groups) = (x.rows(), self.terms / GROUP);
        let (codes, rest) = room.split_at_mut(rows * self.terms / 2);
        let codes: &mut [i16] = cast_slice_mut(codes);
        let (scales, rest) = rest.split_at_mut(rows * groups);
        let sums = &mut rest[..rows * groups];
        let step = rows.div_ceil(4 * be.threads()).max(1);
        let units = RowBlocks::new(MatMut::new(&mut *codes, rows, self.terms), step)
            .zip(RowBlocks::new(MatMut::new(&mut *scales, rows, groups), step))
            .zip(RowBlocks::new(MatMut::new(&mut *sums, rows, groups), step));
        share_out(be.threads(), units, |((codes, scales), sums)| {
            let RowBlock { start, rows } = codes;
            let x = x.rows_range(start..start + rows.rows());
            be.kernels().round_rows(x, digits, rows, scales.rows, sums.rows);
        });
        Parts {
            digits,
            codes: Mat::new(codes, rows, self.terms),
            scales: Mat::new(scales, rows, groups),
            sums: Mat::new(sums, rows, groups),
        }
    }
}

/// Room of [`times`].
struct Forward {
    /// Columns of a panel.
    width: usize,
    /// Terms of a panel.
    depth: usize,
    /// Rows of the matrix unpacked at once.
    lanes: usize,
    digits: Digits,
}

impl Forward {
    fn new(be: &Simd, digits: Digits, width: usize, inputs: usize) -> Self {
        let depth = inputs.min(DEPTH).next_multiple_of(GROUP);
        Self { width, depth, lanes: be.kernels().lanes(), digits }
    }

    fn len(&self) -> usize {
        (self.width + self.lanes) * Shared::row(self.depth)
    }

    /// Unpacks columns `at` of every row of `w` into panels, a register's worth of rows at a time.
    fn pack<'a>(
        &self,
        kernels: &Kernels,
        w: QMat<'_>,
        at: &Range<usize>,
        own: &'a mut [f32],
    ) -> IntRhs<'a> {
        let elements = at.len() / kernels.codes_per_element(self.digits);
        let (n, groups) = (w.rows(), at.len() / GROUP);
        let (panel, room) = own.split_at_mut(n * (elements + 2 * groups));
        let (codes, panel) = panel.split_at_mut(n * elements);
        let (scales, minima) = panel.split_at_mut(n * groups);
        for first in (0..n).step_by(self.lanes) {
            let count = self.lanes.min(n - first);
            let (some_codes, rest) = room.split_at_mut(count * elements);
            let (some_scales, rest) = rest.split_at_mut(count * groups);
            let some_minima = &mut rest[..count * groups];
            for i in 0..count {
                let codes = cast_slice_mut(&mut some_codes[i * elements..][..elements]);
                let scales = &mut some_scales[i * groups..][..groups];
                let minima = &mut some_minima[i * groups..][..groups];
                let (format, blocks) = (w.format(), blocks(w, first + i, at));
                let digits = self.digits;
                let known = kernels.decode_elements(digits, format, blocks, codes, scales, minima);
                assert!(known, "{} is no format of integers", format.name());
            }
            kernels.pack_transposed(Mat::new(some_codes, count, elements), n, first, codes);
            kernels.pack_transposed(Mat::new(some_scales, count, groups), n, first, scales);
            kernels.pack_transposed(Mat::new(some_minima, count, groups), n, first, minima);
        }
        let has_minima = w.format().integers().is_some_and(Integers::has_minima);
        let packed = |panel, rows| Rhs::packed(panel, rows, n, kernels.group());
        IntRhs::new(
            packed(codes, elements),
            packed(scales, groups),
            has_minima.then(|| packed(minima, groups)),
        )
    }
}

/// Room of a unit of [`qmatmul_t`].
struct Transposed {
    /// Rows of the result.
    rows: usize,
    /// Terms of a panel.
    depth: usize,
    /// Groups of columns.
    columns: usize,
    digits: Digits,
    /// Codes in an element.
    per: usize,
}

impl Transposed {
    fn new(be: &Simd, digits: Digits, rows: usize, outputs: usize, width: usize) -> Self {
        let depth = outputs.min(DEPTH).next_multiple_of(GROUP);
        let per = be.kernels().codes_per_element(digits);
        Self { rows, depth, columns: width / GROUP, digits, per }
    }

    fn len(&self) -> usize {
        let Self { rows, depth, columns, per, .. } = *self;
        let codes = (depth / per + per / 2) * columns * GROUP;
        let ratios = depth / 2 * columns;
        let parameters = (2 * depth + depth / GROUP) * columns;
        codes + ratios + parameters + rows * columns
    }

    /// Unpacks columns `cols` of rows `at` of `w`, and computes what the minima add to the result.
    fn pack<'a>(
        &self,
        kernels: &Kernels,
        w: QMat<'_>,
        at: &Range<usize>,
        cols: &Range<usize>,
        dy: Mat<'_, f32>,
        own: &'a mut [f32],
    ) -> (IntRhsT<'a>, Mat<'a, f32>) {
        let (k, n, columns) = (at.len().next_multiple_of(GROUP), cols.len(), cols.len() / GROUP);
        let (digits, per) = (self.digits, self.per);
        let (codes, rest) = own.split_at_mut(k / per * n);
        let (some, rest) = rest.split_at_mut(per / 2 * n);
        let (ratios, rest) = rest.split_at_mut(k / 2 * columns);
        let (scales, rest) = rest.split_at_mut(k * columns);
        let (minima, rest) = rest.split_at_mut(k * columns);
        let (largest, rest) = rest.split_at_mut(k / GROUP * columns);
        let base = &mut rest[..dy.rows() * columns];

        let (codes, some) = (cast_slice_mut(codes), cast_slice_mut(some));
        let parameters = scales.chunks_exact_mut(columns).zip(minima.chunks_exact_mut(columns));
        for (i, (scales, minima)) in parameters.enumerate() {
            let row = &mut some[i % per * n..][..n];
            if i < at.len() {
                let (format, blocks) = (w.format(), blocks(w, at.start + i, cols));
                let known = kernels.decode_integers(format, blocks, row, scales, minima);
                assert!(known, "{} is no format of integers", format.name());
            } else {
                row.fill(0);
                scales.fill(0.0);
                minima.fill(0.0);
            }
            if i % per == per - 1 {
                kernels.weave_rows(digits, some, k / per, i / per, codes);
            }
        }
        let ratios: &mut [i16] = cast_slice_mut(ratios);
        for (group, largest) in largest.chunks_exact_mut(columns).enumerate() {
            for (column, largest) in largest.iter_mut().enumerate() {
                let scales = scales[group * GROUP * columns + column..].iter().step_by(columns);
                let ratios = &mut ratios[column * k + group * GROUP..][..GROUP];
                *largest = fractions(scales.take(GROUP), ratios);
            }
        }
        if w.format().integers().is_some_and(Integers::has_minima) {
            let minima = Mat::new(&minima[..at.len() * columns], at.len(), columns);
            let base = MatMut::new(base, dy.rows(), columns);
            kernels.gemm(1.0, dy, Rhs::rows(minima), false, base);
        } else {
            base.fill(0.0);
        }
        let largest = Mat::new(&*largest, k / GROUP, columns);
        (IntRhsT::new(cast_slice(codes), ratios, largest), Mat::new(base, dy.rows(), columns))
    }
}

/// Scales as fractions of the largest in magnitude, in 15 bits; gives that largest. NaN, with zero
/// fractions, where a scale is not finite.
fn fractions<'a>(scales: impl Iterator<Item = &'a f32> + Clone, ratios: &mut [i16]) -> f32 {
    let finite = scales.clone().all(|scale| scale.is_finite());
    let largest = scales.clone().fold(0.0_f32, |largest, scale| largest.max(scale.abs()));
    if !finite || largest < f32::MIN_POSITIVE {
        ratios.fill(0);
        return if finite { 0.0 } else { f32::NAN };
    }
    for (ratio, scale) in ratios.iter_mut().zip(scales) {
        *ratio = (scale / largest * f32::from(i16::MAX)).round_ties_even() as i16;
    }
    // A fraction of one is 32767 / 32768 of the largest.
    largest * (32768.0 / 32767.0)
}

/// The bytes of columns `at`, whole blocks, of a row.
fn blocks<'a>(w: QMat<'a>, row: usize, at: &Range<usize>) -> &'a [u8] {
    let (len, bytes) = (w.format().block_len(), w.format().block_bytes());
    &w.row(row)[at.start / len * bytes..at.end / len * bytes]
}
