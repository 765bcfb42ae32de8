//! One row times packed weights, where reading the weights is all that should take time.
//!
//! The plain algorithm is that of the panels: each output is a chain of multiply-adds over
//! ascending inputs, or of scaled integer sums over ascending groups of 32. Departures:
//!
//! 1. Lanes are 16 outputs, rows of the matrix. Their blocks are turned in registers, four bytes of
//!    each row to a lane, and unpacked there: nothing is written between the file and the result.
//! 2. A code of 4 bits becomes its float by a permutation of a table, which looks at four bits of
//!    an index only.
//! 3. In integers, a rounded input is two digits of 8 bits, `128 high + low`; their dot products
//!    with unsigned codes are exact, so the sum is that of the 16-bit product.
//!
//! Bits are those of a row among many.

use core::any::Any;
use core::arch::x86_64::{
    __m512, __m512i, _MM_HINT_T0, _mm_loadu_si128, _mm_prefetch, _mm512_add_epi32, _mm512_add_ps,
    _mm512_and_si512, _mm512_castsi128_si512, _mm512_cvtepi32_epi16, _mm512_cvtepi32_ps,
    _mm512_cvtph_ps, _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_inserti32x4, _mm512_loadu_ps,
    _mm512_mul_ps, _mm512_permutexvar_ps, _mm512_ror_epi32, _mm512_set1_epi8, _mm512_set1_epi32,
    _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512, _mm512_slli_epi32, _mm512_srai_epi32,
    _mm512_srli_epi32, _mm512_storeu_ps, _mm512_sub_epi32, _mm512_unpackhi_epi32,
    _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64, _mm512_xor_si512,
};
use core::mem::MaybeUninit;

use lowtide_quant::QMat;
use lowtide_quant::formats::{Q4_0, Q4_1, Q8_0};
use lowtide_quant::integers::GROUP;

use crate::arch::x86_64::bytes::Bytes;
use crate::few::Few;
use crate::{Digits, Rounded};

/// What this file has for a table; integers where there is VNNI.
pub(crate) const FLOATS: Few = Few { floats, integers: None };

/// The same with integers.
pub(crate) const INTEGERS: Few = Few { floats, integers: Some(integers) };

/// Outputs in a register.
const ROWS: usize = 16;

/// Groups of columns at most: the digits of a row lie on the stack.
const GROUPS_MAX: usize = 512;

/// How blocks of 32 values with their scale in front are laid out.
#[derive(Clone, Copy)]
struct Layout {
    kind: Kind,
    bytes: usize,
    /// Where the codes begin.
    codes: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// `d (q - 8)`.
    Q40,
    /// `d q + m`.
    Q41,
    /// `d q`, bytes.
    Q80,
}

impl Layout {
    fn of(w: QMat<'_>) -> Option<Self> {
        let format: &dyn Any = w.format();
        if w.scales_apart().is_some() {
            None
        } else if format.is::<Q4_1>() {
            Some(Self { kind: Kind::Q41, bytes: 20, codes: 4 })
        } else if format.is::<Q4_0>() {
            Some(Self { kind: Kind::Q40, bytes: 18, codes: 2 })
        } else if format.is::<Q8_0>() {
            Some(Self { kind: Kind::Q80, bytes: 34, codes: 2 })
        } else {
            None
        }
    }
}

/// `y = W x`, chains restarting every `chain` inputs. Says whether the format is known here.
///
/// # Safety
/// AVX-512 F, BW, DQ, VL and F16C are there; `x` has a value for every column, `y` for every row,
/// and `chain` is whole groups.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma,f16c")]
unsafe fn floats(x: &[f32], w: QMat<'_>, chain: usize, y: &mut [f32]) -> bool {
    let Some(layout) = Layout::of(w) else { return false };
    for (rows, y) in Rows::all(w).zip(y.chunks_mut(ROWS)) {
        // SAFETY: the instruction set is there, and `rows` lie in the matrix.
        let sums = unsafe {
            match layout.kind {
                Kind::Q40 => floats_of(x, &rows, Layout { kind: Kind::Q40, ..layout }, chain),
                Kind::Q41 => floats_of(x, &rows, Layout { kind: Kind::Q41, ..layout }, chain),
                Kind::Q80 => floats_of(x, &rows, Layout { kind: Kind::Q80, ..layout }, chain),
            }
        };
        put(sums, y);
    }
    true
}

