//! The parameters of the pooled method, one after another in one slab, and their gradients.

use lowtide_adapter::{Init, ParamSpec};
use lowtide_tensor::{Float, Mat, MatMut};

/// Widths of one adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Widths {
    /// `I`.
    pub(crate) inputs: usize,
    /// `O`.
    pub(crate) outputs: usize,
    /// `r`.
    pub(crate) rank: usize,
}

impl Widths {
    /// The tensors; the last is of learned pooling alone.
    pub(crate) fn specs(self) -> [ParamSpec; 15] {
        let Self { inputs: i, outputs: o, rank: r } = self;
        let (output_axis, rank_axis) = (None, None);
        let spec = |name, shape, init| ParamSpec { name, shape, init, output_axis, rank_axis };
        let linear = |width: usize| Init::Uniform { bound: 1.0 / Float::sqrt(width as f32) };
        let (ones, zeros) = (Init::Constant(1.0), Init::Zeros);
        [
            spec("lars_A.weight", [r, i], Init::Normal { std: 0.01 }),
            ParamSpec { output_axis: Some(0), ..spec("lars_B.weight", [o, r], zeros) },
            spec("lars_Wx.weight", [r, i], zeros),
            spec("lars_Wh.weight", [r, r], zeros),
            spec("lars_M.weight", [r, r], Init::Identity),
            spec("lars_U1.weight", [4 * r, r], linear(r)),
            spec("lars_U1.bias", [4 * r, 1], linear(r)),
            spec("lars_U2.weight", [r, 4 * r], linear(4 * r)),
            spec("lars_U2.bias", [r, 1], linear(4 * r)),
            spec("lars_norm.weight", [r, 1], ones),
            spec("lars_norm.bias", [r, 1], zeros),
            spec("lars_alpha", [1, 1], Init::Constant(0.5)),
            spec("lars_tau1", [1, 1], ones),
            spec("lars_tau2", [1, 1], ones),
            spec("lars_P.weight", [1, i], zeros),
        ]
    }
}

/// The parameters.
pub(crate) struct Weights<'p, F> {
    /// `[r, I]`
    pub(crate) a: Mat<'p, F>,
    /// `[O, r]`
    pub(crate) b: Mat<'p, F>,
    /// `[r, I]`
    pub(crate) wx: Mat<'p, F>,
    /// `[r, r]`
    pub(crate) wh: Mat<'p, F>,
    /// `[r, r]`
    pub(crate) m: Mat<'p, F>,
    /// `[4r, r]`
    pub(crate) u1: Mat<'p, F>,
    pub(crate) c1: &'p [F],
    /// `[r, 4r]`
    pub(crate) u2: Mat<'p, F>,
    pub(crate) c2: &'p [F],
    pub(crate) norm: &'p [F],
    pub(crate) shift: &'p [F],
    pub(crate) alpha: F,
    pub(crate) tau1: F,
    pub(crate) tau2: F,
    /// `[I]` of learned pooling; nothing otherwise.
    pub(crate) pool: &'p [F],
}

impl<'p, F: Float> Weights<'p, F> {
    pub(crate) fn cut(widths: Widths, mut p: &'p [F]) -> Self {
        let Widths { inputs: i, outputs: o, rank: r } = widths;
        let mut next = |len| {
            let (front, rest) = p.split_at(len);
            p = rest;
            front
        };
        let mut mat = |rows: usize, cols: usize| Mat::new(next(rows * cols), rows, cols);
        let (a, b, wx, wh, m) = (mat(r, i), mat(o, r), mat(r, i), mat(r, r), mat(r, r));
        let (u1, c1, u2, c2) = (mat(4 * r, r), mat(1, 4 * r), mat(r, 4 * r), mat(1, r));
        let (norm, shift) = (mat(1, r), mat(1, r));
        let (alpha, tau1, tau2) = (next(1)[0], next(1)[0], next(1)[0]);
        let (c1, c2, norm, shift) = (c1.row(0), c2.row(0), norm.row(0), shift.row(0));
        Self { a, b, wx, wh, m, u1, c1, u2, c2, norm, shift, alpha, tau1, tau2, pool: p }
    }
}

/// Gradients of the parameters, to add to.
pub(crate) struct Grads<'g, F> {
    pub(crate) a: MatMut<'g, F>,
    pub(crate) b: MatMut<'g, F>,
    pub(crate) wx: MatMut<'g, F>,
    pub(crate) wh: MatMut<'g, F>,
    pub(crate) m: MatMut<'g, F>,
    pub(crate) u1: MatMut<'g, F>,
    pub(crate) c1: &'g mut [F],
    pub(crate) u2: MatMut<'g, F>,
    pub(crate) c2: &'g mut [F],
    pub(crate) norm: &'g mut [F],
    pub(crate) shift: &'g mut [F],
    pub(crate) alpha: &'g mut F,
    pub(crate) tau1: &'g mut F,
    pub(crate) tau2: &'g mut F,
    pub(crate) pool: &'g mut [F],
}

impl<'g, F: Float> Grads<'g, F> {
    pub(crate) fn cut(widths: Widths, grad: &'g mut [F]) -> Self {
        let Widths { inputs: i, outputs: o, rank: r } = widths;
        let mut rest = grad;
        let (a, b) = (next_mat(&mut rest, r, i), next_mat(&mut rest, o, r));
        let wx = next_mat(&mut rest, r, i);
        let (wh, m) = (next_mat(&mut rest, r, r), next_mat(&mut rest, r, r));
        let (u1, c1) = (next_mat(&mut rest, 4 * r, r), next(&mut rest, 4 * r));
        let (u2, c2) = (next_mat(&mut rest, r, 4 * r), next(&mut rest, r));
        let (norm, shift) = (next(&mut rest, r), next(&mut rest, r));
        let (alpha, tau1) = (&mut next(&mut rest, 1)[0], &mut next(&mut rest, 1)[0]);
        let tau2 = &mut next(&mut rest, 1)[0];
        Self { a, b, wx, wh, m, u1, c1, u2, c2, norm, shift, alpha, tau1, tau2, pool: rest }
    }
}

/// The next elements of a slab.
pub(crate) fn next<'s, F>(slab: &mut &'s mut [F], len: usize) -> &'s mut [F] {
    let (front, rest) = core::mem::take(slab).split_at_mut(len);
    *slab = rest;
    front
}

/// The next elements of a slab as a matrix.
pub(crate) fn next_mat<'s, F: Float>(
    slab: &mut &'s mut [F],
    rows: usize,
    cols: usize,
) -> MatMut<'s, F> {
    MatMut::new(next(slab, rows * cols), rows, cols)
}
