//! Optimizer states in a file: the same bits, and less memory by what the plan says.

use std::num::NonZeroUsize;

use lowtide_data::Dataset;
use lowtide_memory::{Budget, Category, Ledger};
use lowtide_optim::{AdamW, AdamW8, Lion8, Optimizer, SparseTop};
use lowtide_simd::Simd;
use lowtide_testkit::tiny::TinyLlama;
use lowtide_train::{AdaptiveRank, Event, Gradient, OpenBase, Settings, Trainer, finetune};

use crate::support::{ADAMW, Home, Setup, bits, dataset};

static ADAMW8: AdamW8 = AdamW8(AdamW { weight_decay: 0.0, ..ADAMW });

fn home() -> Home {
    let home = Home::new(&TinyLlama { layers: 3, ..TinyLlama::default() });
    home.data(&[40, 21, 33]);
    home
}

fn states(trainer: &mut Trainer<'_, '_>) -> Vec<u32> {
    let mut all = Vec::new();
    let mut take = |state: &mut [f32]| {
        all.extend(bits(state));
        Ok(())
    };
    trainer.for_each_state(&mut take).unwrap();
    all
}

/// Parameters and states after four updates, and what was held of the optimizer's.
fn run(home: &Home, data: &Dataset, setup: &Setup<'_>) -> (Vec<u32>, Vec<u32>, u64) {
    let base = OpenBase::open(&home.base()).unwrap();
    let model = setup.model(&base);
    let planned = setup.plan(&model, data).bytes();
    let mut ledger = Ledger::new(Budget::of(planned.held()));
    let mut trainer = setup.reserve(&model, data, &mut ledger);
    assert_eq!(ledger.live(), planned, "after reserve");
    for step in 1..=4 {
        assert_eq!(setup.update(&mut trainer, data, step).non_finite, 0);
    }
    let seen = (bits(trainer.params()), states(&mut trainer), planned[Category::Optimizer]);
    trainer.release(&mut ledger);
    assert_eq!((ledger.at_peak(), ledger.live().held()), (planned, 0));
    seen
}

#[test]
fn a_file_changes_no_bit_and_saves_all_blocks_but_one() {
    let home = home();
    let base = OpenBase::open(&home.base()).unwrap();
    let data = dataset(&base, &home.path("data.jsonl"));
    let be = Simd::new(2);
    let lion8 = Lion8::default();
    let sparse = SparseTop { inner: ADAMW, share: 0.25 };
    let course = AdaptiveRank { start: 84, target: 40, from: 1, until: 4 };
    let setup = || Setup::new(&be);
    let of = |optimizer| Setup { optimizer, ..setup() };
    let blocks = NonZeroUsize::new(2).unwrap();
    for (name, ways) in [
        ("adamw", [setup(), setup()]),
        ("adamw8", [of(&ADAMW8), of(&ADAMW8)]),
        ("lion8", [of(&lion8), of(&lion8)]),
        ("sparse", [of(&sparse as &dyn Optimizer), of(&sparse)]),
        ("freeing", [(); 2].map(|()| Setup { apply_and_free: true, ..of(&ADAMW8) })),
        ("last", [(); 2].map(|()| Setup { layers: "last:2", ..of(&ADAMW8) })),
        ("mezo", [(); 2].map(|()| Setup { gradient: Gradient::Mezo { eps: 0.01 }, ..setup() })),
        ("partial", [(); 2].map(|()| Setup { gradient: Gradient::Partial { blocks }, ..setup() })),
        ("adaptive", [(); 2].map(|()| Setup { adaptive: Some(course), ..setup() })),
    ] {
        let [ram, file] = ways;
        let file = Setup { filed: true, ..file };
        let (params, state, held) = run(&home, &data, &ram);
        let (params_filed, state_filed, held_filed) = run(&home, &data, &file);
        assert!(params == params_filed, "{name}: other parameters");
        assert!(state == state_filed, "{name}: other states");
        assert!(!state.is_empty() && state.iter().any(|word| *word != 0), "{name}");
        // Blocks are alike, so that one is a share of all.
        let trained = if name == "last" { 2 } else { 3 };
        let scores = if name == "adaptive" { course.start as u64 * 8 } else { 0 };
        assert_eq!(held - scores, trained * (held_filed - scores), "{name}");
    }
}

