//! A sequence that grows call by call gives the bits of the whole sequence at once.

use lowtide_backend::Scalar;
use lowtide_memory::{Budget, Category, Ledger};
use lowtide_tape::Program;
use lowtide_tape::{Batch, DecodeLimits, DecodePlan, Decoder, Executor, Limits, Plan, Policy};
use lowtide_tensor::MatMut;
use lowtide_testkit::compare::assert_bits;
use proptest::prelude::*;

use crate::EVERY_SITE;
use crate::model::{Data, Model, VOCAB, params};

/// Logits of every row, computed at once.
fn at_once(program: &Program<'_, f32>, at: &[f32], data: &Data) -> Vec<f32> {
    let Batch { ids, positions, .. } = data.batch();
    let limits = Limits { tokens: ids.len(), sequences: 1, labelled: ids.len() };
    let plan = Plan::new(program, &Scalar, limits, Policy::Block, false);
    let tile = plan.head_tile();
    let mut ledger = Ledger::new(Budget::UNLIMITED);
    let mut executor = Executor::reserve(program, &Scalar, plan, 0, &mut ledger).unwrap();
    let mut logits = vec![0.0; ids.len() * VOCAB];
    for (rows, out) in positions.chunks(tile).zip(logits.chunks_mut(tile * VOCAB)) {
        let out = MatMut::new(out, rows.len(), VOCAB);
        executor.logits(at, &data.batch(), rows, out);
    }
    executor.release(&mut ledger);
    logits
}

fn with_decoder<R>(
    program: &Program<'_, f32>,
    limits: DecodeLimits,
    work: impl FnOnce(&mut Decoder<'_, '_, f32>) -> R,
) -> R {
    let mut ledger = Ledger::new(Budget::UNLIMITED);
    let plan = DecodePlan::new(program, &Scalar, limits);
    let planned = plan.bytes();
    let mut decoder = Decoder::reserve(program, &Scalar, plan, &mut ledger).unwrap();
    assert_eq!(ledger.live(), planned);
    decoder.set_poison(true);
    let result = work(&mut decoder);
    decoder.release(&mut ledger);
    assert_eq!(ledger.live().held(), 0, "everything is given back");
    result
}

/// Reads `ids` in calls of `calls` rows, the last over and over, and compares every call's logits.
fn check(
    decoder: &mut Decoder<'_, '_, f32>,
    at: &[f32],
    ids: &[u32],
    calls: &[usize],
    want: &[f32],
) {
    let mut calls = calls.iter().copied().chain(std::iter::repeat(*calls.last().unwrap()));
    while decoder.len() < ids.len() {
        let (past, rows) = (decoder.len(), calls.next().unwrap());
        let end = ids.len().min(past + rows);
        let logits = decoder.extend(at, &ids[past..end]);
        assert_bits(&format!("logits {}", end - 1), logits, &want[(end - 1) * VOCAB..][..VOCAB]);
    }
}

#[test]
fn calls_of_any_length_give_the_same_bits() {
    for model in [Model::new(3), Model::ornate(2)] {
        let program = model.program(EVERY_SITE);
        let (at, data) = (params(&program), Data::new(1, &[300]));
        let (want, ids) = (at_once(&program, &at, &data), data.batch().ids);
        for calls in [&[64, 1][..], &[1], &[7, 64, 3], &[64], &[63, 1, 1, 40], &[300]] {
            let rows = *calls.iter().max().unwrap();
            with_decoder(&program, DecodeLimits { context: 300, rows }, |decoder| {
                check(decoder, &at, ids, calls, &want);
            });
        }
    }
}

#[test]
fn what_is_taken_back_is_read_again_with_the_same_bits() {
    for (model, windowed) in [(Model::new(2), false), (Model::ornate(2), true)] {
        let program = model.program(EVERY_SITE);
        let (at, data) = (params(&program), Data::new(2, &[400]));
        let (want, ids) = (at_once(&program, &at, &data), data.batch().ids);
        with_decoder(&program, DecodeLimits { context: 400, rows: 32 }, |decoder| {
            check(decoder, &at, ids, &[32], &want);
            for back in [399, 398, 370, 340, 1] {
                let kept = decoder.truncate(back);
                let far = windowed && back == 1;
                assert_eq!((kept, decoder.len()), if far { (0, 0) } else { (back, back) });
                check(decoder, &at, ids, &[3, 32], &want);
            }
            assert_eq!(decoder.truncate(400), 400, "nothing to take back");
            assert_eq!(decoder.truncate(0), 0);
            check(decoder, &at, ids, &[1, 32], &want);
            decoder.clear();
            assert!(decoder.is_empty());
            let other = Data::new(3, &[90]);
            let want = at_once(&program, &at, &other);
            check(decoder, &at, other.batch().ids, &[32], &want);
        });
    }
}

#[test]
fn a_window_bounds_the_cache() {
    let cache = |model: &Model, context| {
        let program = model.program::<f32>(EVERY_SITE);
        let plan = DecodePlan::new(&program, &Scalar, DecodeLimits { context, rows: 32 });
        plan.bytes()[Category::KvCache]
    };
    // Two blocks of keys and values, two heads of eight f32.
    let row = 2 * 2 * 2 * 8 * 4;
    assert_eq!(cache(&Model::new(2), 5000), 5000 * row);
    assert_eq!(cache(&Model::ornate(2), 100), 100 * row);
    // The window of three, two quanta, and the rows of a call.
    assert_eq!(cache(&Model::ornate(2), 5000), (3 + 128 + 32) * row);
}

#[test]
fn parameters_are_those_of_the_call() {
    let model = Model::new(2);
    let program = model.program(EVERY_SITE);
    let data = Data::new(5, &[9]);
    let zero = vec![0.0; program.params()];
    with_decoder(&program, DecodeLimits { context: 9, rows: 9 }, |decoder| {
        for at in [params(&program), zero] {
            decoder.clear();
            check(decoder, &at, data.batch().ids, &[9], &at_once(&program, &at, &data));
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn any_course_of_calls_and_cuts_gives_the_same_bits(
        calls in prop::collection::vec((1..65_usize, 0..90_usize), 1..12),
    ) {
        let model = Model::ornate(2);
        let program = model.program(EVERY_SITE);
        let (at, data) = (params(&program), Data::new(6, &[500]));
        let (want, ids) = (at_once(&program, &at, &data), data.batch().ids);
        with_decoder(&program, DecodeLimits { context: 500, rows: 64 }, |decoder| {
            for (rows, back) in calls {
                let past = decoder.len();
                let end = ids.len().min(past + rows);
                if end > past {
                    let logits = decoder.extend(&at, &ids[past..end]);
                    assert_bits("logits", logits, &want[(end - 1) * VOCAB..][..VOCAB]);
                }
                decoder.truncate(decoder.len().saturating_sub(back / 4));
            }
        });
    }
}
