//! The fast backend: tiling and threads over one table of [`lowtide_kernels`].
//!
//! - *Packed weights* are decoded a tile at a time, straight into the panel that the micro-kernel
//!   reads, and a tile is multiplied with every row before the next one is decoded. Forward, a tile
//!   is turned while it is packed; transposed, its rows are the panel's rows already.
//! - *Threads* take units of output columns or rows from a shared queue, with scratch of their own
//!   ([`lowtide_lanes`]).
//! - *Bits*: each element of a product is a chain of fused multiply-adds that restarts at fixed
//!   places, whichever tile, thread or number of rows it belongs to.
//!
//! ```
//! use lowtide_backend::{Backend, OpShape};
//! use lowtide_quant::{QMat, formats::F32};
//! use lowtide_simd::Simd;
//! use lowtide_tensor::{Mat, MatMut};
//!
//! // y = x Wᵀ with x [2, 3] and W [1, 3], here in plain f32.
//! let weights: Vec<u8> = [1.0_f32, 2.0, 3.0].iter().flat_map(|w| w.to_le_bytes()).collect();
//! let w = QMat::new(&F32, 1, 3, &weights)?;
//! let x = [1.0, 0.0, 0.0, 0.0, 1.0, 1.0];
//! let mut y = [0.0; 2];
//!
//! let backend = Simd::new(2);
//! let req = backend.req(OpShape::Qmatmul { rows: 2, out_features: 1, in_features: 3 });
//! let mut scratch = vec![0.0; req.scratch];
//! backend.qmatmul(Mat::new(&x, 2, 3), w, MatMut::new(&mut y, 2, 1), &mut scratch);
//! assert_eq!(y, [1.0, 5.0]);
//! # Ok::<(), lowtide_quant::QMatError>(())
//! ```
#![forbid(unsafe_code)]

mod attention;
mod attention_vjp;
mod backend;
mod elementwise;
mod glu;
mod head;
mod head_grad;
mod integers;
mod matmul;
mod optim;
mod panel;
mod qmatmul;
mod reach;
mod rmsnorm;
mod rope;
mod words;

pub use backend::{Compute, Simd};
