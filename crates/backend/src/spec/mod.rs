//! The scalar specification: what every operation means, in the plainest loops that keep the rules.
//!
//! Each file holds one family, an operation next to its gradient. All of it is generic over
//! [`Float`](lowtide_tensor::Float): f32 is what models are trained with, f64 is what gradients are
//! checked in. Sums run in the order that the [crate documentation](crate) fixes, so these bodies
//! also say which bits a backend of the same arithmetic would give.

mod attention;
mod dropout;
mod elementwise;
mod glu;
mod lanes;
mod matmul;
mod norm;
mod optim;
mod qmatmul;
mod rope;
mod stats;
mod xent;

pub use attention::{attention, attention_vjp};
pub use dropout::{dropout, dropout_row};
pub use elementwise::{add_bias, axpby, sum_rows};
pub use glu::{glu, glu_in_place, glu_vjp};
pub use matmul::matmul;
pub use norm::{rmsnorm, rmsnorm_vjp};
pub use optim::{AdamFactors, LionFactors, adamw, adamw8, lion, lion8, sgd, sgd_momentum};
pub use qmatmul::{qdecode, qgather, qmatmul, qmatmul_t};
pub use rope::rope;
pub use stats::stats;
pub use xent::{xent_head, xent_head_vjp};

use crate::shapes::{OpShape, Req};

/// Scratch that the specification needs for a call of this shape. It never shrinks when a row count
/// grows.
#[must_use]
pub fn req(op: OpShape) -> Req {
    let scratch = match op {
        OpShape::Qmatmul { in_features, .. } => qmatmul::scratch(in_features),
        OpShape::QmatmulT { .. } => qmatmul::scratch_t(),
        OpShape::Matmul { .. } => 0,
        OpShape::Attention { shape, .. } => attention::scratch(shape.head_dim),
        OpShape::AttentionVjp { shape, .. } => attention::scratch_vjp(shape.head_dim),
        OpShape::XentHead { rows, vocab_size, hidden_size } => {
            xent::scratch(rows, vocab_size, hidden_size)
        }
        OpShape::XentHeadVjp { rows, vocab_size, hidden_size } => {
            xent::scratch_vjp(rows, vocab_size, hidden_size)
        }
        OpShape::XentHeadGrad { rows, vocab_size, hidden_size } => {
            let there = xent::scratch(rows, vocab_size, hidden_size);
            there.max(xent::scratch_vjp(rows, vocab_size, hidden_size))
        }
    };
    Req { scratch, library_bytes: 0 }
}
