//! A run that goes on where it was saved is the run that never stopped, to the last bit.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use lowtide_backend::Scalar;
use lowtide_simd::Simd;
use lowtide_testkit::tiny::TinyLlama;
use lowtide_train::{
    Event, ResumeError, SavedRun, Settings, Summary, TrainError, finetune, finetune_until, plan,
};
use serde_json::Value;

use crate::support::{Home, write_data};

const LENGTHS: [usize; 7] = [20, 33, 12, 28, 9, 17, 25];

/// Six updates over seven examples, into `output`.
fn settings(home: &Home, output: &str) -> Settings {
    Settings {
        output: home.path(output),
        max_steps: Some(6),
        dropout: 0.2,
        report_every: 1,
        lr: 1e-2,
        ..home.settings(&LENGTHS)
    }
}

fn home() -> Home {
    let home = Home::new(&TinyLlama::default());
    write_data(&home.path("data.valid.jsonl"), &[14, 22]);
    home
}

/// Runs until update `last` is made, and then stops as if told to.
fn stopped_after(settings: &Settings, last: u64) -> Summary {
    let stop = AtomicBool::new(false);
    let mut hear = |event: &Event| {
        let made = match event {
            Event::Step(step) => Some(step.step),
            // Of one that came to nothing no step is told.
            Event::RolledBack { step, .. } => Some(*step),
            _ => None,
        };
        if made == Some(last) {
            stop.store(true, Ordering::Relaxed);
        }
    };
    let summary = finetune_until(settings, &Simd::new(1), 1, &mut hear, &stop).unwrap();
    assert_eq!((summary.steps, summary.interrupted), (last, true));
    summary
}

fn whole(settings: &Settings) -> Summary {
    finetune(settings, &Simd::new(1), 1, &mut |_| ()).unwrap()
}

/// Goes on with the run saved in a folder.
fn resumed(folder: &Path) -> Summary {
    whole(&SavedRun::open(folder).unwrap().settings())
}

