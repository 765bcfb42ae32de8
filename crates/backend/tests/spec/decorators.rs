//! What the decorators pass on, lend and count.

use std::panic::{AssertUnwindSafe, catch_unwind};

use lowtide_backend::{
    Activation, AdamHyper, AttentionShape, Backend, Checked, Counted, Direction, DropoutKey,
    LionHyper, Moments8, Momentum8, Op, OpShape, Pairing, Req, Scalar, SgdHyper,
};
use lowtide_quant::formats::F32;
use lowtide_tensor::Mat;

use crate::support::{Packed, lent, mat, out, scratch, spans};

/// A backend that takes more scratch than it says.
struct Greedy;

impl Backend for Greedy {
    fn name(&self) -> &'static str {
        "greedy"
    }
    fn req(&self, _: OpShape) -> Req {
        Req { scratch: 2, library_bytes: 5 }
    }
}

#[test]
fn a_backend_is_lent_no_more_than_it_declared() {
    let be = Checked::new(Greedy);
    assert_eq!((be.name(), be.inner().name()), ("greedy", "greedy"));
    let w = Packed::random(&F32, 4, 6, 3);
    let call = || be.qmatmul(mat(2, 6), w.view(), out(2, 4), &mut lent());
    assert!(catch_unwind(AssertUnwindSafe(call)).is_err(), "48 elements were taken");
}

#[test]
fn requirements_never_shrink_with_rows() {
    let shape = AttentionShape { heads: 4, kv_heads: 2, head_dim: 16, scale: 1.0, window: None };
    let ops = |rows: usize| {
        let (out_features, in_features) = (100, 64);
        let (vocab_size, hidden_size) = (3000, 64);
        [
            OpShape::Qmatmul { rows, out_features, in_features },
            OpShape::QmatmulT { rows, out_features, in_features },
            OpShape::Matmul { m: rows, k: 64, n: 8 },
            OpShape::Matmul { m: 64, k: rows, n: 8 },
            OpShape::Attention { queries: rows, keys: rows, shape },
            OpShape::AttentionVjp { queries: rows, keys: rows, shape },
            OpShape::XentHead { rows, vocab_size, hidden_size },
            OpShape::XentHeadVjp { rows, vocab_size, hidden_size },
        ]
    };
    for rows in 1..80 {
        for (few, more) in ops(rows).into_iter().zip(ops(rows + 1)) {
            let [few, more] = [few, more].map(|op| Backend::<f32>::req(&Scalar, op).scratch);
            assert!(few <= more, "{few} then {more} at {rows} rows");
        }
    }
}

#[test]
fn calls_and_multiply_adds_are_counted() {
    let be = Counted::new(Scalar);
    let w = Packed::random(&F32, 4, 6, 4);
    let shape = AttentionShape { heads: 4, kv_heads: 2, head_dim: 3, scale: 1.0, window: Some(2) };
    be.qmatmul(mat(2, 6), w.view(), out(2, 4), &mut lent());
    be.qmatmul(mat(1, 6), w.view(), out(1, 4), &mut lent());
    be.add_bias(&[0.0; 4], out(2, 4));
    let before = be.counts();
    let mut attention = scratch(OpShape::Attention { queries: 5, keys: 5, shape });
    let (q, k, o, lse) = (mat(5, 12), mat(5, 6), out(5, 12), out(5, 4));
    be.attention(q, k, k, shape, &spans(&[3, 2]), o, lse, &mut attention);
    let (o, lse) = (out(1, 12), out(1, 4));
    be.attention(mat(1, 12), k, k, shape, &spans(&[3, 2]), o, lse, &mut attention);
    be.matmul(1.0, mat(2, 3), mat(3, 4), 0.0, out(2, 4), &mut []);

    let counts = be.counts();
    assert_eq!((counts.calls(Op::Qmatmul), counts.multiply_adds(Op::Qmatmul)), (2, 3 * 4 * 6));
    assert_eq!((counts.calls(Op::AddBias), counts.multiply_adds(Op::AddBias)), (1, 0));
    // Rows see 1, 2, 2 and 1, 2 keys, the last one again 2: 10 pairs, scores and values, 4 heads of
    // width 3.
    assert_eq!(counts.multiply_adds(Op::Attention), 2 * 10 * 4 * 3);
    assert_eq!(counts.calls_total(), 6);
    assert_eq!(counts.multiply_adds_total(), 72 + 240 + 24);
    let since = counts.since(&before);
    assert_eq!((since.calls(Op::Qmatmul), since.calls(Op::Matmul)), (0, 1));
    assert_eq!(since.multiply_adds_total(), 240 + 24);
}

#[test]
fn every_operation_has_its_own_counter() {
    for (at, op) in Op::ALL.into_iter().enumerate() {
        assert_eq!(op as usize, at, "{op:?}");
    }
}

