//! Tests of the block formats, the packed view and the 8-bit maps.

mod blocks;
mod dynamic8;
mod integers;
mod lines;
mod lookups;
mod properties;
mod qmat;
mod reference;

use lowtide_quant::BlockFormat;

/// Packs `x` in `format`.
fn encode(format: &dyn BlockFormat, x: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; format.row_bytes(x.len()).expect("whole blocks")];
    format.encode(x, &mut bytes);
    bytes
}

/// Unpacks `bytes`, which are whole blocks of `format`.
fn decode(format: &dyn BlockFormat, bytes: &[u8]) -> Vec<f32> {
    let mut x = vec![f32::NAN; bytes.len() / format.block_bytes() * format.block_len()];
    format.decode(bytes, &mut x);
    x
}

/// `N` values, zero where `set` does not say otherwise.
fn values<const N: usize>(set: &[(usize, f32)]) -> [f32; N] {
    let mut x = [0.0; N];
    for (i, v) in set {
        x[*i] = *v;
    }
    x
}
