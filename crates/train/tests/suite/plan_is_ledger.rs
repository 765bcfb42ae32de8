//! The plan, the ledger after reserve and the ledger's peak after training agree to the byte.

use std::collections::BTreeMap;

use lowtide_backend::{Backend, Scalar};
use lowtide_data::Dataset;
use lowtide_memory::{Budget, ByCategory, Category, Ledger, ReserveError};
use lowtide_optim::{AdamW, AdamW8, Lion, Lion8, Optimizer, Sgd};
use lowtide_simd::{Compute, Simd};
use lowtide_tape::Policy::{self, Block, Sqrt, Store};
use lowtide_tape::Store as Form;
use lowtide_testkit::models;
use lowtide_testkit::tiny::TinyLlama;
use lowtide_train::{Event, OpenBase, Settings, Trainer, finetune};

use crate::support::{ADAMW, Home, Kind, Setup, bits, dataset, limits};

static ADAMW8: AdamW8 = AdamW8(AdamW { weight_decay: 0.0, ..ADAMW });
static LION: Lion = Lion { beta1: 0.9, beta2: 0.99, weight_decay: 0.01 };
static LION8: Lion8 = Lion8(LION);
static MOMENTUM: Sgd = Sgd { weight_decay: 0.01, momentum: 0.9 };
static SGD: Sgd = Sgd { weight_decay: 0.01, momentum: 0.0 };

/// Numbers of tokens of the examples, and how to train on them.
struct Row {
    lengths: &'static [usize],
    rank: usize,
    policy: Policy,
    /// How segment inputs are kept.
    form: Form,
    /// Sequences in a micro-batch, micro-batches in an update.
    batch: (usize, usize),
    optimizer: &'static dyn Optimizer,
    apply_and_free: bool,
    layers: &'static str,
    targets: &'static str,
    dropout: f64,
    /// Tokens of the sequences that examples are packed into.
    packed: Option<usize>,
}

const fn row(lengths: &'static [usize], rank: usize, policy: Policy) -> Row {
    Row {
        lengths,
        rank,
        policy,
        form: Form::F32,
        batch: (1, 1),
        optimizer: &ADAMW,
        apply_and_free: false,
        layers: "all",
        targets: "all-linear",
        dropout: 0.0,
        packed: None,
    }
}

const EVERY_TWO: Policy = Policy::ALL[3];

const SHORT: &[usize] = &[9, 5];
const ODD: &[usize] = &[63, 17, 40];
const LONG: &[usize] = &[150, 70, 130, 3];
const MIXED: &[usize] = &[40, 9, 21, 30, 12, 50, 3, 17];

/// Lengths, ranks, policies, batches, optimizers, sinks, layers, targets and dropout, each with
/// several of the others.
fn rows() -> Vec<Row> {
    vec![
        row(SHORT, 1, Store),
        row(SHORT, 1, Block),
        row(SHORT, 8, Store),
        row(SHORT, 8, Block),
        row(ODD, 4, Store),
        row(ODD, 4, Block),
        row(LONG, 8, Store),
        row(LONG, 8, Block),
        Row { batch: (2, 1), ..row(ODD, 2, Store) },
        Row { batch: (2, 1), ..row(LONG, 2, Block) },
        Row { batch: (3, 2), optimizer: &ADAMW8, ..row(SHORT, 4, Store) },
        Row { batch: (2, 2), optimizer: &ADAMW8, ..row(LONG, 4, Block) },
        Row { batch: (1, 4), optimizer: &SGD, ..row(ODD, 16, Block) },
        Row { apply_and_free: true, ..row(LONG, 8, Store) },
        Row { apply_and_free: true, ..row(LONG, 8, Block) },
        Row { apply_and_free: true, optimizer: &ADAMW8, batch: (4, 1), ..row(SHORT, 3, Block) },
        Row { apply_and_free: true, optimizer: &SGD, layers: "last:1", ..row(ODD, 5, Store) },
        Row { layers: "last:1", ..row(ODD, 4, Store) },
        Row { layers: "last:2", optimizer: &ADAMW8, ..row(ODD, 4, Block) },
        Row { layers: "1-1", batch: (2, 1), ..row(LONG, 4, Store) },
        Row { targets: "q_proj,v_proj", ..row(ODD, 8, Block) },
        Row { targets: "down_proj", layers: "last:1", dropout: 0.1, ..row(LONG, 4, Block) },
        Row { dropout: 0.1, apply_and_free: true, ..row(ODD, 4, Store) },
        row(ODD, 3, Sqrt),
        row(LONG, 4, EVERY_TWO),
        Row { form: Form::Bf16, ..row(ODD, 4, Block) },
        Row { form: Form::Int8, batch: (2, 2), ..row(LONG, 4, Sqrt) },
        Row { form: Form::File, ..row(LONG, 4, Block) },
        Row { form: Form::File, apply_and_free: true, layers: "last:2", ..row(ODD, 4, EVERY_TWO) },
        Row { optimizer: &LION, ..row(LONG, 4, Block) },
        Row { optimizer: &LION8, batch: (2, 1), ..row(ODD, 4, Block) },
        Row { optimizer: &LION8, apply_and_free: true, ..row(LONG, 5, Block) },
        Row { optimizer: &MOMENTUM, apply_and_free: true, ..row(ODD, 4, Block) },
        Row { packed: Some(64), ..row(MIXED, 4, Store) },
        Row { packed: Some(64), ..row(MIXED, 4, Block) },
        Row { packed: Some(100), batch: (2, 2), optimizer: &ADAMW8, ..row(MIXED, 8, Block) },
        Row { packed: Some(30), apply_and_free: true, batch: (3, 1), ..row(MIXED, 2, Block) },
    ]
}

