//! Evaluations within a budget: smaller tiles hold less and measure the same.

use lowtide_optim::Sgd;
use lowtide_simd::Simd;
use lowtide_tape::Policy;
use lowtide_testkit::tiny::TinyLlama;
use lowtide_train::{EvalSettings, Needs, OpenBase, RunPlan, TrainError, evaluate};

use crate::refused::eval;
use crate::support::{Home, dataset, limits};

#[test]
fn a_small_budget_takes_rows_in_tiles_and_changes_no_bit() {
    let home = Home::new(&TinyLlama::default());
    let settings = eval(&home.settings(&[300, 20, 150]), None);
    let be = Simd::new(2);
    let within =
        |bytes| evaluate(&EvalSettings { memory_budget: Some(bytes), ..settings.clone() }, &be);
    let Err(TrainError::NoPlanFits { smallest, .. }) = within(1) else { panic!("one byte") };

    let base = OpenBase::open(&settings.model).unwrap();
    let data = dataset(&base, &settings.data);
    let needs = Needs {
        limits: limits(&data, 1),
        longest: data.stats().longest,
        data_bytes: data.heap_bytes() as u64,
        apply_and_free: false,
        train: false,
        gradient: lowtide_train::Gradient::Backprop,
    };
    let model = base.build(None).unwrap();
    let all_rows = RunPlan::new(&model, &be, &Sgd::default(), needs, Policy::Block);
    let all_rows = all_rows.bytes().held();
    assert!(smallest < all_rows, "{smallest} and {all_rows} bytes");

    let free = evaluate(&settings, &be).unwrap();
    for budget in [all_rows, all_rows - 1, smallest] {
        let lean = within(budget).unwrap();
        assert_eq!(lean.loss.to_bits(), free.loss.to_bits(), "{budget} bytes");
        assert_eq!(lean.accuracy.to_bits(), free.accuracy.to_bits(), "{budget} bytes");
    }
    assert!(within(smallest - 1).is_err());
}
