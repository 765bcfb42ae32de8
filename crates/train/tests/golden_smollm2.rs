//! The real SmolLM2-135M-Instruct (Q4_1 GGUF) against transformers and PEFT on its dequantised
//! weights: losses of three paragraphs and the loss curve of a 20-step fine-tuning.

use std::io::Write;
use std::ops::ControlFlow;

use lowtide_adapter::Config;
use lowtide_memory::{Budget, Ledger};
use lowtide_model::{Adaptation, Layers, Model, TargetModules};
use lowtide_ndarray::NdArray;
use lowtide_optim::{AdamW, StepHyper};
use lowtide_runtime::{BaseText, Generator, GeneratorPlan, Request, Sampling};
use lowtide_tape::Policy;
use lowtide_testkit::compare::assert_close;
use lowtide_testkit::golden::{golden_dir, load_json, load_safetensors, numbers};
use lowtide_testkit::models::smollm2;
use lowtide_train::{Needs, OpenBase, Prepared, RunPlan, Trainer, registry};

/// Differences between two attention kernels of torch reach 2e-6 on the first losses.
const LOSS_ATOL: f64 = 2e-5;
/// Adam divides small gradients by their own size, so that differences grow along the curve.
const CURVE_ATOL: f64 = 2e-3;

#[test]
fn the_twenty_step_curve_is_that_of_transformers_and_peft() {
    let Some(path) = smollm2() else { return };
    let dir = golden_dir().join("smollm2");
    let golden = load_json(&dir.join("golden.json"));
    let temp = tempfile::tempdir().unwrap();
    let data_path = temp.path().join("paragraphs.jsonl");
    let mut file = std::fs::File::create(&data_path).unwrap();
    let paragraphs = golden["paragraphs"].as_array().unwrap();
    for paragraph in paragraphs {
        writeln!(file, "{}", serde_json::json!({ "input_ids": paragraph["ids"] })).unwrap();
    }
    let base = OpenBase::open(&path).unwrap();
    let prepared =
        Prepared { max_seq_len: 512, mask_prompt: true, val_split: 0.0, packing: false, seed: 0 };
    let data = prepared.for_training(&base, &data_path).unwrap().train;

    let be = NdArray::new(2);
    let methods = registry();
    let config = Config { rank: 8, alpha: 16.0, ..Config::default() };
    let targets: TargetModules = "q_proj,v_proj".parse().unwrap();
    let method = methods.get("lora").unwrap();
    let adaptation =
        Adaptation { method, config: &config, targets: &targets, layers: &Layers::All };
    let model = base.build(Some(adaptation)).unwrap();
    let stats = data.stats();
    let limits =
        lowtide_tape::Limits { tokens: stats.longest, sequences: 1, labelled: stats.labelled_max };
    let longest = stats.longest;
    let needs = Needs { limits, longest, data_bytes: 0, apply_and_free: false, train: true };
    let optimizer = AdamW { weight_decay: 0.01, ..AdamW::default() };
    let plan = RunPlan::new(&model, &be, &optimizer, needs, Policy::Store);
    let mut ledger = Ledger::new(Budget::UNLIMITED);
    let mut trainer = Trainer::reserve(&model, &be, &optimizer, plan, 0.0, 0, &mut ledger).unwrap();

    for (i, paragraph) in paragraphs.iter().enumerate() {
        let entry = data.entry(i).unwrap();
        let hyper = StepHyper { lr: 0.0, step: 1, grad_scale: 0.0 };
        let labelled = entry.labelled as usize;
        let sum = trainer.update(&data, i..i + 1, 1, labelled, hyper).unwrap().sum;
        let want = paragraph["mean_loss"].as_f64().unwrap();
        assert_close(&format!("paragraph {i}"), &[sum.mean()], &[want], LOSS_ATOL, 0.0);
    }

    // The adapter's start: A as stored, B zero (left out of the file). Only lora_B follows the
    // permuted rows of the GGUF's q, so A is copied as it is.
    let init = load_safetensors(&dir.join("adapter_init/adapter_model.safetensors"));
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
        assert_close(&format!("gradient norm {step}"), &[got], &[*norm], 0.0, 1e-2);
    }
    for (i, want) in numbers(&run["final_eval_losses"]).iter().enumerate() {
        let one = trainer.loss_of(&data, i).unwrap().mean();
        assert_close(&format!("final loss {i}"), &[one], &[*want], CURVE_ATOL, 0.0);
    }
    what_it_learned_is_heard(&base, &model, trainer.params(), &golden["greedy_after_finetune"]);
}

/// The adapter writes, id by id, what the reference wrote after the same updates.
fn what_it_learned_is_heard(
    base: &OpenBase,
    model: &Model<'_, f32>,
    params: &[f32],
    golden: &serde_json::Value,
) {
    let be = NdArray::new(2);
    let ids = |key: &str| numbers(&golden[key]).iter().map(|id| *id as u32).collect::<Vec<_>>();
    let (prompt, want) = (ids("prompt_ids"), ids("new_ids"));
    let mut ledger = Ledger::new(Budget::UNLIMITED);
    let plan = GeneratorPlan::all(&model.program, &be, 64).next().unwrap();
    let mut generator = Generator::reserve(&model.program, &be, plan, &mut ledger).unwrap();
    let (sampling, max_tokens) = (Sampling::GREEDY, want.len());
    let request = Request { sampling, max_tokens, ignore_ends: true, ..Request::default() };
    let text = BaseText::open(base).unwrap();
    let mut quiet = |_: &str| ControlFlow::Continue(());
    let answer = generator.generate(params, &text, &prompt, &request, &mut quiet).unwrap();
    assert_eq!(answer.ids, want, "{}", answer.text);
    generator.release(&mut ledger);
}
