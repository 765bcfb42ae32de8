//! What the command refuses, in which words, and that nothing is left behind.

use std::fs;

use serde_json::Value;

use crate::place::{Place, files};

#[test]
fn bad_usage_exits_2() {
    let place = Place::new();
    let error = place.on_model("finetune --rnak 4").failed(2);
    assert!(error.contains("--rank"), "{error}");
    let error = place.on_model("finetune --memory-budget lots").failed(2);
    assert!(error.contains("`lots` is no size"), "{error}");
    let error = place.lowtide("finetune --model model").failed(2);
    assert!(error.contains("--data"), "{error}");
    let error = place.on_model("plan --batch-size 0").failed(2);
    assert!(error.contains("--batch-size is 0, expected a whole number from 1"), "{error}");
    let error = place.on_model("plan --layers first").failed(2);
    assert!(error.contains("`first`"), "{error}");
    let error = place.on_model("plan --method magic").failed(2);
    assert!(error.contains("unknown method `magic`, known: lora"), "{error}");
    for (command, flags, says) in [
        ("plan", "--rank 0", "error: --rank is 0, expected a whole number from 1 to 65536\n"),
        ("finetune", "--dropout 2", "error: --dropout is 2, expected "),
        ("plan", "--lr -1", "error: --lr is -1, expected a finite number, 0 or more\n"),
        ("plan", "--max-grad-norm -0.5", "error: --max-grad-norm is -0.5, expected "),
        ("plan", "--weight-decay -1", "error: --weight-decay is -1, expected "),
        ("plan", "--val-split -1", "error: --val-split is -1, expected "),
        ("plan", "--rank -1", "invalid value '-1' for '--rank <N>'"),
        ("plan", "--isa avx", "invalid value 'avx' for '--isa <NAME>'"),
        ("plan", "--backend ndarray --isa avx2", "error: --isa is avx2, expected auto, because "),
        ("eval", "--backend ndarray --compute int8x2", "error: --compute is int8x2, expected auto"),
        ("finetune", "--compute int8", "error: --compute is int8, expected auto or f32, because "),
        ("eval", "--precision balanced --compute int8", "expected auto, f32 or int8x2, because "),
        ("plan", "--gradient zeroth", "[possible values: backprop, mezo, partial]"),
        ("plan", "--mezo-eps 0.1", "error: --mezo-eps is 0.1, expected nothing unless `gradient`"),
        (
            "plan",
            "--gradient mezo --mezo-eps -1",
            "error: --mezo-eps is -1, expected a number from",
        ),
        (
            "plan",
            "--gradient mezo --checkpointing sqrt",
            "error: --checkpointing is sqrt, expected",
        ),
        ("plan", "--gradient partial --partial-blocks 0", "--partial-blocks is 0, expected 1"),
        ("plan", "--gradient partial --partial-blocks 9", "--partial-blocks is 9 of 2 trained"),
        (
            "plan",
            "--min-delta 0.1",
            "error: --min-delta is 0.1, expected 0 unless patience or keep",
        ),
        ("plan", "--packing --group-by-length", "error: --group-by-length is true, expected false"),
        ("plan", "--precision quick", "[possible values: exact, balanced, fast]"),
        ("plan", "--softmax union:0", "error: --softmax is union:0, expected exact, or union:K"),
        ("eval", "--batch-size 0", "error: --batch-size is 0, expected a whole number from 1"),
        ("eval", "--batch-size 1048577", "--batch-size is 1048577, expected a whole number from 1"),
        ("eval", "--max-seq-len 1", "error: --max-seq-len is 1, expected at least 2\n"),
    ] {
        let error = place.on_model(&format!("{command} {flags}")).failed(2);
        assert!(error.contains(says), "{flags}: {error}");
    }
    for command in ["plan --data data.jsonl", "eval --data data.jsonl", "generate -p a"] {
        let error = place.lowtide(&format!("{command} --model model --sliding-window 0")).failed(2);
        let says = "error: --sliding-window is 0, expected at least 1: a token sees itself\n";
        assert_eq!(error, says, "{command}");
    }
    // No processor has both.
    let foreign = ["avx2", "neon"].map(|isa| place.on_model(&format!("plan --isa {isa}")));
    let foreign = foreign.into_iter().find(|ran| ran.code != Some(0)).unwrap().failed(2);
    assert!(foreign.contains("expected auto or what this processor has: scalar"), "{foreign}");
    let error = place.lowtide("plan --config absent.toml").failed(2);
    assert!(error.contains("absent.toml"), "{error}");
    assert!(!place.path("adapter").exists());
}

