//! The suite for block formats.

use lowtide_quant::{BlockFormat, QMat};

use crate::close::assert_bits;
use crate::draw::Draw;

/// Blocks of a run.
const BLOCKS: usize = 9;

/// Magnitudes that a format with half-precision scales can hold.
const BOUNDS: [f32; 4] = [1e-3, 0.05, 1.0, 300.0];

/// Runs a block format through everything it owes to the engine.
///
/// - *Sizes*: blocks have values and bytes; a row is whole blocks or no row; a packed matrix of
///   that size is accepted and its rows decode on their own.
/// - *Round trip*: what comes back is off by at most the share of a block's largest magnitude that
///   the bits a value allow; zeros come back as zeros; packing again what came back does not drift.
/// - *Blocks are independent*: many at once give the bytes and values of one after another.
/// - *Damage stays visible*: a NaN or an infinity does not decode to a block of finite numbers.
/// - *Any bytes* decode, the same twice.
/// - *Minima*, where a format has its own, move all values of their blocks and nothing else.
///
/// ```
/// lowtide_conformance::block_format(&lowtide_quant::formats::Q4_1);
/// ```
///
/// # Panics
/// At the first thing that does not hold; the message names the format.
pub fn block_format(format: &'static dyn BlockFormat) {
    check_sizes(format);
    check_round_trip(format);
    check_independence(format);
    check_damage(format);
    check_any_bytes(format);
    check_minima(format);
}

fn encode(format: &dyn BlockFormat, x: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0xa5; x.len() / format.block_len() * format.block_bytes()];
    format.encode(x, &mut bytes);
    bytes
}

fn decode(format: &dyn BlockFormat, bytes: &[u8]) -> Vec<f32> {
    let mut x = vec![f32::NAN; bytes.len() / format.block_bytes() * format.block_len()];
    format.decode(bytes, &mut x);
    x
}

fn check_sizes(format: &'static dyn BlockFormat) {
    let (name, len, size) = (format.name(), format.block_len(), format.block_bytes());
    let plain = !name.is_empty() && name.chars().all(|c| c.is_ascii_graphic());
    assert!(plain, "a block format is called {name:?}");
    assert!(len > 0 && size > 0, "{name}: blocks of {len} values in {size} bytes");
    for blocks in 0..4 {
        let (cols, want) = (blocks * len, Some(blocks * size));
        let got = format.row_bytes(cols);
        assert!(got == want, "{name}: a row of {cols} values takes {got:?} bytes, not {want:?}");
        let odd = cols + 1;
        let partial = !odd.is_multiple_of(len) && format.row_bytes(odd).is_some();
        assert!(!partial, "{name}: a row of {odd} values is not whole blocks of {len}");
    }

    let (rows, cols) = (3, 2 * len);
    let bytes = encode(format, &Draw::new(1).vec(rows * cols, 1.0));
    let packed = QMat::new(format, rows, cols, &bytes);
    let packed = packed.unwrap_or_else(|error| panic!("{name}: a packed matrix: {error}"));
    let all = decode(format, &bytes);
    for (i, want) in all.chunks(cols).enumerate() {
        let mut row = vec![f32::NAN; cols];
        packed.decode_row(i, &mut row);
        assert_bits(&format!("{name}: row {i} of [{rows}, {cols}]"), &row, want);
    }
}

/// How far a value may be off, as a share of its block's largest magnitude: one level too many for
/// the bits a value takes, scales included. Floats spend bits on exponents, so eight count at most.
fn share(format: &dyn BlockFormat) -> f32 {
    let bits = (8 * format.block_bytes() / format.block_len()).min(8);
    4.0 / (1_u32 << bits) as f32
}

