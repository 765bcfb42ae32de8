//! The real SmolLM2-135M-Instruct (Q4_1 GGUF) against transformers and PEFT on its dequantised
//! weights: losses of three paragraphs and the loss curve of a 20-step fine-tuning, exact and
//! `balanced`; and how far the gradient of `balanced` is from the exact one.

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;

use lowtide_adapter::Config;
use lowtide_backend::Backend;
use lowtide_data::Dataset;
use lowtide_kernels::{Isa, Kernels};
use lowtide_memory::{Budget, Ledger};
use lowtide_model::{Adaptation, Layers, Model, SitePatterns, TargetModules};
use lowtide_ndarray::NdArray;
use lowtide_optim::{AdamW, Sgd, StepHyper};
use lowtide_runtime::{BaseText, Generator, GeneratorPlan, Request, Sampling};
use lowtide_simd::{Compute, Simd};
use lowtide_tape::{Limits, Policy};
use lowtide_testkit::compare::assert_close;
use lowtide_testkit::golden::{golden_dir, load_json, load_safetensors, numbers};
use lowtide_testkit::models::smollm2;
use lowtide_train::{Gradient, Needs, OpenBase, Prepared, RunPlan, Trainer, registry};

/// Differences between two attention kernels of torch reach 2e-6 on the first losses.
const LOSS_ATOL: f64 = 2e-5;
/// Adam divides small gradients by their own size, so that differences grow along the curve.
const CURVE_ATOL: f64 = 2e-3;
/// So do those of the gradient's norm.
const NORM_RTOL: f64 = 1e-2;

#[test]
fn the_twenty_step_curve_is_that_of_transformers_and_peft() {
    the_curve_is_the_golden_one(&NdArray::new(2), LOSS_ATOL, NORM_RTOL);
    the_curve_is_the_golden_one(&Simd::new(2), LOSS_ATOL, NORM_RTOL);
}

/// The fast backend on its fastest table, and on AVX2 where both are there.
fn backends(compute: Compute) -> Vec<Simd> {
    let best = Kernels::best();
    let tables = [Some(best), Kernels::of(Isa::Avx2).filter(|avx2| avx2.isa() != best.isa())];
    let on = |kernels| Simd::with(kernels, 2).computing(compute);
    tables.into_iter().flatten().map(on).collect()
}

fn the_curve_is_the_golden_one(be: &dyn Backend<f32>, loss_atol: f64, norm_rtol: f64) {
    let Some(path) = smollm2() else { return };
    let golden = golden();
    let temp = tempfile::tempdir().unwrap();
    let base = OpenBase::open(&path).unwrap();
    let data = paragraphs(&base, temp.path());
    let methods = registry();
    let config = Config { rank: 8, alpha: 16.0, ..Config::default() };
    let targets: TargetModules = "q_proj,v_proj".parse().unwrap();
    let method = methods.get("lora").unwrap();
    let adaptation = Adaptation {
        patterns: &SitePatterns::NONE,
        method,
        config: &config,
        targets: &targets,
        layers: &Layers::All,
    };
    let model = base.build(Some(adaptation)).unwrap();
    let optimizer = AdamW { weight_decay: 0.01, ..AdamW::default() };
    let plan = RunPlan::new(&model, be, &optimizer, needs(&data), Policy::Store);
    let mut ledger = Ledger::new(Budget::UNLIMITED);
    let mut trainer = Trainer::reserve(&model, be, &optimizer, plan, 0.0, 0, &mut ledger).unwrap();

    for (i, paragraph) in golden["paragraphs"].as_array().unwrap().iter().enumerate() {
        let entry = data.entry(i).unwrap();
        let hyper = StepHyper { lr: 0.0, step: 1, grad_scale: 0.0 };
        let labelled = entry.labelled as usize;
        let sum = trainer.update(&data, i..i + 1, 1, labelled, hyper).unwrap().sum;
        let want = paragraph["mean_loss"].as_f64().unwrap();
        assert_close(&format!("paragraph {i}"), &[sum.mean()], &[want], loss_atol, 0.0);
    }

    // The adapter's start: A as stored, B zero (left out of the file). Only lora_B follows the
    // permuted rows of the GGUF's q, so A is copied as it is.
    let init =
        load_safetensors(&golden_dir().join("smollm2/adapter_init/adapter_model.safetensors"));
    for site in &model.sites {
        let name = format!("base_model.model.{}.lora_A.weight", site.info.name);
        let a = &init[&name].data;
        let slab = &mut trainer.params_mut()[site.range.clone()];
        slab[..a.len()].copy_from_slice(a);
        slab[a.len()..].fill(0.0);
    }
    let run = &golden["finetune_f32"];
    let (losses, norms) = (numbers(&run["losses"]), numbers(&run["grad_norms"]));
    for (step, (loss, norm)) in losses.iter().zip(&norms).enumerate() {
        let i = step % 3;
        let labelled = data.entry(i).unwrap().labelled as usize;
        let hyper = StepHyper { lr: 1e-3, step: step as u64 + 1, grad_scale: 1.0 };
        let update = trainer.update(&data, i..i + 1, 1, labelled, hyper).unwrap();
        assert_close(&format!("loss {step}"), &[update.sum.mean()], &[*loss], CURVE_ATOL, 0.0);
        let got = update.grad_norm.unwrap();
        assert_close(&format!("gradient norm {step}"), &[got], &[*norm], 0.0, norm_rtol);
    }
    for (i, want) in numbers(&run["final_eval_losses"]).iter().enumerate() {
        let one = trainer.loss_of(&data, i).unwrap().mean();
        assert_close(&format!("final loss {i}"), &[one], &[*want], CURVE_ATOL, 0.0);
    }
    what_it_learned_is_heard(&base, &model, be, trainer.params(), &golden["greedy_after_finetune"]);
}

