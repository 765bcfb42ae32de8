//! Methods other than LoRA in the engine: the same bits however memory is spent, and the memory
//! that was planned.

use lowtide_memory::{Budget, Ledger};
use lowtide_simd::Simd;
use lowtide_tape::Policy;
use lowtide_testkit::tiny::TinyLlama;
use lowtide_train::{EvalSettings, Gradient, OpenBase, Settings, evaluate, finetune};

use crate::refused::eval;
use crate::support::{Home, METHODS, Setup, dataset};

#[test]
fn policies_change_no_bit_of_any_method() {
    let home = Home::new(&TinyLlama::default());
    home.data(&[70, 33]);
    let base = OpenBase::open(&home.base()).unwrap();
    let data = dataset(&base, &home.path("data.jsonl"));
    let be = Simd::new(2);
    for (method, options, dropout) in METHODS {
        let setup = |policy| {
            let sequences = 2;
            Setup { method, options, dropout, policy, sequences, ..Setup::new(&be) }
        };
        let store = setup(Policy::Store).bits(&base, &data, 2);
        let block = setup(Policy::Block);
        assert!(block.bits(&base, &data, 2) == store, "{method}: policies differ");
        let tile = std::num::NonZeroUsize::new(64);
        let tiled = Setup { tile, apply_and_free: true, ..block };
        assert!(tiled.bits(&base, &data, 2) == store, "{method}: tiles or sinks differ");
    }
}

#[test]
fn every_method_takes_the_memory_that_was_planned() {
    let home = Home::new(&TinyLlama::default());
    home.data(&[70, 33]);
    let base = OpenBase::open(&home.base()).unwrap();
    let data = dataset(&base, &home.path("data.jsonl"));
    let be = Simd::new(2);
    for (method, options, dropout) in METHODS {
        let setup = Setup { method, options, dropout, ..Setup::new(&be) };
        let model = setup.model(&base);
        let planned = setup.plan(&model, &data).bytes();
        let mut ledger = Ledger::new(Budget::UNLIMITED);
        let mut trainer = setup.reserve(&model, &data, &mut ledger);
        assert_eq!(ledger.live(), planned, "{method}");
        trainer.executor_mut().set_poison(true);
        let losses = [1, 2].map(|step| setup.update(&mut trainer, &data, step).sum.mean());
        assert!(losses.iter().all(|loss| loss.is_finite()), "{method}: {losses:?}");
        trainer.release(&mut ledger);
    }
}

#[test]
fn what_is_trained_outside_the_lora_family_is_saved_and_found_again() {
    let home = Home::new(&TinyLlama::default());
    let be = Simd::new(2);
    for (method, option) in [("ia3", None), ("bottleneck", None), ("lars", Some("chunk"))] {
        let pool = option.map(|pool| ("pool".to_owned(), pool.to_owned()));
        let settings = Settings {
            method: method.into(),
            method_option: pool.into_iter().collect(),
            lr: 0.01,
            max_steps: Some(4),
            output: home.path(method),
            ..home.settings(&[90, 80])
        };
        finetune(&settings, &be, 2, &mut |_| ()).unwrap();
        let bare = eval(&settings, None);
        let adapter = Some(settings.output.clone());
        let adapted = evaluate(&EvalSettings { adapter, ..bare.clone() }, &be).unwrap().loss;
        let bare = evaluate(&EvalSettings { adapter: None, ..bare }, &be).unwrap().loss;
        assert!(adapted < bare, "{method}: {adapted} after, {bare} before");
    }
}

#[test]
fn lars_refuses_data_without_prompts() {
    let home = Home::new(&TinyLlama::default());
    let settings = Settings { method: "lars".into(), ..home.settings(&[20]) };
    std::fs::write(&settings.data, "{\"input_ids\": [5, 6, 7, 8]}\n").unwrap();
    let error = finetune(&settings, &Simd::new(1), 1, &mut |_| ()).unwrap_err().to_string();
    assert!(error.contains("data.jsonl:1: no prompt before its first labelled token"), "{error}");
}

#[test]
fn only_methods_with_a_second_factor_know_lora_plus() {
    let home = Home::new(&TinyLlama::default());
    home.data(&[20]);
    let base = OpenBase::open(&home.base()).unwrap();
    let data = dataset(&base, &home.path("data.jsonl"));
    let be = Simd::new(1);
    for (method, known) in [("lora", true), ("lora-fa", true), ("vera", false)] {
        for gradient in [Gradient::Backprop, Gradient::Mezo { eps: 0.01 }] {
            let setup = Setup { method, gradient, ..Setup::new(&be) };
            let steps = |ratio| {
                setup.train(&base, &data, 0, |trainer| {
                    assert_eq!(trainer.set_lora_plus(ratio), known, "{method}");
                    let before = trainer.params().to_vec();
                    setup.update(trainer, &data, 1);
                    let moved = trainer.params().iter().zip(&before);
                    moved.map(|(after, before)| f64::from(after - before)).collect::<Vec<_>>()
                })
            };
            let (once, faster) = (steps(1.0), steps(4.0));
            let farther = |(once, faster): (&f64, &f64)| faster.abs() > 3.9 * once.abs();
            let all = once.iter().zip(&faster);
            let grown = all.filter(|(once, _)| **once != 0.0).filter(|pair| farther(*pair));
            let same = once.iter().zip(&faster).filter(|(once, faster)| once == faster).count();
            assert_eq!(grown.count() > 0, known, "{method}");
            assert!(method == "lora-fa" || same > 0, "{method}: something learns as before");
        }
    }
}
