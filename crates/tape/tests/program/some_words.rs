//! A softmax over some words only: its loss, its gradient, and how far they are from the exact
//! ones, against sums written out in f64.

use lowtide_backend::{Backend, Scalar};
use lowtide_quant::QMat;
use lowtide_quant::formats::F32;
use lowtide_tape::{Accumulate, Batch, Executor, HeadGap, LossSum, Policy, Program};
use lowtide_tensor::{Float, MatMut};
use lowtide_testkit::compare::assert_bits;

use crate::model::{Data, HIDDEN, Model, VOCAB, params};
use crate::{EVERY_SITE, How, with_executor};

/// Some rows of a head as bytes, and where in them each target is.
struct Some {
    bytes: Vec<u8>,
    ids: Vec<u32>,
    targets: Vec<u32>,
}

impl Some {
    /// The words that `keep` names, and all targets.
    fn of<F: Float>(program: &Program<'_, F>, batch: &Batch<'_>, keep: fn(u32) -> bool) -> Self {
        let head = program.head.weight;
        let ids: Vec<u32> =
            (0..head.rows() as u32).filter(|id| keep(*id) || batch.targets.contains(id)).collect();
        let bytes = ids.iter().flat_map(|id| head.row(*id as usize)).copied().collect();
        let place = |target: &u32| ids.binary_search(target).unwrap() as u32;
        let targets = batch.targets.iter().map(place).collect();
        Self { bytes, ids, targets }
    }

    fn batch<'a>(&'a self, whole: &Batch<'a>) -> Batch<'a> {
        let words = QMat::new(&F32, self.ids.len(), HIDDEN, &self.bytes).unwrap();
        Batch { targets: &self.targets, words: Some(words), ..*whole }
    }
}

fn gradient<F: Float>(
    executor: &mut Executor<'_, '_, F>,
    at: &[F],
    batch: &Batch<'_>,
) -> (LossSum, Vec<F>) {
    let (mut params, mut grads) = (at.to_vec(), vec![F::ZERO; at.len()]);
    let ranges = executor.param_ranges().to_vec();
    let mut sink = Accumulate { grads: &mut grads, ranges: &ranges };
    let sum = executor.step(&mut params, batch, F::ONE, &mut sink).unwrap();
    (sum, grads)
}

fn gap<F: Float>(
    program: &Program<'_, F>,
    at: &[F],
    data: &Data,
    keep: fn(u32) -> bool,
) -> (HeadGap, usize)
where
    Scalar: Backend<F>,
{
    let whole = data.batch();
    let some = Some::of(program, &whole, keep);
    let gap = with_executor(program, How::tight(Policy::Block, data), true, |executor| {
        executor.head_gap(at, &some.batch(&whole), whole.targets)
    });
    (gap, some.ids.len())
}

#[test]
fn all_words_are_the_exact_softmax_to_the_bit() {
    let (model, data) = (Model::new(2), Data::new(1, &[70, 9]));
    let program = model.program::<f32>(EVERY_SITE);
    let (at, whole) = (params(&program), data.batch());
    let some = Some::of(&program, &whole, |_| true);
    with_executor(&program, How::tight(Policy::Sqrt, &data), true, |executor| {
        let exact = gradient(executor, &at, &whole);
        let over_all = gradient(executor, &at, &some.batch(&whole));
        assert_eq!(over_all.0, exact.0);
        assert_bits("gradient", &over_all.1, &exact.1);
    });
    let (gap, words) = gap(&program, &at, &data, |_| true);
    assert_eq!((words, gap.approximate), (VOCAB, gap.exact));
    assert!((gap.cosine() - 1.0).abs() < 1e-12, "{}", gap.cosine());
    assert_eq!(gap.relative_error(), 0.0);
}

#[test]
fn loss_and_gradient_are_those_of_the_sum_over_some_words() {
    const H: f64 = 1e-5;
    let (model, data) = (Model::new(2), Data::new(3, &[5, 1, 4]));
    let program = model.program::<f64>(EVERY_SITE);
    let (at, whole) = (params(&program), data.batch());
    let some = Some::of(&program, &whole, |id| id % 3 == 0);
    assert!(some.ids.len() < VOCAB);
    let how = How::tight(Policy::Block, &data);
    let (sum, grads) =
        with_executor(&program, how, true, |executor| gradient(executor, &at, &some.batch(&whole)));
    with_executor(&program, how, false, |executor| {
        let mut loss = |at: &[f64]| {
            let rows = whole.labelled.len();
            let mut logits = vec![0.0; rows * VOCAB];
            let out = MatMut::new(&mut logits, rows, VOCAB);
            executor.logits(at, &whole, whole.labelled, out);
            let of = |(z, target): (&[f64], &u32)| {
                let sum: f64 = some.ids.iter().map(|id| z[*id as usize].exp()).sum();
                sum.ln() - z[*target as usize]
            };
            logits.chunks(VOCAB).zip(whole.targets).map(of).sum::<f64>()
        };
        let want = loss(&at);
        assert!((sum.loss - want).abs() < 1e-9 * want, "{} not {want}", sum.loss);
        let mut moved = at.clone();
        for i in (0..at.len()).step_by(61) {
            moved[i] = at[i] + H;
            let above = loss(&moved);
            moved[i] = at[i] - H;
            let slope = (above - loss(&moved)) / (2.0 * H);
            moved[i] = at[i];
            let off = (grads[i] - slope).abs();
            assert!(off < 1e-7 * (1.0 + slope.abs()), "{i}: {} not {slope}", grads[i]);
        }
    });
}

#[test]
fn fewer_words_lose_some_of_the_loss_and_turn_the_gradient() {
    let (model, data) = (Model::new(2), Data::new(3, &[12, 7]));
    let program = model.program::<f64>(EVERY_SITE);
    let at = params(&program);
    let mut before = (f64::INFINITY, 1.0 + 1e-12, 0.0);
    let choices: [fn(u32) -> bool; 3] = [|_| true, |id| id % 4 != 0, |_| false];
    for (i, keep) in choices.into_iter().enumerate() {
        let (gap, words) = gap(&program, &at, &data, keep);
        let now = (gap.approximate.loss, gap.cosine(), gap.relative_error());
        assert!(gap.approximate.loss <= gap.exact.loss + 1e-12, "{gap:?}");
        assert!(now.0 < before.0 && now.1 < before.1, "{words} words: {now:?} after {before:?}");
        assert!(i == 0 || now.2 > before.2, "{words} words: {now:?} after {before:?}");
        before = now;
    }
    assert!(before.1 > 0.0 && before.2 < 1.5, "{before:?}");
}
