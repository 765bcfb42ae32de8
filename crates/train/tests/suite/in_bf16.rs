//! Parameters in bf16: planned to the byte, the same bits however an update goes, and an adapter
//! that learns nearly as much.

use lowtide_data::Dataset;
use lowtide_memory::{Budget, Category, Ledger};
use lowtide_optim::Sgd;
use lowtide_simd::Simd;
use lowtide_tape::Policy;
use lowtide_testkit::golden::load_safetensors;
use lowtide_testkit::tiny::TinyLlama;
use lowtide_train::{Clip, Event, Gradient, OpenBase, Settings, Trainer, finetune};

use crate::support::{Home, Setup, bits, dataset, in_pool};

fn home() -> Home {
    let home = Home::new(&TinyLlama { layers: 3, ..TinyLlama::default() });
    home.data(&[40, 21, 33]);
    home
}

fn values(trainer: &mut Trainer<'_, '_>) -> Vec<f32> {
    trainer.with_values(|values| values.params.to_vec())
}

/// Parameters after some updates, and the bytes held of them.
fn run(home: &Home, data: &Dataset, setup: &Setup<'_>, updates: u64) -> (Vec<f32>, u64) {
    let base = OpenBase::open(&home.base()).unwrap();
    let model = setup.model(&base);
    let planned = setup.plan(&model, data).bytes();
    let mut ledger = Ledger::new(Budget::of(planned.held()));
    let mut trainer = setup.reserve(&model, data, &mut ledger);
    assert_eq!(ledger.live(), planned, "after reserve");
    for step in 1..=updates {
        assert_eq!(setup.update(&mut trainer, data, step).non_finite, 0);
    }
    assert!(trainer.is_finite());
    trainer.evaluate(data, 1).unwrap();
    let values = values(&mut trainer);
    trainer.release(&mut ledger);
    assert_eq!((ledger.at_peak(), ledger.live().held()), (planned, 0));
    (values, planned[Category::Adapter])
}

#[test]
fn half_the_bytes_and_one_block_in_f32() {
    let home = home();
    let base = OpenBase::open(&home.base()).unwrap();
    let data = dataset(&base, &home.path("data.jsonl"));
    let be = Simd::new(2);
    for setup in [
        Setup::new(&be),
        Setup { apply_and_free: true, ..Setup::new(&be) },
        Setup { gradient: Gradient::Mezo { eps: 0.01 }, ..Setup::new(&be) },
        Setup { method: "dora", ..Setup::new(&be) },
        Setup { filed: true, apply_and_free: true, ..Setup::new(&be) },
    ] {
        let (whole, held) = run(&home, &data, &setup, 3);
        let (packed, held_packed) = run(&home, &data, &Setup { in_bf16: true, ..setup }, 3);
        assert!(packed.iter().all(|p| p.to_bits() & 0xffff == 0));
        let all = 4 * whole.len() as u64;
        // Three blocks alike; what goes with parameters is as it was.
        assert_eq!(held_packed, held - all + all.div_ceil(2).next_multiple_of(4) + all / 3);
        let far = |(a, b): (&f32, &f32)| (a - b).abs() > 0.02 + 0.02 * a.abs();
        assert!(whole != packed && !whole.iter().zip(&packed).any(far));
    }
}

#[test]
fn sinks_threads_and_policies_change_no_bit() {
    let home = home();
    let base = OpenBase::open(&home.base()).unwrap();
    let data = dataset(&base, &home.path("data.jsonl"));
    let trained = |threads, policy, apply_and_free, seed| {
        in_pool(threads, |be| {
            let setup = Setup { in_bf16: true, policy, apply_and_free, seed, ..Setup::new(be) };
            bits(&run(&home, &data, &setup, 3).0)
        })
    };
    let first = trained(1, Policy::Block, false, 0);
    assert!(first == trained(2, Policy::Store, false, 0));
    assert!(first == trained(2, Policy::Block, true, 0));
    assert!(first == trained(1, Policy::Sqrt, true, 0));
    assert!(first != trained(1, Policy::Block, false, 1));
    let be = Simd::new(1);
    let clip = Clip::Whole(1e9);
    let clipped = Setup { in_bf16: true, clip, apply_and_free: true, ..Setup::new(&be) };
    assert!(first == bits(&run(&home, &data, &clipped, 3).0), "in two passes");
}

