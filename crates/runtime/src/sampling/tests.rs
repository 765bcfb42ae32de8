//! Values of every step from logits to a token.

use super::*;

const LOGITS: [f32; 6] = [1.0, 3.0, -1.0, 2.0, 0.5, -2.0];

fn pick(sampling: Sampling, logits: &[f32], seen: u32, draws: u64) -> Option<u32> {
    let mut order = vec![0; logits.len()];
    sampling.pick(&mut logits.to_vec(), &[seen], &mut order, draws)
}

/// How often each token comes in many draws.
fn shares(sampling: Sampling, logits: &[f32]) -> Vec<f64> {
    const DRAWS: u64 = 20_000;
    let mut counts = vec![0.0; logits.len()];
    for draw in 0..DRAWS {
        counts[pick(sampling, logits, 0, draw).unwrap() as usize] += 1.0 / DRAWS as f64;
    }
    counts
}

fn softmax(logits: &[f64]) -> Vec<f64> {
    let total: f64 = logits.iter().map(|l| l.exp()).sum();
    logits.iter().map(|l| l.exp() / total).collect()
}

const ALL: Sampling = Sampling { temperature: 1.0, ..Sampling::GREEDY };

#[test]
fn temperature_0_takes_the_first_of_the_likeliest() {
    assert_eq!(pick(Sampling::GREEDY, &LOGITS, 0, 0), Some(1));
    assert_eq!(pick(Sampling::GREEDY, &[0.0, 7.0, 7.0], 0, 9), Some(1));
    assert_eq!(pick(Sampling::GREEDY, &[f32::NAN, -3.0], 0, 0), Some(1));
    assert_eq!(pick(Sampling::GREEDY, &[f32::NAN, f32::NEG_INFINITY], 0, 0), None);
    assert_eq!(pick(ALL, &[f32::NAN; 3], 0, 0), None);
}

#[test]
fn the_penalty_divides_positive_logits_and_multiplies_negative_ones() {
    let with = |repetition_penalty, seen| {
        pick(Sampling { repetition_penalty, ..Sampling::GREEDY }, &LOGITS, seen, 0)
    };
    assert_eq!(with(1.4, 0b10), Some(1), "3.0 / 1.4 is above 2.0");
    assert_eq!(with(1.6, 0b10), Some(3), "3.0 / 1.6 is below 2.0");
    assert_eq!(with(4.0, 0b1010), Some(0));
    assert_eq!(with(0.5, 0b1000), Some(3), "a penalty below 1 favours what was there");
    let negative = [-1.0, -1.5];
    let sampling = Sampling { repetition_penalty: 2.0, ..Sampling::GREEDY };
    assert_eq!(pick(sampling, &negative, 0b01, 0), Some(1));
}

#[test]
fn draws_follow_the_probabilities() {
    for temperature in [0.5, 1.0, 2.0] {
        let got = shares(Sampling { temperature, ..ALL }, &LOGITS);
        let want = softmax(&LOGITS.map(|l| f64::from(l) / temperature));
        for (got, want) in got.iter().zip(want) {
            assert!((got - want).abs() < 0.012, "{temperature}: {got} not {want}");
        }
    }
}

#[test]
fn top_k_keeps_the_likeliest() {
    let got = shares(Sampling { top_k: 2, ..ALL }, &LOGITS);
    let want = softmax(&[3.0, 2.0]);
    assert!((got[1] - want[0]).abs() < 0.012 && (got[3] - want[1]).abs() < 0.012, "{got:?}");
    assert!(got[1] + got[3] > 0.999_999, "{got:?}");
    let one = Sampling { top_k: 1, ..ALL };
    assert!((0..99).all(|draw| pick(one, &LOGITS, 0, draw) == Some(1)));
}

#[test]
fn top_p_keeps_the_fewest_that_reach_it() {
    // Softmax: 0.084, 0.624, 0.011, 0.230, 0.051, 0.004 (less than a hundredth off).
    let kept = |sampling| {
        let got = shares(sampling, &LOGITS);
        (0..6).filter(|i| got[*i] > 0.0).collect::<Vec<_>>()
    };
    assert_eq!(kept(Sampling { top_p: 0.5, ..ALL }), [1]);
    assert_eq!(kept(Sampling { top_p: 0.7, ..ALL }), [1, 3]);
    assert_eq!(kept(Sampling { top_p: 0.9, ..ALL }), [0, 1, 3]);
    assert_eq!(kept(Sampling { top_p: 1e-9, ..ALL }), [1]);
    // Of the two likeliest, the first has 0.73: top-p is taken after top-k.
    assert_eq!(kept(Sampling { top_p: 0.7, top_k: 2, ..ALL }), [1]);
    // The temperature comes before both: at 0.5 the likeliest has 0.87 of all.
    assert_eq!(kept(Sampling { top_p: 0.8, temperature: 0.5, ..ALL }), [1]);
}

#[test]
fn draws_depend_on_seed_and_number_alone() {
    let course = |seed| (0..64).map(|n| uniform(seed, n)).collect::<Vec<_>>();
    assert_eq!(course(1), course(1));
    assert_ne!(course(1), course(2));
    let all: Vec<f64> = (0..4).flat_map(course).collect();
    assert!(all.iter().all(|u| (0.0..1.0).contains(u)));
    let mean = all.iter().sum::<f64>() / all.len() as f64;
    assert!((mean - 0.5).abs() < 0.06, "{mean}");
}

#[test]
fn values_out_of_range_are_named() {
    let bad = |sampling: Sampling| sampling.check().unwrap_err().to_string();
    let of = Sampling::default();
    assert!(of.check().is_ok() && Sampling::GREEDY.check().is_ok());
    let words = bad(Sampling { temperature: -0.5, ..of });
    assert_eq!(words, "temperature is -0.5, expected a finite number, 0 or more");
    assert!(bad(Sampling { temperature: f64::NAN, ..of }).starts_with("temperature is NaN"));
    assert!(bad(Sampling { top_p: 0.0, ..of }).starts_with("top-p is 0, expected"));
    assert!(bad(Sampling { top_p: 1.5, ..of }).starts_with("top-p is 1.5"));
    assert!(bad(Sampling { repetition_penalty: 0.0, ..of }).starts_with("repetition-penalty is 0"));
}
