//! Where frozen tensors come from.

use alloc::vec::Vec;

use lowtide_quant::QMat;

/// A source of frozen tensors under their Hugging Face names. Matrices stay packed where they lie.
pub trait Weights<'w> {
    /// The matrix of this name, `[out, in]`; `None` when there is no tensor of this name, or it has
    /// not two dimensions.
    fn matrix(&self, name: &str) -> Option<QMat<'w>>;

    /// The vector of this name as floats; `None` when there is no tensor of this name, or it has
    /// not one dimension.
    fn vector(&self, name: &str) -> Option<Vec<f32>>;
}
