//! Residuals and biases.

use lowtide_tensor::{Float, Mat, MatMut, QUANTUM};

use crate::contract;

use super::lanes::add;

/// `y = alpha x + beta y`; with `beta` zero, `y` is overwritten even where it holds NaN.
pub fn axpby<F: Float>(alpha: F, x: Mat<'_, F>, beta: F, mut y: MatMut<'_, F>) {
    contract::axpby(x, y.as_ref());
    let combine = |x: F, y: F| if beta == F::ZERO { alpha * x } else { alpha * x + beta * y };
    let unit = x.col_stride() == 1 && y.as_ref().col_stride() == 1;
    for t in 0..x.rows() {
        if unit {
            for (y, &x) in y.row_mut(t).iter_mut().zip(x.row(t)) {
                *y = combine(x, *y);
            }
        } else {
            for c in 0..x.cols() {
                let slot = y.at(t, c);
                *slot = combine(x.get(t, c), *slot);
            }
        }
    }
}

/// `y[t, o] += bias[o]`, in place.
pub fn add_bias<F: Float>(bias: &[F], mut y: MatMut<'_, F>) {
    contract::add_bias(bias, y.as_ref());
    for t in 0..y.rows() {
        add(bias, y.row_mut(t));
    }
}

/// `dsum[c] += Σ_t x[t, c]`, in quanta of rows.
pub fn sum_rows<F: Float>(x: Mat<'_, F>, dsum: &mut [F]) {
    contract::sum_rows(x, dsum);
    const COLUMNS: usize = 64;
    for (piece, dsum) in dsum.chunks_mut(COLUMNS).enumerate() {
        let columns = piece * COLUMNS..piece * COLUMNS + dsum.len();
        for t in (0..x.rows()).step_by(QUANTUM) {
            let mut part = [F::ZERO; COLUMNS];
            for t in t..x.rows().min(t + QUANTUM) {
                add(&x.row(t)[columns.clone()], &mut part);
            }
            add(&part, dsum);
        }
    }
}
