//! Columns of matrices times a vector, and sums of products down them.

use lowtide_tensor::{Float, Mat, MatMut, quanta};

use crate::ia3::held_off;

/// Columns whose sums are held at a time.
const COLUMNS: usize = 64;

/// `out = x ⊙ l`, every row by the same scales.
pub(crate) fn scaled<F: Float>(x: Mat<'_, F>, l: &[F], mut out: MatMut<'_, F>) {
    for t in 0..x.rows() {
        for ((out, &x), &l) in out.row_mut(t).iter_mut().zip(x.row(t)).zip(l) {
            *out = x * held_off(l);
        }
    }
}

/// `x ⊙= l`.
pub(crate) fn scale<F: Float>(mut x: MatMut<'_, F>, l: &[F]) {
    for t in 0..x.rows() {
        for (x, &l) in x.row_mut(t).iter_mut().zip(l) {
            *x *= held_off(l);
        }
    }
}

/// `y += x ⊙ l`.
pub(crate) fn add_scaled<F: Float>(x: Mat<'_, F>, l: &[F], mut y: MatMut<'_, F>) {
    for t in 0..x.rows() {
        for ((y, &x), &l) in y.row_mut(t).iter_mut().zip(x.row(t)).zip(l) {
            *y += x * held_off(l);
        }
    }
}

/// `sums[c] += Σ_t a[t, c] b[t, c] / l[c]`, in quanta of rows; without `l`, divided by nothing.
pub(crate) fn add_products<F: Float>(
    a: Mat<'_, F>,
    b: Mat<'_, F>,
    l: Option<&[F]>,
    sums: &mut [F],
) {
    for (piece, sums) in sums.chunks_mut(COLUMNS).enumerate() {
        let columns = piece * COLUMNS..piece * COLUMNS + sums.len();
        for rows in quanta(0..a.rows()) {
            let mut part = [F::ZERO; COLUMNS];
            for t in rows {
                let (a, b) = (&a.row(t)[columns.clone()], &b.row(t)[columns.clone()]);
                for ((part, &a), &b) in part.iter_mut().zip(a).zip(b) {
                    *part += a * b;
                }
            }
            for (c, (sum, &part)) in columns.clone().zip(sums.iter_mut().zip(&part)) {
                *sum += l.map_or(part, |l| part / held_off(l[c]));
            }
        }
    }
}
