//! Every family: plan and ledger agree, policies give the same bits, and a base is the same in
//! either style of config and in either kind of file.

use std::num::NonZeroUsize;
use std::path::Path;

use lowtide_backend::{Backend, Scalar, Span};
use lowtide_memory::{Budget, Ledger};
use lowtide_simd::Simd;
use lowtide_tape::{Batch, Policy, Store};
use lowtide_tensor::MatMut;
use lowtide_testkit::compare::assert_close;
use lowtide_testkit::gguf::write_gguf;
use lowtide_testkit::golden::{golden_dir, load_json};
use lowtide_train::OpenBase;
use serde_json::json;

use crate::support::{Kind, Setup, bits, dataset, write_data};

/// A golden base of each family, and an untied one.
const MODELS: [&str; 5] = ["llama_tied", "llama_untied", "qwen2", "qwen3", "gemma3"];

/// Trains two updates within exactly the planned budget, with every dead buffer poisoned.
fn train(model: &str, setup: &Setup<'_>, data: &Path) -> Vec<u32> {
    let base = OpenBase::open(&golden_dir().join(model)).unwrap();
    let data = dataset(&base, data);
    let program = setup.model(&base);
    let planned = setup.plan(&program, &data).bytes();
    let mut ledger = Ledger::new(Budget::of(planned.held()));
    let mut trainer = setup.reserve(&program, &data, &mut ledger);
    assert_eq!(ledger.live(), planned, "{model} after reserve");
    trainer.executor_mut().set_poison(true);
    for step in 1..=2 {
        let update = setup.update(&mut trainer, &data, step);
        assert!(update.sum.mean().is_finite() && update.non_finite == 0, "{model}: {update:?}");
    }
    assert_eq!(ledger.live(), planned, "{model} after training");
    let bits = bits(trainer.params());
    trainer.release(&mut ledger);
    assert_eq!(ledger.at_peak(), planned, "{model} at the peak");
    bits
}

#[test]
fn every_family_holds_what_it_plans_and_policies_agree() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data.jsonl");
    write_data(&data, &[140, 9, 71]);
    for model in MODELS {
        let adapted = |be: &dyn Backend<f32>, targets: &str, layers: &str| {
            let tile = NonZeroUsize::new(64);
            let forms = Policy::ALL.map(|policy| (policy, Store::F32, None));
            let others = [
                (Policy::Block, Store::File, None),
                (Policy::Block, Store::F32, tile),
                (Policy::Sqrt, Store::File, tile),
            ];
            let by_form: Vec<_> = forms
                .into_iter()
                .chain(others)
                .map(|(policy, store, tile)| {
                    let dropout = if layers == "all" { 0.1 } else { 0.0 };
                    let setup = Setup { policy, store, tile, dropout, ..Setup::new(be) };
                    let setup = Setup { targets, layers, ..setup };
                    train(model, &Setup { sequences: 2, accum: 2, ..setup }, &data)
                })
                .collect();
            let same = by_form.windows(2).all(|pair| pair[0] == pair[1]);
            assert!(same, "{model}: policies, stores or tiles differ");
        };
        for kind in [Kind::Ndarray, Kind::fastest()] {
            adapted(&*kind.make(2), "all-linear", "all");
            adapted(&*kind.make(2), "q_proj,v_proj", "last:1");
        }
        adapted(&Scalar, "down_proj,o_proj", "all");
    }
}

#[test]
fn offsets_cost_little_room() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data.jsonl");
    write_data(&data, &[400, 9, 71]);
    let be = Kind::fastest().make(2);
    for model in MODELS {
        let base = OpenBase::open(&golden_dir().join(model)).unwrap();
        let data = dataset(&base, &data);
        for policy in Policy::ALL {
            for tile in [None, NonZeroUsize::new(256), NonZeroUsize::new(64)] {
                let setup = Setup { policy, tile, ..Setup::new(&*be) };
                let over = setup.plan(&setup.model(&base), &data).exec.packing_overhead();
                assert!(over <= 0.03, "{model}, {policy}, {tile:?}: {:.1} %", 100.0 * over);
            }
        }
    }
}

/// Logits of a sequence longer than the window of any golden base.
fn logits(base: &Path) -> Vec<f32> {
    let base = OpenBase::open(base).unwrap();
    let ids: Vec<u32> = (0..24).map(|i| 3 + i * 7 % 250).collect();
    let positions: Vec<u32> = (0..24).collect();
    let spans = [Span { start: 0, prompt_end: 24, end: 24 }];
    let batch = Batch {
        ids: &ids,
        positions: &positions,
        spans: &spans,
        labelled: &[],
        targets: &[],
        words: None,
        counter: 0,
    };
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data.jsonl");
    write_data(&data, &[24]);
    let data = dataset(&base, &data);
    let vocab = base.config().vocab_size;
    Setup::new(&Simd::new(1)).train(&base, &data, 0, |trainer| {
        let params = trainer.params().to_vec();
        let mut logits = vec![0.0; ids.len() * vocab];
        let out = MatMut::new(&mut logits, ids.len(), vocab);
        trainer.executor_mut().logits(&params, &batch, &positions, out);
        logits
    })
}

#[test]
fn a_gguf_file_and_the_folder_give_the_same_logits() {
    for model in MODELS {
        let dir = tempfile::tempdir().unwrap();
        let folder = golden_dir().join(model);
        let (from_folder, from_file) = (logits(&folder), logits(&write_gguf(&folder, dir.path())));
        // A Llama's file rotates neighbours, so that sums of products run in another order.
        let atol = if model.starts_with("llama") { 5e-5 } else { 0.0 };
        assert_close(model, &from_file, &from_folder, atol, 0.0);
    }
}

#[test]
fn both_styles_of_config_give_the_same_logits() {
    for model in MODELS {
        let (folder, dir) = (golden_dir().join(model), tempfile::tempdir().unwrap());
        for (from, to) in
            [("config.legacy.json", "config.json"), ("model.safetensors", "model.safetensors")]
        {
            std::fs::copy(folder.join(from), dir.path().join(to)).unwrap();
        }
        assert_eq!(bits(&logits(dir.path())), bits(&logits(&folder)), "{model}");
    }
}

/// The untied Llama as a Mistral, with a window of so many keys.
fn mistral(window: Option<usize>) -> Vec<f32> {
    let (folder, dir) = (golden_dir().join("llama_untied"), tempfile::tempdir().unwrap());
    std::fs::copy(folder.join("model.safetensors"), dir.path().join("model.safetensors")).unwrap();
    let mut config = load_json(&folder.join("config.json"));
    config["model_type"] = "mistral".into();
    config["architectures"] = json!(["MistralForCausalLM"]);
    config["sliding_window"] = json!(window);
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    logits(dir.path())
}

#[test]
fn a_mistral_is_a_llama_with_a_window() {
    let llama = bits(&logits(&golden_dir().join("llama_untied")));
    assert_eq!(bits(&mistral(None)), llama);
    assert_eq!(bits(&mistral(Some(24))), llama, "the window holds the whole sequence");
    let narrow = bits(&mistral(Some(8)));
    let (all_seen, all_hold) = (&narrow[..8 * 256], &llama[..8 * 256]);
    assert!(all_seen == all_hold, "rows whose keys are all in the window");
    assert!(narrow[8 * 256..] != llama[8 * 256..], "rows that lose keys");
}
