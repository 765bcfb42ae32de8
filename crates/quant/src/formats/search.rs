//! How encoders look for scales: least squares over a few ways to place the codes.

/// Rounds to the nearest integer, ties to even, for magnitudes below 2²²; unlike the conversion to
/// an integer and back it runs many lanes at a time.
pub(super) fn nearest(v: f32) -> f32 {
    const ALIGNED: f32 = 12_582_912.0; // 1.5 · 2²³: a unit is 1 there.
    (v + ALIGNED) - ALIGNED
}

/// Codes for given parameters, and how far off they are.
#[derive(Clone, Copy)]
pub(super) struct Fit<const N: usize> {
    pub(super) codes: [f32; N],
    /// Sum of squares.
    pub(super) error: f32,
}

impl<const N: usize> Fit<N> {
    /// Worse than any fit.
    pub(super) const NONE: Self = Self { codes: [0.0; N], error: f32::INFINITY };

    /// The nearest codes within `range` for `x ≈ scale · q − offset`.
    pub(super) fn of(x: &[f32; N], scale: f32, offset: f32, range: (f32, f32)) -> Self {
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        let codes = x.map(|x| nearest(((x + offset) * inverse).max(range.0).min(range.1)));
        let off: [f32; N] = core::array::from_fn(|i| scale * codes[i] - offset - x[i]);
        Self { codes, error: sum(&off.map(|off| off * off)) }
    }
}

/// A scale for `x ≈ scale · q` with codes from `−levels` to `levels − 1`: the best of some that put
/// the value of largest magnitude on or near code `−levels`.
pub(super) fn symmetric<const N: usize>(x: &[f32; N], levels: f32) -> f32 {
    let widest = x.iter().fold(0.0f32, |max, x| if x.abs() > max.abs() { *x } else { max });
    if widest == 0.0 {
        return 0.0;
    }
    let mut best = (f32::NEG_INFINITY, widest / -levels);
    for trial in -4..=4 {
        let inverse = (levels + 0.25 * trial as f32) / -widest;
        let q = x.map(|x| nearest((x * inverse).max(-levels).min(levels - 1.0)));
        let xq = sum(&core::array::from_fn::<_, N, _>(|i| x[i] * q[i]));
        let qq = sum(&q.map(|q| q * q));
        // The scale `xq / qq` takes away `xq² / qq` of the sum of squares.
        if xq * xq / qq > best.0 {
            best = (xq * xq / qq, xq / qq);
        }
    }
    best.1
}

/// Scale and offset, neither negative, for `x ≈ scale · q − offset` with codes from 0 to `top`: the
/// best of some that spread the codes over the values, or over a little more or less.
pub(super) fn affine<const N: usize>(x: &[f32; N], top: f32) -> (f32, f32) {
    let (min, max) = span(x);
    let even = (max - min) / top;
    if even == 0.0 {
        return (0.0, -min);
    }
    let mut best = (Fit::of(x, even, -min, (0.0, top)).error, even, -min);
    let n = N as f32;
    let sum_x = sum(x);
    for trial in -4..=4 {
        let inverse = (top + 0.25 * trial as f32) / (max - min);
        let q = x.map(|x| nearest(((x - min) * inverse).max(0.0).min(top)));
        let sum_q = sum(&q);
        let qq = sum(&q.map(|q| q * q));
        let xq = sum(&core::array::from_fn::<_, N, _>(|i| x[i] * q[i]));
        let determinant = n * qq - sum_q * sum_q;
        let mut scale = (n * xq - sum_x * sum_q) / determinant;
        let mut offset = (sum_q * xq - qq * sum_x) / determinant;
        if offset < 0.0 {
            (scale, offset) = (xq / qq, 0.0);
        }
        let off: [f32; N] = core::array::from_fn(|i| scale * q[i] - offset - x[i]);
        let error = sum(&off.map(|off| off * off));
        if error < best.0 && scale > 0.0 {
            best = (error, scale, offset);
        }
    }
    (best.1, best.2)
}

/// The smallest value of `x`, zero where none is negative, and the largest.
pub(super) fn span(x: &[f32]) -> (f32, f32) {
    x.iter().fold((0.0f32, f32::NEG_INFINITY), |(min, max), x| (min.min(*x), max.max(*x)))
}

/// Eight partial sums, so that lanes need not wait for each other.
fn sum<const N: usize>(x: &[f32; N]) -> f32 {
    let mut lanes = [0.0f32; 8];
    for part in x.as_chunks::<8>().0 {
        for (lane, x) in lanes.iter_mut().zip(part) {
            *lane += x;
        }
    }
    lanes.iter().sum()
}
