//! What the command does, says and writes.

use std::fs;

use lowtide_testkit::tiny::TinyLlama;
use serde_json::Value;

use crate::place::{Place, files};

#[test]
fn help_lists_every_command_and_flag() {
    let place = Place::new();
    let help = place.lowtide("--help").done();
    for word in [
        "finetune",
        "train",
        "plan",
        "eval",
        "generate",
        "chat",
        "Exit codes: 0 done",
        "130 interrupted",
    ] {
        assert!(help.contains(word), "{word}: {help}");
    }
    let help = place.lowtide("train --help").done();
    for word in [
        "--memory-budget <SIZE>",
        "all-linear for lora [default: auto]",
        "-r, --rank <N>",
        "--dry-run",
    ] {
        assert!(help.contains(word), "{word}: {help}");
    }
    assert!(!help.contains("--lora-r"), "aliases stay out of the help: {help}");
    assert!(place.lowtide("--version").done().starts_with("lowtide 0."));
}

#[test]
fn short_examples_share_sequences_when_asked() {
    let place = Place::new();
    let out = place.on_model("finetune --packing --max-seq-len 32").done();
    assert!(out.contains("\n  packed        "), "{out}");
    let config = fs::read_to_string(place.path("adapter/config.toml")).unwrap();
    assert!(config.contains("packing = true"), "{config}");
    let summary = fs::read(place.path("adapter/summary.json")).unwrap();
    let summary: Value = serde_json::from_slice(&summary).unwrap();
    // Twelve examples of 8 to 12 tokens, three or four in a sequence.
    assert!((3..=6).contains(&summary["steps"].as_u64().unwrap()), "{summary}");
    let loss = |flag: &str| {
        let line = format!("eval --model model --data data.jsonl --json {flag}");
        let result: Value = serde_json::from_str(&place.lowtide(&line).done()).unwrap();
        result["loss"].as_f64().unwrap()
    };
    let (packed, plain) = (loss("--packing"), loss("--no-packing"));
    assert!(((packed - plain) / plain).abs() < 1e-6, "{packed} and {plain}");
}

#[test]
fn the_next_command_measures_what_was_held_out() {
    let place = Place::new();
    place.examples("data.valid.jsonl", 3);
    let out = place.on_model("finetune --max-steps 1").done();
    let (_, next) = out.split_once("\nNext, measure it\n  ").expect("a next command");
    let next = next.lines().next().unwrap();
    let program = env!("CARGO_BIN_EXE_lowtide");
    let flags = "eval --model model --adapter adapter --data data.valid.jsonl";
    assert_eq!(next, format!("{program} {flags}"));
    place.lowtide(flags).done();
}

/// A run with more updates than anyone waits for is stopped after its first few.
#[cfg(unix)]
#[test]
fn an_interrupted_run_saves_what_it_learned() {
    use std::io::{BufRead, BufReader, Read};
    use std::process::{Command, Stdio};

    let place = Place::new();
    let mut run = Command::new(env!("CARGO_BIN_EXE_lowtide"))
        .args("finetune --model model --data data.jsonl --epochs 1000000 --json".split(' '))
        .current_dir(place.root())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut events: Vec<Value> = Vec::new();
    for line in BufReader::new(run.stdout.take().unwrap()).lines() {
        let event: Value = serde_json::from_str(&line.unwrap()).unwrap();
        // Once only: a second signal would end the run before it has saved.
        let third = event["event"] == "step" && event["step"] == 3;
        events.push(event);
        if third {
            let id = run.id().to_string();
            assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
        }
    }
    let mut told = String::new();
    run.stderr.take().unwrap().read_to_string(&mut told).unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(130), "{told}");

    let summary = place.json("adapter/summary.json");
    let steps = summary["steps"].as_u64().unwrap();
    let stopped = format!("stopped after {steps} of 12000000 updates");
    assert!((3..1_000_000).contains(&steps), "{steps}");
    assert!(told.replace(',', "").starts_with(&stopped), "{told}");
    let next =
        ": the adapter so far is in adapter, and `lowtide finetune --resume adapter` goes on\n";
    assert!(told.ends_with(next), "{told}");
    let names: Vec<_> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(names[names.len() - 3..], ["saved", "done", "error"]);
    assert_eq!(events[events.len() - 1]["exit_code"], 130);
    for file in ["adapter_config.json", "adapter_model.safetensors", "config.toml", "metrics.jsonl"]
    {
        assert!(place.path("adapter").join(file).is_file(), "{file}");
    }
    place.on_model("eval --adapter adapter").done();
}