#[test]
fn bad_input_exits_1_and_names_the_file() {
    let place = Place::new();
    fs::write(place.path("bad.jsonl"), "{\"input_ids\": [1, 2, 999]}\n").unwrap();
    fs::write(place.path("empty.jsonl"), "").unwrap();
    fs::create_dir(place.path("torn")).unwrap();
    fs::copy(place.path("model/config.json"), place.path("torn/config.json")).unwrap();
    let weights = fs::read(place.path("model/model.safetensors")).unwrap();
    fs::write(place.path("torn/model.safetensors"), &weights[..weights.len() / 2]).unwrap();
    for (model, data, says) in [
        ("absent", "data.jsonl", "absent"),
        ("absent.gguf", "data.jsonl", "absent.gguf"),
        ("torn", "data.jsonl", "model.safetensors"),
        ("model", "absent.jsonl", "absent.jsonl"),
        ("model", "empty.jsonl", "empty.jsonl: no examples in it"),
        ("model", "bad.jsonl", "bad.jsonl:1: `input_ids[2]` is 999"),
    ] {
        for command in ["finetune", "plan", "eval"] {
            let error =
                place.lowtide(&format!("{command} --model {model} --data {data}")).failed(1);
            assert!(error.contains(says), "{command}: {error}");
        }
    }
    assert!(!place.path("adapter").exists());
    for (flags, says) in [
        ("eval --adapter absent", "--adapter absent: no such file or folder\n"),
        (
            "eval --adapter data.jsonl",
            "--adapter data.jsonl: it is a file; an adapter is a folder ",
        ),
        ("finetune --init-adapter torn", "--init-adapter torn: no adapter_config.json in it; "),
        ("finetune --output data.jsonl", "--output data.jsonl: no folder can be written there: "),
        (
            "finetune --tensorboard data.jsonl/a",
            "--tensorboard data.jsonl/a: no folder can be written there: ",
        ),
        ("finetune --trace data.jsonl/a", "--trace data.jsonl/a: no file can be written there: "),
        ("finetune --trace model", "--trace model: no file can be written there: is a directory\n"),
    ] {
        let error = place.on_model(flags).failed(1);
        assert!(error.starts_with(&format!("error: {says}")), "{flags}: {error}");
    }
}

#[test]
fn over_budget_exits_3_and_the_budget_it_names_works() {
    let place = Place::new();
    for command in ["eval", "plan", "finetune"] {
        // Batches this large have to be taken in parts.
        let command = format!("{command} --batch-size 12");
        let ran = place.on_model(&format!("{command} --memory-budget 10KiB"));
        let error = ran.failed(3);
        let (_, named) = error.split_once("use --memory-budget ").expect("a budget is named");
        let (named, _) = named.split_once(' ').unwrap();
        assert!(named.ends_with("MiB"), "{named}");
        assert!(!place.path("adapter").exists());
        place.on_model(&format!("{command} --memory-budget {named}")).done();
    }
    let summary = place.json("adapter/summary.json");
    assert_ne!(summary["policy"], "store");
    assert!(summary["micro_batch"].as_u64().unwrap() < 12, "{summary}");
}

#[test]
fn a_budget_too_small_for_what_sites_share_exits_3_everywhere() {
    let place = Place::new();
    place.on_model("finetune --method vera --rank 4 --max-steps 1 --output a").done();
    let trains = "--method vera --rank 4096 --memory-budget 1MiB";
    for (line, needs) in [
        // Both A and B are as wide as the feed-forward part: 128.
        (format!("plan {trains}"), "4,194,304 bytes\nuse --memory-budget 4.0MiB or more"),
        (format!("finetune {trains}"), "4,194,304 bytes\nuse --memory-budget 4.0MiB or more"),
        ("eval --adapter a --memory-budget 1KiB".into(), "4,096 bytes\nuse --memory-budget "),
    ] {
        let error = place.on_model(&line).failed(3);
        assert!(error.contains(needs) && error.contains("comes on top"), "{line}: {error}");
    }
    let merge = "merge --model model --adapter a --output merged --memory-budget 1KiB";
    let error = place.lowtide(merge).failed(3);
    assert!(error.contains("what the sites of vera share alone holds 4,096 bytes"), "{error}");
}

