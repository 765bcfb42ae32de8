//! Operations that look at each element, or each row, by itself.
//!
//! Counted by their bytes: what an exponential costs differs from backend to backend.

use lowtide_backend::{Activation, Direction, Pairing};
use lowtide_tensor::{Mat, MatMut};

use super::{Kernel, Shape, numbers};
use crate::Work;

const FLOAT: usize = size_of::<f32>();

/// Gates, norms, rotations, sums.
pub(super) fn push(kernels: &mut Vec<Kernel>, shape: &Shape, rows: usize) {
    let (hidden, inner) = (shape.hidden, shape.feed_forward);
    let head_dim = shape.heads.head_dim;
    let wide = shape.heads.heads * head_dim;
    kernels.push(glu(rows, inner));
    kernels.push(glu_vjp(rows, inner));
    kernels.push(rmsnorm(rows, hidden));
    kernels.push(rmsnorm_vjp(rows, hidden));
    kernels.push(rope(rows, wide, head_dim));
    kernels.push(axpby(rows, hidden));
}

/// `passes` times all elements are read or written.
fn passes(rows: usize, cols: usize, passes: usize) -> Work {
    Work::new(0, FLOAT * rows * cols * passes)
}

fn glu(rows: usize, cols: usize) -> Kernel {
    Kernel::new(format!("glu silu {rows}x{cols}"), passes(rows, cols, 3), move || {
        let (gate, up) = (numbers(rows * cols), numbers(rows * cols));
        let mut y = vec![0.0; rows * cols];
        Box::new(move |backend| {
            let (gate, up) = (Mat::new(&gate, rows, cols), Mat::new(&up, rows, cols));
            backend.glu(Activation::Silu, gate, up, MatMut::new(&mut y, rows, cols));
        })
    })
}

/// Gate and up are replaced by their gradients, so each call first puts them back: two more passes,
/// which are counted.
fn glu_vjp(rows: usize, cols: usize) -> Kernel {
    Kernel::new(format!("glu_vjp silu {rows}x{cols}"), passes(rows, cols, 9), move || {
        let dy = numbers(rows * cols);
        let (mut gate, mut up) = (dy.clone(), dy.clone());
        Box::new(move |backend| {
            gate.copy_from_slice(&dy);
            up.copy_from_slice(&dy);
            let (gate, up) = (MatMut::new(&mut gate, rows, cols), MatMut::new(&mut up, rows, cols));
            backend.glu_vjp(Activation::Silu, Mat::new(&dy, rows, cols), gate, up);
        })
    })
}

fn rmsnorm(rows: usize, cols: usize) -> Kernel {
    Kernel::new(format!("rmsnorm {rows}x{cols}"), passes(rows, cols, 2), move || {
        let (x, w) = (numbers(rows * cols), numbers(cols));
        let (mut y, mut rstd) = (vec![0.0; rows * cols], vec![0.0; rows]);
        Box::new(move |backend| {
            let (x, y) = (Mat::new(&x, rows, cols), MatMut::new(&mut y, rows, cols));
            backend.rmsnorm(x, &w, 1e-5, y, &mut rstd);
        })
    })
}

fn rmsnorm_vjp(rows: usize, cols: usize) -> Kernel {
    Kernel::new(format!("rmsnorm_vjp {rows}x{cols}"), passes(rows, cols, 4), move || {
        let (x, w, rstd) = (numbers(rows * cols), numbers(cols), vec![1.5; rows]);
        let (dy, mut dx) = (numbers(rows * cols), vec![0.0; rows * cols]);
        Box::new(move |backend| {
            let (x, dy) = (Mat::new(&x, rows, cols), Mat::new(&dy, rows, cols));
            backend.rmsnorm_vjp(x, &w, &rstd, dy, MatMut::new(&mut dx, rows, cols));
        })
    })
}

fn rope(rows: usize, cols: usize, head_dim: usize) -> Kernel {
    let name = format!("rope {rows}x{cols}, heads of {head_dim}");
    Kernel::new(name, passes(rows, cols, 2), move || {
        let mut x = numbers(rows * cols);
        let positions: Vec<u32> = (0..rows as u32).collect();
        let exponent = |i: usize| -2.0 * i as f64 / head_dim as f64;
        let frequencies: Vec<f32> =
            (0..head_dim / 2).map(|i| 10_000_f64.powf(exponent(i)) as f32).collect();
        Box::new(move |backend| {
            let x = MatMut::new(&mut x, rows, cols);
            let (pairing, direction) = (Pairing::Halves, Direction::Forward);
            backend.rope(x, head_dim, &positions, &frequencies, pairing, direction);
        })
    })
}

fn axpby(rows: usize, cols: usize) -> Kernel {
    Kernel::new(format!("axpby {rows}x{cols}"), passes(rows, cols, 3), move || {
        let (x, mut y) = (numbers(rows * cols), vec![0.0; rows * cols]);
        Box::new(move |backend| {
            // Halved each time, so that no call makes the numbers grow.
            let (x, y) = (Mat::new(&x, rows, cols), MatMut::new(&mut y, rows, cols));
            backend.axpby(0.5, x, 0.5, y);
        })
    })
}
