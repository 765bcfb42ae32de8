//! Products in integers: what a table has for them, and its safe face.

use lowtide_quant::BlockFormat;
use lowtide_quant::integers::GROUP;
use lowtide_tensor::{Mat, MatMut};

use crate::int::adjacent;
use crate::{Digits, IntRhs, IntRhsT, Kernels, Rounded};

/// What is compiled for each form of integers. Every function asks that the processor has the
/// instruction set, and for what its algorithm in `generic` asks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IntFunctions {
    pub(crate) per_element: usize,
    pub(crate) decode: Decode,
    pub(crate) round_rows: RoundRows,
    pub(crate) weave_rows: unsafe fn(&[i16], usize, usize, &mut [i32]),
    pub(crate) gemm: unsafe fn(Rounded<'_>, IntRhs<'_>, bool, MatMut<'_, f32>),
    pub(crate) gemm_t: unsafe fn(Rounded<'_>, IntRhsT<'_>, Mat<'_, f32>, MatMut<'_, f32>),
}

/// Format, bytes, elements of codes, scales, minima.
type Decode =
    unsafe fn(&'static dyn BlockFormat, &[u8], &mut [i32], &mut [f32], &mut [f32]) -> bool;

/// Rows, the largest integer, codes, scales, sums.
type RoundRows = unsafe fn(Mat<'_, f32>, f32, MatMut<'_, i16>, MatMut<'_, f32>, MatMut<'_, f32>);

impl Kernels {
    /// Codes of weights in each 32-bit element of a panel to be multiplied with rows of so many
    /// digits: 2 of 16 bits, or 4 of 8 bits, which hold no format whose codes are larger
    /// ([`Integers::codes_are_bytes`](lowtide_quant::Integers::codes_are_bytes)).
    #[must_use]
    pub fn codes_per_element(&self, digits: Digits) -> usize {
        self.int(digits).per_element
    }

    /// Unpacks whole blocks of a format of small integers: `codes [values]`, `scales` and `minima`
    /// one for each 32. Says whether the format is one.
    ///
    /// # Panics
    /// When the lengths are not those of the same number of whole blocks.
    pub fn decode_integers(
        &self,
        format: &'static dyn BlockFormat,
        bytes: &[u8],
        codes: &mut [i16],
        scales: &mut [f32],
        minima: &mut [f32],
    ) -> bool {
        // SAFETY: the instruction set was detected.
        unsafe { (self.functions.decode_integers)(format, bytes, codes, scales, minima) }
    }

    /// The same, with codes as products of so many digits want them:
    /// [`Kernels::codes_per_element`] neighbours in each element of `codes`.
    ///
    /// # Panics
    /// When the lengths are not those of the same number of whole blocks, blocks have more than 256
    /// values, or codes are too large for a byte where bytes are wanted.
    pub fn decode_elements(
        &self,
        digits: Digits,
        format: &'static dyn BlockFormat,
        bytes: &[u8],
        codes: &mut [i32],
        scales: &mut [f32],
        minima: &mut [f32],
    ) -> bool {
        // SAFETY: the instruction set was detected.
        unsafe { (self.int(digits).decode)(format, bytes, codes, scales, minima) }
    }

    /// Rounds rows `x [m, k]` to integers of at most [`Digits::top`] in magnitude, with a scale for
    /// each 32: `codes [m, k']`, `scales` and `sums [m, k' / 32]`, where `k'` is `k` rounded up to
    /// a multiple of 32. How integers lie in the 32 codes of a group is the table's own. Sums are
    /// those of the rounded values. A value that is not finite makes the scale of its 32 NaN.
    ///
    /// # Panics
    /// When the shapes do not fit, or columns are not adjacent.
    pub fn round_rows(
        &self,
        x: Mat<'_, f32>,
        digits: Digits,
        codes: MatMut<'_, i16>,
        scales: MatMut<'_, f32>,
        sums: MatMut<'_, f32>,
    ) {
        let rounded = Rounded::new(digits, codes.as_ref(), scales.as_ref(), sums.as_ref());
        assert!(
            rounded.m() == x.rows()
                && rounded.k() == x.cols().next_multiple_of(GROUP)
                && adjacent(x),
            "round_rows of [{}, {}] to [{}, {}]",
            x.rows(),
            x.cols(),
            rounded.m(),
            rounded.k()
        );
        // SAFETY: the instruction set was detected.
        unsafe { (self.int(digits).round_rows)(x, digits.top(), codes, scales, sums) }
    }

    /// Writes the codes of [`Kernels::codes_per_element`] neighbouring rows,
    /// `codes [that many, n]`, as row `row` of the codes of [`IntRhsT`],
    /// `panel [n / 32, rows, 32]`.
    ///
    /// # Panics
    /// When the lengths do not fit, or there is no such row.
    pub fn weave_rows(
        &self,
        digits: Digits,
        codes: &[i16],
        rows: usize,
        row: usize,
        panel: &mut [i32],
    ) {
        let per = self.codes_per_element(digits);
        let n = codes.len() / per;
        let fits = codes.len() == per * n && n.is_multiple_of(GROUP) && panel.len() == rows * n;
        assert!(
            fits && row < rows,
            "{} codes of {per} rows as row {row} of {rows} in {}",
            codes.len(),
            panel.len()
        );
        // SAFETY: the instruction set was detected.
        unsafe { (self.int(digits).weave_rows)(codes, rows, row, panel) }
    }

    /// `c = x b`, or `c += x b` with `add`, in integers: `x [m, k]`, `b [k, n]`, `c [m, n]` with
    /// adjacent columns. Each 32 terms are summed exactly, scaled, and added in ascending order.
    ///
    /// # Panics
    /// When the shapes do not fit.
    pub fn int_gemm(&self, x: Rounded<'_>, b: IntRhs<'_>, add: bool, c: MatMut<'_, f32>) {
        let (m, k, n) = (x.m(), x.k(), c.cols());
        let functions = self.int(x.digits);
        let fits = c.rows() == m && b.scales.k() * GROUP == k && b.scales.n() == n;
        let alike = b.codes.group == Some(self.group()) && b.codes.k() * functions.per_element == k;
        assert!(
            fits && alike && adjacent(c.as_ref()),
            "int_gemm of [{m}, {k}] and [{}, {}] in {} rows of elements to [{}, {n}]",
            b.scales.k() * GROUP,
            b.scales.n(),
            b.codes.k(),
            c.rows()
        );
        // SAFETY: the instruction set was detected; the shapes were just compared.
        unsafe { (functions.gemm)(x, b, add, c) }
    }

    /// `c += g b` in integers: `g [m, k]`, `b [k, n]`, `base [m, n / 32]`, which is added to the 32
    /// columns that share a minimum, `c [m, n]` with adjacent columns.
    ///
    /// # Panics
    /// When the shapes do not fit.
    pub fn int_gemm_t(
        &self,
        g: Rounded<'_>,
        b: IntRhsT<'_>,
        base: Mat<'_, f32>,
        c: MatMut<'_, f32>,
    ) {
        let (m, k, n) = (g.m(), g.k(), b.n());
        let functions = self.int(g.digits);
        let fits = b.k() == k && b.codes.len() * functions.per_element == k * n;
        assert!(
            fits && c.rows() == m && c.cols() == n && adjacent(c.as_ref()),
            "int_gemm_t of [{m}, {k}] and [{}, {n}] in {} elements to [{}, {}]",
            b.k(),
            b.codes.len(),
            c.rows(),
            c.cols()
        );
        assert!(
            base.rows() == m && base.cols() * GROUP == n && adjacent(base),
            "int_gemm_t: base [{}, {}] for [{m}, {n}], or with gaps",
            base.rows(),
            base.cols()
        );
        // SAFETY: the instruction set was detected; the shapes were just compared.
        unsafe { (functions.gemm_t)(g, b, base, c) }
    }
}
