//! The tiny models of every family against transformers and PEFT: logits, losses, every gradient,
//! five AdamW steps, on every backend and under both policies. Tolerances are those of
//! testdata/golden/README.md.

use std::io::Write;
use std::path::{Path, PathBuf};

use lowtide_adapter::Config;
use lowtide_backend::{Backend, Scalar};
use lowtide_data::Dataset;
use lowtide_kernels::{Isa, Kernels};
use lowtide_memory::{Budget, Ledger};
use lowtide_model::{Adaptation, Layers, Site, SitePatterns, TargetModules};
use lowtide_ndarray::NdArray;
use lowtide_optim::{AdamW, StepHyper};
use lowtide_simd::Simd;
use lowtide_tape::{Batch, Limits, Policy};
use lowtide_tensor::MatMut;
use lowtide_testkit::compare::assert_close;
use lowtide_testkit::golden::{golden_dir, load_json, load_safetensors, numbers};
use lowtide_train::{
    Gradient, Needs, OpenBase, Prepared, RunPlan, Trainer, load_adapter, registry,
};

const LOGITS_ATOL: f64 = 5e-5;
const LOSS_ATOL: f64 = 1e-5;
const GRADS_ATOL: f64 = 1e-5;
const AFTER_FIVE_ATOL: f64 = 2e-4;

struct Case {
    model: &'static str,
    method: &'static str,
    rank: usize,
    options: &'static [(&'static str, &'static str)],
    /// Folder of the expected values.
    case: &'static str,
    /// Folder of the adapter it starts from.
    start: &'static str,
    /// What all parameters are where the adapter changes nothing, if they are all the same.
    neutral: Option<f32>,
    use_rslora: bool,
    /// Adapted logits and the tensors after five steps are stored, too.
    complete: bool,
}

const fn lora(model: &'static str) -> Case {
    Case {
        model,
        method: "lora",
        rank: 4,
        options: &[],
        case: "lora",
        start: "lora",
        use_rslora: false,
        neutral: Some(0.0),
        complete: true,
    }
}

const CASES: [Case; 10] = [
    lora("llama_tied"),
    Case { case: "ia3", start: "ia3", method: "ia3", neutral: Some(1.0), ..lora("llama_tied") },
    Case { method: "dora", case: "dora", start: "dora", neutral: None, ..lora("llama_tied") },
    // The shared matrices are in no file.
    Case {
        method: "vera",
        rank: 16,
        options: &[("projection_prng_key", "7")],
        case: "vera",
        start: "vera",
        ..lora("llama_tied")
    },
    Case { method: "rslora", case: "rslora", complete: false, ..lora("llama_tied") },
    // rsLoRA starts from the plain adapter's tensors, by either name.
    Case { case: "rslora", use_rslora: true, complete: false, ..lora("llama_tied") },
    Case { complete: false, ..lora("llama_untied") },
    lora("qwen2"),
    lora("qwen3"),
    lora("gemma3"),
];

impl Case {
    fn dir(&self) -> PathBuf {
        golden_dir().join(self.model)
    }
}

/// The golden batch as a data file of token ids and labels.
fn data_file(dir: &Path, golden: &serde_json::Value) -> PathBuf {
    let path = dir.join("data.jsonl");
    let mut file = std::fs::File::create(&path).unwrap();
    let rows = |key: &str| golden[key].as_array().unwrap().clone();
    for (ids, labels) in rows("input_ids").into_iter().zip(rows("labels")) {
        writeln!(file, "{}", serde_json::json!({ "input_ids": ids, "labels": labels })).unwrap();
    }
    path
}

/// Gradients are stored as PEFT names tensors.
fn check_tensors(
    what: &str,
    sites: &[Site],
    values: &[f32],
    want: &lowtide_testkit::golden::Arrays,
    atol: f64,
) {
    let mut seen = 0;
    for site in sites {
        let mut rest = &values[site.range.clone()];
        for spec in &site.params {
            let (got, after) = rest.split_at(spec.len());
            rest = after;
            let name = format!("base_model.model.{}.{}", site.info.name, spec.name);
            let want = want.get(&name).unwrap_or_else(|| panic!("{name} is in the golden file"));
            assert_close(&format!("{what} {name}"), got, &want.data, atol, 0.0);
            seen += 1;
        }
    }
    assert_eq!(seen, want.len(), "every golden tensor was compared");
}

