//! What works on rows of elements, and its safe face.

use lowtide_tensor::Mat;

use crate::Kernels;

/// An activation of a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// `x σ(x)`.
    Silu,
    /// The tanh approximation of GELU.
    GeluTanh,
}

/// The draws of one row of a dropout mask: draw `c` is the finaliser of SplitMix64 of
/// `state + (c + 1) * 0x9e3779b97f4a7c15`, its top 53 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draws {
    /// Where the row's stream begins.
    pub state: u64,
    /// Elements with smaller draws are dropped.
    pub threshold: u64,
}

/// What a slice of gradients looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Summary {
    /// Sum of squares of the finite elements, in sixteen chains of f64.
    pub sum_squares: f64,
    /// Largest absolute value of the finite elements.
    pub max_abs: f32,
    /// Elements that are infinite or NaN.
    pub non_finite: usize,
}

/// The scalars of one AdamW update: `g *= grad_scale`, `p *= shrink`, `m = beta1 m + fresh1 g`,
/// `v = beta2 v + fresh2 g²`, `p -= step_size m / (sqrt(v) / root_correction2 + eps)`.
#[derive(Clone, Copy, Debug, PartialEq)]
#[expect(missing_docs, reason = "the formula names them")]
pub struct AdamW {
    pub grad_scale: f32,
    pub shrink: f32,
    pub beta1: f32,
    pub fresh1: f32,
    pub beta2: f32,
    pub fresh2: f32,
    pub root_correction2: f32,
    pub eps: f32,
    pub step_size: f32,
}

/// The scalars of one Lion update: `g *= grad_scale`, `p *= shrink`,
/// `p -= lr sign(beta1 m + fresh1 g)` with the sign of zero zero, `m = beta2 m + fresh2 g`.
#[derive(Clone, Copy, Debug, PartialEq)]
#[expect(missing_docs, reason = "the formula names them")]
pub struct Lion {
    pub grad_scale: f32,
    pub shrink: f32,
    pub beta1: f32,
    pub fresh1: f32,
    pub beta2: f32,
    pub fresh2: f32,
    pub lr: f32,
}

/// Row, weights, reciprocal root, slope, gradient.
type NormVjp = unsafe fn(&[f32], &[f32], f32, &[f32], &mut [f32]);

/// First and second of each pair, cosines, sines.
type Rotate = unsafe fn(&mut [f32], &mut [f32], &[f32], &[f32]);

/// Scalars, parameters, gradient, moments.
type Update = unsafe fn(&AdamW, &mut [f32], &[f32], &mut [f32], &mut [f32]);

/// Scalars, parameters, gradient, momentum.
type UpdateOne<H> = unsafe fn(H, &mut [f32], &[f32], &mut [f32]);

/// The part of a table that works on rows. Every function asks that the processor has the
/// instruction set, and panics when lengths differ.
#[derive(Debug)]
pub(crate) struct Rows {
    pub(crate) max: unsafe fn(&[f32]) -> f32,
    pub(crate) exp_one: unsafe fn(f32) -> f32,
    pub(crate) exp_sum: unsafe fn(&mut [f32], f32) -> f32,
    pub(crate) exp_scaled: unsafe fn(&mut [f32], f32, f32),
    pub(crate) sum: unsafe fn(&[f32]) -> f32,
    pub(crate) dot: unsafe fn(&[f32], &[f32]) -> f32,
    pub(crate) axpby: unsafe fn(f32, &[f32], f32, &mut [f32]),
    pub(crate) add: unsafe fn(&[f32], &mut [f32]),
    pub(crate) mul: unsafe fn(&[f32], &mut [f32]),
    pub(crate) sum_rows: unsafe fn(Mat<'_, f32>, &mut [f32]),
    pub(crate) dropout: unsafe fn(Draws, f32, &[f32], &mut [f32]),
    pub(crate) glu: unsafe fn(Gate, &[f32], &[f32], &mut [f32]),
    pub(crate) glu_in_place: unsafe fn(Gate, &mut [f32], &[f32]),
    pub(crate) glu_vjp: unsafe fn(Gate, &[f32], &mut [f32], &mut [f32]),
    pub(crate) rmsnorm: unsafe fn(&[f32], &[f32], f32, &mut [f32]) -> f32,
    pub(crate) rmsnorm_vjp: NormVjp,
    pub(crate) turns: unsafe fn(f32, &[f32], &mut [f32], &mut [f32]),
    pub(crate) rotate_halves: Rotate,
    pub(crate) rotate_adjacent: unsafe fn(&mut [f32], &[f32], &[f32]),
    pub(crate) stats: unsafe fn(&[f32]) -> Summary,
    pub(crate) adamw: Update,
    pub(crate) sgd: unsafe fn([f32; 3], &mut [f32], &[f32]),
    pub(crate) sgd_momentum: UpdateOne<[f32; 4]>,
    pub(crate) lion: unsafe fn(&Lion, &mut [f32], &[f32], &mut [f32]),
}

/// Rows of elements. All slices of a call have one length, unless said otherwise.
///
/// # Panics
/// Everything here, when lengths differ.
#[allow(clippy::missing_panics_doc, reason = "said for all of them")]
impl Kernels {
    /// The largest element, NaN left out; minus infinity when there is none.
    #[must_use]
    pub fn max(&self, x: &[f32]) -> f32 {
        // SAFETY: the instruction set was detected before this table was handed out.
        unsafe { (self.functions.rows.max)(x) }
    }

