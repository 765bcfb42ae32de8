//! Where frozen tensors come from.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use lowtide_quant::QMat;
use lowtide_tensor::Float;

use crate::ModelError;

/// A source of frozen tensors under their Hugging Face names. Matrices stay packed where they lie.
pub trait Weights<'w> {
    /// The matrix of this name, `[out, in]`; `None` when there is no tensor of this name, or it has
    /// not two dimensions.
    fn matrix(&self, name: &str) -> Option<QMat<'w>>;

    /// The vector of this name as floats; `None` when there is no tensor of this name, or it has
    /// not one dimension.
    fn vector(&self, name: &str) -> Option<Vec<f32>>;
}

/// The matrix `name`, which must be `[rows, cols]`.
pub(crate) fn matrix<'w>(
    weights: &dyn Weights<'w>,
    name: &str,
    rows: usize,
    cols: usize,
) -> Result<QMat<'w>, ModelError> {
    let expected = || alloc::vec![rows, cols];
    let found = weights.matrix(name).ok_or_else(|| ModelError::MissingTensor {
        name: String::from(name),
        expected: expected(),
    })?;
    if (found.rows(), found.cols()) == (rows, cols) {
        Ok(found)
    } else {
        let found = alloc::vec![found.rows(), found.cols()];
        Err(ModelError::Shape { name: String::from(name), expected: expected(), found })
    }
}

/// The vector `name`, which must have `len` elements, each plus `offset`.
pub(crate) fn vector<F: Float>(
    weights: &dyn Weights<'_>,
    name: &str,
    len: usize,
    offset: f32,
) -> Result<Box<[F]>, ModelError> {
    let expected = || alloc::vec![len];
    let found = weights.vector(name).ok_or_else(|| ModelError::MissingTensor {
        name: String::from(name),
        expected: expected(),
    })?;
    if found.len() == len {
        Ok(found.into_iter().map(|value| F::from_f32(value + offset)).collect())
    } else {
        let found = alloc::vec![found.len()];
        Err(ModelError::Shape { name: String::from(name), expected: expected(), found })
    }
}
