//! Sums of products in the fixed order, several outputs side by side.
//!
//! One output's terms must be added one after another, which leaves a processor waiting. Outputs do
//! not wait for each other: [`LANES`] of them advance together, with the bits each would have
//! alone.

use lowtide_tensor::{Float, QUANTUM};

/// Outputs that advance together.
pub(super) const LANES: usize = 8;

/// Elements of a panel of `LANES` columns of the given length.
pub(super) const fn panel_len(len: usize) -> usize {
    len * LANES
}

/// One quantum: `part[l] = Σ_i x[i] * panel[i, l]`, ascending from zero. `panel [x.len(), LANES]`.
pub(super) fn partial<F: Float>(x: &[F], panel: &[F]) -> [F; LANES] {
    let mut part = [F::ZERO; LANES];
    for (&x, weights) in x.iter().zip(panel.as_chunks::<LANES>().0) {
        for (sum, &weight) in part.iter_mut().zip(weights) {
            *sum += x * weight;
        }
    }
    part
}

/// A whole contraction: the partial sums of ascending quanta, added to zero one after another.
pub(super) fn dots<F: Float>(x: &[F], panel: &[F]) -> [F; LANES] {
    let mut total = [F::ZERO; LANES];
    for (x, panel) in x.chunks(QUANTUM).zip(panel.chunks(panel_len(QUANTUM))) {
        for (sum, part) in total.iter_mut().zip(partial(x, panel)) {
            *sum += part;
        }
    }
    total
}

/// The contraction of one pair of rows, in the same order as [`dots`].
pub(super) fn dot<F: Float>(a: &[F], b: &[F]) -> F {
    sum(a.iter().zip(b).map(|(&a, &b)| a * b))
}

/// A sum in quanta: [`QUANTUM`] terms from zero, then added to the total.
pub(super) fn sum<F: Float>(mut terms: impl ExactSizeIterator<Item = F>) -> F {
    let mut total = F::ZERO;
    while terms.len() > 0 {
        let mut part = F::ZERO;
        for term in terms.by_ref().take(QUANTUM) {
            part += term;
        }
        total += part;
    }
    total
}

/// `y += a * x`.
pub(super) fn axpy<F: Float>(a: F, x: &[F], y: &mut [F]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y += a * x;
    }
}

/// `y += x`.
pub(super) fn add<F: Float>(x: &[F], y: &mut [F]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y += x;
    }
}
