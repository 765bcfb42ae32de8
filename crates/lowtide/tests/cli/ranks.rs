//! Ranks of their own for some sites: asked for, written, loaded and converted.

use std::fs;

use serde_json::Value;

use crate::place::Place;

const PATTERNS: &str = r"--rank-pattern layers\.0\..*proj=0 --rank-pattern q_proj=6 \
    --rank-pattern v_proj=1 --alpha-pattern v_proj=2.5";

fn finetune(place: &Place, flags: &str) -> String {
    let line = format!("finetune --rank 4 --max-steps 2 --val-split 0.2 {flags}");
    place.on_model(&line.replace("\\\n", "")).done()
}

#[test]
fn sites_have_ranks_of_their_own_in_files_that_peft_reads() {
    let place = Place::new();
    finetune(&place, &format!("{PATTERNS} --output a"));
    let config = place.json("a/adapter_config.json");
    let patterns = |key: &str| config[key].to_string();
    assert_eq!(patterns("rank_pattern"), r#"{"q_proj":6,"v_proj":1}"#);
    assert_eq!(
        (patterns("alpha_pattern"), patterns("r")),
        (r#"{"v_proj":2.5}"#.into(), "4".into())
    );
    let modules = config["target_modules"].as_array().unwrap();
    assert!(modules.iter().all(|name| name.as_str().unwrap().starts_with("model.layers.1.")));
    let list = place.lowtide("inspect a --json --tensors").done();
    let list: Value = serde_json::from_str(&list).unwrap();
    let own = ["ranks_of_their_own", "alphas_of_their_own"].map(|key| list[key].as_u64());
    assert_eq!(own, [Some(2), Some(1)]);
    let out = place.lowtide("inspect a").done();
    let lines = ["other ranks", "other alphas"].map(|name| out.lines().find(|l| l.contains(name)));
    let [ranks, alphas] = lines.map(|line| line.unwrap_or_else(|| panic!("{out}")));
    assert!(ranks.ends_with("2 patterns in rank_pattern"), "{out}");
    assert!(alphas.ends_with("1 pattern in alpha_pattern"), "{out}");
    for row in list["tensor_list"].as_array().unwrap() {
        let (name, shape) = (row["name"].as_str().unwrap(), &row["shape"]);
        let rank = if name.contains("q_proj") { 6 } else { 4 };
        let rank = if name.contains("v_proj") { 1 } else { rank };
        assert_eq!(shape[usize::from(name.contains("lora_B"))], rank, "{name}");
    }
    // The run again from its own configuration, and from its adapter, whose patterns hold.
    place.lowtide("finetune --config a/config.toml --output b").done();
    let bytes = |dir: &str| fs::read(place.path(dir).join("adapter_model.safetensors")).unwrap();
    assert!(bytes("a") == bytes("b"));
    finetune(&place, "--init-adapter a --layers 1 --output c");
    let text = |path: &str| fs::read_to_string(place.path(path)).unwrap();
    let table = "[rank-pattern]\n\"layers\\\\.0\\\\..*proj\" = 0\nq_proj = 6\nv_proj = 1\n";
    let table = table.replace("\"layers\\\\.0\\\\..*proj\"", r"'layers\.0\..*proj'");
    let (own, taken) = (text("a/config.toml"), text("c/config.toml"));
    assert!(own.contains(&table), "{own}");
    assert!(taken.contains("[rank-pattern]\nq_proj = 6\nv_proj = 1\n"), "{taken}");
}

#[test]
fn ranks_and_alphas_survive_gguf() {
    let place = Place::new();
    finetune(&place, "--rank-pattern v_proj=1 --rank-pattern up_proj=0 --output a");
    place.lowtide("convert --adapter a --output a.gguf").done();
    place.lowtide("convert --adapter a.gguf --output b").done();
    let loss = |adapter: &str| {
        let out = place.on_model(&format!("eval --json --adapter {adapter}")).done();
        serde_json::from_str::<Value>(&out).unwrap()["loss"].clone()
    };
    assert_eq!(loss("a"), loss("a.gguf"));
    assert_eq!(loss("a"), loss("b"));
    // Alphas are said through B, where they differ.
    finetune(&place, "--alpha-pattern v_proj=1 --lr 0.01 --output c");
    place.on_model("finetune --rank 4 --adaptive-rank 2 --max-steps 9 --lr 0.01 --output d").done();
    for adapter in ["c", "d"] {
        let line = format!("convert --adapter {adapter} --output {adapter}.gguf");
        let out = place.lowtide(&line).done();
        assert!(out.contains(" for all modules: B of the "), "{out}");
        let [own, gguf] = [adapter, &format!("{adapter}.gguf")].map(|a| loss(a).as_f64().unwrap());
        assert!((own - gguf).abs() < 1e-6, "{own}, {gguf}");
    }
}

#[test]
fn patterns_that_mean_nothing_are_told() {
    let place = Place::new();
    let plan = |flags: &str, code: i32| place.on_model(&format!("plan {flags}")).failed(code);
    let error = plan("--rank-pattern w_proj=3", 2);
    assert!(
        error.contains("--rank-pattern: rank pattern `w_proj` matches the end of no"),
        "{error}"
    );
    let error = plan("--rank-pattern q_proj", 2);
    assert!(error.contains("expected a pattern, `=` and a number"), "{error}");
    let error = plan("--alpha-pattern q(=1", 2);
    assert!(error.contains("--alpha-pattern: alpha pattern `q(` is no regular"), "{error}");
    let error = plan("--rank-pattern .*=0", 2);
    assert!(error.contains("leave none of the chosen sites an adapter"), "{error}");
    finetune(&place, "--rank-pattern q_proj=2 --output a");
    let error = place.on_model("plan --rank 4 --init-adapter a --rank-pattern q_proj=3").failed(1);
    assert!(error.contains("was trained with --rank 2 --alpha 16"), "{error}");
    let error = plan("--rank 4 --init-adapter a --sensitivity", 2);
    assert!(error.contains("expected none beside a profile"), "{error}");
    let error = plan("--rank 129 --sensitivity", 2);
    assert!(error.contains("129") && error.contains("at most 128 where ranks are"), "{error}");
    let error = plan("--target-modules q_proj,self_attn", 2);
    let words = "--target-modules: method `lora` adapts nothing of target modules `self_attn`";
    assert!(error.contains(words), "{error}");
}

#[test]
fn an_adapter_fits_its_budget_and_says_how() {
    let place = Place::new();
    let flags = "--rank 4 --max-steps 2 --probes 2 --adapter-budget 6KiB";
    let plan = place.on_model(&format!("plan {flags} --json")).done();
    let plan: Value = serde_json::from_str(&plan).unwrap();
    let out = place.on_model(&format!("finetune {flags} --output a")).done();
    assert!(out.contains("\nRanks for the adapter's budget\n  bytes         "), "{out}");
    let bytes = fs::metadata(place.path("a/adapter_model.safetensors")).unwrap().len();
    assert!(bytes <= 6 << 10, "{bytes}");
    assert_eq!(plan["adapter_bytes"], bytes);
    let chosen = &plan["sensitivity"]["budget"];
    assert_eq!((&chosen["bytes"], &chosen["budget"]), (&bytes.into(), &(6 << 10).into()));
    let text = fs::read_to_string(place.path("a/config.toml")).unwrap();
    assert!(text.contains("\n[rank-pattern]\n") && !text.contains("adapter-budget"), "{text}");
    // The same adapter from the ranks alone, and half the bytes for the same ranks.
    place.lowtide("finetune --config a/config.toml --output b").done();
    let read = |dir: &str| fs::read(place.path(dir).join("adapter_model.safetensors")).unwrap();
    assert!(read("a") == read("b"));
    place.lowtide("finetune --config a/config.toml --adapter-type bf16 --output c").done();
    assert!(read("c").len() < read("a").len() * 2 / 3);
    let loss = |adapter: &str| {
        let out = place.on_model(&format!("eval --json --adapter {adapter}")).done();
        serde_json::from_str::<Value>(&out).unwrap()["loss"].as_f64().unwrap()
    };
    assert!((loss("a") - loss("c")).abs() < 1e-2);
    let error = place.on_model("plan --adapter-budget 100B").failed(1);
    assert!(error.contains("no adapter fits --adapter-budget 100B"), "{error}");
    let error = place.on_model("plan --adapter-budget 1KB --rank-pattern q_proj=1").failed(2);
    assert!(error.contains("no rank-pattern beside it"), "{error}");
}

#[test]
fn what_sites_promise_is_shown() {
    let place = Place::new();
    let out = place.on_model("plan --sensitivity --probes 2").done();
    let table = out.split_once("\nSensitivity: ").expect("a table").1;
    for part in ["\n  layer     q_proj", "\n      1 ", "\n      0 ", "\nProposal: freeze nothing"] {
        assert!(table.contains(part), "{part}: {table}");
    }
    // Every part of this base promises as much as the others: there is nothing to propose.
    assert!(!table.contains("--layers") && !table.contains("What the proposal takes"), "{table}");
    let out = place.on_model("plan --sensitivity --probes 2 --json").done();
    let profile = serde_json::from_str::<Value>(&out).unwrap()["profile"].clone();
    let sites = profile["sites"].as_array().unwrap();
    let sum: f64 = sites.iter().map(|site| site["share"].as_f64().unwrap()).sum();
    assert!(sites.len() == 14 && (sum - 1.0).abs() < 1e-9, "{sum}");
    let (kept, all) = (&profile["proposed_plan"], profile["proposal"]["parameters"].as_f64());
    assert!(kept["trainable_parameters"].as_u64().is_some());
    assert_eq!(all, Some(1.0));
    let error = place.on_model("plan --sensitivity --probes 1").failed(2);
    assert!(error.contains("--probes is 1, expected a whole number from 2"), "{error}");
}

#[test]
fn ranks_become_smaller_on_the_way() {
    let place = Place::new();
    let flags = "--rank 4 --adaptive-rank 2 --max-steps 10 --val-split 0.2 --lr 0.01 \
                 --report-every 1";
    let plan = place.on_model(&format!("plan {flags} --json")).done();
    let plan: Value = serde_json::from_str(&plan).unwrap();
    let course = r#"{"start":56,"target":28,"from":1,"until":7}"#;
    assert_eq!(plan["adaptive_rank"], serde_json::from_str::<Value>(course).unwrap());
    let out = place.on_model(&format!("finetune {flags} --output a")).done();
    assert!(out.contains("\n  ranks         4.00 on average, 2.00 at the end: they fall"), "{out}");
    let summary = place.json("a/summary.json");
    let left = &summary["ranks"];
    assert_eq!((&left["pairs"], &left["average"]), (&28.into(), &2.0.into()));
    assert_eq!(left["asked"], 2);
    let told = format!("\n  ranks         2.00 on average, {} to", left["smallest"]);
    assert!(out.contains(&told), "{told}: {out}");
    let bytes = fs::metadata(place.path("a/adapter_model.safetensors")).unwrap().len();
    assert_eq!(summary["adapter_bytes"], bytes);
    assert!(bytes <= plan["adapter_bytes"].as_u64().unwrap());
    let metrics = fs::read_to_string(place.path("a/metrics.jsonl")).unwrap();
    let pairs = metrics.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let pairs: Vec<u64> = pairs.map(|line| line["pairs"].as_u64().unwrap()).collect();
    assert_eq!((pairs[0], pairs[6], pairs[9]), (56, 28, 28));
    let page = fs::read_to_string(place.path("a/report.html")).unwrap();
    assert!(page.contains("Rank at the end"));
    // What is saved is an adapter like any other.
    place.on_model("merge --adapter a --output merged --type f32").done();
    place.on_model("plan --init-adapter a --rank 4").done();
    let config = place.json("a/adapter_config.json");
    assert_eq!((&config["r"], &config["lora_alpha"]), (&4.into(), &16.into()));
    let text = fs::read_to_string(place.path("a/config.toml")).unwrap();
    assert!(text.contains("\nadaptive-rank = 2\n") && !text.contains("pattern"), "{text}");
}

#[test]
fn adaptive_ranks_that_cannot_be_are_told() {
    let place = Place::new();
    let plan = |flags: &str| place.on_model(&format!("plan {flags}")).failed(2);
    let error = plan("--adaptive-rank 8");
    assert!(error.contains("--adaptive-rank is 8 with `rank` 8, expected a whole"), "{error}");
    let error = plan("--adaptive-rank 2 --rank 4 --rank-pattern .*=2");
    assert!(error.contains("2 where the ranks of all sites are 2.00 on average"), "{error}");
    let error = plan("--adaptive-rank 2 --method ia3");
    assert!(error.contains("2 with method ia3, expected a method of low rank: lora"), "{error}");
    let error = plan("--adaptive-rank 2 --adapter-budget 1MB");
    assert!(error.contains("no adapter-budget beside it"), "{error}");
}

#[test]
fn sparse_updates_hold_states_for_what_they_update() {
    let place = Place::new();
    let run = |flags: &str, output: &str| {
        let line = format!("finetune --max-steps 3 --output {output} {flags}");
        place.on_model(&line).done();
        let summary = place.json(&format!("{output}/summary.json"));
        assert_eq!(summary["peak_bytes"], summary["planned_peak_bytes"], "{flags}");
        let held = |category: &str| summary["peak_by_category"][category].as_u64().unwrap_or(0);
        (held("optimizer"), held("adapter"))
    };
    let (all, adapter) = run("--optimizer adamw", "a");
    assert_eq!(all, 2 * adapter);
    // Of each ten entries an index and two moments, but for what rounding up adds.
    let (top, _) = run("--sparse-updates top:10% --optimizer adamw", "b");
    assert!((3 * adapter / 10..adapter * 32 / 100).contains(&top), "{top} of {adapter}");
    let (none, _) = run("--sparse-updates threshold:0.001 --optimizer sgd", "c");
    assert_eq!(none, 0);
    let config = fs::read_to_string(place.path("b/config.toml")).unwrap();
    assert!(config.contains("sparse-updates = \"top:10%\""), "{config}");
    let error = place.on_model("plan --sparse-updates threshold:1").failed(2);
    assert!(error.contains("--optimizer is adamw8bit, expected adamw, lion or sgd"), "{error}");
    let error = place.on_model("plan --sparse-updates top:0%").failed(2);
    assert!(error.contains("--sparse-updates is top:0%"), "{error}");
}

#[test]
fn an_adapter_is_trained_and_saved_in_eight_bits() {
    let place = Place::new();
    let trains = "--rank 4 --max-steps 2 --val-split 0.2 --method-option quantize=int8";
    let loss = |adapter: &str| {
        let out = place.on_model(&format!("eval --json --adapter {adapter}")).done();
        serde_json::from_str::<Value>(&out).unwrap()["loss"].clone()
    };
    place.on_model(&format!("finetune {trains} --output floats")).done();
    place.on_model(&format!("finetune {trains} --adapter-type int8 --output codes")).done();
    let there = |file: &str| place.path("codes").join(file).exists();
    assert!(there("adapter_codes.safetensors") && !there("adapter_model.safetensors"));
    let config = place.json("codes/adapter_config.json");
    assert_eq!((&config["adapter_type"], &config["quantize"]), (&"int8".into(), &"int8".into()));
    assert_eq!(loss("codes"), loss("floats"));
    let out = place.lowtide("inspect codes").done();
    assert!(out.contains("of int8\n"), "{out}");
    // Decoded for PEFT without a base, into the very file of the run that saved floats.
    let out = place.lowtide("convert --adapter codes --output decoded").done();
    assert!(out.contains("the numbers are those that the codes of int8 stand for"), "{out}");
    let read = |dir: &str| fs::read(place.path(dir).join("adapter_model.safetensors")).unwrap();
    assert!(read("decoded") == read("floats"));
    assert_eq!(place.json("decoded/adapter_config.json"), place.json("floats/adapter_config.json"));
    // As GGUF and merged it is the same function.
    place.lowtide("convert --adapter codes --output codes.gguf").done();
    place.lowtide("convert --adapter floats --output floats.gguf").done();
    assert_eq!((loss("codes.gguf"), loss("floats.gguf")), (loss("codes"), loss("codes")));
    // Bytes are counted as they are saved.
    let flags = "--rank 4 --max-steps 1 --probes 2 --adapter-budget 4KiB --adapter-type int8";
    let plan = place.on_model(&format!("plan {flags} --json")).done();
    let plan: Value = serde_json::from_str(&plan).unwrap();
    assert!(plan["warnings"][0].as_str().unwrap().contains("quantize=int8"), "{plan}");
    place.on_model(&format!("finetune {flags} --output small")).done();
    let bytes = fs::metadata(place.path("small/adapter_codes.safetensors")).unwrap().len();
    assert_eq!((&plan["adapter_bytes"], bytes <= 4 << 10), (&bytes.into(), true));
    let error = place.on_model(&format!("plan {trains} --adapter-type f16")).failed(2);
    assert!(error.contains("--adapter-type is f16, expected int8 or f32"), "{error}");
}
