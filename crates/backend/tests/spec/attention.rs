//! Attention against a dense softmax, its gradient, and which bits depend on what.

use lowtide_backend::{AttentionShape, Backend, OpShape, Span};
use lowtide_tensor::{Float, Mat, MatMut};
use lowtide_testkit::compare::{assert_bits, assert_close};
use proptest::prelude::*;

use crate::support::{SPEC, assert_gradient, inner, normal, poison, scratch, spans};

/// Operands of one call.
#[derive(Clone, Debug)]
struct Case<F> {
    shape: AttentionShape,
    spans: Vec<Span>,
    q: Vec<F>,
    k: Vec<F>,
    v: Vec<F>,
}

/// The three gradients.
#[derive(Clone)]
struct Grads<F> {
    dq: Vec<F>,
    dk: Vec<F>,
    dv: Vec<F>,
}

fn shape(heads: usize, kv_heads: usize, head_dim: usize, window: Option<usize>) -> AttentionShape {
    AttentionShape { heads, kv_heads, head_dim, scale: (head_dim as f64).powf(-0.5), window }
}

impl<F: Float> Case<F> {
    fn new(shape: AttentionShape, lens: &[usize], seed: u64) -> Self {
        let rows: usize = lens.iter().sum();
        let q = normal(seed, rows * shape.heads * shape.head_dim);
        let [k, v] = [1, 2].map(|n| normal(seed + n, rows * shape.kv_heads * shape.head_dim));
        Self { shape, spans: spans(lens), q, k, v }
    }

    fn q_cols(&self) -> usize {
        self.shape.heads * self.shape.head_dim
    }

    fn kv_cols(&self) -> usize {
        self.shape.kv_heads * self.shape.head_dim
    }

    fn queries(&self) -> usize {
        self.q.len() / self.q_cols()
    }

    fn keys(&self) -> usize {
        self.k.len() / self.kv_cols()
    }

    fn forward(&self) -> (Vec<F>, Vec<F>) {
        let (queries, keys, shape) = (self.queries(), self.keys(), self.shape);
        let (mut o, mut lse) = (poison(self.q.len()), poison(queries * shape.heads));
        SPEC.attention(
            Mat::new(&self.q, queries, self.q_cols()),
            Mat::new(&self.k, keys, self.kv_cols()),
            Mat::new(&self.v, keys, self.kv_cols()),
            shape,
            &self.spans,
            MatMut::new(&mut o, queries, self.q_cols()),
            MatMut::new(&mut lse, queries, shape.heads),
            &mut scratch(OpShape::Attention { queries, keys, shape }),
        );
        (o, lse)
    }

    /// Adds to `grads`.
    fn backward(&self, dout: &[F], grads: &mut Grads<F>) {
        let (queries, keys, shape) = (self.queries(), self.keys(), self.shape);
        let (o, lse) = self.forward();
        let (q_cols, kv_cols) = (self.q_cols(), self.kv_cols());
        SPEC.attention_vjp(
            Mat::new(&self.q, queries, q_cols),
            Mat::new(&self.k, keys, kv_cols),
            Mat::new(&self.v, keys, kv_cols),
            Mat::new(&o, queries, q_cols),
            Mat::new(&lse, queries, shape.heads),
            Mat::new(dout, queries, q_cols),
            shape,
            &self.spans,
            MatMut::new(&mut grads.dq, queries, q_cols),
            MatMut::new(&mut grads.dk, keys, kv_cols),
            MatMut::new(&mut grads.dv, keys, kv_cols),
            &mut scratch(OpShape::AttentionVjp { queries, keys, shape }),
        );
    }

    fn zeros(&self) -> Grads<F> {
        let zeros = |of: &[F]| vec![F::ZERO; of.len()];
        Grads { dq: zeros(&self.q), dk: zeros(&self.k), dv: zeros(&self.v) }
    }

