//! Products with packed and with dense matrices.

use lowtide_backend::OpShape;
use lowtide_quant::BlockFormat;
use lowtide_tensor::{Mat, MatMut};

use super::operands::Scratch;
use super::{Kernel, Packed, numbers};
use crate::Work;

const FLOAT: usize = size_of::<f32>();

/// `x [rows, inputs]` by packed `[outputs, inputs]`, of which there are as many copies as have
/// `copied` bytes.
pub(super) fn qmatmul(
    format: &'static dyn BlockFormat,
    rows: usize,
    inputs: usize,
    outputs: usize,
    copied: usize,
) -> Kernel {
    let name = format!("qmatmul {} {rows}x{inputs}x{outputs}", format.name());
    let weight = Packed::size(format, outputs, inputs);
    let work = Work::new(2 * rows * inputs * outputs, weight + FLOAT * rows * (inputs + outputs));
    let span = work.span.max((weight * copied.div_ceil(weight)) as u64);
    Kernel::new(name, Work { span, ..work }, move || {
        let mut w = Packed::new(format, outputs, inputs, 1.0).copied(copied);
        let (x, mut y) = (numbers(rows * inputs), vec![0.0; rows * outputs]);
        let op = OpShape::Qmatmul { rows, out_features: outputs, in_features: inputs };
        let mut scratch = Scratch::default();
        Box::new(move |backend| {
            let (x, y) = (Mat::new(&x, rows, inputs), MatMut::new(&mut y, rows, outputs));
            backend.qmatmul(x, w.next(), y, scratch.lend(backend, op));
        })
    })
}

/// `dy [rows, outputs]` by packed `[outputs, inputs]`.
pub(super) fn qmatmul_t(
    format: &'static dyn BlockFormat,
    rows: usize,
    inputs: usize,
    outputs: usize,
) -> Kernel {
    let name = format!("qmatmul_t {} {rows}x{outputs}x{inputs}", format.name());
    let weight = Packed::size(format, outputs, inputs);
    // The gradient is read before it is added to.
    let bytes = weight + FLOAT * rows * (2 * inputs + outputs);
    Kernel::new(name, Work::new(2 * rows * inputs * outputs, bytes), move || {
        let w = Packed::new(format, outputs, inputs, 1.0);
        let (dy, mut dx) = (numbers(rows * outputs), vec![0.0; rows * inputs]);
        let op = OpShape::QmatmulT { rows, out_features: outputs, in_features: inputs };
        let mut scratch = Scratch::default();
        Box::new(move |backend| {
            let (dy, dx) = (Mat::new(&dy, rows, outputs), MatMut::new(&mut dx, rows, inputs));
            backend.qmatmul_t(dy, w.view(), dx, scratch.lend(backend, op));
        })
    })
}

/// `c = 2 a b`: `a [m, k]`, `b [k, n]`.
pub(super) fn matmul(m: usize, k: usize, n: usize) -> Kernel {
    let work = Work::new(2 * m * k * n, FLOAT * (m * k + k * n + m * n));
    Kernel::new(format!("matmul {m}x{k}x{n}"), work, move || {
        let (a, b, mut c) = (numbers(m * k), numbers(k * n), vec![0.0; m * n]);
        let mut scratch = Scratch::default();
        Box::new(move |backend| {
            let (a, b, c) = (Mat::new(&a, m, k), Mat::new(&b, k, n), MatMut::new(&mut c, m, n));
            let scratch = scratch.lend(backend, OpShape::Matmul { m, k, n });
            backend.matmul(2.0, a, b, 0.0, c, scratch);
        })
    })
}