#[test]
fn steps_below_the_next_bf16_count_on_average() {
    let home = home();
    let base = OpenBase::open(&home.base()).unwrap();
    let data = dataset(&base, &home.path("data.jsonl"));
    let be = Simd::new(1);
    // Decay alone, a ten-thousandth an update, where neighbours are 1/256 apart: rounding to
    // nearest would leave everything as it is.
    let decay = Sgd { weight_decay: 0.1, momentum: 0.0 };
    let setup = Setup { in_bf16: true, optimizer: &decay, ..Setup::new(&be) };
    setup.train(&base, &data, 0, |trainer| {
        trainer.with_values(|values| values.params.fill(0.0));
        let [start, updates] = [1.25_f32, 40.0];
        let sites = &trainer.model().sites;
        let first: Vec<_> =
            sites.iter().map(|site| (site.range.start, site.params[0].len())).collect();
        let set = |p: &mut [f32]| {
            first.iter().for_each(|&(at, len)| p[at..at + len].fill(start));
        };
        trainer.with_values(|values| set(values.params));
        for step in 1..=updates as u64 {
            setup.update(trainer, &data, step);
        }
        let all = values(trainer);
        let of_first = first.iter().flat_map(|&(at, len)| &all[at..at + len]);
        let (count, sum) = of_first.fold((0.0, 0.0), |(n, sum), p| (n + 1.0, sum + f64::from(*p)));
        let want = f64::from(start) * (1.0 - 1e-4_f64).powi(updates as i32);
        let mean: f64 = sum / count;
        // A walk of steps of 1/128, each rarely taken.
        assert!((mean - want).abs() < 1e-3, "{mean} for {want} over {count}");
    });
}

#[test]
fn a_whole_job_saves_what_it_trained() {
    let home = home();
    let base = || Settings { max_steps: Some(6), val_split: 0.3, ..home.settings(&[40, 21, 33]) };
    let be = Simd::new(1);
    let finetune = |settings: &Settings| {
        let mut plan = None;
        let summary = finetune(settings, &be, 1, &mut |event| {
            if let Event::Plan(report) = event {
                plan = Some(report.clone());
            }
        });
        let weights = load_safetensors(&settings.output.join("adapter_model.safetensors"));
        (summary.unwrap(), plan.unwrap(), weights)
    };
    let (whole, ..) = finetune(&base());
    let in_bf16 = Settings { param_dtype: "bf16".into(), save_every: 2, ..base() };
    for settings in [
        in_bf16.clone(),
        Settings { max_grad_norm: 0.0, adapter_type: "bf16".into(), ..in_bf16.clone() },
        Settings { init_adapter: Some(base().output), output: home.path("b"), ..in_bf16.clone() },
    ] {
        let (summary, plan, weights) = finetune(&settings);
        assert_eq!(plan.param_dtype, "bf16");
        assert_eq!(summary.peak_bytes, plan.planned_peak_bytes);
        assert!(weights.values().flat_map(|w| &w.data).all(|p| p.to_bits() & 0xffff == 0));
        assert!(weights.values().flat_map(|w| &w.data).any(|p| *p != 0.0));
        let (loss, want) = (summary.eval_loss_after.unwrap(), whole.eval_loss_after.unwrap());
        assert!((loss - want).abs() < 0.02 * want, "{loss} for {want}");
    }
    let codes = Settings { adapter_type: "int8".into(), ..in_bf16 };
    let error = lowtide_train::finetune(&codes, &be, 1, &mut |_| ()).unwrap_err().to_string();
    assert!(
        error.contains("`param-dtype` is bf16, expected f32 for an adapter in codes"),
        "{error}"
    );
}
