//! The 8-bit dynamic maps of bitsandbytes: a code book of 256 levels in \[−1, 1\] with about the
//! same relative precision over seven decades, and one absmax for each block of [`BLOCK`] values.
//!
//! Optimizer states live in this form: the first moment in the [`SIGNED`] map, the second in the
//! [`UNSIGNED`] one. Reference: Dettmers et al., "8-bit Optimizers via Block-wise Quantization"
//! (2022); the levels and the codes are those of bitsandbytes to the bit.

use core::ptr;

use crate::absmax::absmax;

/// Values that share an absmax. Blocks start anew at each tensor; its last one may be shorter.
pub const BLOCK: usize = 256;

/// The code of zero in [`SIGNED`].
pub const ZERO_SIGNED: u8 = 127;

/// The code of zero in [`UNSIGNED`].
pub const ZERO_UNSIGNED: u8 = 0;

/// Levels for values of either sign: ascending, zero at code 127, one at code 255. The most
/// negative is −0.99297.
pub static SIGNED: [f32; 256] = signed();

/// Levels for values that are never negative: ascending, zero at code 0, one at code 255.
pub static UNSIGNED: [f32; 256] = unsigned();

/// How many blocks, and so how many absmax values, a tensor of `len` values has.
pub const fn blocks(len: usize) -> usize {
    len.div_ceil(BLOCK)
}

/// Replaces each value of a block by the code of the nearest level of `map` after division by the
/// block's absmax, which it returns. A value on the midpoint of two levels gets the lower code.
///
/// A block of zeros has absmax 0 and code 0 throughout. A block that holds a NaN or an infinity
/// has an absmax that is not finite, so that it does not decode to plausible numbers.
///
/// `map` is ascending, such as [`SIGNED`] or [`UNSIGNED`]; for these two, the midpoints are made
/// once and for all.
///
/// # Panics
/// If `x` and `codes` differ in length.
pub fn encode_block(x: &[f32], map: &[f32; 256], codes: &mut [u8]) -> f32 {
    assert!(x.len() == codes.len(), "{} values for {} codes", x.len(), codes.len());
    let absmax = absmax(x);
    if absmax == 0.0 {
        codes.fill(0);
        return 0.0;
    }
    let made;
    let midpoints = if ptr::eq(map, &SIGNED) {
        &SIGNED_MIDPOINTS
    } else if ptr::eq(map, &UNSIGNED) {
        &UNSIGNED_MIDPOINTS
    } else {
        made = Midpoints::new(map);
        &made
    };
    for (x, code) in x.iter().zip(codes) {
        *code = midpoints.code(*x / absmax);
    }
    absmax
}

/// Puts `map[code] * absmax` for each code of a block; exact zeros where `absmax` is zero.
///
/// # Panics
/// If `codes` and `out` differ in length.
pub fn decode_block(codes: &[u8], absmax: f32, map: &[f32; 256], out: &mut [f32]) {
    assert!(codes.len() == out.len(), "{} codes for {} values", codes.len(), out.len());
    if absmax == 0.0 {
        out.fill(0.0);
        return;
    }
    for (code, y) in codes.iter().zip(out) {
        *y = map[usize::from(*code)] * absmax;
    }
}

/// The borders between levels, cut into sixteen rows so that a code is found in two looks.
struct Midpoints {
    /// In reading order, entry `i` lies halfway between levels `i` and `i + 1`; nothing lies above
    /// the last level.
    rows: [[f32; 16]; 16],
    /// The last entry of each row.
    ends: [f32; 16],
}

/// Those of [`SIGNED`].
static SIGNED_MIDPOINTS: Midpoints = Midpoints::new(&signed());

/// Those of [`UNSIGNED`].
static UNSIGNED_MIDPOINTS: Midpoints = Midpoints::new(&unsigned());

impl Midpoints {
    const fn new(map: &[f32; 256]) -> Self {
        let mut rows = [[f32::INFINITY; 16]; 16];
        let mut ends = [f32::INFINITY; 16];
        let mut i = 0;
        while i < 255 {
            let midpoint = (map[i] + map[i + 1]) / 2.0;
            rows[i / 16][i % 16] = midpoint;
            if i % 16 == 15 {
                ends[i / 16] = midpoint;
            }
            i += 1;
        }
        Self { rows, ends }
    }

    /// The number of midpoints below `v`: the code of the level nearest to it. Two counts over
    /// sixteen entries each have no branch to mispredict, which a binary search has eight of.
    fn code(&self, v: f32) -> u8 {
        let below = |row: &[f32; 16]| row.iter().map(|mid| u32::from(*mid < v)).sum::<u32>();
        let row = below(&self.ends);
        (16 * row + below(&self.rows[row as usize % 16])) as u8
    }
}

/// Decades of the map: decade `i` covers `[0.1, 1] * 10^(i - 6)`.
const DECADES: usize = 7;

/// Powers of ten that the decades end at.
const POWERS: [f32; DECADES] = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0];

const fn signed() -> [f32; 256] {
    let mut map = [0.0; 256];
    let mut n = 0;
    let mut i = 0;
    while i < DECADES {
        let mut k = 0;
        while k < 1 << i {
            let level = level(i, k, 1 << i);
            map[128 + n] = level;
            map[126 - n] = -level;
            n += 1;
            k += 1;
        }
        i += 1;
    }
    map[255] = 1.0;
    map
}

const fn unsigned() -> [f32; 256] {
    let mut map = [0.0; 256];
    let mut n = 1;
    let mut i = 0;
    while i < DECADES {
        let mut k = 0;
        while k < 2 << i {
            map[n] = level(i, k, 2 << i);
            n += 1;
            k += 1;
        }
        i += 1;
    }
    map[255] = 1.0;
    map
}

/// The middle of interval `k` of the `intervals` equal ones that decade `i` is cut into.
const fn level(i: usize, k: usize, intervals: usize) -> f32 {
    POWERS[i] * ((boundary(k, intervals) + boundary(k + 1, intervals)) / 2.0)
}

/// Boundary `k` of `intervals` equal intervals of `[0.1, 1]`, in the roundings that the published
/// levels carry: the step in single precision, each boundary reckoned from the nearer end and
/// rounded once.
const fn boundary(k: usize, intervals: usize) -> f32 {
    let step = ((1.0f32 - 0.1f32) / intervals as f32) as f64;
    if k < intervals.div_ceil(2) {
        (0.1f32 as f64 + step * k as f64) as f32
    } else {
        (1.0 - step * (intervals - k) as f64) as f32
    }
}
