//! The loss head against a softmax over full logits.

use lowtide_backend::{Backend, OpShape};
use lowtide_quant::formats::{F32, Q8_0};
use lowtide_tensor::{Float, Mat, MatMut};
use lowtide_testkit::compare::{assert_bits, assert_close};
use lowtide_testkit::rng::Rng;

use crate::support::{Packed, SPEC, assert_gradient, inner, normal, poison, scratch};

/// What the forward gives.
struct Head<F> {
    loss: Vec<F>,
    lse: Vec<F>,
    argmax: Vec<u32>,
}

fn forward<F: Float>(h: &[F], w: &Packed, targets: &[u32]) -> Head<F> {
    let (w, rows) = (w.view(), targets.len());
    let op = OpShape::XentHead { rows, vocab_size: w.rows(), hidden_size: w.cols() };
    let mut head = Head { loss: poison(rows), lse: poison(rows), argmax: vec![u32::MAX; rows] };
    let h = Mat::new(h, rows, w.cols());
    let Head { loss, lse, argmax } = &mut head;
    SPEC.xent_head(h, w, targets, loss, lse, argmax, &mut scratch(op));
    head
}

fn backward<F: Float>(h: &[F], w: &Packed, targets: &[u32], lse: &[F], scale: F, dh: &mut [F]) {
    let (w, rows) = (w.view(), targets.len());
    let op = OpShape::XentHeadVjp { rows, vocab_size: w.rows(), hidden_size: w.cols() };
    let h = Mat::new(h, rows, w.cols());
    let dh = MatMut::new(dh, rows, w.cols());
    SPEC.xent_head_vjp(h, w, targets, lse, scale, dh, &mut scratch(op));
}

/// Losses as [`forward`] gives them, and the gradient, from one call.
fn both<F: Float>(h: &[F], w: &Packed, targets: &[u32], scale: F) -> (Head<F>, Vec<F>) {
    let (w, rows) = (w.view(), targets.len());
    let op = OpShape::XentHeadGrad { rows, vocab_size: w.rows(), hidden_size: w.cols() };
    let mut head = Head { loss: poison(rows), lse: poison(rows), argmax: vec![u32::MAX; rows] };
    let mut grad = poison(h.len());
    let h = Mat::new(h, rows, w.cols());
    let (out, Head { loss, lse, argmax }) = (MatMut::new(&mut grad, rows, w.cols()), &mut head);
    SPEC.xent_head_grad(h, w, targets, scale, loss, lse, argmax, out, &mut scratch(op));
    (head, grad)
}

fn targets(rows: usize, vocab_size: usize) -> Vec<u32> {
    let mut rng = Rng::new(40);
    (0..rows).map(|_| rng.below(vocab_size) as u32).collect()
}

/// Around one and several vocabulary tiles, and around a tile of rows.
const SIZES: [(usize, usize, usize); 6] =
    [(1, 1, 32), (3, 10, 32), (33, 70, 64), (2, 1024, 32), (2, 1025, 32), (3, 2500, 96)];

#[test]
fn loss_is_that_of_full_logits() {
    for (rows, vocab_size, width) in SIZES {
        let w = Packed::random(&Q8_0, vocab_size, width, 41);
        let (h, targets) = (normal::<f64>(42, rows * width), targets(rows, vocab_size));
        let head = forward(&h, &w, &targets);
        let dense = w.dense::<f64>();
        for (t, h) in h.chunks(width).enumerate() {
            let logits: Vec<f64> = dense.chunks(width).map(|w| inner(h, w)).collect();
            let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let lse = max + logits.iter().map(|logit| (logit - max).exp()).sum::<f64>().ln();
            assert_close("lse", &head.lse[t..=t], &[lse], 1e-12, 1e-12);
            let loss = lse - logits[targets[t] as usize];
            assert_close("loss", &head.loss[t..=t], &[loss], 1e-11, 1e-11);
            assert_eq!(logits[head.argmax[t] as usize], max, "argmax of row {t}");
        }
    }
}

