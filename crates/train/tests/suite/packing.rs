//! Examples that share a sequence stay apart: losses, gradients and evaluations are those of the
//! separate examples, and a run counts sequences.

use std::path::Path;

use lowtide_data::{DataError, Dataset, SampleBuf};
use lowtide_memory::{Budget, Ledger};
use lowtide_optim::{Sgd, StepHyper};
use lowtide_simd::Simd;
use lowtide_tape::Policy;
use lowtide_testkit::golden::golden_dir;
use lowtide_testkit::tiny::TinyLlama;
use lowtide_train::{
    EvalSettings, Event, OpenBase, PackingReport, Settings, Summary, Trainer, evaluate, finetune,
};

use crate::support::{Home, Setup, dataset, in_pool, write_data};

/// A golden base of each family. Gemma 3 has a window of 8 tokens.
const MODELS: [&str; 4] = ["llama_tied", "qwen2", "qwen3", "gemma3"];

/// Into bins of 64: three of them, or four.
const LENGTHS: &[usize] = &[40, 9, 21, 30, 12, 50, 3, 17];
const CAPACITY: usize = 64;

/// Numbers, in `plain`, of the examples of sequence `index` of `packed`, by what they say.
fn examples_of(packed: &Dataset, index: usize, plain: &Dataset) -> Result<Vec<usize>, DataError> {
    let sequence = packed.sequence(index)?;
    let (mut one, mut other) = (SampleBuf::new(), SampleBuf::new());
    let mut found = Vec::new();
    for example in sequence.first..sequence.first + sequence.examples {
        let sample = packed.read(example, &mut one)?;
        for candidate in 0..plain.len() {
            if plain.read(candidate, &mut other)? == sample {
                found.push(candidate);
            }
        }
    }
    assert_eq!(found.len(), sequence.examples);
    Ok(found)
}

/// Loss and gradients of one update of rate 0 over `indices`, `at_once` in a micro-batch.
fn gradients(
    trainer: &mut Trainer<'_, '_>,
    data: &Dataset,
    indices: &[usize],
    at_once: usize,
) -> (f64, Vec<f32>) {
    let labelled = indices.iter().map(|&i| data.sequence(i).unwrap().labelled).sum();
    let hyper = StepHyper { lr: 0.0, step: 1, grad_scale: 1.0 };
    let update = trainer.update(data, indices.iter().copied(), at_once, labelled, hyper).unwrap();
    assert_eq!(update.sum.labelled, labelled);
    (update.sum.mean(), trainer.grads().to_vec())
}

/// The difference of two lists as a share of the first, by their norms.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let difference = norm(&mut a.iter().zip(b).map(|(&a, &b)| f64::from(a) - f64::from(b)));
    difference / norm(&mut a.iter().map(|&a| f64::from(a))).max(f64::MIN_POSITIVE)
}

fn packed_is_apart(model: &str, policy: Policy, data: &Path) {
    let base = OpenBase::open(&golden_dir().join(model)).unwrap();
    let plain = dataset(&base, data);
    let packed = plain.pack(CAPACITY, 3).unwrap();
    assert!(packed.len() < plain.len() / 2 + 1);
    let (be, sgd) = (Simd::new(2), Sgd::default());
    // The same room for both: all examples in one micro-batch.
    let setup = Setup { policy, sequences: LENGTHS.len(), optimizer: &sgd, ..Setup::new(&be) };
    let program = setup.model(&base);
    let mut ledger = Ledger::new(Budget::UNLIMITED);
    let mut trainer = setup.reserve(&program, &plain, &mut ledger);
    // A fresh LoRA's B is zero, and so would be every gradient of A.
    for (i, value) in trainer.params_mut().iter_mut().enumerate() {
        *value += 0.02 * ((i * 7919 % 13) as f32 - 6.0) / 6.0;
    }
    let lens = program.tensor_lens();
    for bin in 0..packed.len() {
        let examples = examples_of(&packed, bin, &plain).unwrap();
        let (loss, grads) = gradients(&mut trainer, &packed, &[bin], 1);
        // Together in one micro-batch, and each in one of its own.
        for at_once in [examples.len(), 1] {
            let (want, apart) = gradients(&mut trainer, &plain, &examples, at_once);
            let what = format!("{model}, {policy}, bin {bin}, {at_once} at once");
            assert!(((loss - want) / want).abs() <= 1e-6, "{what}: {loss} and {want}");
            let mut at = 0;
            for &len in &lens {
                let range = at..at + len;
                let off = distance(&apart[range.clone()], &grads[range]);
                assert!(off <= 1e-6, "{what}, numbers from {at}: {off:e}");
                at += len;
            }
        }
    }
    let (all, whole) =
        (trainer.evaluate(&packed, 2).unwrap(), trainer.evaluate(&plain, 1).unwrap());
    assert_eq!((all.labelled, all.correct), (whole.labelled, whole.correct));
    trainer.release(&mut ledger);
}

#[test]
fn packed_losses_and_gradients_are_those_of_the_separate_examples() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data.jsonl");
    write_data(&data, LENGTHS);
    for model in MODELS {
        for policy in Policy::ALL {
            packed_is_apart(model, policy, &data);
        }
    }
}

