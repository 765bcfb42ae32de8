//! Clipping: two passes give the bits of one with all gradients, and blocks keep to their share.

use lowtide_optim::{AdamW8, Optimizer, Sgd};
use lowtide_simd::Simd;
use lowtide_tape::{Policy, Store};
use lowtide_testkit::tiny::TinyLlama;
use lowtide_train::{Clip, OpenBase, Settings, TrainError, finetune, plan};

use crate::support::{ADAMW, Home, Setup, bits, dataset};

static ADAMW8: AdamW8 = AdamW8(ADAMW);
static SGD: Sgd = Sgd { weight_decay: 0.0, momentum: 0.0 };

/// Below the norm of every update here.
const NORM: f64 = 0.05;

fn home() -> Home {
    let home = Home::new(&TinyLlama { layers: 3, ..TinyLlama::default() });
    home.data(&[70, 33, 12, 64]);
    home
}

/// Norms of three updates before clipping, and the adapter after them.
fn norms(home: &Home, setup: &Setup<'_>) -> (Vec<u64>, Vec<u32>) {
    let base = OpenBase::open(&home.base()).unwrap();
    let data = dataset(&base, &home.path("data.jsonl"));
    let mut norms = Vec::new();
    let params = setup.train(&base, &data, 0, |trainer| {
        for step in 1..=3 {
            let norm = setup.update(trainer, &data, step).grad_norm.unwrap();
            assert!(norm > NORM, "a norm of {norm} is not clipped");
            norms.push(norm.to_bits());
        }
        bits(trainer.params())
    });
    (norms, params)
}

#[test]
fn two_passes_give_the_bits_of_one() {
    let home = home();
    let be = Simd::new(2);
    let optimizers: [&dyn Optimizer; 2] = [&ADAMW8, &SGD];
    for optimizer in optimizers {
        for (policy, store) in [(Policy::Store, Store::F32), (Policy::Sqrt, Store::File)] {
            let clip = Clip::Whole(NORM);
            let setup = |apply_and_free| {
                let how = Setup { optimizer, policy, store, apply_and_free, ..Setup::new(&be) };
                Setup { clip, sequences: 2, dropout: 0.1, ..how }
            };
            let [whole, twice] = [false, true].map(|free| norms(&home, &setup(free)));
            assert!(whole == twice, "{}, {policy}", optimizer.name());
        }
    }
}

#[test]
fn each_block_is_clipped_to_its_share() {
    let home = home();
    let be = Simd::new(2);
    let clip = Clip::PerBlock(NORM);
    let setup = |apply_and_free| Setup {
        clip,
        apply_and_free,
        optimizer: &SGD,
        layers: "last:2",
        ..Setup::new(&be)
    };
    let [kept, freed] = [false, true].map(|free| norms(&home, &setup(free)));
    assert!(kept == freed);

    let base = OpenBase::open(&home.base()).unwrap();
    let data = dataset(&base, &home.path("data.jsonl"));
    let setup = setup(true);
    setup.train(&base, &data, 0, |trainer| {
        let before = trainer.params().to_vec();
        setup.update(trainer, &data, 1);
        let ranges = trainer.executor_mut().param_ranges().to_vec();
        let change = |i: usize| f64::from(trainer.params()[i] - before[i]).powi(2);
        // A step of plain descent is the gradient times the learning rate.
        let steps = ranges.into_iter().map(|range| range.map(change).sum::<f64>().sqrt() / 1e-3);
        let steps: Vec<_> = steps.collect();
        let share = NORM / 2_f64.sqrt();
        assert_eq!(steps[0], 0.0, "nothing is trained in the lowest block");
        for step in &steps[1..] {
            assert!((step / share - 1.0).abs() < 1e-3, "{steps:?}, expected {share}");
        }
    });
}

#[test]
fn a_budget_too_small_for_all_gradients_takes_two_passes() {
    let home = home();
    let run = |name: &str, clipping: &str, memory_budget: Option<u64>| {
        let settings = Settings {
            output: home.path(name),
            clipping: clipping.into(),
            max_grad_norm: NORM,
            max_steps: Some(3),
            memory_budget: memory_budget.map(|bytes| bytes.to_string()),
            optimizer_states: "ram".into(),
            ..home.settings(&[40, 33, 12, 25, 30])
        };
        let summary = finetune(&settings, &Simd::new(2), 2, &mut |_| ())?;
        let adapter = std::fs::read(settings.output.join("adapter_model.safetensors")).unwrap();
        Ok::<_, TrainError>((summary, adapter))
    };
    let settings = home.settings(&[40, 33, 12, 25, 30]);
    let (_, planned) = plan(&settings, &Simd::new(2), 2).unwrap();
    let of = |way| move |row: &&lowtide_train::PlanRow| row.clipping == way;
    let rows = || planned.alternatives.iter();
    let whole = rows().filter(of("whole")).map(|row| row.peak_bytes).min().unwrap();
    let twice = rows().filter(of("two-pass")).map(|row| row.peak_bytes).max().unwrap();
    assert!(twice < whole && planned.smallest_budget < whole);

    let (summary, adapter) = run("whole", "auto", Some(whole)).unwrap();
    assert_eq!(summary.clipping, "whole");
    let (lean, same) = run("twice", "auto", Some(whole - 1)).unwrap();
    assert_eq!(lean.clipping, "two-pass");
    assert!(lean.peak_bytes < whole && lean.peak_bytes == lean.planned_peak_bytes);
    assert_eq!(lean.loss_last, summary.loss_last);
    assert!(same == adapter, "two passes and one");
    let error = run("refused", "whole", Some(whole - 1)).unwrap_err();
    assert!(matches!(error, TrainError::NoPlanFits { smallest, .. } if smallest == whole));
    let (apart, other) = run("blocks", "per-block", None).unwrap();
    assert_eq!(apart.clipping, "per-block");
    assert!(other != adapter, "blocks by themselves are another update");
}
