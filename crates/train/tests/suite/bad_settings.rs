//! Settings that cannot be met, at the level of whole jobs: budgets, outputs, values out of range,
//! learning rates that blow a run up.

use std::sync::atomic::{AtomicBool, Ordering};

use lowtide_simd::Simd;
use lowtide_testkit::tiny::TinyLlama;
use lowtide_train::{
    BudgetSource, EvalSettings, Event, PatternTable, Settings, TrainError, evaluate, finetune,
    finetune_until, plan,
};

use crate::refused::{eval, evaluation_refused, home, refused, run, tree};
use crate::support::Home;

#[test]
fn over_budget_names_the_smallest_budget_and_that_one_works() {
    let home = Home::new(&TinyLlama { layers: 4, ..TinyLlama::default() });
    let settings = home.settings(&[120, 90]);
    let budget =
        |bytes: u64| Settings { memory_budget: Some(format!("{bytes}B")), ..settings.clone() };
    let error = refused(&home, &budget(1000), &["1000 bytes", "--memory-budget", "every:2"]);
    let TrainError::NoPlanFits { budget: 1000, smallest, policy, from: BudgetSource::Asked } =
        error
    else {
        panic!("{error:?}");
    };
    assert_eq!(policy, "every:2");
    refused(&home, &budget(smallest - 1), &[&smallest.to_string()]);
    let be = Simd::new(1);
    assert!(plan(&budget(smallest - 1), &be, 1).is_err());
    let (_, report) = plan(&budget(smallest), &be, 1).unwrap();
    assert_eq!((&*report.policy, report.store), ("every:2", "f32"));
    assert_eq!(report.planned_peak_bytes, smallest);
    let summary = run(&budget(smallest)).unwrap();
    assert_eq!((summary.policy.as_str(), summary.peak_bytes), ("every:2", smallest));
    std::fs::remove_dir_all(&settings.output).unwrap();
    assert_eq!(run(&settings).unwrap().policy, "store", "the fastest where nothing forbids it");

    let evaluation = |memory_budget| EvalSettings { memory_budget, ..eval(&settings, None) };
    let error = evaluate(&evaluation(Some(1000)), &be).unwrap_err();
    let TrainError::NoPlanFits { smallest, .. } = error else { panic!("{error:?}") };
    assert!(evaluate(&evaluation(Some(smallest - 1)), &be).is_err());
    let tight = evaluate(&evaluation(Some(smallest)), &be).unwrap();
    let free = evaluate(&evaluation(None), &be).unwrap();
    assert_eq!(tight.loss.to_bits(), free.loss.to_bits());
}

#[test]
fn an_output_that_cannot_be_a_folder_is_refused_at_once() {
    let (home, settings) = home();
    let file = home.path("a_file");
    std::fs::write(&file, "mine").unwrap();
    for output in [file.clone(), file.join("below"), file.join("far/below")] {
        let settings = Settings { output: output.clone(), ..settings.clone() };
        let before = tree(&home.path(""));
        let mut events = 0;
        let error = finetune(&settings, &Simd::new(1), 1, &mut |_| events += 1).unwrap_err();
        assert!(matches!(&error, TrainError::Output { path, .. } if *path == output), "{error}");
        assert_eq!(events, 0, "refused before any work");
        assert!(tree(&home.path("")) == before);
    }
    // Folders that do not exist are made.
    let output = home.path("new/and/deep");
    run(&Settings { output: output.clone(), ..settings }).unwrap();
    assert!(output.join("adapter_config.json").is_file());
}

#[test]
fn settings_that_make_no_sense_are_refused_by_name() {
    let (home, settings) = home();
    let base = || settings.clone();
    let some = |text: &str| Some(text.to_owned());
    for (settings, part) in [
        (Settings { rank: 0, ..base() }, "rank"),
        (Settings { rank: usize::MAX, ..base() }, "rank"),
        (Settings { alpha: f64::NAN, ..base() }, "alpha"),
        (Settings { dropout: 1.0, ..base() }, "dropout"),
        (Settings { dropout: -0.1, ..base() }, "dropout"),
        (Settings { method: "magic".into(), ..base() }, "magic"),
        (Settings { target_modules: "q_prj".into(), ..base() }, "q_prj"),
        (Settings { target_modules: "(".into(), ..base() }, "target modules"),
        (Settings { layers: "5-7".into(), ..base() }, "layer"),
        (Settings { layers: "last:0".into(), ..base() }, "layer"),
        (Settings { optimizer: "adam".into(), ..base() }, "optimizer"),
        (Settings { checkpointing: "some".into(), ..base() }, "checkpointing"),
        (Settings { lr: f64::INFINITY, ..base() }, "lr"),
        (Settings { batch_size: usize::MAX, ..base() }, "batch-size"),
        (Settings { grad_accum: 0, ..base() }, "grad-accum"),
        (Settings { max_seq_len: 1, ..base() }, "max-seq-len"),
        (Settings { max_seq_len: usize::MAX, ..base() }, "sequence length"),
        (Settings { memory_budget: some("a lot"), ..base() }, "a lot"),
    ] {
        refused(&home, &settings, &[part]);
    }
}

