//! Eigenvalues of small symmetric matrices.

/// The eigenvalues of the symmetric `matrix [n, n]`, largest first, by cyclic Jacobi rotations: in
/// a fixed order, so that the same matrix gives the same bits.
pub(super) fn eigenvalues(mut matrix: Vec<f64>, n: usize) -> Vec<f64> {
    const SWEEPS: usize = 30;
    for _ in 0..SWEEPS {
        let size: f64 = matrix.iter().map(|x| x * x).sum();
        let off = |i: usize| if i / n == i % n { 0.0 } else { matrix[i] * matrix[i] };
        if (0..n * n).map(off).sum::<f64>() <= 1e-24 * size {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                rotate(&mut matrix, n, p, q);
            }
        }
    }
    let mut values: Vec<f64> = (0..n).map(|i| matrix[i * n + i]).collect();
    values.sort_by(|a, b| b.total_cmp(a));
    values
}

/// Turns rows and columns `p` and `q` so that their common element is zero.
fn rotate(m: &mut [f64], n: usize, p: usize, q: usize) {
    let common = m[p * n + q];
    if common == 0.0 {
        return;
    }
    let theta = (m[q * n + q] - m[p * n + p]) / (2.0 * common);
    let t = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
    let c = 1.0 / (t * t + 1.0).sqrt();
    let s = t * c;
    for k in 0..n {
        let (a, b) = (m[k * n + p], m[k * n + q]);
        (m[k * n + p], m[k * n + q]) = (c * a - s * b, s * a + c * b);
    }
    for k in 0..n {
        let (a, b) = (m[p * n + k], m[q * n + k]);
        (m[p * n + k], m[q * n + k]) = (c * a - s * b, s * a + c * b);
    }
}

#[cfg(test)]
mod tests {
    use super::eigenvalues;

    #[test]
    fn known_matrices() {
        let close = |got: Vec<f64>, want: &[f64]| {
            let worst = got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(got.len() == want.len() && worst < 1e-12, "{got:?}");
        };
        close(eigenvalues(vec![2.0, 1.0, 1.0, 2.0], 2), &[3.0, 1.0]);
        close(eigenvalues(vec![-1.0], 1), &[-1.0]);
        // The second difference of four points: 2 - 2 cos(k pi / 5).
        let second = |i: usize| match (i / 4).abs_diff(i % 4) {
            0 => 2.0,
            1 => -1.0,
            _ => 0.0,
        };
        let want =
            [4.0, 3.0, 2.0, 1.0].map(|k| 2.0 - 2.0 * (k * core::f64::consts::PI / 5.0).cos());
        close(eigenvalues((0..16).map(second).collect(), 4), &want);
        close(eigenvalues(vec![0.0; 9], 3), &[0.0; 3]);
    }
}