fn run(case: &Case, be: &dyn Backend<f32>, policy: Policy) {
    let golden = load_json(&case.dir().join("golden.json"));
    let expected = load_json(&case.dir().join(case.case).join("golden.json"));
    let temp = tempfile::tempdir().unwrap();
    let base = OpenBase::open(&case.dir()).unwrap();
    let prepared = Prepared {
        max_seq_len: 64,
        mask_prompt: true,
        needs_prompt: false,
        val_split: 0.0,
        packing: false,
        seed: 0,
    };
    let data = prepared.for_training(&base, &data_file(temp.path(), &golden)).unwrap().train;

    let methods = registry();
    let options = case.options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let Case { rank, use_rslora, .. } = *case;
    let config = Config { rank, alpha: 8.0, use_rslora, options, ..Config::default() };
    let (method, layers) = (methods.get(case.method).unwrap(), Layers::All);
    let targets: TargetModules = method.default_targets().parse().unwrap();
    let adaptation = Adaptation {
        patterns: &SitePatterns::NONE,
        method,
        config: &config,
        targets: &targets,
        layers: &layers,
    };
    let model = base.build(Some(adaptation)).unwrap();
    let limits = Limits { tokens: 48, sequences: 2, labelled: 40 };
    let (apply_and_free, gradient) = (false, Gradient::Backprop);
    let needs = Needs { limits, longest: 20, data_bytes: 0, apply_and_free, train: true, gradient };
    let optimizer = AdamW { weight_decay: 0.01, ..AdamW::default() };
    let plan = RunPlan::new(&model, be, &optimizer, needs, policy);
    let planned = plan.bytes();
    let mut ledger = Ledger::new(Budget::UNLIMITED);
    let mut trainer = Trainer::reserve(&model, be, &optimizer, plan, 0.0, 0, &mut ledger).unwrap();
    assert_eq!(ledger.live(), planned, "{}", case.model);
    trainer.executor_mut().set_poison(true);

    // The bare base: a fresh LoRA's B is zero, as all parameters are here; IA3's are one.
    trainer.params_mut().fill(case.neutral.unwrap_or_default());
    let bare = trainer.evaluate(&data, 2).unwrap();
    if case.neutral.is_some() {
        let want = golden["loss"].as_f64().unwrap();
        assert_close("base loss", &[bare.mean()], &[want], LOSS_ATOL, 0.0);
        check_logits(case, &mut trainer, &golden, "outputs.safetensors");
    }

    let start = case.dir().join(case.start);
    load_adapter(&start, base.file().hyper(), &model.sites, trainer.values_mut()).unwrap();
    if case.complete {
        check_logits(case, &mut trainer, &golden, &format!("{}/logits.safetensors", case.case));
    }
    check_updates(case, &mut trainer, &data, bare.labelled, &expected);
    let after = trainer.evaluate(&data, 2).unwrap().mean();
    let want = expected["loss_after_5_steps"].as_f64().unwrap();
    assert_close("loss after 5 steps", &[after], &[want], AFTER_FIVE_ATOL, 0.0);
    if case.complete {
        let want = case.dir().join(case.case).join("adapter_after5.safetensors");
        let want = load_safetensors(&want);
        check_tensors("after 5 steps", &model.sites, trainer.params(), &want, AFTER_FIVE_ATOL);
    }
    trainer.release(&mut ledger);
    assert_eq!(ledger.live().held(), 0);
    assert_eq!(ledger.at_peak(), planned);
}

/// Losses before each update, and the first gradient.
fn check_updates(
    case: &Case,
    trainer: &mut Trainer<'_, '_>,
    data: &Dataset,
    labelled: usize,
    expected: &serde_json::Value,
) {
    let losses = numbers(&expected["losses_before_each_step"]);
    for (step, want) in losses.iter().enumerate() {
        let hyper = StepHyper { lr: 1e-2, step: step as u64 + 1, grad_scale: 1.0 };
        let update = trainer.update(data, 0..2, 2, labelled, hyper).unwrap();
        let atol = if step == 0 { LOSS_ATOL } else { AFTER_FIVE_ATOL };
        assert_close(&format!("loss {step}"), &[update.sum.mean()], &[*want], atol, 0.0);
        if step == 0 {
            // rsLoRA doubles the scale, and with it gradients and their rounding.
            let atol = if case.case == "rslora" { 2.0 * GRADS_ATOL } else { GRADS_ATOL };
            let grads = load_safetensors(&case.dir().join(case.case).join("grads.safetensors"));
            check_tensors("gradient", &trainer.model().sites, trainer.grads(), &grads, atol);
        }
    }
}

fn check_logits(
    case: &Case,
    trainer: &mut Trainer<'_, '_>,
    golden: &serde_json::Value,
    file: &str,
) {
    let want = load_safetensors(&case.dir().join(file));
    let want = &want["logits_seq0"];
    let [rows, vocab] = want.shape[..] else { panic!("logits are a matrix") };
    let ids: Vec<u32> = numbers(&golden["input_ids"][0]).iter().map(|id| *id as u32).collect();
    let positions: Vec<u32> = (0..rows as u32).collect();
    let spans = [lowtide_backend::Span { start: 0, prompt_end: rows, end: rows }];
    let batch = Batch {
        ids: &ids,
        positions: &positions,
        spans: &spans,
        labelled: &[],
        targets: &[],
        words: None,
        counter: 0,
    };
    let mut logits = vec![0.0; rows * vocab];
    let params = trainer.params().to_vec();
    let out = MatMut::new(&mut logits, rows, vocab);
    trainer.executor_mut().logits(&params, &batch, &positions, out);
    assert_close(&format!("{} {file}", case.model), &logits, &want.data, LOGITS_ATOL, 0.0);
}

fn agrees(be: &dyn Backend<f32>, cases: &[Case]) {
    for case in cases {
        for policy in Policy::ALL {
            run(case, be, policy);
        }
    }
}

#[test]
fn the_scalar_backend_agrees_with_transformers_and_peft() {
    agrees(&Scalar, &CASES);
}

#[test]
fn the_ndarray_backend_agrees_with_transformers_and_peft() {
    agrees(&NdArray::new(2), &CASES);
}

#[test]
fn the_simd_backend_agrees_with_transformers_and_peft_on_every_table() {
    for kernels in Kernels::available() {
        // Plain Rust is slow; the other cases have the same products in it.
        let cases = if kernels.isa() == Isa::Scalar { &CASES[..1] } else { &CASES };
        agrees(&Simd::with(kernels, 2), cases);
    }
}
