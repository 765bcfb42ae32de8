//! The 8-bit dynamic maps of bitsandbytes: a code book of 256 levels in \[−1, 1\] with about the
//! same relative precision over seven decades, and one absmax for each block of [`BLOCK`] values.
//!
//! Optimizer states live in this form: the first moment in the [`SIGNED`] map, the second in the
//! [`UNSIGNED`] one. Reference: Dettmers et al., "8-bit Optimizers via Block-wise Quantization"
//! (2022); the levels and the codes are those of bitsandbytes to the bit.

use crate::absmax::absmax;

/// Values that share an absmax. Blocks start anew at each tensor; its last one may be shorter.
pub const BLOCK: usize = 256;

/// The code of zero in [`SIGNED`].
pub const ZERO_SIGNED: u8 = 127;

/// The code of zero in [`UNSIGNED`].
pub const ZERO_UNSIGNED: u8 = 0;

/// For values of either sign: zero at code 127, one at code 255. The most negative level is
/// −0.99297.
pub static SIGNED: Map = Map::new(signed());

/// For values that are never negative: zero at code 0, one at code 255.
pub static UNSIGNED: Map = Map::new(unsigned());

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
/// # Panics
/// If `x` and `codes` differ in length.
pub fn encode_block(x: &[f32], map: &Map, codes: &mut [u8]) -> f32 {
    assert!(x.len() == codes.len(), "{} values for {} codes", x.len(), codes.len());
    let absmax = absmax(x);
    if absmax == 0.0 {
        codes.fill(0);
        return 0.0;
    }
    for (x, code) in x.iter().zip(codes) {
        *code = map.code(*x / absmax);
    }
    absmax
}

/// Puts the level of each code of a block times `absmax`; exact zeros where `absmax` is zero.
///
/// # Panics
/// If `codes` and `out` differ in length.
pub fn decode_block(codes: &[u8], absmax: f32, map: &Map, out: &mut [f32]) {
    assert!(codes.len() == out.len(), "{} codes for {} values", codes.len(), out.len());
    if absmax == 0.0 {
        out.fill(0.0);
        return;
    }
    for (code, y) in codes.iter().zip(out) {
        *y = map.levels[usize::from(*code)] * absmax;
    }
}

/// A code book, and what finds the code of a value in a few steps, whatever the value.
#[derive(Debug)]
pub struct Map {
    /// What the codes stand for: ascending.
    pub levels: [f32; 256],
    /// Entry `i` lies halfway between levels `i` and `i + 1`; nothing lies above the last level.
    midpoints: [f32; 256],
    /// How many midpoints lie below all values of a bucket: of those that are positive, and of
    /// those that are negative. A bucket has one more at the most.
    below: [[u8; BUCKETS]; 2],
}

/// The upper half of a float, which numbers the buckets, of `2^-23`: nothing but zero has a level
/// below.
const LOW: u32 = (127 - 23) << 7;
/// That of one: no value is above.
const HIGH: u32 = 1.0_f32.to_bits() >> 16;
/// Buckets of the magnitudes up to one, each a 128th of a power of two wide.
const BUCKETS: usize = (HIGH - LOW) as usize + 1;

impl Map {
    const fn new(levels: [f32; 256]) -> Self {
        let mut midpoints = [f32::INFINITY; 256];
        let mut i = 0;
        while i < 255 {
            midpoints[i] = (levels[i] + levels[i + 1]) / 2.0;
            i += 1;
        }
        let mut below = [[0; BUCKETS]; 2];
        // Towards larger values: first the negative buckets, the outermost of which comes first.
        let (mut n, mut bucket) = (0, BUCKETS);
        while bucket > 0 {
            bucket -= 1;
            let (lower, upper) = edges(bucket);
            while midpoints[n] <= -upper {
                n += 1;
            }
            assert!(midpoints[n + 1] >= -lower, "a bucket has two midpoints");
            below[1][bucket] = n as u8;
        }
        while bucket < BUCKETS {
            let (lower, upper) = edges(bucket);
            while midpoints[n] < lower {
                n += 1;
            }
            assert!(n == 255 || midpoints[n + 1] >= upper, "a bucket has two midpoints");
            below[0][bucket] = n as u8;
            bucket += 1;
        }
        Self { levels, midpoints, below }
    }

    /// The number of midpoints below `v`, which is the code of the level nearest to it.
    fn code(&self, v: f32) -> u8 {
        let bits = v.to_bits();
        let bucket = ((bits & 0x7fff_ffff) >> 16).clamp(LOW, HIGH) - LOW;
        let below = self.below[(bits >> 31) as usize][bucket as usize];
        below + u8::from(self.midpoints[usize::from(below)] < v)
    }
}

/// The magnitudes that a bucket begins with and ends before.
const fn edges(bucket: usize) -> (f32, f32) {
    let bits = (LOW + bucket as u32) << 16;
    let (lower, upper) = (f32::from_bits(bits), f32::from_bits(bits + (1 << 16)));
    match bucket {
        0 => (0.0, upper),
        _ if bucket + 1 == BUCKETS => (lower, f32::INFINITY),
        _ => (lower, upper),
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