/// As [`floats`], with inputs rounded to integers.
///
/// # Safety
/// As [`floats`], and VNNI is there; `x` has one row.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
unsafe fn integers(x: Rounded<'_>, w: QMat<'_>, chain: usize, y: &mut [f32]) -> bool {
    // SAFETY: the caller's.
    unsafe {
        match x.digits {
            Digits::One => integers_with::<false>(x, w, chain, y),
            Digits::Two => integers_with::<true>(x, w, chain, y),
        }
    }
}

/// [`integers`] of one digit or of two.
///
/// # Safety
/// As [`integers`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
unsafe fn integers_with<const TWO: bool>(
    x: Rounded<'_>,
    w: QMat<'_>,
    chain: usize,
    y: &mut [f32],
) -> bool {
    let Some(layout) = Layout::of(w) else { return false };
    let mut room = [const { MaybeUninit::uninit() }; GROUPS_MAX];
    let Some(room) = room.get_mut(..w.cols() / GROUP) else { return false };
    for (group, codes) in room.iter_mut().zip(x.codes.row(0).as_chunks::<GROUP>().0) {
        group.write(Group::new::<TWO>(codes));
    }
    // SAFETY: all of them were just written: `x` has as many groups as the matrix.
    let groups = unsafe { core::slice::from_raw_parts(room.as_ptr().cast::<Group>(), room.len()) };
    for (rows, y) in Rows::all(w).zip(y.chunks_mut(ROWS)) {
        // SAFETY: the instruction set is there, and `rows` lie in the matrix.
        let sums = unsafe {
            match layout.kind {
                Kind::Q40 => {
                    let layout = Layout { kind: Kind::Q40, ..layout };
                    integers_of::<TWO>(x, groups, &rows, layout, chain)
                }
                Kind::Q41 => {
                    let layout = Layout { kind: Kind::Q41, ..layout };
                    integers_of::<TWO>(x, groups, &rows, layout, chain)
                }
                Kind::Q80 => {
                    let layout = Layout { kind: Kind::Q80, ..layout };
                    integers_of::<TWO>(x, groups, &rows, layout, chain)
                }
            }
        };
        put(sums, y);
    }
    true
}

/// Writes as many lanes as there are outputs.
#[target_feature(enable = "avx512f")]
fn put(sums: __m512, y: &mut [f32]) {
    let mut all = [0.0; ROWS];
    // SAFETY: `all` has 16 elements.
    unsafe { _mm512_storeu_ps(all.as_mut_ptr(), sums) };
    y.copy_from_slice(&all[..y.len()]);
}

/// 16 rows of a matrix; the last ones are the same where it has fewer.
struct Rows {
    first: *const u8,
    bytes: usize,
    last: usize,
    blocks: usize,
}

impl Rows {
    fn all(w: QMat<'_>) -> impl Iterator<Item = Self> {
        (0..w.rows()).step_by(ROWS).map(move |first| Self {
            first: w.row(first).as_ptr(),
            bytes: w.row_bytes(),
            last: (w.rows() - first).min(ROWS) - 1,
            blocks: w.cols() / GROUP,
        })
    }

    /// Asks for the part of the next 16 rows that lies as far in as block `block` does here: rows
    /// are walked side by side, which no processor foresees, but they lie one after the other.
    #[inline(always)]
    fn prefetch(&self, block: usize, bytes: usize) {
        let share = ROWS * bytes;
        let next = self.first.wrapping_add(ROWS * self.bytes + block * share);
        for at in (0..share).step_by(64) {
            // SAFETY: a hint: it reads nothing, wherever it points.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(next.wrapping_add(at).cast()) };
        }
    }

    /// 16 bytes at `at` of row `row`.
    ///
    /// # Safety
    /// There are as many.
    #[inline(always)]
    unsafe fn vector(&self, row: usize, at: usize) -> core::arch::x86_64::__m128i {
        // SAFETY: the row is one of the matrix, and the caller vouches for the bytes.
        unsafe { _mm_loadu_si128(self.first.add(row.min(self.last) * self.bytes + at).cast()) }
    }

