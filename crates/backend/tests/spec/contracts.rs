//! The words of broken contracts.

use std::panic::{AssertUnwindSafe, catch_unwind};

use lowtide_backend::{
    Activation, AdamHyper, AttentionShape, Backend, Direction, DropoutKey, LionHyper, Moments8,
    Momentum8, Pairing, SgdHyper, Span,
};
use lowtide_quant::formats::F32;
use lowtide_quant::{BlockFormat, QMat};

use crate::support::{Packed, SPEC, lent, mat, out, spans};

/// The words of a panic.
fn words(call: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(call)).expect_err("the contract is broken");
    match panic.downcast::<String>() {
        Ok(words) => *words,
        Err(other) => (*other.downcast::<&str>().expect("panics carry words")).to_owned(),
    }
}

#[test]
fn products_say_what_does_not_fit() {
    let w = Packed::random(&F32, 4, 6, 1);
    let w = w.view();
    let cases = [
        (
            words(|| SPEC.qmatmul(mat(2, 5), w, out(2, 4), &mut lent())),
            "qmatmul: x: expected [2, 6], found [2, 5]",
        ),
        (
            words(|| SPEC.qmatmul(mat(2, 6), w, out(3, 4), &mut lent())),
            "qmatmul: y: expected [2, 4], found [3, 4]",
        ),
        (
            words(|| SPEC.qmatmul(mat(6, 2).t(), w, out(2, 4), &mut lent())),
            "qmatmul: x: expected rows of adjacent columns, found 2",
        ),
        (
            words(|| SPEC.qmatmul(mat(2, 6), w, out(2, 4), &mut [0.0; 7])),
            "qmatmul: scratch: expected at least 48 elements, found 7",
        ),
        (
            words(|| SPEC.qmatmul_t(mat(2, 6), w, out(2, 6), &mut lent())),
            "qmatmul_t: dy: expected [2, 4], found [2, 6]",
        ),
        (
            words(|| SPEC.qdecode(w, 3..5, out(2, 6))),
            "qdecode: rows: expected a range within 0..4, found 3..5",
        ),
        (
            words(|| SPEC.qgather(w, &[0, 4], out(2, 6))),
            "qgather: ids: expected ids below 4, found 4 at 1",
        ),
        (
            words(|| SPEC.matmul(1.0, mat(2, 3), mat(4, 5), 0.0, out(2, 5), &mut [])),
            "matmul: b: expected [3, 5], found [4, 5]",
        ),
        (
            words(|| SPEC.axpby(1.0, mat(2, 3), 0.0, out(3, 2))),
            "axpby: y: expected [2, 3], found [3, 2]",
        ),
        (
            words(|| SPEC.add_bias(&[0.0; 3], out(2, 4))),
            "add_bias: bias: expected 4 elements, found 3",
        ),
        (
            words(|| SPEC.sum_rows(mat(2, 4), &mut [0.0; 5])),
            "sum_rows: dsum: expected 4 elements, found 5",
        ),
    ];
    for (got, want) in cases {
        assert_eq!(got, want);
    }
}

#[test]
fn rows_say_what_does_not_fit() {
    let key = DropoutKey { seed: 0, step: 0, site: 0 };
    let rope = |x, head_dim, pos: &[u32], inv_freq: &[f32]| {
        SPEC.rope(x, head_dim, pos, inv_freq, Pairing::Halves, Direction::Forward);
    };
    let cases = [
        (
            words(|| SPEC.glu(Activation::Silu, mat(2, 4), mat(2, 3), out(2, 4))),
            "glu: up: expected [2, 4], found [2, 3]",
        ),
        (
            words(|| SPEC.glu_in_place(Activation::Silu, out(2, 4), mat(1, 4))),
            "glu_in_place: up: expected [2, 4], found [1, 4]",
        ),
        (
            words(|| SPEC.glu_vjp(Activation::Silu, mat(2, 4), out(3, 4), out(2, 4))),
            "glu_vjp: gate: expected [2, 4], found [3, 4]",
        ),
        (
            words(|| SPEC.rmsnorm(mat(2, 4), &[1.0; 4], 0.0, out(2, 4), &mut [0.0; 4])),
            "rmsnorm: rstd: expected 2 elements, found 4",
        ),
        (
            words(|| SPEC.rmsnorm_vjp(mat(2, 4), &[1.0], &[1.0; 2], mat(2, 4), out(2, 4))),
            "rmsnorm_vjp: w: expected 4 elements, found 1",
        ),
        (
            words(|| rope(out(2, 6), 4, &[0; 2], &[1.0])),
            "rope: x: expected whole heads of 4 columns, found 6",
        ),
        (words(|| rope(out(2, 8), 4, &[0; 3], &[1.0])), "rope: pos: expected 2 elements, found 3"),
        (
            words(|| rope(out(2, 8), 4, &[0; 2], &[1.0; 3])),
            "rope: inv_freq: expected at most 2 frequencies for heads of 4, found 3",
        ),
        (
            words(|| SPEC.dropout(mat(2, 4), 1.0, key, 0, out(2, 4))),
            "dropout: p: expected a probability in [0, 1), found 1",
        ),
        (
            words(|| SPEC.dropout(mat(2, 4), f64::NAN, key, 0, out(2, 4))),
            "dropout: p: expected a probability in [0, 1), found NaN",
        ),
    ];
    for (got, want) in cases {
        assert_eq!(got, want);
    }
}

