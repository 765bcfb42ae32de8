//! What an adapter wraps: a linear that can be applied and differentiated but not changed.

use core::ops::Range;

use lowtide_backend::{Backend, OpShape, Req};
use lowtide_quant::QMat;
use lowtide_tensor::{Float, Mat, MatMut};

/// A frozen linear `y = x Wᵀ + b`, possibly itself adapted: stacking is nesting.
pub trait Linear<F: Float = f32>: Send + Sync {
    /// Width in and width out, `(I, O)`.
    fn dims(&self) -> (usize, usize);

    /// Scratch that any one of the other methods needs for at most `rows` rows.
    fn req(&self, be: &dyn Backend<F>, rows: usize) -> Req;

    /// `y = x Wᵀ + b`: `x [T, I]`, `y [T, O]`.
    fn apply(&self, be: &dyn Backend<F>, x: Mat<'_, F>, y: MatMut<'_, F>, scratch: &mut [F]);

    /// `y = x Wᵀ`, for methods that scale the product but not the bias.
    fn apply_no_bias(
        &self,
        be: &dyn Backend<F>,
        x: Mat<'_, F>,
        y: MatMut<'_, F>,
        scratch: &mut [F],
    );

    /// `dx += dy W`.
    fn vjp(&self, be: &dyn Backend<F>, dy: Mat<'_, F>, dx: MatMut<'_, F>, scratch: &mut [F]);

    /// Rows `rows` of `W` as floats, `out [rows.len(), I]`: a tile for norms and merges.
    fn decode_rows(&self, be: &dyn Backend<F>, rows: Range<usize>, out: MatMut<'_, F>);

    /// The bias `b [O]`, if there is one.
    fn bias(&self) -> Option<&[F]> {
        None
    }
}

/// The bottom of every stack: a packed matrix and an optional bias.
#[derive(Clone, Copy, Debug)]
pub struct FrozenLinear<'w, F = f32> {
    weight: QMat<'w>,
    bias: Option<&'w [F]>,
}

impl<'w, F: Float> FrozenLinear<'w, F> {
    /// A linear over a packed `weight [O, I]` and a `bias [O]`.
    ///
    /// # Panics
    /// When the bias has another length than the weight has rows.
    #[must_use]
    pub fn new(weight: QMat<'w>, bias: Option<&'w [F]>) -> Self {
        if let Some(bias) = bias {
            assert!(
                bias.len() == weight.rows(),
                "a bias of {} elements for {} outputs",
                bias.len(),
                weight.rows()
            );
        }
        Self { weight, bias }
    }
}

impl<F: Float> Linear<F> for FrozenLinear<'_, F> {
    fn dims(&self) -> (usize, usize) {
        (self.weight.cols(), self.weight.rows())
    }

    fn req(&self, be: &dyn Backend<F>, rows: usize) -> Req {
        let (in_features, out_features) = self.dims();
        let there = be.req(OpShape::Qmatmul { rows, out_features, in_features });
        let back = be.req(OpShape::QmatmulT { rows, out_features, in_features });
        there.max(back)
    }

    fn apply(&self, be: &dyn Backend<F>, x: Mat<'_, F>, mut y: MatMut<'_, F>, scratch: &mut [F]) {
        be.qmatmul(x, self.weight, y.rb(), scratch);
        if let Some(bias) = self.bias {
            be.add_bias(bias, y);
        }
    }

    fn apply_no_bias(
        &self,
        be: &dyn Backend<F>,
        x: Mat<'_, F>,
        y: MatMut<'_, F>,
        scratch: &mut [F],
    ) {
        be.qmatmul(x, self.weight, y, scratch);
    }

    fn vjp(&self, be: &dyn Backend<F>, dy: Mat<'_, F>, dx: MatMut<'_, F>, scratch: &mut [F]) {
        be.qmatmul_t(dy, self.weight, dx, scratch);
    }

    fn decode_rows(&self, be: &dyn Backend<F>, rows: Range<usize>, out: MatMut<'_, F>) {
        be.qdecode(self.weight, rows, out);
    }

    fn bias(&self) -> Option<&[F]> {
        self.bias
    }
}

/// `y = x`: what an adapter on a branch wraps, where nothing is multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Width in and out.
    pub width: usize,
}

impl<F: Float> Linear<F> for Identity {
    fn dims(&self) -> (usize, usize) {
        (self.width, self.width)
    }

    fn req(&self, _be: &dyn Backend<F>, _rows: usize) -> Req {
        Req::default()
    }

    fn apply(&self, _be: &dyn Backend<F>, x: Mat<'_, F>, mut y: MatMut<'_, F>, _: &mut [F]) {
        y.copy_from(x);
    }

    fn apply_no_bias(
        &self,
        _be: &dyn Backend<F>,
        x: Mat<'_, F>,
        mut y: MatMut<'_, F>,
        _: &mut [F],
    ) {
        y.copy_from(x);
    }

    fn vjp(&self, be: &dyn Backend<F>, dy: Mat<'_, F>, dx: MatMut<'_, F>, _: &mut [F]) {
        be.axpby(F::ONE, dy, F::ONE, dx);
    }

    fn decode_rows(&self, _be: &dyn Backend<F>, rows: Range<usize>, mut out: MatMut<'_, F>) {
        out.fill(F::ZERO);
        for (at, row) in rows.enumerate() {
            out.row_mut(at)[row] = F::ONE;
        }
    }
}