    /// 16 bytes at `at` of rows `j`, `j + 4`, `j + 8`, `j + 12`.
    ///
    /// # Safety
    /// There are as many.
    #[inline(always)]
    unsafe fn four(&self, j: usize, at: usize) -> __m512i {
        // SAFETY: the caller's.
        unsafe {
            let x = _mm512_castsi128_si512(self.vector(j, at));
            let x = _mm512_inserti32x4::<1>(x, self.vector(j + 4, at));
            let x = _mm512_inserti32x4::<2>(x, self.vector(j + 8, at));
            _mm512_inserti32x4::<3>(x, self.vector(j + 12, at))
        }
    }

    /// The 4 bytes at `at` of every row, a row to a lane.
    ///
    /// # Safety
    /// There are 16 bytes.
    #[inline(always)]
    unsafe fn word(&self, at: usize) -> __m512i {
        // SAFETY: the caller's.
        unsafe {
            let ab = _mm512_unpacklo_epi32(self.four(0, at), self.four(1, at));
            let cd = _mm512_unpacklo_epi32(self.four(2, at), self.four(3, at));
            _mm512_unpacklo_epi64(ab, cd)
        }
    }

    /// The four times 4 bytes at `at` of every row, a row to a lane.
    ///
    /// # Safety
    /// There are as many.
    #[inline(always)]
    unsafe fn words(&self, at: usize) -> [__m512i; 4] {
        // SAFETY: the caller's.
        unsafe {
            let (a, b) = (self.four(0, at), self.four(1, at));
            let (c, d) = (self.four(2, at), self.four(3, at));
            let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
            let (ef, gh) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
            [
                _mm512_unpacklo_epi64(ab, cd),
                _mm512_unpackhi_epi64(ab, cd),
                _mm512_unpacklo_epi64(ef, gh),
                _mm512_unpackhi_epi64(ef, gh),
            ]
        }
    }

    /// Scales, and what lies behind them as numbers of half precision, of the blocks at `at`.
    ///
    /// # Safety
    /// There are blocks, of at least 16 bytes.
    #[inline(always)]
    unsafe fn parameters(&self, at: usize) -> (__m512, __m512) {
        // SAFETY: the caller's.
        unsafe {
            let words = self.word(at);
            let behind = _mm512_srli_epi32::<16>(words);
            (
                _mm512_cvtph_ps(_mm512_cvtepi32_epi16(words)),
                _mm512_cvtph_ps(_mm512_cvtepi32_epi16(behind)),
            )
        }
    }
}

/// What a nibble stands for before it is scaled.
static NIBBLES: [f32; 16] =
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0];
static CENTRED: [f32; 16] =
    [-8.0, -7.0, -6.0, -5.0, -4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0];

/// 16 outputs.
///
/// # Safety
/// AVX-512 F, BW, DQ and F16C are there; `rows` are blocks of `layout`; `x` has 32 values for each.
#[inline(always)]
unsafe fn floats_of(x: &[f32], rows: &Rows, layout: Layout, chain: usize) -> __m512 {
    // SAFETY: the tables have 16 elements; blocks and inputs are the caller's.
    unsafe {
        let table = if layout.kind == Kind::Q40 { &CENTRED } else { &NIBBLES };
        let table = _mm512_loadu_ps(table.as_ptr());
        let mut total = _mm512_setzero_ps();
        for begin in (0..rows.blocks).step_by(chain / GROUP) {
            let mut sum = _mm512_setzero_ps();
            for block in begin..rows.blocks.min(begin + chain / GROUP) {
                rows.prefetch(block, layout.bytes);
                let at = block * layout.bytes;
                let (d, m) = rows.parameters(at);
                let words = rows.words(at + layout.codes);
                let x = x.as_ptr().add(block * GROUP);
                let term = |sum, value, k: usize| {
                    let value = _mm512_mul_ps(d, value);
                    let value =
                        if layout.kind == Kind::Q41 { _mm512_add_ps(value, m) } else { value };
                    _mm512_fmadd_ps(_mm512_set1_ps(*x.add(k)), value, sum)
                };
                if layout.kind == Kind::Q80 {
                    let more = rows.words(at + layout.codes + GROUP / 2);
                    for (j, word) in words.into_iter().chain(more).enumerate() {
                        let mut word = word;
                        for i in 0..4 {
                            // The byte in question comes to the top, and is signed there.
                            word = _mm512_ror_epi32::<8>(word);
                            let value = _mm512_cvtepi32_ps(_mm512_srai_epi32::<24>(word));
                            sum = term(sum, value, 4 * j + i);
                        }
                    }
                } else {
                    for half in 0..2 {
                        for (j, word) in words.into_iter().enumerate() {
                            let mut word =
                                if half == 0 { word } else { _mm512_srli_epi32::<4>(word) };
                            for i in 0..4 {
                                let value = _mm512_permutexvar_ps(word, table);
                                sum = term(sum, value, 16 * half + 4 * j + i);
                                word = _mm512_srli_epi32::<8>(word);
                            }
                        }
                    }
                }
            }
            total = if begin == 0 { sum } else { _mm512_add_ps(sum, total) };
        }
        total
    }
}

