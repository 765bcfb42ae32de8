//! Updates in parts: fewer sequences at once where the budget asks for it, and states by budget.

use lowtide_simd::Simd;
use lowtide_testkit::compare::assert_close;
use lowtide_testkit::tiny::TinyLlama;
use lowtide_train::{PlanReport, PlanRow, Settings, Summary, TrainError, finetune, plan};

use crate::support::Home;

/// A run over batches of four; also its adapter as numbers.
fn run(home: &Home, name: &str, settings: Settings) -> Result<(Summary, Vec<f32>), TrainError> {
    let settings = Settings { output: home.path(name), max_steps: Some(2), ..settings };
    let summary = finetune(&settings, &Simd::new(2), 2, &mut |_| ())?;
    let bytes = std::fs::read(settings.output.join("adapter_model.safetensors")).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let floats = bytes[header..].chunks_exact(4);
    Ok((summary, floats.map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()))
}

fn chosen(plan: &PlanReport) -> &PlanRow {
    plan.alternatives.iter().find(|row| row.chosen).unwrap()
}

fn settings(home: &Home) -> Settings {
    Settings {
        batch_size: 4,
        // Its step is proportional to the gradient: AdamW's first one is its sign.
        optimizer: "sgd".into(),
        lr: 1e-2,
        ..home.settings(&[140, 33, 90, 25, 130, 71, 64, 12])
    }
}

#[test]
fn a_budget_too_small_for_a_batch_takes_it_in_parts() {
    let home = Home::new(&TinyLlama { layers: 3, ..TinyLlama::default() });
    let (_, planned) = plan(&settings(&home), &Simd::new(2), 2).unwrap();
    assert_eq!((planned.micro_batch, planned.sequences_per_update), (4, 4));
    assert_eq!((planned.tokens_max, planned.worst_case.sequences), (140 + 130 + 90 + 71, 8));
    let whole = planned.alternatives.iter().filter(|row| row.micro_batch == 4);
    let whole = whole.filter(|row| row.clipping == "whole").map(|row| row.peak_bytes).min();
    let whole = whole.unwrap();

    let within = |bytes: u64, micro_batch: &str| Settings {
        memory_budget: Some(bytes.to_string()),
        micro_batch: micro_batch.into(),
        clipping: "whole".into(),
        ..settings(&home)
    };
    let (fits, at_once) = run(&home, "whole", within(whole, "fit")).unwrap();
    let (parts, in_parts) = run(&home, "parts", within(whole - 1, "fit")).unwrap();
    assert_eq!(fits.micro_batch, 4);
    assert!(parts.micro_batch < 4);
    assert_eq!(parts.peak_bytes, parts.planned_peak_bytes);
    assert!(parts.peak_bytes < whole && parts.tokens == fits.tokens);
    assert_close("adapters", &in_parts, &at_once, 1e-6, 0.0);
    let (mean, same) = (fits.loss_first.unwrap(), parts.loss_first.unwrap());
    assert!((mean - same).abs() < 1e-6, "{mean} and {same}");
    // What is fastest within the same budget: parts under a policy that computes less again.
    let (_, first) = plan(&within(whole, "fit"), &Simd::new(2), 2).unwrap();
    let (_, quick) = plan(&within(whole, "auto"), &Simd::new(2), 2).unwrap();
    assert!(quick.micro_batch < 4 && quick.tile_rows.is_none() && fits.tile_rows.is_some());
    let (slow, fast) = (chosen(&first), chosen(&quick));
    assert!(fast.time < slow.time && fast.peak_bytes <= whole, "{fast:?} and {slow:?}");
    let error = run(&home, "refused", within(whole - 1, "all")).unwrap_err();
    assert!(matches!(error, TrainError::NoPlanFits { .. }), "{error}");

    // What a run writes down gives its bits again.
    let config = home.path("parts").join("config.toml");
    let (again, bits) = run(&home, "again", Settings::from_file(&config).unwrap()).unwrap();
    assert!(again.micro_batch == parts.micro_batch && bits == in_parts);
    let one = Settings { micro_batch: "1".into(), ..settings(&home) };
    assert_eq!(run(&home, "one", one).unwrap().0.micro_batch, 1);
}

#[test]
fn states_are_as_wide_as_the_budget_allows() {
    let home = Home::new(&TinyLlama::default());
    let auto = || Settings { optimizer: "auto".into(), ..settings(&home) };
    let (summary, _) = run(&home, "wide", auto()).unwrap();
    assert_eq!(summary.optimizer, "adamw");
    let wide = Settings { optimizer: "adamw".into(), ..settings(&home) };
    let (_, wide) = plan(&wide, &Simd::new(2), 2).unwrap();
    let budget = Some((wide.smallest_budget - 1).to_string());
    let lean = Settings { memory_budget: budget, ..auto() };
    let (_, narrow) = plan(&lean, &Simd::new(2), 2).unwrap();
    assert_eq!(narrow.optimizer, "adamw8bit");
    assert!(narrow.planned_peak_bytes < wide.smallest_budget);
}

#[test]
fn accumulated_micro_batches_are_the_big_batch() {
    let home = Home::new(&TinyLlama::default());
    let of = |name: &str, batch_size, grad_accum, optimizer: &str| {
        let optimizer = optimizer.to_owned();
        let settings = Settings { batch_size, grad_accum, optimizer, ..settings(&home) };
        run(&home, name, settings).unwrap()
    };
    for optimizer in ["sgd", "adamw"] {
        // Examples of 12 to 140 tokens: means of means would differ.
        let (big, at_once) = of("big", 8, 1, optimizer);
        let (many, in_turn) = of("many", 1, 8, optimizer);
        assert_eq!((big.steps, big.tokens), (many.steps, many.tokens));
        for (a, b) in [(big.loss_first, many.loss_first), (big.loss_last, many.loss_last)] {
            let (a, b) = (a.unwrap(), b.unwrap());
            assert!((a - b).abs() < 1e-6 * a, "{optimizer}: {a} and {b}");
        }
        // AdamW divides a gradient by its size: one that is next to nothing is all rounding.
        let apart = in_turn.iter().zip(&at_once).filter(|(a, b)| (*a - *b).abs() > 1e-5).count();
        let most = if optimizer == "sgd" { 0 } else { in_turn.len() / 10_000 };
        assert!(apart <= most, "{optimizer}: {apart} of {} numbers", in_turn.len());
        assert_close("adapters", &in_turn, &at_once, 1e-3, 0.0);
    }
}