/// Trains two updates and returns the adapter's bits; `poison` fills memory with NaN wherever
/// nothing alive lies in it.
fn train(
    trainer: &mut Trainer<'_, '_>,
    setup: &Setup<'_>,
    data: &Dataset,
    poison: bool,
) -> Vec<u32> {
    trainer.executor_mut().set_poison(poison);
    trainer.evaluate(data, setup.sequences).unwrap();
    for step in 1..=2 {
        let update = setup.update(trainer, data, step);
        assert!(update.sum.mean().is_finite() && update.non_finite == 0, "{update:?}");
    }
    bits(trainer.params())
}

fn check(be: &dyn Backend<f32>, row: &Row, home: &Home) -> ByCategory {
    let base = OpenBase::open(&home.base()).unwrap();
    let mut data = dataset(&base, &home.data(row.lengths));
    if let Some(capacity) = row.packed {
        data = data.pack(capacity, 0).unwrap();
    }
    let setup = Setup {
        optimizer: row.optimizer,
        policy: row.policy,
        store: row.form,
        rank: row.rank,
        dropout: row.dropout,
        targets: row.targets,
        layers: row.layers,
        sequences: row.batch.0,
        accum: row.batch.1,
        apply_and_free: row.apply_and_free,
        ..Setup::new(be)
    };
    let model = setup.model(&base);
    let planned = setup.plan(&model, &data).bytes();
    let mut trained = Vec::new();
    for poison in [false, true] {
        let mut ledger = Ledger::new(Budget::of(planned.held()));
        let mut trainer = setup.reserve(&model, &data, &mut ledger);
        assert_eq!(ledger.live(), planned, "after reserve");
        trained.push(train(&mut trainer, &setup, &data, poison));
        assert_eq!(ledger.live(), planned, "after training");
        trainer.release(&mut ledger);
        assert_eq!(ledger.at_peak(), planned, "at the peak");
        assert_eq!(ledger.live().held(), 0, "after release");
    }
    assert!(trained[0] == trained[1], "poisoned memory was read");
    planned
}

#[test]
fn the_plan_is_the_ledger_to_the_byte() {
    let home = Home::new(&TinyLlama { layers: 3, ..TinyLlama::default() });
    let rows = rows();
    let mut totals = Vec::new();
    for (i, row) in rows.iter().enumerate() {
        let planned = check(&*Kind::fastest().make(2), row, &home);
        // Tables differ in how wide their panels are, backends in what they ask for.
        let others: Vec<_> = Kind::all().collect();
        check(&*others[i % others.len()].make(2), row, &home);
        // The specification is slow: every third row, on one thread, is proof enough.
        if i % 3 == 0 {
            check(&Scalar, row, &home);
        }
        assert!(planned[Category::Checkpoint] > 0 && planned[Category::Adapter] > 0, "row {i}");
        assert_eq!(planned[Category::Mapped], 0, "row {i}");
        totals.push(planned.held());
    }
    assert_eq!(totals.len(), 37);
    totals.sort_unstable();
    totals.dedup();
    assert_eq!(totals.len(), 37, "every configuration has a size of its own");
}

#[test]
fn a_budget_one_byte_short_is_refused_and_leaves_nothing_charged() {
    let home = Home::new(&TinyLlama::default());
    let base = OpenBase::open(&home.base()).unwrap();
    let data = dataset(&base, &home.data(ODD));
    let be = Simd::new(2);
    let setup = Setup::new(&be);
    let model = setup.model(&base);
    let planned = setup.plan(&model, &data).bytes().held();
    // Budgets that end at each of the trainer's charges, the last one byte short of the whole.
    for budget in (0..=8).map(|eighth| (planned - 1) * eighth / 8) {
        let mut ledger = Ledger::new(Budget::of(budget));
        let plan = setup.plan(&model, &data);
        let refused = Trainer::reserve(&model, &be, &ADAMW, plan, 0.0, 0, &mut ledger);
        let error = refused.err().unwrap_or_else(|| panic!("{planned} bytes in {budget}"));
        let ReserveError::OverBudget(error) = error else { panic!("{error}") };
        assert_eq!(error.budget, budget);
        assert!(error.live + error.asked > budget, "{error}");
        assert_eq!(ledger.live().held(), 0, "budget {budget}");
    }
}

