//! `lowtide convert`: what it writes, says and refuses.

use std::fs;

use serde_json::Value;

use crate::place::{Place, files};

fn report(out: &str) -> Value {
    serde_json::from_str(out.lines().last().unwrap()).unwrap()
}

/// GGUF has no name for a tokenizer that splits nothing.
fn split_as_gpt2(place: &Place) {
    let mut document = place.json("talker/tokenizer.json");
    document["pre_tokenizer"]["use_regex"] = true.into();
    fs::write(place.path("talker/tokenizer.json"), document.to_string()).unwrap();
}

#[test]
fn a_base_goes_to_gguf_and_back_with_its_words() {
    let place = Place::new();
    place.speaker("talker", true);
    split_as_gpt2(&place);
    let out = place.lowtide("convert -m talker -o t.gguf --type q8_0 --json").done();
    let gguf = report(&out);
    let (event, output) = (&gguf["event"], &gguf["output"]);
    assert_eq!((event, output, &gguf["kind"]), (&"done".into(), &"t.gguf".into(), &"q8_0".into()));
    assert_eq!(gguf["bytes_after"], fs::metadata(place.path("t.gguf")).unwrap().len());
    let names: Vec<_> =
        gguf["types"].as_array().unwrap().iter().map(|own| own["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["Q8_0", "F32"]);
    let error = gguf["relative_error"].as_f64().unwrap();
    assert!(error > 0.0 && error < 0.01, "{error}");
    assert!(gguf["peak_bytes"].as_u64().unwrap() <= 64 << 20);
    assert_eq!(gguf["notes"], Value::Array(Vec::new()));

    let back = report(&place.lowtide("convert -m t.gguf -o back --type f32 --json").done());
    assert_eq!((&back["parameters"], &back["relative_error"]), (&gguf["parameters"], &0.0.into()));
    let said = |model: &str| {
        let line = format!("generate -m {model} --prompt ab --temperature 0 --max-tokens 8");
        place.lowtide(&line).done()
    };
    assert_eq!(said("t.gguf"), said("back"));
    let template = |model: &str| place.json(model)["chat_template"].clone();
    assert_eq!(template("back/tokenizer_config.json"), template("talker/tokenizer_config.json"));
}

#[test]
fn text_says_what_was_written() {
    let place = Place::new();
    let out = place.lowtide("convert -m model -o m.gguf --type f16").done();
    assert!(out.contains("m.gguf") && out.contains("F16"), "{out}");
    assert!(out.contains("no tokenizer"), "what is missing in it is said: {out}");
    assert_eq!(place.lowtide("convert -m model -o n.gguf --quiet").done(), "");
}

#[test]
fn what_is_refused_leaves_everything_as_it_was() {
    let place = Place::new();
    place.lowtide("convert -m model -o m.gguf --type f16").done();
    place.speaker("talker", false);
    let document = fs::read_to_string(place.path("talker/tokenizer.json")).unwrap();
    let wordpiece = document.replace(r#""type":"BPE""#, r#""type":"WordPiece""#);
    assert_ne!(document, wordpiece);
    fs::write(place.path("talker/tokenizer.json"), wordpiece).unwrap();
    let before = files(place.root());
    for (line, code, says) in [
        ("-m talker -o m.gguf", 1, "m.gguf is there already; give another name, or --overwrite"),
        ("-m m.gguf -o m.gguf --overwrite", 1, "m.gguf is a part of what is to be read"),
        ("-m model -o n.gguf --type q3_z", 2, "invalid value 'q3_z' for '--type <TYPE>'"),
        ("-m model -o folder --type q4_0", 1, "type q4_0 cannot be written to folder: expected "),
        ("-m talker -o n.gguf", 1, "the tokenizer is WordPiece: expected "),
        ("-m absent -o n.gguf", 1, "absent"),
        ("-m model -o n.gguf --memory-budget 1KiB", 3, "the memory budget of 1024 bytes is too"),
        ("-m model -o n --max-shard-size 0B", 2, "--max-shard-size is 0B, expected a size above 0"),
        // Nothing of it is computed by a backend.
        ("-m model -o n.gguf --backend ndarray", 2, "unexpected argument '--backend'"),
    ] {
        let error = place.lowtide(&format!("convert {line}")).failed(code);
        assert!(error.contains(says), "{line}: {error}");
        assert_eq!(files(place.root()), before, "{line}");
    }
    place.lowtide("convert -m model -o m.gguf --type f32 --overwrite").done();
    assert_ne!(files(place.root()), before);
}

#[test]
fn a_file_that_was_cut_is_called_truncated_wherever_it_was_cut() {
    let place = Place::new();
    place.lowtide("convert -m model -o m.gguf --type f16 --threads 1").done();
    let whole = fs::read(place.path("m.gguf")).unwrap();
    for kept in [5, 40, 200, 1000, whole.len() / 2, whole.len() - 64] {
        fs::write(place.path("m.gguf"), &whole[..kept]).unwrap();
        let error = place.lowtide("eval -m m.gguf -d data.jsonl").failed(1);
        assert!(error.contains("m.gguf: the file is truncated or damaged: "), "{kept}: {error}");
    }
}

#[test]
fn a_packed_base_and_an_adapter_come_out_of_loftq() {
    let place = Place::new();
    let line = "convert -m model -o q.gguf --type q4_0 --loftq a --rank 8";
    let out = place.lowtide(&format!("{line} --json")).done();
    let report = report(&out);
    assert_eq!((&report["adapter"], &report["rank"]), (&"a".into(), &8.into()));
    assert_eq!(report["matrices"].as_array().unwrap().len(), 14);
    assert!(report["error_ratio"].as_f64().unwrap() < 0.9, "{report}");
    place.lowtide("convert -m model -o plain.gguf --type q4_0").done();
    let loss = |flags: &str| {
        let out = place.lowtide(&format!("eval -d data.jsonl --json {flags}")).done();
        let report: Value = serde_json::from_str(&out).unwrap();
        report["loss"].as_f64().unwrap()
    };
    let exact = loss("-m model");
    let (alone, both) = (loss("-m plain.gguf"), loss("-m q.gguf -a a"));
    assert!((both - exact).abs() < (alone - exact).abs(), "{exact} {alone} {both}");
    let out = place.lowtide(&format!("{line} --overwrite --loftq-steps 1")).done();
    assert!(out.contains("Error that is left of that of packing alone\n  down_proj "), "{out}");
    for (flags, code, says) in [
        ("--loftq b", 2, "--type"),
        ("--type q4_0 --rank 4", 2, "--loftq"),
        ("--type q4_0 --loftq b --rank 65", 1, "a rank of 65"),
        ("--type q4_0 --loftq a", 1, "a is there already"),
        ("--type f16 --loftq b", 1, "type f16 cannot be written"),
    ] {
        let error = place.lowtide(&format!("convert -m model -o n.gguf {flags}")).failed(code);
        assert!(error.contains(says), "{flags}: {error}");
        assert!(!place.path("n.gguf").exists() && !place.path("b").exists());
    }
}

#[test]
fn with_json_a_refusal_is_told_to_programs_too() {
    let place = Place::new();
    let ran = place.lowtide("convert -m model -o data.jsonl --json");
    let last = report(&ran.out);
    assert_eq!((&last["event"], &last["exit_code"]), (&"error".into(), &1.into()));
    assert!(ran.failed(1).contains("data.jsonl is there already"));
}