#[test]
fn finetune_writes_its_folder_and_says_what_it_does() {
    let place = Place::new();
    place.examples("valid.jsonl", 3);
    place.examples("train.jsonl", 12);
    let line = "finetune -m model -d . -o out --epochs 2 --report-every 6 --save-every 20 \
                --threads 2 --isa scalar";
    let out = place.lowtide(line).done();
    for part in [
        "\n  training      12 examples, and 3 held out (",
        "\n  adapter       lora on 14 linears, ",
        "\n  computing     simd/scalar in f32, 2 threads\n",
        "\nheld-out loss ",
        " before training (",
        "\nstep  1/24  loss ",
        "\nstep 18/24  loss ",
        "\nsaved out after 20 updates\n",
        "as planned to the byte\n",
        " eval --model model --adapter out --data ./valid.jsonl\n",
    ] {
        assert!(out.contains(part), "{part}: {out}");
    }
    assert!(!out.contains('\x1b') && !out.contains("step  2/24"), "{out}");
    assert!(!out.contains("saved out after 24"), "{out}");

    let config = fs::read_to_string(place.path("out/config.toml")).unwrap();
    assert!(config.contains("epochs = 2\n") && config.contains("rank = 8\n"), "{config}");
    // Arithmetic as resolved, and nothing of the machine, which is another one elsewhere.
    assert!(config.contains("precision = \"exact\"\ncompute = \"f32\"\n"), "{config}");
    assert!(!config.contains("isa") && !config.contains("threads"), "{config}");
    let metrics = fs::read_to_string(place.path("out/metrics.jsonl")).unwrap();
    let metrics: Vec<Value> = metrics.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let steps: Vec<_> = metrics.iter().map(|line| line["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [1, 6, 12, 18, 24]);
    let keys: Vec<_> = metrics[0].as_object().unwrap().keys().cloned().collect();
    let expected =
        ["step", "loss", "lr", "grad_norm", "tokens", "seconds", "held_bytes", "gradient"];
    assert_eq!(keys, expected);
    assert_eq!(place.json("out/adapter_config.json")["peft_type"], "LORA");
    assert!(place.path("out/adapter_model.safetensors").exists());
}

#[test]
fn the_summary_has_every_promised_field() {
    let place = Place::new();
    place.on_model("finetune --max-steps 3 --val-split 0.25").done();
    let summary = place.json("adapter/summary.json");
    let keys: Vec<_> = summary.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = [
        "steps",
        "tokens",
        "labelled_tokens",
        "loss_first",
        "loss_last",
        "eval_loss_before",
        "eval_loss_after",
        "seconds_per_step_median",
        "tokens_per_second",
        "seconds_rested",
        "seconds_paused",
        "energy_joules",
        "energy_source",
        "adapter_bytes",
        "ranks",
        "planned_peak_bytes",
        "peak_bytes",
        "peak_by_category",
        "mapped_bytes",
        "stream_weights",
        "storage_read_bytes",
        "rss_anon_peak_bytes",
        "rss_peak_bytes",
        "backend",
        "precision",
        "compute",
        "softmax",
        "softmax_error",
        "sliding_window",
        "threads",
        "gradient",
        "policy",
        "store",
        "tile_rows",
        "clipping",
        "micro_batch",
        "optimizer",
        "packing_overhead",
        "mlock",
        "trainable_parameters",
        "rollbacks",
        "spikes",
        "stopped_early",
        "best_step",
    ];
    assert_eq!(keys, expected);
    assert_eq!((&summary["steps"], &summary["threads"]), (&3.into(), &2.into()));
    assert_eq!(summary["peak_bytes"], summary["planned_peak_bytes"]);
    let parts = summary["peak_by_category"].as_object().unwrap().values();
    let sum: u64 = parts.map(|bytes| bytes.as_u64().unwrap()).sum();
    assert_eq!(summary["peak_bytes"], sum);
    assert!(summary["eval_loss_after"].is_f64());
}

#[test]
fn approximate_gradients_are_called_so_wherever_they_are_told() {
    let place = Place::new();
    let plan = place.on_model("plan --gradient mezo --optimizer sgd").done();
    for part in [
        "\n  gradients     made and freed block by block, from two losses an update\n",
        "\n  approximate   mezo, eps 0.01\n",
        "\n  none ",
    ] {
        assert!(plan.contains(part), "{part}: {plan}");
    }
    assert!(!plan.contains("checkpoints") && !plan.contains("  optimizer "), "{plan}");
    let out = place.on_model("finetune --max-steps 3 --gradient partial --partial-blocks 1").done();
    assert!(out.contains("\n  approximate   partial, 1 block an update\n"), "{out}");
    assert!(out.contains("\n  gradient      partial, which is approximate\n"), "{out}");
    assert_eq!(place.json("adapter/summary.json")["gradient"], "partial");
    let metrics = fs::read_to_string(place.path("adapter/metrics.jsonl")).unwrap();
    assert!(metrics.lines().all(|line| line.contains("\"gradient\":\"partial\"")), "{metrics}");
    let out = place.lowtide("finetune --config adapter/config.toml --output again --json").done();
    assert!(out.contains("\"approximation\":\"partial, 1 block an update\""), "{out}");
    let adapters = ["adapter", "again"]
        .map(|folder| fs::read(place.path(folder).join("adapter_model.safetensors")).unwrap());
    assert!(adapters[0] == adapters[1], "the same draws");
}

#[test]
fn a_batch_in_parts_with_blocks_clipped_apart_is_written_down() {
    let place = Place::new();
    let flags = "--batch-size 4 --micro-batch 2 --clipping per-block --optimizer auto --mlock";
    place.on_model(&format!("finetune --max-steps 1 --quiet {flags}")).done();
    let summary = place.json("adapter/summary.json");
    assert_eq!((&summary["micro_batch"], &summary["mlock"]), (&2.into(), &true.into()));
    assert_eq!(
        (&summary["clipping"], &summary["optimizer"]),
        (&"per-block".into(), &"adamw".into())
    );
    assert!(summary["packing_overhead"].as_f64().unwrap() <= 0.03, "{summary}");
    let config = fs::read_to_string(place.path("adapter/config.toml")).unwrap();
    for line in ["micro-batch = \"2\"", "clipping = \"per-block\"", "optimizer = \"adamw\""] {
        assert!(config.contains(line), "{line}: {config}");
    }
    let error = place.on_model("plan --batch-size 4 --micro-batch 5").failed(2);
    assert!(error.contains("--micro-batch is 5 with batch-size 4"), "{error}");
    let error = place.on_model("plan --grad-accum 2 --clipping two-pass").failed(2);
    assert!(error.contains("--clipping is two-pass with 1 of 2 sequences"), "{error}");
}

#[test]
fn json_is_one_event_a_line_and_nothing_else() {
    let place = Place::new();
    let out = place.on_model("finetune --max-steps 2 --val-split 0.25 --json").done();
    let events: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let names: Vec<_> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    let expected = ["data", "plan", "evaluation", "step", "step", "evaluation", "saved", "done"];
    assert_eq!(names, expected);
    assert_eq!(events[0]["examples"], 9);
    assert_eq!(events[1]["planned_peak_bytes"], events[7]["peak_bytes"]);
    assert_eq!(events[2]["loss"], events[7]["eval_loss_before"]);
    assert_eq!(events[3]["loss"], events[7]["loss_first"]);
    assert_eq!(events[6]["path"], "adapter");
}

#[test]
fn quiet_says_nothing_and_verbose_traces_on_standard_error() {
    let place = Place::new();
    assert_eq!(place.on_model("finetune --max-steps 1 --quiet").done(), "");
    place.on_model("finetune --max-steps 1 --quiet --target-modules c_attn").failed(2);
    let ran = place.on_model("plan --verbose");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(ran.out.contains("Held at the peak"), "{}", ran.out);
}

#[test]
fn plan_prints_tables_or_one_object_and_writes_nothing() {
    let place = Place::new();
    let before = files(place.root());
    let out = place.on_model("plan --rank 4").done();
    for part in ["Data\n  training      12 examples\n", "\n  store ", "\n  block ", " chosen\n"] {
        assert!(out.contains(part), "{part}: {out}");
    }
    let out = place.on_model("plan --rank 4 --json").done();
    let plan: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(out.lines().count(), 1);
    assert_eq!(plan["data"]["examples"], 12);
    assert_eq!(plan["trainable_parameters"], 4 * 2 * parameters_per_rank());
    let alternatives = plan["alternatives"].as_array().unwrap();
    let chosen = alternatives.iter().find(|row| row["chosen"] == true).unwrap();
    assert_eq!(chosen["peak_bytes"], plan["planned_peak_bytes"]);
    assert_eq!(files(place.root()), before);
}

/// Inputs and outputs of the seven linears of one of the tiny model's blocks.
fn parameters_per_rank() -> usize {
    let m = TinyLlama::default();
    let (q, kv) = (m.heads * m.head_dim, m.kv_heads * m.head_dim);
    2 * (m.hidden + q) + 2 * (m.hidden + kv) + 3 * (m.hidden + m.intermediate)
}

#[test]
fn a_dry_run_prints_a_configuration_that_works() {
    let place = Place::new();
    let out = place.on_model("finetune --dry-run --rank 2 --max-steps 1").done();
    assert!(out.contains("\n# Held at the peak\n"), "{out}");
    assert!(!place.path("adapter").exists());
    fs::write(place.path("run.toml"), &out).unwrap();
    place.lowtide("finetune --config run.toml").done();
    assert_eq!(place.json("adapter/adapter_config.json")["r"], 2);

    let out = place.on_model("finetune --dry-run --json").done();
    let object: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(object["config"]["max-seq-len"], 512);
    assert_eq!(object["plan"]["steps"], 12);
}

#[test]
fn flags_win_over_the_file_and_the_file_over_defaults() {
    let place = Place::new();
    let file = "model = 'model'\ndata = 'data.jsonl'\nrank = 4\nalpha = 4.0\nthreads = 1\n";
    fs::write(place.path("run.toml"), file).unwrap();
    place.lowtide("finetune -c run.toml --lora-r 2 --iters 1").done();
    let config = place.json("adapter/adapter_config.json");
    assert_eq!((&config["r"], config["lora_alpha"].as_f64()), (&2.into(), Some(4.0)));
    assert_eq!(place.json("adapter/summary.json")["threads"], 1);
    fs::write(place.path("run.toml"), format!("{file}lernrate = 1\n")).unwrap();
    let error = place.lowtide("finetune -c run.toml").failed(2);
    assert!(error.contains("run.toml") && error.contains("lernrate"), "{error}");
}

#[test]
fn eval_measures_base_and_adapter() {
    let place = Place::new();
    place.on_model("finetune --epochs 4 --lr 1e-2 --quiet").done();
    let measured = |flags: &str| -> Value {
        let out = place.on_model(&format!("eval --json {flags}")).done();
        assert_eq!(out.lines().count(), 1);
        serde_json::from_str(&out).unwrap()
    };
    let (base, tuned) = (measured(""), measured("--adapter adapter"));
    let keys: Vec<_> = base.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = ["loss", "perplexity", "accuracy", "tokens", "labelled_tokens", "seconds"];
    assert_eq!(keys, expected);
    assert!(tuned["loss"].as_f64() < base["loss"].as_f64(), "{base} {tuned}");
    let loss = base["loss"].as_f64().unwrap();
    assert!((base["perplexity"].as_f64().unwrap() / loss.exp() - 1.0).abs() < 1e-9);
    let out = place.on_model("eval").done();
    assert!(out.contains(&format!("  loss          {loss:.4}, ")), "{out}");
}

#[test]
fn threads_and_policy_change_no_byte_of_the_adapter() {
    let place = Place::new();
    let mut adapters = Vec::new();
    for flags in ["--threads 1", "--threads 4 --checkpointing block"] {
        let line = format!("finetune --model model --data data.jsonl --max-steps 4 {flags} -q");
        place.lowtide(&line).done();
        adapters.push(fs::read(place.path("adapter/adapter_model.safetensors")).unwrap());
    }
    assert!(adapters[0] == adapters[1]);
}

#[test]
fn an_approximate_softmax_is_told_wherever_it_shows() {
    let place = Place::new();
    let run = "--max-steps 2 --softmax union:5";
    let out = place.on_model(&format!("plan {run}")).done();
    assert!(out.contains("  softmax       union:5, approximate: up to "), "{out}");
    let plan = place.on_model(&format!("plan --json {run}")).done();
    let plan: Value = serde_json::from_str(&plan).unwrap();
    assert_eq!((&plan["softmax"], &plan["union"]["neighbours"]), (&"union:5".into(), &5.into()));
    let out = place.on_model(&format!("finetune {run} --val-split 0.25")).done();
    for part in [
        "approximate softmax over ",
        " where the exact one is ",
        "; of the topmost gradient, cosine 0.",
        "\n  softmax       union:5, approximate: gradient cosine 0.",
    ] {
        assert!(out.contains(part), "`{part}` in {out}");
    }
    let summary = place.json("adapter/summary.json");
    assert_eq!(summary["peak_bytes"], summary["planned_peak_bytes"]);
    let error = &summary["softmax_error"];
    assert!(error["loss"].as_f64() < error["exact_loss"].as_f64(), "{error}");
    let page = fs::read_to_string(place.path("adapter/report.html")).unwrap();
    assert!(page.contains("union:5, approximate"), "the report says so");
    let events = place.on_model(&format!("finetune --json {run} --val-split 0.25")).done();
    let told = events.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let told = told.filter(|event| event["event"] == "softmax").collect::<Vec<_>>();
    assert_eq!((told.len(), &told[0]["words"]), (1, &error["words"]));
}