#[test]
fn attention_says_what_does_not_fit() {
    let fits = AttentionShape { heads: 4, kv_heads: 2, head_dim: 3, scale: 1.0, window: None };
    let call = |(queries, keys): (usize, usize), shape: AttentionShape, spans: &[Span]| {
        let (q, k) = (mat(queries, 12), mat(keys, 6));
        words(|| {
            let (o, lse) = (out(queries, 12), out(queries, 4));
            SPEC.attention(q, k, k, shape, spans, o, lse, &mut lent());
        })
    };
    let backwards = Span { start: 5, prompt_end: 5, end: 4 };
    let cases = [
        (
            call((5, 5), AttentionShape { kv_heads: 3, ..fits }, &spans(&[5])),
            "attention: kv_heads: expected a divisor of 4 heads, found 3",
        ),
        (
            call((5, 5), AttentionShape { head_dim: 4, ..fits }, &spans(&[5])),
            "attention: q: expected [5, 16], found [5, 12]",
        ),
        (
            call((5, 5), AttentionShape { window: Some(0), ..fits }, &spans(&[5])),
            "attention: window: expected at least the query itself, found 0",
        ),
        (
            call((5, 5), fits, &spans(&[2, 2])),
            "attention: spans: expected an end at row 5 or beyond, found 4",
        ),
        (
            call((2, 5), fits, &spans(&[2])),
            "attention: spans: expected an end at row 5 or beyond, found 2",
        ),
        (
            call((5, 5), fits, &[spans(&[5])[0], backwards]),
            "attention: spans: expected a span from row 5 on, found 5..4",
        ),
        (
            call((5, 5), fits, &spans(&[3, 2])[1..]),
            "attention: spans: expected a span from row 0 on, found 3..5",
        ),
        (
            call((5, 4), fits, &spans(&[5])),
            "attention: k: expected at least as many rows as q has, 5, found 4",
        ),
    ];
    for (got, want) in cases {
        assert_eq!(got, want);
    }
    let vjp = |keys: usize, grads: usize, lens: &[usize]| {
        words(|| {
            let (q, k) = (mat(2, 12), mat(keys, 6));
            let (dq, dk, dv) = (out(2, 12), out(grads, 6), out(grads, 6));
            let (lse, spans) = (mat(2, 4), spans(lens));
            SPEC.attention_vjp(q, k, k, q, lse, q, fits, &spans, dq, dk, dv, &mut lent());
        })
    };
    let want = "attention_vjp: k: expected at least as many rows as q has, 2, found 1";
    assert_eq!(vjp(1, 1, &[2]), want);
    assert_eq!(vjp(3, 2, &[3]), "attention_vjp: dk: expected [3, 6], found [2, 6]");
    let want = "attention_vjp: spans: expected an end at row 3 or beyond, found 2";
    assert_eq!(vjp(3, 3, &[2]), want);
}