    /// The sum of all elements.
    #[must_use]
    pub fn sum(&self, x: &[f32]) -> f32 {
        // SAFETY: the instruction set was detected.
        unsafe { (self.functions.rows.sum)(x) }
    }

    /// The dot product.
    #[must_use]
    pub fn dot(&self, a: &[f32], b: &[f32]) -> f32 {
        // SAFETY: the instruction set was detected.
        unsafe { (self.functions.rows.dot)(a, b) }
    }

    /// `e^x` to about two units in the last place; zero where it would be subnormal, `e^88` above
    /// 88, NaN for NaN. Every exponential of a table is this one.
    #[must_use]
    pub fn exp(&self, x: f32) -> f32 {
        // SAFETY: the instruction set was detected.
        unsafe { (self.functions.rows.exp_one)(x) }
    }

    /// Replaces each `x` by `e^(x - shift)` and returns their sum.
    pub fn exp_sum(&self, x: &mut [f32], shift: f32) -> f32 {
        // SAFETY: the instruction set was detected.
        unsafe { (self.functions.rows.exp_sum)(x, shift) }
    }

    /// Replaces each `x` by `scale * e^(x - shift)`.
    pub fn exp_scaled(&self, x: &mut [f32], shift: f32, scale: f32) {
        // SAFETY: the instruction set was detected.
        unsafe { (self.functions.rows.exp_scaled)(x, shift, scale) }
    }

    /// `y = alpha x + beta y`; with `beta` zero, `y` is overwritten even where it holds NaN.
    pub fn axpby(&self, alpha: f32, x: &[f32], beta: f32, y: &mut [f32]) {
        // SAFETY: the instruction set was detected.
        unsafe { (self.functions.rows.axpby)(alpha, x, beta, y) }
    }

    /// `y += x`.
    pub fn add(&self, x: &[f32], y: &mut [f32]) {
        // SAFETY: the instruction set was detected.
        unsafe { (self.functions.rows.add)(x, y) }
    }

    /// `y *= x`.
    pub fn mul(&self, x: &[f32], y: &mut [f32]) {
        // SAFETY: the instruction set was detected.
        unsafe { (self.functions.rows.mul)(x, y) }
    }

    /// `dsum[c] += Σ_t x[t, c]` for `x [rows, columns]` with adjacent columns: rows of a quantum
    /// are summed from zero on, then added.
    pub fn sum_rows(&self, x: Mat<'_, f32>, dsum: &mut [f32]) {
        assert!(x.cols() == dsum.len(), "{} columns to {} sums", x.cols(), dsum.len());
        // SAFETY: the instruction set was detected.
        unsafe { (self.functions.rows.sum_rows)(x, dsum) }
    }

    /// `y = x ⊙ mask * keep`.
    pub fn dropout(&self, draws: Draws, keep: f32, x: &[f32], y: &mut [f32]) {
        assert!(x.len() == y.len(), "dropout of {} elements to {}", x.len(), y.len());
        // SAFETY: the instruction set was detected.
        unsafe { (self.functions.rows.dropout)(draws, keep, x, y) }
    }

    /// `y = act(gate) ⊙ up`.
    pub fn glu(&self, act: Gate, gate: &[f32], up: &[f32], y: &mut [f32]) {
        // SAFETY: the instruction set was detected.
        unsafe { (self.functions.rows.glu)(act, gate, up, y) }
    }

