//! The table, its safe face, and which tables run here.

use lowtide_quant::BlockFormat;
use lowtide_quant::integers::GROUP;
use lowtide_tensor::{Mat, MatMut};

use crate::int::adjacent;
use crate::softmax::Softmax;
use crate::{IntRhs, IntRhsT, Isa, Rhs, Rounded, arch};

/// The functions of one instruction set.
///
/// A table is handed out only where its instruction set was detected; that is what makes its
/// methods safe.
#[derive(Debug)]
pub struct Kernels {
    isa: Isa,
    lanes: usize,
    group: usize,
    functions: Functions,
    pub(crate) softmax: Softmax,
}

/// What is compiled once for each instruction set. Every function asks that the processor has it,
/// and for what its algorithm in `generic` asks.
#[derive(Debug)]
pub(crate) struct Functions {
    pub(crate) gemm: unsafe fn(f32, Mat<'_, f32>, Rhs<'_>, bool, MatMut<'_, f32>),
    pub(crate) pack_rows: unsafe fn(Mat<'_, f32>, usize, usize, usize, *mut f32),
    pub(crate) pack_transposed: unsafe fn(Mat<'_, f32>, usize, usize, usize, *mut f32),
    pub(crate) decode: unsafe fn(&'static dyn BlockFormat, &[u8], &mut [f32]) -> bool,
    pub(crate) decode_integers: DecodeIntegers,
    pub(crate) round_rows: RoundRows,
    pub(crate) pair_rows: unsafe fn(&[i16], &[i16], usize, usize, &mut [i32]),
    pub(crate) int_gemm: unsafe fn(Rounded<'_>, IntRhs<'_>, bool, MatMut<'_, f32>),
    pub(crate) int_gemm_t: unsafe fn(Rounded<'_>, IntRhsT<'_>, Mat<'_, f32>, MatMut<'_, f32>),
}

/// Format, bytes, codes, scales, minima.
type DecodeIntegers =
    unsafe fn(&'static dyn BlockFormat, &[u8], &mut [i16], &mut [f32], &mut [f32]) -> bool;

/// Rows, the largest code, codes, scales, sums.
type RoundRows = unsafe fn(Mat<'_, f32>, f32, MatMut<'_, i16>, MatMut<'_, f32>, MatMut<'_, f32>);

/// A table, for the files of `arch`.
pub(crate) const fn new(
    isa: Isa,
    lanes: usize,
    group: usize,
    functions: Functions,
    softmax: Softmax,
) -> Kernels {
    Kernels { isa, lanes, group, functions, softmax }
}

/// The tables compiled into this program, from the plainest to the fastest.
static TABLES: &[&Kernels] = &[
    &arch::scalar::TABLE,
    #[cfg(target_arch = "x86_64")]
    &arch::x86_64::avx2::TABLE,
    #[cfg(target_arch = "x86_64")]
    &arch::x86_64::avx512::TABLE,
    #[cfg(target_arch = "x86_64")]
    &arch::x86_64::avx512vnni::TABLE,
    #[cfg(target_arch = "aarch64")]
    &arch::aarch64::neon::TABLE,
];

/// Whether this processor has an instruction set.
fn detected(isa: Isa) -> bool {
    match isa {
        Isa::Scalar => true,
        #[cfg(all(target_arch = "x86_64", feature = "std"))]
        Isa::Avx2 => {
            std::is_x86_feature_detected!("avx2")
                && std::is_x86_feature_detected!("fma")
                && std::is_x86_feature_detected!("f16c")
        }
        #[cfg(all(target_arch = "x86_64", feature = "std"))]
        Isa::Avx512 => {
            detected(Isa::Avx2)
                && std::is_x86_feature_detected!("avx512f")
                && std::is_x86_feature_detected!("avx512bw")
                && std::is_x86_feature_detected!("avx512dq")
                && std::is_x86_feature_detected!("avx512vl")
        }
        #[cfg(all(target_arch = "x86_64", feature = "std"))]
        Isa::Avx512Vnni => detected(Isa::Avx512) && std::is_x86_feature_detected!("avx512vnni"),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => true,
        _ => false,
    }
}

impl Kernels {
    /// The tables that run on this processor, from the plainest to the fastest.
    pub fn available() -> impl Iterator<Item = &'static Self> {
        TABLES.iter().copied().filter(|kernels| detected(kernels.isa))
    }

    /// The fastest table that runs on this processor.
    ///
    /// # Panics
    /// Never: plain Rust runs everywhere.
    #[must_use]
    pub fn best() -> &'static Self {
        Self::available().last().expect("plain Rust runs everywhere")
    }

    /// The table of an instruction set, if this processor runs it.
    #[must_use]
    pub fn of(isa: Isa) -> Option<&'static Self> {
        Self::available().find(|kernels| kernels.isa == isa)
    }

    /// Its instruction set.
    #[must_use]
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Lanes of f32 in a register.
    #[must_use]
    pub fn lanes(&self) -> usize {
        self.lanes
    }

    /// Columns of a group of a packed right-hand side.
    #[must_use]
    pub fn group(&self) -> usize {
        self.group
    }

    /// `c = alpha a b`, or `c += alpha a b` with `add`: `a [m, k]` of any strides, `b [k, n]`,
    /// `c [m, n]` with adjacent columns.
    ///
    /// Each element is a chain of multiply-adds over ascending `k`, begun at zero; `alpha` times
    /// that is the product.
    ///
    /// # Panics
    /// When the shapes do not fit, or columns of `c` are not adjacent.
    pub fn gemm(&self, alpha: f32, a: Mat<'_, f32>, b: Rhs<'_>, add: bool, c: MatMut<'_, f32>) {
        let (m, k, n) = (a.rows(), a.cols(), b.n());
        assert!(
            b.k() == k && c.rows() == m && c.cols() == n,
            "gemm of [{m}, {k}] and [{}, {n}] to [{}, {}]",
            b.k(),
            c.rows(),
            c.cols()
        );
        let adjacent = n <= 1 || c.as_ref().col_stride() == 1;
        assert!(adjacent, "gemm: the result's columns have stride {}", c.as_ref().col_stride());
        let whole = b.group.is_none_or(|group| group == self.group());
        assert!(whole, "gemm: groups of {:?} columns, not of {}", b.group, self.group());
        // SAFETY: the instruction set was detected before this table was handed out; the shapes
        // were just compared.
        unsafe { (self.functions.gemm)(alpha, a, b, add, c) }
    }

    /// Writes rows `x [k, n]` with adjacent columns as rows `row..row + k` of a packed matrix
    /// `[rows, n]` ([`Rhs::packed`]).
    ///
    /// # Panics
    /// When they reach past the last row, or `panel` is shorter than `rows * n`.
    pub fn pack_rows(&self, x: Mat<'_, f32>, rows: usize, row: usize, panel: &mut [f32]) {
        assert!(row + x.rows() <= rows, "{} rows at {row} of {rows}", x.rows());
        assert!(x.cols() <= 1 || x.col_stride() == 1, "pack_rows: columns with gaps");
        let panel = &mut panel[..rows * x.cols()];
        // SAFETY: the instruction set was detected; rows and panel were just checked.
        unsafe {
            (self.functions.pack_rows)(x, rows, row, self.group(), panel.as_mut_ptr());
        }
    }

    /// Writes rows `x [n, k]` with adjacent columns as columns `col..col + n` of a packed matrix
    /// `[k, total]` ([`Rhs::packed`]). At most [`Kernels::lanes`] rows, from a multiple of it on.
    ///
    /// # Panics
    /// When there are more, they reach past the last column, or `panel` is shorter than
    /// `k * total`.
    pub fn pack_transposed(&self, x: Mat<'_, f32>, total: usize, col: usize, panel: &mut [f32]) {
        let (n, lanes) = (x.rows(), self.lanes);
        assert!(col + n <= total, "{n} columns at {col} of {total}");
        assert!(n <= lanes && col.is_multiple_of(lanes), "{n} columns at {col} by {lanes}");
        assert!(x.cols() <= 1 || x.col_stride() == 1, "pack_transposed: columns with gaps");
        let panel = &mut panel[..x.cols() * total];
        // SAFETY: the instruction set was detected; columns and panel were just checked, and as
        // groups are multiples of the lanes, the columns lie in one group.
        unsafe {
            (self.functions.pack_transposed)(x, total, col, self.group(), panel.as_mut_ptr());
        }
    }

    /// Unpacks whole blocks, to the bits of [`BlockFormat::decode`], which is called for formats
    /// that this crate does not know.
    ///
    /// # Panics
    /// As [`BlockFormat::decode`].
    pub fn decode(&self, format: &'static dyn BlockFormat, bytes: &[u8], out: &mut [f32]) {
        // SAFETY: the instruction set was detected.
        let known = unsafe { (self.functions.decode)(format, bytes, out) };
        if !known {
            format.decode(bytes, out);
        }
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
        let known =
            unsafe { (self.functions.decode_integers)(format, bytes, codes, scales, minima) };
        if known {
            return true;
        }
        let Some(format) = format.integers() else { return false };
        format.decode_integers(bytes, codes, scales, minima);
        true
    }

    /// Rounds rows `x [m, k]` to integers of at most `top` in magnitude, with a scale for each 32:
    /// `codes [m, k']`, `scales` and `sums [m, k' / 32]`, where `k'` is `k` rounded up to a
    /// multiple of 32. Sums are those of the rounded values. A value that is not finite makes the
    /// scale of its 32 NaN.
    ///
    /// # Panics
    /// When the shapes do not fit, or columns are not adjacent.
    pub fn round_rows(
        &self,
        x: Mat<'_, f32>,
        top: f32,
        codes: MatMut<'_, i16>,
        scales: MatMut<'_, f32>,
        sums: MatMut<'_, f32>,
    ) {
        let rounded = Rounded::new(codes.as_ref(), scales.as_ref(), sums.as_ref());
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
        unsafe { (self.functions.round_rows)(x, top, codes, scales, sums) }
    }

    /// Writes the codes of two neighbouring rows `a`, `b [n]` as row `row` of the codes of
    /// [`IntRhsT`], `panel [n / 32, rows, 32]`.
    ///
    /// # Panics
    /// When the lengths do not fit, or there is no such row.
    pub fn pair_rows(&self, a: &[i16], b: &[i16], rows: usize, row: usize, panel: &mut [i32]) {
        let n = a.len();
        let fits = b.len() == n && n.is_multiple_of(GROUP) && panel.len() == rows * n;
        assert!(
            fits && row < rows,
            "pairs of {n} and {} codes as row {row} of {rows} in {}",
            b.len(),
            panel.len()
        );
        // SAFETY: the instruction set was detected.
        unsafe { (self.functions.pair_rows)(a, b, rows, row, panel) }
    }

    /// `c = x b`, or `c += x b` with `add`, in integers: `x [m, k]`, `b [k, n]`, `c [m, n]` with
    /// adjacent columns. Each 32 terms are summed exactly, scaled, and added in ascending order.
    ///
    /// # Panics
    /// When the shapes do not fit.
    pub fn int_gemm(&self, x: Rounded<'_>, b: IntRhs<'_>, add: bool, c: MatMut<'_, f32>) {
        let (m, k, n) = (x.m(), x.k(), c.cols());
        let fits = c.rows() == m && b.scales.k() * GROUP == k && b.scales.n() == n;
        assert!(
            fits && adjacent(c.as_ref()) && b.codes.group == Some(self.group()),
            "int_gemm of [{m}, {k}] and [{}, {}] to [{}, {n}]",
            b.scales.k() * GROUP,
            b.scales.n(),
            c.rows()
        );
        // SAFETY: the instruction set was detected; the shapes were just compared.
        unsafe { (self.functions.int_gemm)(x, b, add, c) }
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
        let fits = b.k() == k && c.rows() == m && c.cols() == n;
        assert!(
            fits && base.rows() == m && base.cols() * GROUP == n && adjacent(c.as_ref()),
            "int_gemm_t of [{m}, {k}] and [{}, {n}], base [{}, {}], to [{}, {}]",
            b.k(),
            base.rows(),
            base.cols(),
            c.rows(),
            c.cols()
        );
        assert!(adjacent(base), "int_gemm_t: the base's columns have gaps");
        // SAFETY: the instruction set was detected; the shapes were just compared.
        unsafe { (self.functions.int_gemm_t)(g, b, base, c) }
    }
}
