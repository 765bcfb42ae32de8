//! A softmax over the neighbours of the targets: exact where that is every word, below the exact
//! loss elsewhere, told beside it, and never what is measured on held-out examples.

use std::fs;

use lowtide_testkit::tiny::TinyLlama;
use lowtide_train::{Event, PlanReport, Settings, SoftmaxError, Summary, TrainError, finetune};

use crate::support::{Home, Kind};

const LENGTHS: &[usize] = &[9, 30, 17, 12];

/// A whole job: its summary, its plan, what was said of its softmax, and the adapter's bytes.
fn job(settings: &Settings, kind: Kind) -> (Summary, PlanReport, Option<SoftmaxError>, Vec<u8>) {
    let (mut plan, mut told) = (None, None);
    let summary = finetune(settings, &*kind.make(2), 2, &mut |event| match event {
        Event::Plan(report) => plan = Some(report.clone()),
        Event::Softmax(error) => told = Some(*error),
        _ => {}
    })
    .unwrap();
    assert_eq!(summary.planned_peak_bytes, summary.peak_bytes);
    let adapter = fs::read(settings.output.join("adapter_model.safetensors")).unwrap();
    (summary, *plan.unwrap(), told, adapter)
}

#[test]
fn neighbours_that_are_all_words_change_no_bit() {
    let home = Home::new(&TinyLlama::default());
    for kind in [Kind::Ndarray, Kind::fastest()] {
        let exact = Settings { val_split: 0.25, ..home.settings(LENGTHS) };
        let union = Settings { softmax: "union:1000000".into(), ..exact.clone() };
        let (want, plan, told, adapter) = job(&exact, kind);
        assert_eq!((plan.softmax.as_str(), plan.union, told), ("exact", None, None));
        assert_eq!((want.softmax.as_str(), want.softmax_error), ("exact", None));
        let (summary, plan, told, same) = job(&union, kind);
        assert!(same == adapter, "the adapters differ");
        assert_eq!(summary.loss_last, want.loss_last);
        assert_eq!(summary.eval_loss_after, want.eval_loss_after);
        let (told, report) = (told.unwrap(), plan.union.unwrap());
        assert_eq!((told.words, told.vocabulary), (report.words_max, report.vocabulary));
        assert_eq!((told.loss, told.gradient_error), (told.exact_loss, 0.0));
        assert!((told.gradient_cosine - 1.0).abs() < 1e-9, "{told:?}");
    }
}

#[test]
fn fewer_words_give_a_lower_loss_and_say_so() {
    let home = Home::new(&TinyLlama::default());
    let exact = Settings { val_split: 0.25, ..home.settings(LENGTHS) };
    let (want, plan, ..) = job(&exact, Kind::fastest());
    let (bytes, mut last) = (plan.planned_peak_bytes, want.loss_first.unwrap());
    for count in [40, 4] {
        let union = Settings { softmax: format!("union:{count}"), ..exact.clone() };
        let (summary, plan, told, _) = job(&union, Kind::fastest());
        let (told, report) = (told.unwrap(), plan.union.unwrap());
        assert_eq!(summary.softmax_error, Some(told));
        assert_eq!(summary.eval_loss_before, want.eval_loss_before);
        assert_ne!(summary.eval_loss_after, want.eval_loss_after);
        let first = summary.loss_first.unwrap();
        assert!(first < last, "{first} with {count} neighbours, {last} with more");
        last = first;
        // The first micro-batch is the first update here.
        assert!((told.loss - first).abs() < 1e-6 * first, "{told:?}, {first}");
        assert!((told.exact_loss - want.loss_first.unwrap()).abs() < 1e-6 * last, "{told:?}");
        assert!(told.gradient_cosine < 1.0 - 1e-6 && told.gradient_error > 1e-3, "{told:?}");
        assert!(told.words <= report.words_max && report.words_max < report.vocabulary);
        assert_eq!((report.neighbours, report.targets > 20), (count, true));
        assert_eq!(report.file_bytes, (report.targets * count * 4) as u64);
        assert!(plan.planned_peak_bytes <= bytes + report.bytes);
        let written = fs::read_to_string(union.output.join("summary.json")).unwrap();
        let written: serde_json::Value = serde_json::from_str(&written).unwrap();
        assert_eq!(written["softmax"], union.softmax);
        assert_eq!(written["softmax_error"]["words"], told.words);
        let config = fs::read_to_string(union.output.join("config.toml")).unwrap();
        assert!(config.contains(&format!("softmax = \"union:{count}\"")), "{config}");
    }
}

#[test]
fn threads_and_checkpoints_change_no_bit_of_it() {
    let home = Home::new(&TinyLlama::default());
    let union = Settings { softmax: "union:6".into(), batch_size: 2, ..home.settings(LENGTHS) };
    let (_, _, _, want) = job(&union, Kind::fastest());
    for gradient in ["mezo", "partial"] {
        job(&Settings { gradient: gradient.into(), ..union.clone() }, Kind::fastest());
    }
    for policy in ["store", "sqrt"] {
        let other = Settings { checkpointing: policy.into(), ..union.clone() };
        assert!(job(&other, Kind::fastest()).3 == want, "{policy}");
    }
}

#[test]
fn a_folder_that_cannot_take_the_lists_is_an_error() {
    let home = Home::new(&TinyLlama::default());
    let scratch_dir = Some(home.path("absent"));
    let union = Settings { softmax: "union:6".into(), scratch_dir, ..home.settings(LENGTHS) };
    let error = finetune(&union, &*Kind::fastest().make(2), 2, &mut |_| ()).unwrap_err();
    assert!(
        matches!(error, TrainError::Scratch { purpose: "the words of --softmax", .. }),
        "{error}"
    );
    assert!(error.to_string().contains("absent"), "{error}");
    assert!(!union.output.exists());
}