/// 32 rounded inputs as two digits each, `q = 128 high + low`; a single digit is the low one.
struct Group {
    high: [i8; GROUP],
    low: [i8; GROUP],
    /// The sum of the codes.
    sum: i32,
}

impl Group {
    #[inline(always)]
    fn new<const TWO: bool>(codes: &[i16; GROUP]) -> Self {
        let mut group = Self { high: [0; GROUP], low: [0; GROUP], sum: 0 };
        if !TWO {
            group.low = Bytes::signed(codes);
            group.sum = group.low.iter().map(|low| i32::from(*low)).sum();
            return group;
        }
        for (i, code) in codes.iter().enumerate() {
            let high = (code + 64) >> 7;
            group.high[i] = high as i8;
            group.low[i] = (code - (high << 7)) as i8;
            group.sum += i32::from(*code);
        }
        group
    }
}

/// 16 outputs.
///
/// # Safety
/// AVX-512 F, BW, DQ, VNNI and F16C are there; `rows` are blocks of `layout`; `x` has a group for
/// each.
#[inline(always)]
unsafe fn integers_of<const TWO: bool>(
    x: Rounded<'_>,
    groups: &[Group],
    rows: &Rows,
    layout: Layout,
    chain: usize,
) -> __m512 {
    // SAFETY: blocks and inputs are the caller's.
    unsafe {
        let nibble = _mm512_set1_epi8(15);
        let mut total = _mm512_setzero_ps();
        for begin in (0..rows.blocks).step_by(chain / GROUP) {
            let mut part = _mm512_setzero_ps();
            for block in begin..rows.blocks.min(begin + chain / GROUP) {
                rows.prefetch(block, layout.bytes);
                let at = block * layout.bytes;
                let (d, m) = rows.parameters(at);
                let words = rows.words(at + layout.codes);
                let group = groups.get_unchecked(block);
                let mut high = _mm512_setzero_si512();
                let mut low = _mm512_setzero_si512();
                let mut dot = |codes, k: usize| {
                    let four = |digits: &[i8; GROUP]| {
                        _mm512_set1_epi32(digits.as_ptr().add(k).cast::<i32>().read_unaligned())
                    };
                    if TWO {
                        high = _mm512_dpbusd_epi32(high, codes, four(&group.high));
                    }
                    low = _mm512_dpbusd_epi32(low, codes, four(&group.low));
                };
                if layout.kind == Kind::Q80 {
                    let flip = _mm512_set1_epi8(-128);
                    let more = rows.words(at + layout.codes + GROUP / 2);
                    for (j, word) in words.into_iter().chain(more).enumerate() {
                        dot(_mm512_xor_si512(word, flip), 4 * j);
                    }
                } else {
                    for (j, word) in words.into_iter().enumerate() {
                        dot(_mm512_and_si512(word, nibble), 4 * j);
                        let upper = _mm512_srli_epi32::<4>(word);
                        dot(_mm512_and_si512(upper, nibble), 16 + 4 * j);
                    }
                }
                let mut sum = _mm512_add_epi32(_mm512_slli_epi32::<7>(high), low);
                // Codes that were made unsigned are too large by as much.
                let offset = match layout.kind {
                    Kind::Q40 => 8,
                    Kind::Q41 => 0,
                    Kind::Q80 => 128,
                };
                if offset != 0 {
                    sum = _mm512_sub_epi32(sum, _mm512_set1_epi32(offset * group.sum));
                }
                let scale = _mm512_set1_ps(*x.scales.as_ptr().add(block));
                part = _mm512_fmadd_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(sum), d), scale, part);
                if layout.kind == Kind::Q41 {
                    let sum = _mm512_set1_ps(*x.sums.as_ptr().add(block));
                    part = _mm512_fmadd_ps(m, sum, part);
                }
            }
            total = if begin == 0 { part } else { _mm512_add_ps(part, total) };
        }
        total
    }
}
