//! The table, its safe face, and which tables run here.

use lowtide_quant::BlockFormat;
use lowtide_tensor::{Mat, MatMut};

use crate::few::Few;
use crate::integers::IntFunctions;
use crate::peak::{FmaPeak, Int8Peak};
use crate::rows::Rows;
use crate::softmax::Softmax;
use crate::{Digits, Isa, Rhs, arch};

/// The functions of one instruction set.
///
/// A table is handed out only where its instruction set was detected; that is what makes its
/// methods safe.
#[derive(Debug)]
pub struct Kernels {
    isa: Isa,
    lanes: usize,
    group: usize,
    pub(crate) functions: Functions,
    int: [IntFunctions; 2],
    pub(crate) few: Option<Few>,
    /// What unpacks some formats by hand.
    unpack: Option<Unpack>,
    pub(crate) int8_peak: Option<Int8Peak>,
    pub(crate) softmax: Softmax,
}

/// What is compiled once for each instruction set. Every function asks that the processor has it,
/// and for what its algorithm in `generic` asks.
#[derive(Debug)]
pub(crate) struct Functions {
    pub(crate) gemm: unsafe fn(f32, Mat<'_, f32>, Rhs<'_>, bool, MatMut<'_, f32>),
    pub(crate) pack_rows: unsafe fn(Mat<'_, f32>, usize, usize, usize, *mut f32),
    pub(crate) pack_transposed: unsafe fn(Mat<'_, f32>, usize, usize, usize, *mut f32),
    pub(crate) decode: Unpack,
    pub(crate) rows: Rows,
    pub(crate) fma_peak: FmaPeak,
    pub(crate) decode_integers: DecodeIntegers,
}

/// Format, bytes, codes, scales, minima.
type DecodeIntegers =
    unsafe fn(&'static dyn BlockFormat, &[u8], &mut [i16], &mut [f32], &mut [f32]) -> bool;

/// A table, for the files of `arch`.
pub(crate) const fn new(
    isa: Isa,
    lanes: usize,
    group: usize,
    functions: Functions,
    int: [IntFunctions; 2],
    softmax: Softmax,
) -> Kernels {
    Kernels { isa, lanes, group, functions, int, few: None, unpack: None, int8_peak: None, softmax }
}

/// Unpacks whole blocks, and says whether the format is known.
type Unpack = unsafe fn(&'static dyn BlockFormat, &[u8], &mut [f32]) -> bool;

/// The same table with functions for one row.
#[cfg(target_arch = "x86_64")]
pub(crate) const fn with_few(kernels: Kernels, few: Few) -> Kernels {
    Kernels { few: Some(few), ..kernels }
}

/// The same table with formats unpacked by hand.
#[cfg(target_arch = "x86_64")]
pub(crate) const fn with_unpack(kernels: Kernels, unpack: Unpack) -> Kernels {
    Kernels { unpack: Some(unpack), ..kernels }
}

/// The same table with a peak of products of bytes.
#[cfg(target_arch = "x86_64")]
pub(crate) const fn with_int8_peak(kernels: Kernels, peak: Int8Peak) -> Kernels {
    Kernels { int8_peak: Some(peak), ..kernels }
}

/// The same table with other products in integers.
#[cfg(target_arch = "aarch64")]
pub(crate) const fn with_int(kernels: Kernels, isa: Isa, int: [IntFunctions; 2]) -> Kernels {
    Kernels { isa, int, ..kernels }
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
    #[cfg(target_arch = "aarch64")]
    &arch::aarch64::dotprod::TABLE,
    #[cfg(target_arch = "aarch64")]
    &arch::aarch64::i8mm::TABLE,
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
        #[cfg(all(target_arch = "aarch64", feature = "std"))]
        Isa::NeonDotprod => std::arch::is_aarch64_feature_detected!("dotprod"),
        #[cfg(all(target_arch = "aarch64", feature = "std"))]
        Isa::NeonI8mm => {
            detected(Isa::NeonDotprod) && std::arch::is_aarch64_feature_detected!("i8mm")
        }
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

    /// What computes with integers of so many digits.
    pub(crate) fn int(&self, digits: Digits) -> &IntFunctions {
        match digits {
            Digits::One => &self.int[0],
            Digits::Two => &self.int[1],
        }
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
        let len = rows.checked_mul(x.cols()).expect("a packed matrix that fits memory");
        let panel = &mut panel[..len];
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
        let len = total.checked_mul(x.cols()).expect("a packed matrix that fits memory");
        let panel = &mut panel[..len];
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
        let by_hand = self.unpack.is_some_and(|unpack| unsafe { unpack(format, bytes, out) });
        // SAFETY: as above.
        if !by_hand && !unsafe { (self.functions.decode)(format, bytes, out) } {
            format.decode(bytes, out);
        }
    }
}
