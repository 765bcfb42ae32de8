//! The operations of decoder blocks, each a thin wrapper over the backend.

mod add;
mod attention;
mod coupling;
mod glu;
mod linear;
mod norm;
mod rope;

pub use add::Add;
pub use attention::Attention;
pub use coupling::Coupling;
pub use glu::Glu;
pub use linear::AdaptedLinear;
pub use norm::RmsNorm;
pub use rope::Rope;

use lowtide_tensor::{Float, Mat, MatMut};

/// Words a missing operand well.
fn given<T>(operand: Option<T>, what: &str) -> T {
    operand.unwrap_or_else(|| panic!("the schedule lends {what}"))
}

/// A contiguous `[T, H * d]` view as `[T * H, d]`.
fn per_head<'a, F: Float>(x: Mat<'a, F>, head_dim: usize) -> Mat<'a, F> {
    let rows = x.len() / head_dim;
    Mat::new(given(x.contiguous(), "contiguous values").0, rows, head_dim)
}

/// A contiguous mutable `[T, H * d]` view as `[T * H, d]`.
fn per_head_mut<'a, F: Float>(x: MatMut<'a, F>, head_dim: usize) -> MatMut<'a, F> {
    let rows = x.len() / head_dim;
    MatMut::new(given(x.contiguous(), "contiguous values").0, rows, head_dim)
}
