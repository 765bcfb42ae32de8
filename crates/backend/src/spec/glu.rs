//! Gated activations.

use lowtide_tensor::{Float, Mat, MatMut};

use crate::contract;
use crate::shapes::Activation;

/// `y = act(gate) ⊙ up`, all `[T, F]`.
pub fn glu<F: Float>(act: Activation, gate: Mat<'_, F>, up: Mat<'_, F>, mut y: MatMut<'_, F>) {
    contract::glu(gate, up, y.as_ref());
    for t in 0..gate.rows() {
        for ((y, &gate), &up) in y.row_mut(t).iter_mut().zip(gate.row(t)).zip(up.row(t)) {
            *y = value_and_slope(act, gate).0 * up;
        }
    }
}

/// `gate = act(gate) ⊙ up`, in place.
pub fn glu_in_place<F: Float>(act: Activation, mut gate: MatMut<'_, F>, up: Mat<'_, F>) {
    contract::glu_in_place(gate.as_ref(), up);
    for t in 0..up.rows() {
        for (gate, &up) in gate.row_mut(t).iter_mut().zip(up.row(t)) {
            *gate = value_and_slope(act, *gate).0 * up;
        }
    }
}

/// Replaces `gate` by `dy ⊙ up ⊙ act'(gate)` and `up` by `dy ⊙ act(gate)`.
pub fn glu_vjp<F: Float>(
    act: Activation,
    dy: Mat<'_, F>,
    mut gate: MatMut<'_, F>,
    mut up: MatMut<'_, F>,
) {
    contract::glu_vjp(dy, gate.as_ref(), up.as_ref());
    for t in 0..dy.rows() {
        let row = gate.row_mut(t).iter_mut().zip(up.row_mut(t)).zip(dy.row(t));
        for ((gate, up), &dy) in row {
            let (value, slope) = value_and_slope(act, *gate);
            *gate = dy * *up * slope;
            *up = dy * value;
        }
    }
}

/// `act(x)` and its derivative there.
fn value_and_slope<F: Float>(act: Activation, x: F) -> (F, F) {
    match act {
        Activation::Silu => silu(x),
        Activation::GeluTanh => gelu_tanh(x),
    }
}

/// `x s` and `s (1 + x (1 - s))` with `s = 1 / (1 + e^-x)`.
fn silu<F: Float>(x: F) -> (F, F) {
    let sigmoid = F::ONE / (F::ONE + (-x).exp());
    let bend = F::ONE + times(x, F::ONE - sigmoid);
    (times(x, sigmoid), times(bend, sigmoid))
}

/// `x/2 (1 + tanh u)` with `u = sqrt(2/π) (x + 0.044715 x³)`.
fn gelu_tanh<F: Float>(x: F) -> (F, F) {
    let half = F::from_f64(0.5);
    let slope = F::from_f64(0.797_884_560_802_865_4);
    let cubic = F::from_f64(0.044_715);
    let square = x * x;
    let tanh = (slope * (x + cubic * square * x)).tanh();
    let inner = slope * (F::ONE + F::from_f64(3.0) * cubic * square);
    let value = times(half * x, F::ONE + tanh);
    let derivative = half * (F::ONE + tanh) + times(half * x * inner, F::ONE - tanh * tanh);
    (value, derivative)
}

/// `x factor`, where a factor of zero has the last word: exponentials reach it long before `x`
/// reaches infinity.
fn times<F: Float>(x: F, factor: F) -> F {
    if factor == F::ZERO { F::ZERO } else { x * factor }
}