#[test]
fn limits_cover_any_batch_within_them() {
    let home = Home::new(&TinyLlama::default());
    let base = OpenBase::open(&home.base()).unwrap();
    let data = dataset(&base, &home.data(LONG));
    let be = Simd::new(2);
    let setup = Setup { sequences: 2, ..Setup::new(&be) };
    let limits = limits(&data, setup.sequences);
    assert_eq!((limits.tokens, limits.labelled), (300, 200));
    let model = setup.model(&base);
    let mut ledger = Ledger::new(Budget::UNLIMITED);
    let mut trainer = setup.reserve(&model, &data, &mut ledger);
    let held = ledger.live();
    // One long example, two, and the shortest with the longest.
    let sums: Vec<_> = [0..1, 0..2, 3..4]
        .map(|examples| {
            let hyper = lowtide_optim::StepHyper { lr: 1e-3, step: 1, grad_scale: 1.0 };
            trainer.update(&data, examples, 2, 1, hyper).unwrap().sum.labelled
        })
        .into();
    assert_eq!(sums, [100, 147, 2]);
    assert_eq!(ledger.at_peak(), held);
    trainer.release(&mut ledger);
}

/// Planned, charged and reported peaks of a whole job, and the budget that is just enough.
fn job(settings: &Settings, be: &dyn Backend<f32>) {
    let mut plan = None;
    let summary = finetune(settings, be, 2, &mut |event| {
        if let Event::Plan(report) = event {
            plan = Some(report.clone());
        }
    })
    .unwrap();
    let plan = plan.expect("a plan is reported");
    assert_eq!(summary.planned_peak_bytes, summary.peak_bytes);
    assert_eq!(summary.peak_bytes, summary.peak_by_category.values().sum::<u64>());
    assert_eq!(plan.planned_peak_bytes, summary.peak_bytes);
    let planned = plan.peak_by_category.iter().map(|(name, bytes)| (name.to_string(), *bytes));
    assert_eq!(planned.collect::<BTreeMap<_, _>>(), summary.peak_by_category);
    assert_eq!(plan.trainable_parameters, summary.trainable_parameters);
    assert_eq!(plan.steps, summary.steps);
    let written = std::fs::read(settings.output.join("summary.json")).unwrap();
    let written: serde_json::Value = serde_json::from_slice(&written).unwrap();
    assert_eq!(written["peak_bytes"], summary.peak_bytes);

    let exact =
        Settings { memory_budget: Some(summary.peak_bytes.to_string()), ..settings.clone() };
    let again = finetune(&exact, be, 2, &mut |_| ()).unwrap();
    assert_eq!(again.peak_bytes, summary.peak_bytes);
    assert_eq!(again.policy, summary.policy);
}

#[test]
fn whole_jobs_report_what_they_planned() {
    let home = Home::new(&TinyLlama { layers: 3, ..TinyLlama::default() });
    let base = || home.settings(LONG);
    for settings in [
        base(),
        Settings { checkpointing: "block".into(), ..base() },
        Settings { batch_size: 2, grad_accum: 2, optimizer: "adamw".into(), ..base() },
        Settings { max_grad_norm: 0.0, optimizer: "sgd".into(), val_split: 0.3, ..base() },
        Settings { optimizer: "lion8bit".into(), beta2: Some(0.95), ..base() },
        Settings { layers: "last:1".into(), rank: 3, dropout: 0.05, ..base() },
        Settings { packing: true, batch_size: 2, grad_accum: 2, max_steps: None, ..base() },
        Settings { packing: true, max_seq_len: 40, val_split: 0.3, ..base() },
        Settings { gradient: "mezo".into(), grad_accum: 2, optimizer: "sgd".into(), ..base() },
        Settings { gradient: "mezo".into(), softmax: "union:9".into(), ..base() },
        Settings { gradient: "partial".into(), partial_blocks: Some(2), ..base() },
        Settings { softmax: "union:9".into(), max_grad_norm: 0.0, ..base() },
        Settings { softmax: "union:2".into(), packing: true, batch_size: 2, ..base() },
        Settings { max_seq_len: 33, save_every: 1, eval_every: 1, val_split: 0.25, ..base() },
    ] {
        for kind in [Kind::Ndarray, Kind::fastest()] {
            job(&settings, &*kind.make(2));
        }
    }
    // Packed weights, whose products ask for other scratch in each arithmetic.
    for (precision, compute) in
        [("exact", Compute::F32), ("balanced", Compute::Int8x2), ("fast", Compute::Int8)]
    {
        let (model, precision) = (models::quickstart(), precision.into());
        let packed = Settings { model, precision, ..base() };
        job(&packed, &Simd::new(2).computing(compute));
    }
}