#[test]
fn a_flag_that_the_base_or_the_method_refuses_comes_before_data() {
    let place = Place::new();
    fs::write(place.path("data.jsonl"), "no JSON\n").unwrap();
    place.on_model("finetune").failed(1);
    for (flags, says) in [
        ("--method-option pool=all", "--method-option: lora has no option `pool`"),
        ("--target-modules q_prj", "--target-modules: target module `q_prj`"),
        ("--layers last:9", "--layers: layers `last:9`: the model has 2"),
        ("--method vera --method-option d_initial=x", "--method-option: vera: option `d_initial`"),
        ("--method vera --lora-plus-ratio 2", "--lora-plus-ratio is 2, expected 1 with a method"),
    ] {
        for command in ["plan", "finetune"] {
            let error = place.on_model(&format!("{command} {flags}")).failed(2);
            assert!(error.starts_with(&format!("error: {says}")), "{flags}: {error}");
        }
    }
}

#[test]
fn advice_fits_the_command() {
    let place = Place::new();
    let error = place.on_model("eval --memory-budget 10KiB").failed(3);
    assert!(!error.contains("training") && !error.contains("--rank"), "{error}");
    let error = place.on_model("plan --memory-budget 10KiB --checkpointing store").failed(3);
    assert!(error.contains("--checkpointing auto or block may need less"), "{error}");
}

#[test]
fn with_json_failures_are_told_to_programs_too() {
    let place = Place::new();
    for (line, code) in [
        ("finetune --memory-budget 10KiB --json", 3),
        ("plan --memory-budget 10KiB --json", 3),
        ("eval --memory-budget 10KiB --json", 3),
        ("eval --adapter absent --json", 1),
        ("plan --json --lr -1", 2),
        ("plan --json --rnak 4", 2),
    ] {
        let ran = place.on_model(line);
        let last: Value = serde_json::from_str(ran.out.lines().last().unwrap()).unwrap();
        let keys: Vec<_> = last.as_object().unwrap().keys().map(String::as_str).collect();
        let mut expected = vec!["event", "exit_code", "message"];
        if code == 3 {
            expected.push("smallest_budget");
            let smallest = last["smallest_budget"].as_u64().unwrap();
            let budget = format!("{} --memory-budget {smallest}", line.split(' ').next().unwrap());
            assert_eq!(place.on_model(&budget).code, Some(0), "{budget}");
        }
        assert_eq!(keys, expected, "{line}");
        assert_eq!((&last["event"], &last["exit_code"]), (&"error".into(), &code.into()), "{line}");
        let error = ran.failed(code);
        assert_eq!(error.trim_end(), format!("error: {}", last["message"].as_str().unwrap()));
    }
}

#[test]
fn a_failed_run_leaves_the_output_folder_as_it_was() {
    let place = Place::new();
    place.on_model("finetune --max-steps 1").done();
    let before = files(&place.path("adapter"));
    let names: Vec<_> = before.iter().map(|(path, _)| path.file_name().unwrap()).collect();
    let expected = [
        "adapter_config.json",
        "adapter_model.safetensors",
        "checkpoint",
        "config.toml",
        "metrics.jsonl",
        "report.html",
        "summary.json",
    ];
    assert_eq!(names, expected);
    place.lowtide("finetune --model model --data absent.jsonl").failed(1);
    place.on_model("finetune --memory-budget 1KiB").failed(3);
    place.on_model("finetune --init-adapter absent").failed(1);
    assert_eq!(files(&place.path("adapter")), before);

    fs::write(place.path("taken"), "a file").unwrap();
    let error = place.on_model("finetune --output taken").failed(1);
    assert!(error.contains("taken"), "{error}");
    assert_eq!(fs::read_to_string(place.path("taken")).unwrap(), "a file");
}
