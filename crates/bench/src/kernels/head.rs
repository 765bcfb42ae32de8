//! The loss head, its gradient, and both at once.

use lowtide_backend::OpShape;
use lowtide_quant::formats::Q8_0;
use lowtide_tensor::{Mat, MatMut};

use super::operands::Scratch;
use super::{Kernel, Packed, Shape, numbers};
use crate::Work;

const FLOAT: usize = size_of::<f32>();

/// Forward, backward and both at once, over the whole vocabulary.
pub(super) fn push(kernels: &mut Vec<Kernel>, shape: &Shape, rows: usize) {
    let Shape { hidden, vocab, .. } = *shape;
    let scale = (hidden as f32).sqrt().recip();
    let product = 2 * rows * hidden * vocab;
    let bytes = Packed::size(&Q8_0, vocab, hidden) + FLOAT * rows * hidden;
    let targets = move || (0..rows).map(|t| (t * 7919 % vocab) as u32).collect::<Vec<_>>();

    let name = format!("xent_head Q8_0 {rows}x{hidden}x{vocab}");
    kernels.push(Kernel::new(name, Work::new(product, bytes), move || {
        let (w, h) = (Packed::new(&Q8_0, vocab, hidden, scale), numbers(rows * hidden));
        let (mut loss, mut lse) = (vec![0.0; rows], vec![0.0; rows]);
        let (targets, mut argmax) = (targets(), vec![0; rows]);
        let op = OpShape::XentHead { rows, vocab_size: vocab, hidden_size: hidden };
        let mut scratch = Scratch::default();
        Box::new(move |backend| {
            let (h, scratch) = (Mat::new(&h, rows, hidden), scratch.lend(backend, op));
            let out = (&mut loss, &mut lse, &mut argmax);
            backend.xent_head(h, w.view(), &targets, out.0, out.1, out.2, scratch);
        })
    }));
    let name = format!("xent_head_vjp Q8_0 {rows}x{hidden}x{vocab}");
    let work = Work::new(2 * product, bytes + 2 * FLOAT * rows * hidden);
    kernels.push(Kernel::new(name, work, move || {
        let (w, h) = (Packed::new(&Q8_0, vocab, hidden, scale), numbers(rows * hidden));
        let (lse, mut dh) = (vec![(vocab as f32).ln(); rows], vec![0.0; rows * hidden]);
        let targets = targets();
        let op = OpShape::XentHeadVjp { rows, vocab_size: vocab, hidden_size: hidden };
        let mut scratch = Scratch::default();
        Box::new(move |backend| {
            let (h, dh) = (Mat::new(&h, rows, hidden), MatMut::new(&mut dh, rows, hidden));
            let scratch = scratch.lend(backend, op);
            backend.xent_head_vjp(h, w.view(), &targets, &lse, 1.0, dh, scratch);
        })
    }));
    let name = format!("xent_head_grad Q8_0 {rows}x{hidden}x{vocab}");
    kernels.push(Kernel::new(name, work, move || {
        let (w, h) = (Packed::new(&Q8_0, vocab, hidden, scale), numbers(rows * hidden));
        let (mut loss, mut lse) = (vec![0.0; rows], vec![0.0; rows]);
        let (targets, mut argmax) = (targets(), vec![0; rows]);
        let mut grad = vec![0.0; rows * hidden];
        let op = OpShape::XentHeadGrad { rows, vocab_size: vocab, hidden_size: hidden };
        let mut scratch = Scratch::default();
        Box::new(move |backend| {
            let (h, grad) = (Mat::new(&h, rows, hidden), MatMut::new(&mut grad, rows, hidden));
            let (w, scratch) = (w.view(), scratch.lend(backend, op));
            let out = (&mut loss, &mut lse, &mut argmax);
            backend.xent_head_grad(h, w, &targets, 1.0, out.0, out.1, out.2, grad, scratch);
        })
    }));
}