#[test]
fn states_can_be_set_wherever_they_are() {
    let home = home();
    let base = OpenBase::open(&home.base()).unwrap();
    let data = dataset(&base, &home.path("data.jsonl"));
    let be = Simd::new(1);
    let run = |filed, given: Option<&[u32]>| {
        let setup = Setup { filed, ..Setup::new(&be) };
        setup.train(&base, &data, 0, |trainer| {
            let mut words = given.unwrap_or_default().iter();
            let mut set = |state: &mut [f32]| {
                state.iter_mut().zip(&mut words).for_each(|(s, word)| *s = f32::from_bits(*word));
                Ok(())
            };
            trainer.for_each_state(&mut set).unwrap();
            setup.update(trainer, &data, 5);
            (states(trainer), bits(trainer.params()))
        })
    };
    let (grown, _) = run(false, None);
    let (ram, file) = (run(false, Some(&grown)), run(true, Some(&grown)));
    assert!(ram == file && ram.0 != grown);
}

#[test]
fn a_budget_too_small_for_states_puts_them_in_a_file() {
    let home = home();
    let be = Simd::new(1);
    let base = || Settings { optimizer: "adamw".into(), ..home.settings(&[40, 21, 33]) };
    let finetune = |settings: &Settings| {
        let mut plan = None;
        let summary = finetune(settings, &be, 1, &mut |event| {
            if let Event::Plan(report) = event {
                plan = Some(report.clone());
            }
        });
        let adapter = std::fs::read(settings.output.join("adapter_model.safetensors"));
        (summary.unwrap(), plan.unwrap(), adapter.unwrap())
    };
    let leanest = Settings { checkpointing: "sqrt".into(), clipping: "two-pass".into(), ..base() };
    let ram = Settings { optimizer_states: "ram".into(), ..leanest.clone() };
    let (roomy, plan, adapter) = finetune(&ram);
    assert_eq!((plan.optimizer_states, plan.disk_bytes_per_update), ("ram", 0));
    let smallest = plan.smallest_budget;
    let tight = Settings { memory_budget: Some((smallest - 1).to_string()), ..leanest };
    let (lean, plan, same) = finetune(&tight);
    assert_eq!(plan.optimizer_states, "file");
    let states = 2 * 4 * plan.trainable_parameters as u64;
    assert_eq!(plan.disk_bytes_per_update, 2 * states);
    assert!(lean.peak_bytes < smallest && smallest <= roomy.peak_bytes);
    assert_eq!(lean.peak_by_category["optimizer"], states / 3);
    assert_eq!(lean.peak_bytes, lean.planned_peak_bytes);
    assert!(same == adapter, "another adapter");
    let config = std::fs::read_to_string(tight.output.join("config.toml")).unwrap();
    assert!(config.contains("optimizer-states = \"file\""), "{config}");
}

#[test]
fn a_folder_without_room_for_the_file_is_named() {
    let home = home();
    let settings = Settings {
        optimizer_states: "file".into(),
        scratch_dir: Some(home.path("nowhere")),
        ..home.settings(&[20])
    };
    let error = finetune(&settings, &Simd::new(1), 1, &mut |_| ()).unwrap_err().to_string();
    assert!(
        error.contains("nowhere: no temporary file for the optimizer's states can be written"),
        "{error}"
    );
    let settings = Settings { optimizer_states: "tape".into(), ..settings };
    let error = finetune(&settings, &Simd::new(1), 1, &mut |_| ()).unwrap_err().to_string();
    assert!(error.contains("`optimizer-states` is tape, expected auto, ram or file"), "{error}");
}