fn golden() -> serde_json::Value {
    load_json(&golden_dir().join("smollm2/golden.json"))
}

/// The golden paragraphs as data.
fn paragraphs(base: &OpenBase, dir: &Path) -> Dataset {
    let path = dir.join("paragraphs.jsonl");
    let mut file = std::fs::File::create(&path).unwrap();
    for paragraph in golden()["paragraphs"].as_array().unwrap() {
        writeln!(file, "{}", serde_json::json!({ "input_ids": paragraph["ids"] })).unwrap();
    }
    let prepared = Prepared {
        max_seq_len: 512,
        mask_prompt: true,
        needs_prompt: false,
        val_split: 0.0,
        packing: false,
        seed: 0,
    };
    prepared.for_training(base, &path).unwrap().train
}

/// One paragraph at a time.
fn needs(data: &Dataset) -> Needs {
    let (longest, labelled) = (data.stats().longest, data.stats().labelled_max);
    let limits = Limits { tokens: longest, sequences: 1, labelled };
    let gradient = Gradient::Backprop;
    Needs { limits, longest, data_bytes: 0, apply_and_free: false, train: true, gradient }
}

/// The adapter writes, id by id, what the reference wrote after the same updates.
fn what_it_learned_is_heard(
    base: &OpenBase,
    model: &Model<'_, f32>,
    be: &dyn Backend<f32>,
    params: &[f32],
    golden: &serde_json::Value,
) {
    let ids = |key: &str| numbers(&golden[key]).iter().map(|id| *id as u32).collect::<Vec<_>>();
    let (prompt, want) = (ids("prompt_ids"), ids("new_ids"));
    let mut ledger = Ledger::new(Budget::UNLIMITED);
    let plan = GeneratorPlan::all(&model.program, be, 64).next().unwrap();
    let mut generator = Generator::reserve(&model.program, be, plan, &mut ledger).unwrap();
    let (sampling, max_tokens) = (Sampling::GREEDY, want.len());
    let request = Request { sampling, max_tokens, ignore_ends: true, ..Request::default() };
    let text = BaseText::open(base).unwrap();
    let mut quiet = |_: &str| ControlFlow::Continue(());
    let answer = generator.generate(params, &text, &prompt, &request, &mut quiet).unwrap();
    assert_eq!(answer.ids, want, "{}", answer.text);
    generator.release(&mut ledger);
}