/// Reading data may take long, so nothing that can be said without it waits for it.
#[test]
fn what_base_and_method_refuse_is_told_before_data_is_read() {
    let (home, settings) = home();
    std::fs::write(&settings.data, "no JSON at all\n").unwrap();
    refused(&home, &settings, &["data.jsonl:1"]);
    let base = || settings.clone();
    let method = |method: &str| Settings { method: method.into(), ..base() };
    let option = |of: &str, option: &str, value: &str| Settings {
        method_option: [(option.to_owned(), value.to_owned())].into(),
        ..method(of)
    };
    let pattern = |text: &str, rank| Settings {
        rank_pattern: PatternTable(vec![(text.to_owned(), rank)]),
        ..base()
    };
    for (settings, part) in [
        (option("lora", "pool", "all"), "lora has no option `pool`"),
        (option("lora", "quantize", "int2"), "option `quantize` is `int2`"),
        (option("qalora", "group_size", "7"), "no multiple of the option `group_size`"),
        (option("vera", "d_initial", "much"), "option `d_initial` is `much`"),
        (Settings { target_modules: "q_prj".into(), ..base() }, "q_prj"),
        (Settings { target_modules: "(".into(), ..base() }, "target modules"),
        (Settings { target_modules: "self_attn".into(), ..base() }, "self_attn"),
        (Settings { layers: "5-7".into(), ..base() }, "layer"),
        (Settings { layers: "last:9".into(), ..base() }, "the model has 2"),
        (pattern("w_proj", 2), "w_proj"),
        (pattern(".*", 0), "leave none of the chosen sites"),
        (Settings { dropout: 0.1, ..method("ia3") }, "dropout"),
        (Settings { lora_plus_ratio: 4.0, ..method("vera") }, "lora-plus-ratio"),
        (Settings { adaptive_rank: Some(4), ..method("ia3") }, "adaptive-rank"),
        (Settings { adapter_type: "int8".into(), ..method("ia3") }, "nothing to code"),
        (Settings { adapter_budget: Some("1MB".into()), rank: 129, ..base() }, "at most 128"),
        (
            Settings { gradient: "partial".into(), partial_blocks: Some(9), ..base() },
            "9 of 2 trained blocks",
        ),
        (
            Settings { memory_budget: Some("1KiB".into()), rank: 99, ..method("vera") },
            "what its sites share",
        ),
    ] {
        refused(&home, &settings, &[part]);
    }
    let foreign = Home::new(&TinyLlama { layers: 3, ..TinyLlama::default() });
    let other = foreign.settings(&[20]);
    run(&other).unwrap();
    let evaluation = eval(&settings, Some(other.output));
    evaluation_refused(&evaluation, &["adapts `model.layers.2.", "of another base"]);
}

#[test]
fn large_counts_that_make_sense_are_harmless() {
    let (home, settings) = home();
    let large = Settings { batch_size: 1 << 20, grad_accum: 1 << 20, ..settings.clone() };
    let summary = run(&large).unwrap();
    assert_eq!((summary.steps, summary.tokens), (2, 2 * 21), "every update takes all examples");
    let (_, report) =
        plan(&Settings { max_steps: None, epochs: u64::MAX, ..settings }, &Simd::new(1), 1)
            .unwrap();
    assert_eq!(report.steps, u64::MAX);
    drop(home);
}

#[test]
fn a_run_that_diverges_keeps_what_was_saved_before() {
    let (home, settings) = home();
    let wild = Settings {
        lr: 1e30,
        lr_scheduler: "constant".into(),
        warmup_steps: Some(0),
        max_steps: Some(4),
        max_rollbacks: 0,
        ..settings
    };
    let error = refused(&home, &wild, &["--lr", "1.000e30"]);
    assert!(matches!(error, TrainError::Diverged { step: 2, .. }), "{error}");

    let saving = Settings { save_every: 1, ..wild };
    let mut saved = None;
    let error = finetune(&saving, &Simd::new(1), 1, &mut |event| {
        if let Event::Saved { path, .. } = event {
            saved = Some(tree(path));
        }
    });
    assert!(matches!(error, Err(TrainError::Diverged { step: 2, .. })), "{error:?}");
    assert!(saved.is_some_and(|saved| saved.len() == 6 && tree(&saving.output) == saved));
}

#[test]
fn a_run_whose_last_update_diverges_writes_nothing() {
    let (home, settings) = home();
    let wild = Settings {
        lr: 1e38,
        optimizer: "sgd".into(),
        lr_scheduler: "constant".into(),
        warmup_steps: Some(0),
        max_grad_norm: 0.0,
        max_steps: Some(1),
        ..settings
    };
    let error = refused(&home, &wild, &["diverged"]);
    assert!(matches!(error, TrainError::Diverged { step: 1, .. }), "{error}");
}

#[test]
fn a_run_that_is_stopped_saves_what_it_learned() {
    let (_home, settings) = home();
    let long = Settings { max_steps: Some(1000), ..settings };
    let stop = AtomicBool::new(false);
    let mut on_event = |event: &Event| {
        if let Event::Step(step) = event
            && step.step == 3
        {
            stop.store(true, Ordering::Relaxed);
        }
    };
    let summary = finetune_until(&long, &Simd::new(1), 1, &mut on_event, &stop).unwrap();
    assert_eq!((summary.steps, summary.interrupted), (3, true));
    let files = "adapter, config, metrics, summary, report and what is needed to go on";
    assert_eq!(tree(&long.output).len(), 8, "{files}");
    let after = evaluate(&eval(&long, Some(long.output.clone())), &Simd::new(1)).unwrap();
    assert!(after.loss.is_finite());

    std::fs::remove_dir_all(&long.output).unwrap();
    let summary = finetune_until(&long, &Simd::new(1), 1, &mut |_| (), &stop).unwrap();
    assert_eq!((summary.steps, summary.interrupted), (0, true));
    assert!(!long.output.exists(), "nothing was learned, so nothing is written");
}