fn bytes(settings: &Settings, file: &str) -> Vec<u8> {
    let path = settings.output.join(file);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Lines of a file without what a clock says.
fn lines(settings: &Settings, file: &str) -> Vec<BTreeMap<String, Value>> {
    let text = String::from_utf8(bytes(settings, file)).unwrap();
    let line = |line| {
        let mut line: BTreeMap<String, Value> = serde_json::from_str(line).unwrap();
        line.retain(|key, _| key != "seconds");
        line
    };
    text.lines().map(line).collect()
}

/// Stops a run after some of its updates, once and again, and compares it with one that went
/// through.
fn same(home: &Home, name: &str, with: impl Fn(Settings) -> Settings) -> Summary {
    let weights = |settings: &Settings| match settings.adapter_type.as_str() {
        "int8" => bytes(settings, "adapter_codes.safetensors"),
        _ => bytes(settings, "adapter_model.safetensors"),
    };
    let through = with(settings(home, &format!("{name}-through")));
    let summary = whole(&through);
    let cut = with(settings(home, &format!("{name}-cut")));
    stopped_after(&cut, 2);
    let saved = SavedRun::open(&cut.output).unwrap();
    assert_eq!(saved.step(), 2, "{name}");
    stopped_after(&saved.settings(), 3);
    let again = resumed(&cut.output);
    assert!(weights(&through) == weights(&cut), "{name}: other bits");
    let config = "adapter_config.json";
    assert_eq!(bytes(&through, config), bytes(&cut, config), "{name}");
    for file in ["metrics.jsonl", "evaluations.jsonl"] {
        assert_eq!(lines(&through, file), lines(&cut, file), "{name}: {file}");
    }
    let told = |s: &Summary| {
        let losses = [s.loss_first, s.loss_last, s.eval_loss_before, s.eval_loss_after];
        let ends = (s.rollbacks, s.spikes, s.stopped_early, s.best_step);
        (s.steps, s.tokens, s.labelled_tokens, losses, s.ranks, s.peak_bytes, ends)
    };
    assert_eq!(told(&summary), told(&again), "{name}");
    // What is complete can be gone on with as well: it is measured and written again.
    let done = resumed(&cut.output);
    assert!(weights(&through) == weights(&cut), "{name}: other bits the second time");
    assert_eq!(told(&done), told(&again), "{name}");
    assert_eq!(lines(&through, "evaluations.jsonl"), lines(&cut, "evaluations.jsonl"), "{name}");
    summary
}

#[test]
fn every_optimizer_goes_on_with_its_state() {
    let home = home();
    for name in ["adamw", "adamw8bit", "lion8bit", "sgd"] {
        let optimizer = || name.to_owned();
        same(&home, name, |s| Settings { optimizer: optimizer(), ..s });
    }
    let momentum = |s| Settings { optimizer: "sgd".into(), momentum: 0.9, ..s };
    same(&home, "momentum", momentum);
    let in_bf16 = |s| Settings { param_dtype: "bf16".into(), ..s };
    same(&home, "in-bf16", in_bf16);
    let schedule = |s| Settings {
        lr_scheduler: "warmup_stable_decay".into(),
        warmup_ratio: Some(0.3),
        decay_ratio: Some(0.5),
        ..s
    };
    same(&home, "schedule", schedule);
    let sparse = |s| Settings { sparse_updates: "top:10%".into(), ..s };
    same(&home, "sparse", sparse);
}

#[test]
fn states_go_from_a_file_to_memory_and_back() {
    let home = home();
    let through = settings(&home, "through");
    whole(&through);
    for (name, first, then) in [("a", "file", "ram"), ("b", "ram", "file")] {
        let cut = Settings { optimizer_states: first.into(), ..settings(&home, name) };
        stopped_after(&cut, 3);
        let saved = SavedRun::open(&cut.output).unwrap().settings();
        whole(&Settings { optimizer_states: then.into(), ..saved });
        let file = "adapter_model.safetensors";
        assert!(bytes(&through, file) == bytes(&cut, file), "from {first} to {then}");
    }
}

#[test]
fn every_way_to_a_gradient_goes_on_with_its_draws() {
    let home = home();
    for name in ["mezo", "partial"] {
        same(&home, name, |s| Settings { gradient: name.to_owned(), ..s });
    }
    same(&home, "accumulated", |s| Settings { batch_size: 2, grad_accum: 2, ..s });
    same(&home, "grouped", |s| Settings { batch_size: 2, group_by_length: true, ..s });
    same(&home, "unclipped", |s| Settings { max_grad_norm: 0.0, packing: true, ..s });
}

#[test]
fn every_kind_of_adapter_goes_on() {
    let home = home();
    let method = |name: &str| {
        let method = name.to_owned();
        same(&home, name, |s| Settings { method: method.clone(), ..s });
    };
    ["dora", "vera", "lora-fa"].into_iter().for_each(method);
    let code = || [("quantize".to_owned(), "int8".to_owned())].into();
    same(&home, "codes", |s| Settings { adapter_type: "int8".into(), ..s });
    same(&home, "coded", |s| Settings { adapter_type: "int8".into(), method_option: code(), ..s });
    same(&home, "bf16", |s| Settings { adapter_type: "bf16".into(), ..s });
    same(&home, "adaptive", |s| Settings { adaptive_rank: Some(3), dropout: 0.0, ..s });
    let pruned =
        |s| Settings { adaptive_rank: Some(3), dropout: 0.0, method: "lora-fa".into(), ..s };
    same(&home, "pruned", pruned);
    same(&home, "budgeted", |s| Settings { adapter_budget: Some("20KB".into()), ..s });
}

#[test]
fn what_is_kept_beside_the_state_goes_on() {
    let home = home();
    same(&home, "best", |s| Settings { keep_best: true, eval_every: 1, lr: 0.5, ..s });
    // Goes back after its first update, and again.
    let constant = || "constant".to_owned();
    let back = same(&home, "back", |s| Settings { lr: 1e18, lr_scheduler: constant(), ..s });
    assert!(back.rollbacks > 0);
    let stops = |s| Settings { patience: Some(2), eval_every: 1, lr: 0.5, max_steps: Some(9), ..s };
    assert!(same(&home, "early", stops).stopped_early);
}

#[test]
fn a_run_that_began_with_an_adapter_goes_on_without_it() {
    let home = home();
    let first = Settings { method: "vera".into(), ..settings(&home, "first") };
    whole(&first);
    let init_adapter = Some(first.output.clone());
    let started = |output: &str| Settings {
        method: "vera".into(),
        init_adapter: init_adapter.clone(),
        ..settings(&home, output)
    };
    let (through, cut) = (started("through"), started("cut"));
    whole(&through);
    stopped_after(&cut, 3);
    fs::remove_dir_all(&first.output).unwrap();
    resumed(&cut.output);
    let file = "adapter_model.safetensors";
    assert!(bytes(&through, file) == bytes(&cut, file));
}

#[test]
fn a_run_without_state_leaves_a_token_and_others_leave_none() {
    let home = home();
    let output = |optimizer: &str| {
        let run = Settings { optimizer: optimizer.into(), ..settings(&home, "out") };
        stopped_after(&run, 2);
        run.output
    };
    let (token, state) = ("resume.json", "checkpoint/state.safetensors");
    let folder = output("sgd");
    let size = fs::metadata(folder.join(token)).unwrap().len();
    assert!(size <= 1000, "{size} bytes");
    assert!(!folder.join(state).exists());
    // A run of the other kind in the same folder takes its place.
    let folder = output("adamw");
    assert!(folder.join(state).is_file() && !folder.join(token).exists());
    let folder = output("sgd");
    assert!(!folder.join(state).exists() && folder.join(token).exists());
    // An adapter that somebody else wrote is not what the token is for.
    let weights = folder.join("adapter_model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&weights, bytes).unwrap();
    let run = SavedRun::open(&folder).unwrap().settings();
    let error = finetune(&run, &Simd::new(1), 1, &mut |_| ()).unwrap_err().to_string();
    assert!(error.contains("resume.json: `saves` has no entry for the adapter"), "{error}");
}

#[test]
fn a_token_and_its_adapter_are_one_at_any_instant() {
    let home = home();
    let run = Settings { optimizer: "sgd".into(), save_every: 1, ..settings(&home, "out") };
    let through = Settings { output: home.path("through"), ..run.clone() };
    whole(&through);
    let weights = |of: &Settings| bytes(of, "adapter_model.safetensors");
    // The folder as it is when an adapter takes the place of another: token and settings are new.
    stopped_after(&run, 2);
    let old = weights(&run);
    let mut next = SavedRun::open(&run.output).unwrap().settings();
    (next.save_every, next.memory_budget) = (2, Some("1GB".into()));
    stopped_after(&next, 3);
    fs::write(run.output.join("adapter_model.safetensors"), old).unwrap();
    // It goes on from the old one, by the entry that tells of it. Before anything is saved, the
    // settings name the base where it now is: no save has to replace them.
    fs::rename(home.base(), home.path("moved")).unwrap();
    let mut again = SavedRun::open(&run.output).unwrap().settings();
    again.model = home.path("moved");
    let (mut heard, moved) = (None, again.model.display().to_string());
    finetune(&again, &Simd::new(1), 1, &mut |event| {
        if let Event::Resumed { step, .. } = event {
            let text = String::from_utf8(bytes(&run, "adapter_config.json")).unwrap();
            let config: Value = serde_json::from_str(&text).unwrap();
            heard = Some((*step, config["base_model_name_or_path"] == *moved));
        }
    })
    .unwrap();
    assert_eq!(heard, Some((2, true)));
    assert!(weights(&through) == weights(&run));
}

/// What is said of a run that goes on with other settings.
fn refused(folder: &Path, with: impl Fn(&mut Settings)) -> String {
    let mut run = SavedRun::open(folder).unwrap().settings();
    with(&mut run);
    let error = finetune(&run, &Simd::new(1), 1, &mut |_| ()).unwrap_err();
    assert!(matches!(error, TrainError::Resume(ResumeError::Differs { .. })), "{error:?}");
    error.to_string()
}

#[test]
fn another_run_is_refused_with_the_difference_named() {
    let home = home();
    let cut = settings(&home, "cut");
    stopped_after(&cut, 2);
    let state = fs::read(cut.output.join("checkpoint/state.safetensors")).unwrap();
    let refused = |with: &dyn Fn(&mut Settings)| refused(&cut.output, with);
    let error = refused(&|run| run.lr = 0.5);
    assert!(error.contains("`lr` is 0.5, and the run that was saved had 0.01: give"), "{error}");
    let error = refused(&|run| run.max_steps = Some(9));
    assert!(error.contains("`max-steps` is 9, and the run that was saved had 6"), "{error}");
    let error = refused(&|run| run.optimizer = "adamw".into());
    assert!(error.contains("`optimizer` is \"adamw\", and"), "{error}");
    // Judged by what they hold, not by where they lie.
    let other = Home::new(&TinyLlama { seed: 9, ..TinyLlama::default() });
    let error = refused(&|run| run.model = other.base());
    assert!(error.contains("`model` is ") && error.contains("give the same"), "{error}");
    write_data(&home.path("other.jsonl"), &LENGTHS[1..]);
    let error = refused(&|run| run.data = home.path("other.jsonl"));
    assert!(error.contains("`data` is ") && error.contains("other.jsonl"), "{error}");
    assert_eq!(fs::read(cut.output.join("checkpoint/state.safetensors")).unwrap(), state);
}

#[test]
fn another_machine_or_precision_is_accepted_when_asked() {
    let home = home();
    let cut = Settings { max_steps: Some(3), ..settings(&home, "cut") };
    stopped_after(&cut, 2);
    let mut run = SavedRun::open(&cut.output).unwrap().settings();
    let error = finetune(&run, &Scalar, 1, &mut |_| ()).unwrap_err().to_string();
    assert!(error.contains("`backend` is scalar, and the run that was saved had simd"), "{error}");
    assert!(error.contains("--resume-anyway accepts that"), "{error}");
    run.resume_anyway = true;
    assert_eq!(finetune(&run, &Scalar, 1, &mut |_| ()).unwrap().steps, 3);

    stopped_after(&cut, 2);
    let balanced = |run: &mut Settings| run.precision = "balanced".into();
    let error = refused(&cut.output, balanced);
    assert!(error.contains("`precision` is \"balanced\", and"), "{error}");
    let mut run = SavedRun::open(&cut.output).unwrap().settings();
    (run.precision, run.resume_anyway) = ("balanced".into(), true);
    assert_eq!(whole(&run).steps, 3);
}

#[test]
fn memory_may_be_spent_otherwise() {
    let home = home();
    let through = settings(&home, "through");
    let summary = whole(&through);
    let cut = settings(&home, "cut");
    stopped_after(&cut, 3);
    let mut run = SavedRun::open(&cut.output).unwrap().settings();
    // Enough for the leanest plan only.
    run.memory_budget = Some(format!("{}B", summary.planned_peak_bytes * 9 / 10));
    run.clipping = "two-pass".into();
    let leaner = whole(&run);
    assert!(leaner.peak_bytes < summary.peak_bytes);
    let file = "adapter_model.safetensors";
    assert!(bytes(&through, file) == bytes(&cut, file));
    // So it may where block inputs are rounded: by the same policy.
    let rounding = |output| Settings {
        precision: "balanced".into(),
        checkpointing: "block".into(),
        checkpoint_store: "bf16".into(),
        memory_budget: Some("1GB".into()),
        ..settings(&home, output)
    };
    whole(&rounding("rounded"));
    let cut = rounding("rounded-cut");
    stopped_after(&cut, 3);
    let mut run = SavedRun::open(&cut.output).unwrap().settings();
    run.memory_budget = Some("800000KB".into());
    whole(&run);
    assert!(bytes(&rounding("rounded"), file) == bytes(&cut, file));
    // Where nothing fits, the save stays what it is.
    let cut = settings(&home, "other");
    stopped_after(&cut, 3);
    let mut run = SavedRun::open(&cut.output).unwrap().settings();
    run.memory_budget = Some("100KB".into());
    let error = finetune(&run, &Simd::new(1), 1, &mut |_| ()).unwrap_err();
    assert!(matches!(error, TrainError::NoPlanFits { .. }), "{error:?}");
    assert_eq!(SavedRun::open(&cut.output).unwrap().step(), 3);
}

#[test]
fn what_saving_would_replace_is_told() {
    let home = home();
    let cut = settings(&home, "cut");
    let told = |run: &Settings| {
        let (_, plan) = plan(run, &Simd::new(1), 1).unwrap();
        plan.warnings.iter().map(ToString::to_string).collect::<String>()
    };
    assert_eq!(told(&cut), "");
    stopped_after(&cut, 3);
    let folder = cut.output.display();
    let unfinished = format!(
        "{folder} holds a run that is not finished, 3 updates in: saving replaces it; `resume` \
         goes on with it"
    );
    assert_eq!(told(&cut), unfinished);
    assert_eq!(told(&SavedRun::open(&cut.output).unwrap().settings()), "");
    resumed(&cut.output);
    assert_eq!(told(&cut), format!("{folder} holds an adapter: saving replaces it"));
}

#[test]
fn what_is_no_save_is_named() {
    let home = home();
    let nothing = SavedRun::open(&home.path("nothing")).unwrap_err().to_string();
    assert!(nothing.contains("nothing: there is no save to go on from"), "{nothing}");
    assert!(SavedRun::find(&home.path("nothing")).unwrap().is_none());
    let cut = settings(&home, "cut");
    stopped_after(&cut, 2);
    let path = cut.output.join("checkpoint/state.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    let error = SavedRun::open(&cut.output).unwrap_err().to_string();
    assert!(error.contains("state.safetensors: the checksum does not match"), "{error}");
}
