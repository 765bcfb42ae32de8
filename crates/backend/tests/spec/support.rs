//! Operands, scratch and comparisons that the cases share.

use lowtide_backend::{Backend, Checked, OpShape, Scalar, Span};
use lowtide_quant::{BlockFormat, QMat};
use lowtide_tensor::{Float, Mat, MatMut, QUANTUM};
use lowtide_testkit::compare::assert_close;
use lowtide_testkit::rng::Rng;

/// The specification behind its contracts, with scratch of exactly the declared size.
pub(crate) const SPEC: Checked<Scalar> = Checked::new(Scalar);

/// Normal numbers of either precision; those of f32 and f64 are the same up to rounding.
pub(crate) fn normal<F: Float>(seed: u64, len: usize) -> Vec<F> {
    Rng::new(seed).normal_vec_f64(len, 1.0).into_iter().map(F::from_f64).collect()
}

/// A buffer of NaN, as a poisoned one holds.
pub(crate) fn poison<F: Float>(len: usize) -> Vec<F> {
    vec![F::NAN; len]
}

/// Exactly the scratch that an operation asks for.
pub(crate) fn scratch<F: Float>(op: OpShape) -> Vec<F> {
    poison(Backend::<F>::req(&SPEC, op).scratch)
}

/// A packed matrix that owns its bytes.
pub(crate) struct Packed {
    format: &'static dyn BlockFormat,
    rows: usize,
    cols: usize,
    bytes: Vec<u8>,
}

impl Packed {
    /// A random matrix `[rows, cols]` in some format.
    pub(crate) fn random(
        format: &'static dyn BlockFormat,
        rows: usize,
        cols: usize,
        seed: u64,
    ) -> Self {
        let values = Rng::new(seed).normal_vec(rows * cols, 1.0);
        Self::of(format, rows, cols, &values)
    }

    /// The matrix of some values.
    pub(crate) fn of(
        format: &'static dyn BlockFormat,
        rows: usize,
        cols: usize,
        values: &[f32],
    ) -> Self {
        let mut bytes = vec![0; rows * format.row_bytes(cols).unwrap()];
        format.encode(values, &mut bytes);
        Self { format, rows, cols, bytes }
    }

    /// The view that operations take.
    pub(crate) fn view(&self) -> QMat<'_> {
        QMat::new(self.format, self.rows, self.cols, &self.bytes).unwrap()
    }

    /// All values.
    pub(crate) fn dense<F: Float>(&self) -> Vec<F> {
        let mut out = vec![0.0; self.rows * self.cols];
        self.view().decode_rows(0..self.rows, &mut out);
        out.into_iter().map(F::from_f32).collect()
    }
}

/// Spans of the given lengths, one after another.
pub(crate) fn spans(lens: &[usize]) -> Vec<Span> {
    let mut start = 0;
    let mut spans = Vec::new();
    for &len in lens {
        spans.push(Span { start, prompt_end: start, end: start + len });
        start += len;
    }
    spans
}

/// A view of zeros.
pub(crate) fn mat(rows: usize, cols: usize) -> Mat<'static, f32> {
    static ZEROS: [f32; 4096] = [0.0; 4096];
    Mat::new(&ZEROS[..rows * cols], rows, cols)
}

/// A view to write to, leaked: a few words a case.
pub(crate) fn out(rows: usize, cols: usize) -> MatMut<'static, f32> {
    MatMut::new(vec![0.0; rows * cols].leak(), rows, cols)
}

/// More scratch than any small case needs.
pub(crate) fn lent() -> Vec<f32> {
    vec![0.0; 100_000]
}

/// `Σ a b`, for losses.
pub(crate) fn inner(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The rule for contractions, as plainly as it can be written.
pub(crate) fn quantum_sum<F: Float>(start: F, terms: &[F]) -> F {
    let mut total = start;
    for quantum in terms.chunks(QUANTUM) {
        let mut part = F::ZERO;
        for &term in quantum {
            part += term;
        }
        total += part;
    }
    total
}

/// Compares a gradient with central differences of `loss` at `x`, in at most `samples` coordinates.
#[track_caller]
pub(crate) fn assert_gradient(
    name: &str,
    x: &[f64],
    gradient: &[f64],
    samples: usize,
    loss: impl Fn(&[f64]) -> f64,
) {
    const STEP: f64 = 1e-5;
    assert_eq!(x.len(), gradient.len(), "{name}");
    let mut rng = Rng::named(7, name);
    let all = x.len() <= samples;
    let at: Vec<usize> = if all {
        (0..x.len()).collect()
    } else {
        (0..samples).map(|_| rng.below(x.len())).collect()
    };
    let mut moved = x.to_vec();
    let mut difference = |at: usize| {
        moved[at] = x[at] + STEP;
        let above = loss(&moved);
        moved[at] = x[at] - STEP;
        let below = loss(&moved);
        moved[at] = x[at];
        (above - below) / (2.0 * STEP)
    };
    let want: Vec<f64> = at.iter().map(|&at| difference(at)).collect();
    let got: Vec<f64> = at.iter().map(|&at| gradient[at]).collect();
    assert_close(name, &got, &want, 2e-8, 2e-7);
}
