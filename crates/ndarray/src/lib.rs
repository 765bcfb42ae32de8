//! The plain backend: clear, portable, quick enough to train with, and a second opinion on every
//! other one.
//!
//! Matrix products go through [ndarray](https://docs.rs/ndarray) to matrixmultiply's micro-kernels;
//! everything around them is plain loops over slices; threads come from the rayon pool that the
//! caller runs in. Packed weights are decoded a tile at a time, and a tile is multiplied with every
//! row before the next one is decoded.
//!
//! # Same bits, whatever the split
//!
//! - Work is cut into units by *outputs*; threads take units from a shared queue (`lanes`). A
//!   unit's numbers do not depend on who computes it, when, or how many units there are.
//! - matrixmultiply computes each element of a product in one chain of multiply-adds over ascending
//!   `k`, restarted every 256 terms, wherever the element lies in the matrix and whether or not it
//!   falls on an edge. Only its scaling by `alpha` differs at the edges, so `gemm` fixes it at one.
//! - Contractions that a caller may cut (over tokens) restart every [`lowtide_tensor::QUANTUM`]
//!   terms; the others restart at fixed multiples of their own.
//!
//! # Memory
//!
//! Scratch is the caller's. The one thing allocated here is matrixmultiply's pair of packing
//! buffers, a few hundred KiB a thread, freed before a call returns; [`Backend::req`] declares it
//! as `library_bytes`.
//!
//! ```
//! use lowtide_backend::{Backend, OpShape};
//! use lowtide_ndarray::NdArray;
//! use lowtide_quant::{QMat, formats::F32};
//! use lowtide_tensor::{Mat, MatMut};
//!
//! // y = x Wᵀ with x [2, 3] and W [1, 3], here in plain f32.
//! let weights: Vec<u8> = [1.0_f32, 2.0, 3.0].iter().flat_map(|w| w.to_le_bytes()).collect();
//! let w = QMat::new(&F32, 1, 3, &weights)?;
//! let x = [1.0, 0.0, 0.0, 0.0, 1.0, 1.0];
//! let mut y = [0.0; 2];
//!
//! let backend = NdArray::new(2);
//! let req = backend.req(OpShape::Qmatmul { rows: 2, out_features: 1, in_features: 3 });
//! let mut scratch = vec![0.0; req.scratch];
//! backend.qmatmul(Mat::new(&x, 2, 3), w, MatMut::new(&mut y, 2, 1), &mut scratch);
//! assert_eq!(y, [1.0, 5.0]);
//! # Ok::<(), lowtide_quant::QMatError>(())
//! ```
//!
//! [`Backend::req`]: lowtide_backend::Backend::req
#![forbid(unsafe_code)]

mod attention;
mod attention_vjp;
mod backend;
mod elementwise;
mod exp;
mod gemm;
mod glu;
mod head;
mod matmul;
mod optim;
mod qmatmul;
mod rmsnorm;
mod rope;

pub use backend::NdArray;