    /// Some consecutive rows as a case of their own, in one span.
    fn rows(&self, rows: std::ops::Range<usize>) -> Self {
        let cut = |of: &[F], cols: usize| of[rows.start * cols..rows.end * cols].to_vec();
        Self {
            shape: self.shape,
            spans: spans(&[rows.len()]),
            q: cut(&self.q, self.q_cols()),
            k: cut(&self.k, self.kv_cols()),
            v: cut(&self.v, self.kv_cols()),
        }
    }
}

/// The dense softmax, one query and head at a time.
fn naive(case: &Case<f64>) -> (Vec<f64>, Vec<f64>) {
    let AttentionShape { heads, kv_heads, head_dim: d, scale, window } = case.shape;
    let (q_cols, kv_cols) = (case.q_cols(), case.kv_cols());
    let before = case.keys() - case.queries();
    let (mut o, mut lse) = (vec![0.0; case.q.len()], Vec::new());
    for span in &case.spans {
        for row in span.queries(case.queries(), case.keys()) {
            let i = row - before;
            for head in 0..heads {
                let at = head / (heads / kv_heads) * d;
                let q = &case.q[i * q_cols + head * d..][..d];
                let sees = |j: &usize| window.is_none_or(|window| row - j < window);
                let keys: Vec<usize> = (span.start..=row).filter(sees).collect();
                let score = |j: &usize| scale * inner(q, &case.k[j * kv_cols + at..][..d]);
                let weights: Vec<f64> = keys.iter().map(|j| score(j).exp()).collect();
                let sum: f64 = weights.iter().sum();
                for (j, weight) in keys.iter().zip(&weights) {
                    for (c, v) in case.v[j * kv_cols + at..][..d].iter().enumerate() {
                        o[i * q_cols + head * d + c] += weight / sum * v;
                    }
                }
                lse.push(sum.ln());
            }
        }
    }
    (o, lse)
}