/// Losses of single paragraphs under `balanced`: off by some 1e-4, as two digits are everywhere.
const BALANCED_LOSS_ATOL: f64 = 1e-3;
/// The loss is held to the tolerance of exact runs at every step; the norm of its gradient, which
/// varies by an order of magnitude from step to step, was 2.2 % off at the last one.
const BALANCED_NORM_RTOL: f64 = 4e-2;
/// What `balanced` promises: the cosine between its gradient and the exact one.
const BALANCED_COSINE: f64 = 0.9999;

#[test]
fn a_balanced_curve_is_that_of_transformers_and_peft() {
    let be = Simd::new(2).computing(Compute::Int8x2);
    the_curve_is_the_golden_one(&be, BALANCED_LOSS_ATOL, BALANCED_NORM_RTOL);
}

#[test]
fn a_balanced_gradient_points_where_the_exact_one_does() {
    let Some(path) = smollm2() else { return };
    let exact = gradient(&path, &Simd::new(2));
    for be in backends(Compute::Int8x2) {
        let balanced = gradient(&path, &be);
        let whole = cosine(exact.values().flatten(), balanced.values().flatten());
        let tensors = exact.iter().map(|(name, grad)| (cosine(grad, &balanced[name]), name));
        let (worst, name) = tensors.min_by(|a, b| a.0.total_cmp(&b.0)).unwrap();
        say(&format!("{}: cosine {whole:.9}, worst {worst:.9} ({name})", be.caps().isa));
        assert!(whole >= BALANCED_COSINE, "{whole}");
        assert!(worst >= BALANCED_COSINE, "{name}: {worst}");
    }
}

/// The gradient of the golden paragraphs in one batch, by tensor, of an adapter on every linear
/// whose parameters are all of some size.
fn gradient(path: &Path, be: &dyn Backend<f32>) -> BTreeMap<String, Vec<f32>> {
    let temp = tempfile::tempdir().unwrap();
    let base = OpenBase::open(path).unwrap();
    let data = paragraphs(&base, temp.path());
    let (methods, config) = (registry(), Config { rank: 8, alpha: 16.0, ..Config::default() });
    let (method, targets) = (methods.get("lora").unwrap(), TargetModules::AllLinear);
    let layers = &Layers::All;
    let adaptation = Adaptation {
        patterns: &SitePatterns::NONE,
        method,
        config: &config,
        targets: &targets,
        layers,
    };
    let model = base.build(Some(adaptation)).unwrap();
    let optimizer = Sgd::default();
    let plan = RunPlan::new(&model, be, &optimizer, needs(&data), Policy::Block);
    let mut ledger = Ledger::new(Budget::UNLIMITED);
    let mut trainer = Trainer::reserve(&model, be, &optimizer, plan, 0.0, 0, &mut ledger).unwrap();
    trainer.initialise(0);
    // A fresh LoRA's B is zero, and so would be every gradient of A.
    for (i, value) in trainer.params_mut().iter_mut().enumerate() {
        *value += 0.01 * ((i * 7919 % 13) as f32 - 6.0) / 6.0;
    }
    let labelled = (0..data.len()).map(|i| data.entry(i).unwrap().labelled as usize).sum();
    let hyper = StepHyper { lr: 0.0, step: 1, grad_scale: 1.0 };
    trainer.update(&data, 0..data.len(), 1, labelled, hyper).unwrap();
    let mut tensors = BTreeMap::new();
    for site in &model.sites {
        let mut rest = &trainer.grads()[site.range.clone()];
        for spec in &site.params {
            let (grad, after) = rest.split_at(spec.len());
            rest = after;
            tensors.insert(format!("{}.{}", site.info.name, spec.name), grad.to_vec());
        }
    }
    trainer.release(&mut ledger);
    tensors
}

fn cosine<'a>(a: impl IntoIterator<Item = &'a f32>, b: impl IntoIterator<Item = &'a f32>) -> f64 {
    let (mut aa, mut bb, mut ab) = (0.0, 0.0, 0.0);
    for (&a, &b) in a.into_iter().zip(b) {
        let (a, b) = (f64::from(a), f64::from(b));
        aa += a * a;
        bb += b * b;
        ab += a * b;
    }
    ab / (aa * bb).sqrt()
}

/// Tells a figure even when the test passes: past the capture of its output.
fn say(line: &str) {
    // A closed stderr must not fail the test.
    let _ = writeln!(std::io::stderr(), "{line}");
}