#[test]
fn backward_accumulates_the_gradient() {
    for (rows, vocab_size, width) in SIZES {
        let w = Packed::random(&Q8_0, vocab_size, width, 43);
        let w_small: Vec<f32> = w.dense::<f32>().iter().map(|w| w / 8.0).collect();
        let w = Packed::of(&F32, vocab_size, width, &w_small);
        let (h, targets) = (normal::<f64>(44, rows * width), targets(rows, vocab_size));
        let start = normal::<f64>(45, rows * width);
        let mut dh = start.clone();
        let scale = 0.7;
        backward(&h, &w, &targets, &forward(&h, &w, &targets).lse, scale, &mut dh);
        let gradient: Vec<f64> = dh.iter().zip(&start).map(|(dh, start)| dh - start).collect();
        assert_gradient("dh", &h, &gradient, 12, |h| {
            scale * forward(h, &w, &targets).loss.iter().sum::<f64>()
        });
    }
}

#[test]
fn one_call_gives_what_two_give() {
    for (rows, vocab_size, width) in SIZES {
        let w = Packed::random(&Q8_0, vocab_size, width, 50);
        let (h, targets) = (normal::<f32>(51, rows * width), targets(rows, vocab_size));
        let (head, grad) = both(&h, &w, &targets, 0.7);
        let want = forward(&h, &w, &targets);
        assert_bits("loss", &head.loss, &want.loss);
        assert_bits("lse", &head.lse, &want.lse);
        assert_eq!(head.argmax, want.argmax);
        let mut dh = vec![0.0; h.len()];
        backward(&h, &w, &targets, &want.lse, 0.7, &mut dh);
        assert_bits("grad", &grad, &dh);
    }
}

#[test]
fn rows_do_not_depend_on_their_neighbours() {
    let (rows, vocab_size, width) = (35, 1100, 32);
    let w = Packed::random(&Q8_0, vocab_size, width, 46);
    let (h, targets) = (normal::<f32>(47, rows * width), targets(rows, vocab_size));
    let all = forward(&h, &w, &targets);
    let mut dh = vec![0.0; h.len()];
    backward(&h, &w, &targets, &all.lse, 0.5, &mut dh);
    for t in [0, 31, 32, 34] {
        let (h, target) = (&h[t * width..][..width], &targets[t..=t]);
        let one = forward(h, &w, target);
        assert_bits("loss", &one.loss, &all.loss[t..=t]);
        assert_bits("lse", &one.lse, &all.lse[t..=t]);
        assert_eq!(one.argmax, &all.argmax[t..=t]);
        let mut one_dh = vec![0.0; width];
        backward(h, &w, target, &one.lse, 0.5, &mut one_dh);
        assert_bits("dh", &one_dh, &dh[t * width..][..width]);
    }
}

#[test]
fn the_first_of_equal_maxima_wins() {
    // Words 3, 700 and 2000 share the largest logit, in tiles 0, 0 and 1.
    let mut w = vec![0.0; 2048];
    for word in [3, 700, 2000] {
        w[word] = 1.0;
    }
    let w = Packed::of(&F32, 2048, 1, &w);
    assert_eq!(forward::<f32>(&[2.0], &w, &[0]).argmax, [3]);
    assert_eq!(forward::<f32>(&[0.0], &w, &[0]).argmax, [0], "all equal");
    assert_eq!(forward::<f32>(&[-1.0], &w, &[3]).argmax, [0], "all but three equal");
}

#[test]
fn large_logits_do_not_overflow() {
    let w = Packed::of(&F32, 3, 1, &[1.0, -1.0, 0.5]);
    let head = forward::<f32>(&[1e4, -1e4], &w, &[0, 0]);
    assert_eq!(head.loss, [0.0, 2e4]);
    let mut dh = [0.0_f32; 2];
    backward(&[1e4, -1e4], &w, &[0, 0], &head.lse, 1.0, &mut dh);
    assert_eq!(dh, [0.0, -2.0], "certain and right; certain and wrong");
}

#[test]
fn a_damaged_row_shows_in_its_loss_alone() {
    let w = Packed::random(&F32, 1500, 4, 48);
    let mut h = normal::<f32>(49, 12);
    h[5] = f32::NAN;
    let head = forward(&h, &w, &[1, 2, 3]);
    let finite: Vec<bool> = head.loss.iter().map(|loss| loss.is_finite()).collect();
    assert_eq!(finite, [true, false, true]);
    assert!(head.lse[1].is_nan());
}
