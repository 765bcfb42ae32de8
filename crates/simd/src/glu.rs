//! Gated activations, by blocks of rows.

use lowtide_backend::{Activation, contract};
use lowtide_kernels::Gate;
use lowtide_lanes::{RowBlock, RowBlocks, row_split, share_out};
use lowtide_tensor::{Mat, MatMut};

use crate::Simd;

/// `y = act(gate) ⊙ up`.
pub(crate) fn glu(
    be: &Simd,
    act: Activation,
    gate: Mat<'_, f32>,
    up: Mat<'_, f32>,
    y: MatMut<'_, f32>,
) {
    contract::glu(gate, up, y.as_ref());
    let (lanes, step) = row_split(be.threads(), y.rows(), y.cols());
    share_out(lanes, RowBlocks::new(y, step), |RowBlock { start, rows: mut y }| {
        for i in 0..y.rows() {
            let (gate, up) = (gate.row(start + i), up.row(start + i));
            be.kernels().glu(kind(act), gate, up, y.row_mut(i));
        }
    });
}

/// `gate = act(gate) ⊙ up`.
pub(crate) fn glu_in_place(be: &Simd, act: Activation, gate: MatMut<'_, f32>, up: Mat<'_, f32>) {
    contract::glu_in_place(gate.as_ref(), up);
    let (lanes, step) = row_split(be.threads(), gate.rows(), gate.cols());
    share_out(lanes, RowBlocks::new(gate, step), |RowBlock { start, rows: mut gate }| {
        for i in 0..gate.rows() {
            be.kernels().glu_in_place(kind(act), gate.row_mut(i), up.row(start + i));
        }
    });
}

/// Replaces `gate` by `dy ⊙ up ⊙ act'(gate)` and `up` by `dy ⊙ act(gate)`.
pub(crate) fn glu_vjp(
    be: &Simd,
    act: Activation,
    dy: Mat<'_, f32>,
    gate: MatMut<'_, f32>,
    up: MatMut<'_, f32>,
) {
    contract::glu_vjp(dy, gate.as_ref(), up.as_ref());
    let (lanes, step) = row_split(be.threads(), gate.rows(), gate.cols());
    let units = RowBlocks::new(gate, step).zip(RowBlocks::new(up, step));
    share_out(lanes, units, |(gate, up)| {
        let (RowBlock { start, rows: mut gate }, RowBlock { rows: mut up, .. }) = (gate, up);
        for i in 0..gate.rows() {
            let dy = dy.row(start + i);
            be.kernels().glu_vjp(kind(act), dy, gate.row_mut(i), up.row_mut(i));
        }
    });
}

fn kind(act: Activation) -> Gate {
    match act {
        Activation::Silu => Gate::Silu,
        Activation::GeluTanh => Gate::GeluTanh,
    }
}