    /// `gate = act(gate) ⊙ up`, to the bits of [`Kernels::glu`].
    pub fn glu_in_place(&self, act: Gate, gate: &mut [f32], up: &[f32]) {
        // SAFETY: the instruction set was detected.
        unsafe { (self.functions.rows.glu_in_place)(act, gate, up) }
    }

    /// Replaces `gate` by `dy ⊙ up ⊙ act'(gate)` and `up` by `dy ⊙ act(gate)`.
    pub fn glu_vjp(&self, act: Gate, dy: &[f32], gate: &mut [f32], up: &mut [f32]) {
        // SAFETY: the instruction set was detected.
        unsafe { (self.functions.rows.glu_vjp)(act, dy, gate, up) }
    }

    /// `y = x ⊙ rstd ⊙ w`; returns `rstd = 1 / sqrt(mean(x²) + eps)`.
    pub fn rmsnorm(&self, x: &[f32], w: &[f32], eps: f32, y: &mut [f32]) -> f32 {
        // SAFETY: the instruction set was detected.
        unsafe { (self.functions.rows.rmsnorm)(x, w, eps, y) }
    }

    /// `dx += g rstd - x mean(g ⊙ x) rstd³` with `g = dy ⊙ w`.
    pub fn rmsnorm_vjp(&self, x: &[f32], w: &[f32], rstd: f32, dy: &[f32], dx: &mut [f32]) {
        // SAFETY: the instruction set was detected.
        unsafe { (self.functions.rows.rmsnorm_vjp)(x, w, rstd, dy, dx) }
    }

    /// Cosines and sines of `pos * inv_freq[i]`, each product rounded to f32: to a few units in the
    /// last place of one for any angle.
    pub fn turns(&self, pos: f32, inv_freq: &[f32], cos: &mut [f32], sin: &mut [f32]) {
        let n = inv_freq.len();
        assert!(cos.len() == n && sin.len() == n, "{n} angles: {}, {}", cos.len(), sin.len());
        // SAFETY: the instruction set was detected.
        unsafe { (self.functions.rows.turns)(pos, inv_freq, cos, sin) }
    }

    /// Rotates each `(first[i], second[i])` by its angle: `(a cos - b sin, b cos + a sin)`.
    pub fn rotate_halves(&self, first: &mut [f32], second: &mut [f32], cos: &[f32], sin: &[f32]) {
        // SAFETY: the instruction set was detected.
        unsafe { (self.functions.rows.rotate_halves)(first, second, cos, sin) }
    }

    /// Rotates each `(pairs[2 i], pairs[2 i + 1])` by its angle; there are two elements an angle.
    pub fn rotate_adjacent(&self, pairs: &mut [f32], cos: &[f32], sin: &[f32]) {
        let n = cos.len();
        assert!(pairs.len() == 2 * n && sin.len() == n, "{n} angles for {}", pairs.len());
        // SAFETY: the instruction set was detected.
        unsafe { (self.functions.rows.rotate_adjacent)(pairs, cos, sin) }
    }

    /// Sum of squares, largest magnitude and number of non-finite elements.
    #[must_use]
    pub fn stats(&self, x: &[f32]) -> Summary {
        // SAFETY: the instruction set was detected.
        unsafe { (self.functions.rows.stats)(x) }
    }

    /// One AdamW update, to the bits of the formula without fused steps.
    pub fn adamw(&self, f: &AdamW, p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32]) {
        // SAFETY: the instruction set was detected.
        unsafe { (self.functions.rows.adamw)(f, p, g, m, v) }
    }

    /// One SGD update, `p -= lr (scale g + decay p)`, without fused steps.
    pub fn sgd(&self, lr: f32, scale: f32, decay: f32, p: &mut [f32], g: &[f32]) {
        // SAFETY: the instruction set was detected.
        unsafe { (self.functions.rows.sgd)([lr, scale, decay], p, g) }
    }

    /// One SGD update with momentum, `m = momentum m + (scale g + decay p)`, `p -= lr m`, for
    /// `[lr, scale, decay, momentum]`, without fused steps.
    pub fn sgd_momentum(&self, f: [f32; 4], p: &mut [f32], g: &[f32], m: &mut [f32]) {
        // SAFETY: the instruction set was detected.
        unsafe { (self.functions.rows.sgd_momentum)(f, p, g, m) }
    }

    /// One Lion update, to the bits of the formula without fused steps.
    pub fn lion(&self, f: &Lion, p: &mut [f32], g: &[f32], m: &mut [f32]) {
        // SAFETY: the instruction set was detected.
        unsafe { (self.functions.rows.lion)(f, p, g, m) }
    }
}