#[test]
fn decorators_nest_behind_one_object() {
    let be = Checked::new(Counted::new(Scalar));
    let object: &dyn Backend = &be;
    object.add_bias(&[1.0; 4], out(2, 4));
    assert_eq!((object.name(), object.caps().threads), ("scalar", 1));
    assert_eq!(be.inner().counts().calls(Op::AddBias), 1);
}

/// Every operation once, through an object.
fn every_operation(be: &dyn Backend) {
    let (w, act, s) = (Packed::random(&F32, 4, 6, 5), Activation::Silu, &mut lent()[..]);
    let shape = AttentionShape { heads: 2, kv_heads: 1, head_dim: 3, scale: 1.0, window: None };
    let (spans, (q, k), lse) = (spans(&[2]), (mat(2, 6), mat(2, 3)), mat(2, 2));
    let (one, two, four, six) = ([0.0; 1], [0.0; 2], [0.0; 4], [0.0; 6]);
    be.qmatmul(mat(2, 6), w.view(), out(2, 4), s);
    be.qmatmul_t(mat(2, 4), w.view(), out(2, 6), s);
    be.qdecode(w.view(), 1..3, out(2, 6));
    be.qgather(w.view(), &[3, 0], out(2, 6));
    be.matmul(1.0, mat(2, 3), mat(3, 4), 0.0, out(2, 4), s);
    be.axpby(1.0, mat(2, 4), 1.0, out(2, 4));
    be.add_bias(&four, out(2, 4));
    be.sum_rows(mat(2, 4), &mut four.clone());
    be.glu(act, mat(2, 4), mat(2, 4), out(2, 4));
    be.glu_in_place(act, out(2, 4), mat(2, 4));
    be.glu_vjp(act, mat(2, 4), out(2, 4), out(2, 4));
    be.rmsnorm(mat(2, 4), &four, 1e-5, out(2, 4), &mut two.clone());
    be.rmsnorm_vjp(mat(2, 4), &four, &two, mat(2, 4), out(2, 4));
    be.rope(out(2, 4), 2, &[0, 1], &one, Pairing::Halves, Direction::Forward);
    be.attention(q, k, k, shape, &spans, out(2, 6), out(2, 2), s);
    let (dq, dk, dv) = (out(2, 6), out(2, 3), out(2, 3));
    be.attention_vjp(q, k, k, q, lse, q, shape, &spans, dq, dk, dv, s);
    let (loss, lse, argmax) = (&mut one.clone(), &mut one.clone(), &mut [0]);
    be.xent_head(Mat::new(&six, 1, 6), w.view(), &[3], loss, lse, argmax, s);
    be.xent_head_vjp(Mat::new(&six, 1, 6), w.view(), &[3], lse, 1.0, out(1, 6), s);
    let (loss, lse, argmax) = (&mut one.clone(), &mut one.clone(), &mut [0]);
    let h = Mat::new(&six, 1, 6);
    be.xent_head_grad(h, w.view(), &[3], 1.0, loss, lse, argmax, out(1, 6), s);
    be.stats(&four);
    be.dropout(mat(2, 4), 0.5, DropoutKey { seed: 0, step: 0, site: 0 }, 0, out(2, 4));
    let (lr, weight_decay, grad_scale) = (0.1, 0.0, 1.0);
    let (beta1, beta2, eps, step) = (0.9, 0.999, 1e-8, 1);
    let adam = AdamHyper { lr, beta1, beta2, eps, weight_decay, step, grad_scale };
    be.adamw(&mut two.clone(), &two, &mut two.clone(), &mut two.clone(), &adam);
    let (m, v) = (&mut [0; 2], &mut [0; 2]);
    let (m_absmax, v_absmax) = (&mut one.clone(), &mut one.clone());
    be.adamw8(&mut two.clone(), &two, Moments8 { m, v, m_absmax, v_absmax }, &adam);
    let sgd = SgdHyper { lr, weight_decay, grad_scale };
    be.sgd(&mut two.clone(), &two, &sgd);
    be.sgd_momentum(&mut two.clone(), &two, &mut two.clone(), 0.9, &sgd);
    let lion = LionHyper { lr, beta1, beta2, weight_decay, grad_scale };
    be.lion(&mut two.clone(), &two, &mut two.clone(), &lion);
    let momentum = Momentum8 { m: &mut [0; 2], absmax: &mut one.clone() };
    be.lion8(&mut two.clone(), &two, momentum, &lion);
}

#[test]
fn every_operation_is_passed_on_and_counted_once() {
    let be = Checked::new(Counted::new(Counted::new(Scalar)));
    every_operation(&be);
    for op in Op::ALL {
        assert_eq!(be.inner().counts().calls(op), 1, "{op:?} through Checked");
        assert_eq!(be.inner().inner().counts().calls(op), 1, "{op:?} through Counted");
    }
    let op = OpShape::Matmul { m: 1, k: 1, n: 1 };
    let be: Checked<Counted<Greedy>> = Checked::new(Counted::new(Greedy));
    assert_eq!(be.req(op), Req { scratch: 2, library_bytes: 5 });
}
