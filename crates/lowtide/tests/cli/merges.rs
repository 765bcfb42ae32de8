//! `lowtide merge`: what it writes, says and refuses.

use std::fs;

use serde_json::Value;

use crate::place::{Place, files};

/// A place with an adapter in `a` that was trained hard enough to change the loss.
fn trained() -> Place {
    let place = Place::new();
    place.on_model("finetune --rank 4 --max-steps 4 --lr 0.02 --val-split 0 --output a").done();
    place
}

fn report(out: &str) -> Value {
    serde_json::from_str(out.lines().last().unwrap()).unwrap()
}

fn near(a: &Value, b: &Value) -> bool {
    (a.as_f64().unwrap() - b.as_f64().unwrap()).abs() <= 1e-4
}

#[test]
fn what_is_merged_has_the_loss_of_base_and_adapter() {
    let place = trained();
    let loss = |line: &str| report(&place.lowtide(line).done())["loss"].clone();
    let adapted = loss("eval -m model -a a -d data.jsonl --json");
    assert!(!near(&adapted, &loss("eval -m model -d data.jsonl --json")));
    place.lowtide("convert -m model -o base.gguf --type f32").done();
    for (base, output) in [("model", "m"), ("base.gguf", "m.gguf")] {
        let line = format!("merge -m {base} -a a -o {output} --type f32 -d data.jsonl --json");
        let merged = report(&place.lowtide(&line).done());
        assert_eq!((&merged["event"], &merged["output"]), (&"done".into(), &output.into()));
        assert_eq!((&merged["method"], &merged["kind"]), (&"lora".into(), &"f32".into()));
        assert_eq!(merged["update_survived"], 1.0);
        assert!(merged["update_norm"].as_f64().unwrap() > 0.0);
        assert!(near(&merged["loss"]["adapted"]["loss"], &adapted), "{merged}");
        assert!(near(&merged["loss"]["merged"]["loss"], &adapted), "{merged}");
        assert!(near(&loss(&format!("eval -m {output} -d data.jsonl --json")), &adapted));
        let first = &merged["updates"][0];
        assert_eq!((&first["type"], &first["error"]), (&"F32".into(), &0.0.into()));
    }
}

#[test]
fn text_says_what_survived() {
    let place = trained();
    let out = place.lowtide("merge -m model -a a -o m.gguf --type q4_0 -d data.jsonl").done();
    for part in [
        "Merged\n  written       m.gguf\n",
        "\nUpdate of lora: share that survived rounding\n  down_proj ",
        "\n  in all ",
        "\nLoss on ",
        "\n  with adapter  ",
    ] {
        assert!(out.contains(part), "{part}: {out}");
    }
    let out = place.lowtide("merge -m model -a a -o n.gguf --tensors").done();
    assert!(out.contains("\n  blk.0.attn_q.weight"), "{out}");
    assert_eq!(place.lowtide("merge -m model -a a -o quiet --quiet").done(), "");
}

#[test]
fn what_is_refused_leaves_everything_as_it_was() {
    let place = trained();
    fs::write(place.path("m.gguf"), "mine").unwrap();
    let before = files(place.root());
    for (line, code, says) in [
        ("-a a -o m.gguf", 1, "m.gguf is there already; give another name, or --overwrite"),
        ("-a a -o a --overwrite", 1, "a is a part of what is to be read"),
        ("-a absent -o n.gguf", 1, "--adapter absent: no such file or folder"),
        ("-a a -o n --type q4_0", 1, "type q4_0 cannot be written to n: expected "),
        ("-a a -o n.gguf --memory-budget 4KiB", 3, "the memory budget of 4096 bytes is too"),
        ("-a a -o n.gguf --data absent", 1, "--data absent: no such file or folder"),
        ("-a a -o n.gguf --max-seq-len 1", 2, "--max-seq-len is 1, expected at least 2"),
        ("-o n.gguf", 2, "--adapter <PATH>"),
    ] {
        let error = place.lowtide(&format!("merge -m model {line}")).failed(code);
        assert!(error.contains(says), "{line}: {error}");
        assert_eq!(files(place.root()), before, "{line}");
    }
}