fn check_round_trip(format: &dyn BlockFormat) {
    let (name, len, share) = (format.name(), format.block_len(), share(format));
    for (seed, bound) in (1..).zip(BOUNDS) {
        let mut x: Vec<f32> = Draw::new(seed).vec(BLOCKS * len, bound);
        // One block of zeros, one of equal values.
        x[..len].fill(0.0);
        x[len..2 * len].fill(bound / 2.0);
        let once = decode(format, &encode(format, &x));
        let twice = decode(format, &encode(format, &once));
        for (block, x) in x.chunks(len).enumerate() {
            let largest = x.iter().fold(0.0, |max: f32, x| max.max(x.abs()));
            for (i, x) in x.iter().enumerate() {
                let at = block * len + i;
                let (one, two) = (once[at], twice[at]);
                let near = |got: f32| (got - x).abs() <= share * largest;
                assert!(near(one), "{name}: {x} in a block to {largest} comes back as {one}");
                assert!(
                    near(two),
                    "{name}: {x} in a block to {largest} drifts to {one}, then {two}"
                );
            }
        }
        assert!(
            once[..len].iter().all(|&x| x == 0.0),
            "{name}: zeros come back as {:?}",
            &once[..len]
        );
    }
}

fn check_independence(format: &dyn BlockFormat) {
    let (name, len, size) = (format.name(), format.block_len(), format.block_bytes());
    let x: Vec<f32> = Draw::new(2).vec(BLOCKS * len, 2.0);
    let bytes = encode(format, &x);
    let values = decode(format, &bytes);
    for block in 0..BLOCKS {
        let alone = encode(format, &x[block * len..][..len]);
        assert!(
            alone == bytes[block * size..][..size],
            "{name}: block {block} packs otherwise alone"
        );
        let what = format!("{name}: block {block} alone");
        assert_bits(&what, &decode(format, &alone), &values[block * len..][..len]);
    }
    assert!(encode(format, &[]).is_empty() && decode(format, &[]).is_empty(), "{name}: no blocks");
}

fn check_damage(format: &dyn BlockFormat) {
    let (name, len) = (format.name(), format.block_len());
    for damage in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for at in [0, len / 2, len - 1] {
            let mut x: Vec<f32> = Draw::new(3).vec(2 * len, 1.0);
            x[at] = damage;
            let back = decode(format, &encode(format, &x));
            let visible = back[..len].iter().any(|x| !x.is_finite());
            assert!(visible, "{name}: {damage} at {at} of a block comes back as finite numbers");
            let beside = back[len..].iter().all(|x| x.is_finite());
            assert!(beside, "{name}: {damage} in a block damages the next one");
        }
    }
}

fn check_any_bytes(format: &dyn BlockFormat) {
    let (name, size) = (format.name(), format.block_bytes());
    let noise: Vec<f32> = Draw::new(4).vec(64 * size, 128.0);
    let bytes: Vec<u8> = noise.iter().map(|x| (x + 128.0) as u8).collect();
    for bytes in [bytes, vec![0; size], vec![0xff; size]] {
        let (once, again) = (decode(format, &bytes), decode(format, &bytes));
        let same = once.iter().zip(&again).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same, "{name}: the same bytes decode to different numbers");
    }
}

fn check_minima(format: &dyn BlockFormat) {
    /// Rounding of a minimum of up to 3, in as few as eight bits.
    const ROUNDING: f32 = 1.0 / 64.0;
    if !format.has_own_minima() {
        return;
    }
    let (name, len) = (format.name(), format.block_len());
    let before = encode(format, &Draw::new(5).vec(BLOCKS * len, 1.0));
    let mut bytes = before.clone();
    format.shift_minima(&mut bytes, &[0.0; BLOCKS]);
    assert!(bytes == before, "{name}: minima that move by nothing change bytes");
    let shifts: [f32; BLOCKS] = std::array::from_fn(|block| block as f32 / 4.0 - 1.0);
    format.shift_minima(&mut bytes, &shifts);
    let (old, new) = (decode(format, &before), decode(format, &bytes));
    for (block, (old, new)) in old.chunks(len).zip(new.chunks(len)).enumerate() {
        let shift = shifts[block];
        for (old, new) in old.iter().zip(new) {
            let near = (new - (old + shift)).abs() <= ROUNDING;
            assert!(near, "{name}: {old} of block {block}, moved by {shift}, becomes {new}");
        }
    }
}