#[test]
fn head_and_updates_say_what_does_not_fit() {
    let w = Packed::random(&F32, 4, 6, 2);
    let w = w.view();
    let (beta1, beta2, eps) = (0.9, 0.999, 1e-8);
    let hyper =
        AdamHyper { lr: 0.1, beta1, beta2, eps, weight_decay: 0.0, step: 1, grad_scale: 1.0 };
    let head = |h, targets: &[u32], argmax: usize| {
        let (loss, lse, argmax) = (&mut [0.0; 2], &mut [0.0; 2], &mut vec![0; argmax]);
        SPEC.xent_head(h, w, targets, loss, lse, argmax, &mut lent());
    };
    let adamw8 = |absmax: usize| {
        let (m, v) = (&mut [0; 300], &mut [0; 300]);
        let (m_absmax, v_absmax) = (&mut [0.0; 2], &mut vec![0.0; absmax]);
        let moments = Moments8 { m, v, m_absmax, v_absmax };
        SPEC.adamw8(&mut [0.0_f32; 300], &[0.0; 300], moments, &hyper);
    };
    let adamw = |g: usize, step: u64| {
        let hyper = AdamHyper { step, ..hyper };
        SPEC.adamw(&mut [0.0_f32; 3], &vec![0.0; g], &mut [0.0; 3], &mut [0.0; 3], &hyper);
    };
    let (beta2, weight_decay, grad_scale) = (0.99, 0.0, 1.0);
    let lion = LionHyper { lr: 0.1, beta1, beta2, weight_decay, grad_scale };
    let sgd = SgdHyper { lr: 0.1, weight_decay, grad_scale };
    let (three, two) = ([0.0_f32; 3], [0.0_f32; 2]);
    let lion8 = |absmax: usize| {
        let momentum = Momentum8 { m: &mut [0; 300], absmax: &mut vec![0.0; absmax] };
        SPEC.lion8(&mut [0.0_f32; 300], &[0.0; 300], momentum, &lion);
    };
    let cases = [
        (
            words(|| SPEC.sgd_momentum(&mut three.clone(), &two, &mut three.clone(), 0.9, &sgd)),
            "sgd_momentum: g: expected 3 elements, found 2",
        ),
        (
            words(|| SPEC.lion(&mut three.clone(), &three, &mut two.clone(), &lion)),
            "lion: m: expected 3 elements, found 2",
        ),
        (words(|| lion8(1)), "lion8: absmax: expected 2 elements, found 1"),
        (words(|| head(mat(2, 5), &[0, 0], 2)), "xent_head: h: expected [2, 6], found [2, 5]"),
        (
            words(|| head(mat(2, 6), &[0, 9], 2)),
            "xent_head: targets: expected ids below 4, found 9 at 1",
        ),
        (words(|| head(mat(2, 6), &[0, 0], 1)), "xent_head: argmax: expected 2 elements, found 1"),
        (
            words(|| {
                SPEC.xent_head_vjp(mat(2, 6), w, &[0, 0], &[0.0], 1.0, out(2, 6), &mut lent());
            }),
            "xent_head_vjp: lse: expected 2 elements, found 1",
        ),
        (
            words(|| {
                let (h, out, room) = (mat(2, 6), out(2, 5), &mut lent()[..]);
                let (loss, lse, argmax) = (&mut [0.0; 2], &mut [0.0; 2], &mut [0; 2]);
                SPEC.xent_head_grad(h, w, &[0, 0], 1.0, loss, lse, argmax, out, room);
            }),
            "xent_head_grad: grad: expected [2, 6], found [2, 5]",
        ),
        (words(|| adamw8(1)), "adamw8: v_absmax: expected 2 elements, found 1"),
        (words(|| adamw(2, 1)), "adamw: g: expected 3 elements, found 2"),
        (words(|| adamw(3, 0)), "adamw: step: expected a count from 1, found 0"),
    ];
    for (got, want) in cases {
        assert_eq!(got, want);
    }
}

/// A format whose blocks are longer than an operation decodes at once.
#[derive(Debug)]
struct Wide;

impl BlockFormat for Wide {
    fn name(&self) -> &'static str {
        "wide"
    }
    fn block_len(&self) -> usize {
        512
    }
    fn block_bytes(&self) -> usize {
        1
    }
    fn decode(&self, _: &[u8], out: &mut [f32]) {
        out.fill(0.0);
    }
    fn encode(&self, _: &[f32], _: &mut [u8]) {}
}

#[test]
fn blocks_too_long_are_refused() {
    let w = QMat::new(&Wide, 1, 512, &[0]).unwrap();
    let got = words(|| SPEC.qdecode(w, 0..1, out(1, 512)));
    assert_eq!(got, "qdecode: w: expected blocks of at most 256 values, found 512");
}
