//! Gated activations, by blocks of rows.

use lowtide_backend::Activation;
use lowtide_lanes::{RowBlock, RowBlocks, row_split, share_out};
use lowtide_tensor::{Mat, MatMut};

use crate::exp::sigmoid;

/// `y = act(gate) ⊙ up`.
pub(crate) fn glu(
    lanes: usize,
    act: Activation,
    gate: Mat<'_, f32>,
    up: Mat<'_, f32>,
    y: MatMut<'_, f32>,
) {
    let (lanes, step) = row_split(lanes, y.rows(), y.cols());
    share_out(lanes, RowBlocks::new(y, step), |RowBlock { start, rows: mut y }| {
        for i in 0..y.rows() {
            let (gate, up) = (gate.row(start + i), up.row(start + i));
            let row = y.row_mut(i).iter_mut().zip(gate).zip(up);
            match act {
                Activation::Silu => row.for_each(|((y, &g), &u)| *y = silu(g).0 * u),
                Activation::GeluTanh => row.for_each(|((y, &g), &u)| *y = gelu_tanh(g).0 * u),
            }
        }
    });
}

/// `gate = act(gate) ⊙ up`.
pub(crate) fn glu_in_place(lanes: usize, act: Activation, gate: MatMut<'_, f32>, up: Mat<'_, f32>) {
    let (lanes, step) = row_split(lanes, gate.rows(), gate.cols());
    share_out(lanes, RowBlocks::new(gate, step), |RowBlock { start, rows: mut gate }| {
        for i in 0..gate.rows() {
            let row = gate.row_mut(i).iter_mut().zip(up.row(start + i));
            match act {
                Activation::Silu => row.for_each(|(g, &u)| *g = silu(*g).0 * u),
                Activation::GeluTanh => row.for_each(|(g, &u)| *g = gelu_tanh(*g).0 * u),
            }
        }
    });
}

/// Replaces `gate` by `dy ⊙ up ⊙ act'(gate)` and `up` by `dy ⊙ act(gate)`.
pub(crate) fn glu_vjp(
    lanes: usize,
    act: Activation,
    dy: Mat<'_, f32>,
    gate: MatMut<'_, f32>,
    up: MatMut<'_, f32>,
) {
    let (lanes, step) = row_split(lanes, gate.rows(), gate.cols());
    let units = RowBlocks::new(gate, step).zip(RowBlocks::new(up, step));
    share_out(
        lanes,
        units,
        |(RowBlock { start, rows: mut gate }, RowBlock { rows: mut up, .. })| {
            for i in 0..gate.rows() {
                let row = gate.row_mut(i).iter_mut().zip(up.row_mut(i)).zip(dy.row(start + i));
                match act {
                    Activation::Silu => row.for_each(|((g, u), &dy)| back(silu(*g), dy, g, u)),
                    Activation::GeluTanh => {
                        row.for_each(|((g, u), &dy)| back(gelu_tanh(*g), dy, g, u));
                    }
                }
            }
        },
    );
}

#[inline(always)]
fn back((value, slope): (f32, f32), dy: f32, gate: &mut f32, up: &mut f32) {
    *gate = dy * *up * slope;
    *up = dy * value;
}

/// `silu(x)` and its derivative. Factors of zero meet finite numbers only, so that limits are
/// reached: zero and zero on the left, infinity and one on the right.
#[inline(always)]
fn silu(x: f32) -> (f32, f32) {
    let s = sigmoid(x);
    let above = larger(x, f32::MIN);
    let inside = smaller(above, f32::MAX);
    (above * s, s * (1.0 + inside * (1.0 - s)))
}

/// `x/2 (1 + tanh u)` and its derivative, with `u = sqrt(2/π) (x + 0.044715 x³)`. As
/// `(1 + tanh u) / 2 = sigmoid(2u)`, neither loses digits where `tanh` is near minus one. Beyond
/// ±16 `sigmoid(2u)` is zero or one, as it is there, while squares of large numbers are infinite.
#[inline(always)]
fn gelu_tanh(x: f32) -> (f32, f32) {
    const SLOPE: f32 = 0.797_884_6;
    const CUBIC: f32 = 0.044_715;
    let inside = smaller(larger(x, -16.0), 16.0);
    let square = inside * inside;
    let s = sigmoid(2.0 * SLOPE * inside * (1.0 + CUBIC * square));
    let inner = 2.0 * SLOPE * (1.0 + 3.0 * CUBIC * square);
    (larger(x, f32::MIN) * s, s + inside * s * (1.0 - s) * inner)
}

/// `x`, but at least `least`; NaN stays NaN, unlike with `f32::max`.
#[inline(always)]
fn larger(x: f32, least: f32) -> f32 {
    if x < least { least } else { x }
}

/// `x`, but at most `most`; NaN stays NaN, unlike with `f32::min`.
#[inline(always)]
fn smaller(x: f32, most: f32) -> f32 {
    if x > most { most } else { x }
}