#[test]
fn an_evaluation_is_the_same_packed_and_unpacked() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data.jsonl");
    write_data(&data, LENGTHS);
    for model in MODELS {
        let result = |packing, batch_size| {
            let settings = EvalSettings {
                model: golden_dir().join(model),
                adapter: None,
                data: data.clone(),
                max_seq_len: CAPACITY,
                batch_size,
                sliding_window: None,
                packing,
                mask_prompt: true,
                memory_budget: None,
                stream_weights: lowtide_train::StreamWeights::Auto,
            };
            evaluate(&settings, &Simd::new(2)).unwrap()
        };
        let plain = result(false, 1);
        for batch_size in [1, 3] {
            let packed = result(true, batch_size);
            let off = ((packed.loss - plain.loss) / plain.loss).abs();
            assert!(off <= 1e-6, "{model}: {} and {}", packed.loss, plain.loss);
            assert_eq!(packed.accuracy.to_bits(), plain.accuracy.to_bits(), "{model}");
            assert_eq!(
                (packed.tokens, packed.labelled_tokens),
                (plain.tokens, plain.labelled_tokens)
            );
        }
    }
}

#[test]
fn threads_and_policies_change_no_bit_of_a_packed_run() {
    let shape = TinyLlama { hidden: 128, intermediate: 320, head_dim: 32, ..TinyLlama::default() };
    let home = Home::new(&shape);
    home.data(LENGTHS);
    let trained = |threads, policy| {
        in_pool(threads, |be| {
            let base = OpenBase::open(&home.base()).unwrap();
            let data = dataset(&base, &home.path("data.jsonl")).pack(CAPACITY, 0).unwrap();
            let setup = Setup { policy, sequences: 2, dropout: 0.1, ..Setup::new(be) };
            setup.bits(&base, &data, 3)
        })
    };
    let one = trained(1, Policy::Store);
    for (threads, policy) in [(1, Policy::Block), (2, Policy::Store), (4, Policy::Block)] {
        assert!(trained(threads, policy) == one, "{threads} threads, {policy}");
    }
}

/// A whole job: its summary, and how it was packed.
fn job(settings: &Settings) -> (Summary, Option<PackingReport>) {
    let (mut packing, mut steps) = (None, 0);
    let summary = finetune(settings, &Simd::new(2), 2, &mut |event| match event {
        Event::Data(report) => packing = report.packing,
        Event::Plan(report) => steps = report.steps,
        _ => {}
    })
    .unwrap();
    assert_eq!(summary.steps, steps);
    assert_eq!(summary.planned_peak_bytes, summary.peak_bytes);
    (summary, packing)
}

#[test]
fn a_packed_run_counts_sequences() {
    let home = Home::new(&TinyLlama::default());
    let base =
        Settings { max_steps: None, packing: true, max_seq_len: 64, ..home.settings(LENGTHS) };
    let (summary, packing) = job(&base);
    let packing = packing.unwrap();
    let tokens: usize = LENGTHS.iter().sum();
    assert_eq!((packing.bins, packing.capacity, summary.steps), (3, 64, 3));
    assert_eq!((packing.longest, summary.tokens), (64, tokens as u64));
    assert!((packing.fill - tokens as f64 / 192.0).abs() < 1e-12, "{packing:?}");
    assert!(packing.examples_max >= 3);

    // Two sequences a micro-batch, two micro-batches an update: one update has all three.
    let wide = Settings { batch_size: 2, grad_accum: 2, epochs: 3, ..base.clone() };
    let (summary, _) = job(&wide);
    assert_eq!((summary.steps, summary.tokens), (3, 3 * tokens as u64));
    let (summary, _) = job(&Settings { max_steps: Some(2), ..wide });
    assert_eq!(summary.steps, 2);
    // What is held out is packed by itself, and truncation comes first.
    let split = Settings { val_split: 0.25, max_seq_len: 20, ..base.clone() };
    let (summary, packing) = job(&split);
    let packing = packing.unwrap();
    assert_eq!((packing.capacity, summary.steps), (20, packing.bins as u64));
    assert!(packing.longest <= 20 && summary.eval_loss_after.is_some());
}

/// An update over all examples is the same update, however they are laid out.
#[test]
fn the_first_update_over_everything_is_the_same_packed_and_unpacked() {
    let home = Home::new(&TinyLlama::default());
    let one = |packing| {
        let settings = Settings {
            packing,
            max_seq_len: 64,
            batch_size: LENGTHS.len(),
            max_steps: Some(1),
            ..home.settings(LENGTHS)
        };
        job(&settings).0
    };
    let (plain, packed) = (one(false), one(true));
    assert_eq!(plain.labelled_tokens, packed.labelled_tokens);
    let (a, b) = (plain.loss_first.unwrap(), packed.loss_first.unwrap());
    assert!(((a - b) / a).abs() <= 1e-6, "{a} and {b}");
}

#[test]
fn the_same_seed_packs_the_same_and_another_does_not() {
    let home = Home::new(&TinyLlama::default());
    let base = OpenBase::open(&home.base()).unwrap();
    let lengths: Vec<usize> = (0..60).map(|i| 5 + i * 7 % 40).collect();
    let data = dataset(&base, &home.data(&lengths));
    let layout = |seed| {
        let packed = data.pack(48, seed).unwrap();
        let mut buffer = packed.buffer();
        let read = |i| packed.read(i, &mut buffer).unwrap().ids.to_vec();
        (0..lengths.len()).map(read).collect::<Vec<_>>()
    };
    let first = layout(1);
    assert!(first == layout(1) && first != layout(2));
    // Every example is there once, whatever the order.
    let sorted = |mut examples: Vec<Vec<u32>>| {
        examples.sort_unstable();
        examples
    };
    assert!(sorted(first) == sorted(layout(2)));
}