/// Cases, among them such whose first rows are keys only, and whose last span reaches beyond.
fn cases() -> impl Strategy<Value = Case<f64>> {
    let heads = prop_oneof![Just((1, 1)), Just((4, 2)), Just((3, 1)), Just((2, 2))];
    let lens = prop_oneof![
        prop::collection::vec(0_usize..12, 1..4),
        prop::collection::vec(50_usize..140, 1..3),
    ];
    let window =
        prop_oneof![Just(None), (1_usize..10).prop_map(Some), (60_usize..80).prop_map(Some)];
    let before = prop_oneof![2 => Just(0.0), 1 => 0.0..1.0];
    (heads, 1_usize..10, window, lens, before, any::<u32>()).prop_map(
        |((heads, kv_heads), head_dim, window, lens, before, seed)| {
            let shape = shape(heads, kv_heads, head_dim, window);
            let mut case = Case::new(shape, &lens, u64::from(seed));
            let before = (before * case.keys() as f64) as usize;
            case.q.drain(..before * case.q_cols());
            if before % 2 == 1 {
                case.spans.last_mut().expect("at least one").end += 7;
            }
            case
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn forward_is_a_dense_softmax(case in cases()) {
        let ((o, lse), (want_o, want_lse)) = (case.forward(), naive(&case));
        assert_close("o", &o, &want_o, 1e-12, 1e-11);
        assert_close("lse", &lse, &want_lse, 1e-12, 1e-12);
    }

    #[test]
    fn backward_accumulates_the_gradient(case in cases()) {
        let dout = normal::<f64>(90, case.q.len());
        let mut grads = case.zeros();
        case.backward(&dout, &mut grads);
        let loss = |case: &Case<f64>| inner(&case.forward().0, &dout);
        assert_gradient("dq", &case.q, &grads.dq, 6, |q| {
            loss(&Case { q: q.to_vec(), ..case.clone() })
        });
        assert_gradient("dk", &case.k, &grads.dk, 6, |k| {
            loss(&Case { k: k.to_vec(), ..case.clone() })
        });
        assert_gradient("dv", &case.v, &grads.dv, 6, |v| {
            loss(&Case { v: v.to_vec(), ..case.clone() })
        });
        let once = grads.clone();
        case.backward(&dout, &mut grads);
        let twice = |once: &[f64]| once.iter().map(|g| 2.0 * g).collect::<Vec<_>>();
        assert_close("dq twice", &grads.dq, &twice(&once.dq), 1e-12, 1e-11);
        assert_close("dk twice", &grads.dk, &twice(&once.dk), 1e-12, 1e-11);
        assert_close("dv twice", &grads.dv, &twice(&once.dv), 1e-12, 1e-11);
    }
}

/// A head dimension and a length past the quantum, with grouped heads.
fn long(window: Option<usize>, lens: &[usize]) -> Case<f32> {
    Case::new(shape(4, 2, 72, window), lens, 5)
}

#[test]
fn sequences_of_a_batch_have_the_bits_they_have_alone() {
    for window in [None, Some(33), Some(100)] {
        let batch = long(window, &[70, 1, 150]);
        let (o, lse) = batch.forward();
        let dout = normal::<f32>(6, batch.q.len());
        let mut grads = batch.zeros();
        batch.backward(&dout, &mut grads);
        for span in &batch.spans {
            let alone = batch.rows(span.start..span.end);
            let (one_o, one_lse) = alone.forward();
            let cut = |cols: usize| span.start * cols..span.end * cols;
            assert_bits("o", &one_o, &o[cut(batch.q_cols())]);
            assert_bits("lse", &one_lse, &lse[cut(4)]);
            let mut one = alone.zeros();
            alone.backward(&dout[cut(batch.q_cols())], &mut one);
            assert_bits("dq", &one.dq, &grads.dq[cut(batch.q_cols())]);
            // Where quanta of rows meet is another place then.
            let cut = cut(batch.kv_cols());
            assert_close("dk", &one.dk, &grads.dk[cut.clone()], 1e-5, 1e-4);
            assert_close("dv", &one.dv, &grads.dv[cut], 1e-5, 1e-4);
        }
    }
}

#[test]
fn tiles_of_queries_give_the_bits_of_the_whole() {
    for window in [None, Some(33), Some(100)] {
        let whole = long(window, &[70, 0, 1, 250, 8]);
        let (o, lse) = whole.forward();
        let dout = normal::<f32>(6, whole.q.len());
        let (mut grads, mut sums) = (whole.zeros(), whole.zeros());
        whole.backward(&dout, &mut grads);
        let (q_cols, kv_cols, rows) = (whole.q_cols(), whole.kv_cols(), whole.queries());
        for tile in [64, 128, 192] {
            sums.dk.fill(0.0);
            sums.dv.fill(0.0);
            for start in (0..rows).step_by(tile) {
                let end = rows.min(start + tile);
                let at = start * q_cols..end * q_cols;
                let part = Case {
                    q: whole.q[at.clone()].to_vec(),
                    k: whole.k[..end * kv_cols].to_vec(),
                    v: whole.v[..end * kv_cols].to_vec(),
                    ..whole.clone()
                };
                let (part_o, part_lse) = part.forward();
                assert_bits("o", &part_o, &o[at.clone()]);
                assert_bits("lse", &part_lse, &lse[start * 4..end * 4]);
                let mut some = Grads {
                    dq: vec![0.0; part.q.len()],
                    dk: sums.dk[..part.k.len()].to_vec(),
                    dv: sums.dv[..part.v.len()].to_vec(),
                };
                part.backward(&dout[at.clone()], &mut some);
                assert_bits("dq", &some.dq, &grads.dq[at]);
                sums.dk[..part.k.len()].copy_from_slice(&some.dk);
                sums.dv[..part.v.len()].copy_from_slice(&some.dv);
            }
            assert_bits("dk", &sums.dk, &grads.dk);
            assert_bits("dv", &sums.dv, &grads.dv);
        }
    }
}

#[test]
fn a_query_does_not_depend_on_later_rows() {
    let case = long(None, &[140]);
    let (o, lse) = case.forward();
    for rows in [1, 63, 64, 65, 139] {
        let (short_o, short_lse) = case.rows(0..rows).forward();
        assert_bits("o", &short_o, &o[..short_o.len()]);
        assert_bits("lse", &short_lse, &lse[..short_lse.len()]);
    }
}

#[test]
fn a_cache_of_keys_gives_the_same_bits() {
    for window in [None, Some(1), Some(70)] {
        let case = long(window, &[140]);
        let (o, lse) = case.forward();
        for queries in [1, 9, 70, 140] {
            let tail = case.rows(140 - queries..140);
            let cached = Case { q: tail.q, ..case.clone() };
            let (cached_o, cached_lse) = cached.forward();
            assert_bits("o", &cached_o, &o[o.len() - cached_o.len()..]);
            assert_bits("lse", &cached_lse, &lse[lse.len() - cached_lse.len()..]);
        }
    }
}

#[test]
fn a_cache_is_the_dense_softmax_too() {
    let mut case = Case::<f64>::new(shape(4, 2, 5, Some(50)), &[90], 8);
    case.q.drain(..80 * case.q_cols());
    let ((o, lse), (want_o, want_lse)) = (case.forward(), naive(&case));
    assert_close("o", &o, &want_o, 1e-12, 1e-11);
    assert_close("lse", &lse, &want_lse, 1e-12, 1e-12);
}

#[test]
fn a_window_as_wide_as_the_sequence_changes_no_bit() {
    let (free, wide) = (long(None, &[130]), long(Some(130), &[130]));
    assert_bits("o", &free.forward().0, &wide.forward().0);
    let dout = normal::<f32>(9, free.q.len());
    let (mut a, mut b) = (free.zeros(), wide.zeros());
    free.backward(&dout, &mut a);
    wide.backward(&dout, &mut b);
    assert_bits("dq", &a.dq, &b.dq);
    assert_bits("dk", &a.dk, &b.dk);
    assert_bits("dv", &a.dv, &b.dv);
}

#[test]
fn damage_reaches_only_those_who_see_it() {
    // Two sequences; everything of row 30, in the first one, is NaN.
    let whole = long(Some(8), &[60, 20]);
    let mut broken = whole.clone();
    let (q_cols, kv_cols) = (whole.q_cols(), whole.kv_cols());
    broken.q[30 * q_cols..31 * q_cols].fill(f32::NAN);
    broken.k[30 * kv_cols..31 * kv_cols].fill(f32::NAN);
    broken.v[30 * kv_cols..31 * kv_cols].fill(f32::NAN);
    let ((o, _), (want, _)) = (broken.forward(), whole.forward());
    for t in 0..80 {
        let (got, want) = (&o[t * q_cols..][..q_cols], &want[t * q_cols..][..q_cols]);
        if (30..38).contains(&t) {
            assert!(got.iter().all(|o| o.is_nan()), "row {t} sees row 30");
        } else {
            assert_bits("a row that does not see row 30", got, want);
        }
    }
    let mut grads = broken.zeros();
    broken.backward(&vec![1.0; o.len()], &mut grads);
    // Keys from row 23 on are seen by a query that sees row 30, up to row 37.
    for t in (0..23).chain(38..80) {
        let (dq, dk) = (&grads.dq[t * q_cols..][..q_cols], &grads.dk[t * kv_cols..][..kv_cols]);
        assert!(dq.iter().chain(dk).all(|g| g.is_finite()), "row {t}");
    }
}

#[test]
fn large_scores_do_not_overflow() {
    let mut case = long(None, &[100]);
    case.q.iter_mut().for_each(|q| *q *= 1e4);
    let (o, lse) = case.forward();
    assert!(o.iter().chain(&lse).all(|x| x.is_finite()));
    let mut grads = case.zeros();
    case.backward(&vec![1.0; o.len()], &mut grads);
    assert!(grads.dq.iter().chain(&grads.dk).chain(&grads.dv).all(|g| g.is_finite()));
}
