//! Reports as runs leave them, made anew, and of several runs.

use std::fs;

use serde_json::Value;

use crate::place::Place;

#[test]
fn a_run_leaves_a_report_that_tells_what_its_files_tell() {
    let place = Place::new();
    let flags = "--max-steps 4 --report-every 1 --val-split 0.25 --eval-every 2";
    let out = place.on_model(&format!("finetune {flags} --memory-budget 64MiB")).done();
    assert!(out.contains("\n  report        adapter/report.html\n"), "{out}");
    let page = fs::read_to_string(place.path("adapter/report.html")).unwrap();
    let summary = place.json("adapter/summary.json");
    let loss = |key: &str| format!("{:.3}", summary[key].as_f64().unwrap());
    let change = format!("{} → {}", loss("eval_loss_before"), loss("eval_loss_after"));
    for part in [
        change.as_str(),
        "<h1>model + lora</h1>",
        "on 14 linears · data.jsonl · 4 updates · 20",
        "as planned, to the byte",
        "<title>update 4: ",
        "<title>backward, block 0: ",
        "class=\"level plan\"",
        "report-every = 1",
    ] {
        assert!(page.contains(part), "{part}");
    }
    // Before, after two updates, and after the last.
    let held_out = page.split("class=\"series held-out\"").nth(1).unwrap();
    let held_out = held_out.split("</g>").next().unwrap();
    assert_eq!(held_out.matches("<circle").count(), 3, "{held_out}");
    // 64 MiB would leave the areas of this tiny run no room: it is told, not drawn.
    assert!(!page.contains("class=\"level budget\"") && page.contains("64.0 MiB"));

    fs::rename(place.path("adapter/report.html"), place.path("first.html")).unwrap();
    fs::copy(place.path("first.html"), place.path("adapter/report.html")).unwrap();
    assert_eq!(place.lowtide("report adapter").done(), "wrote adapter/report.html\n");
    assert_eq!(fs::read_to_string(place.path("adapter/report.html")).unwrap(), page);
}

#[test]
fn several_runs_make_one_page() {
    let place = Place::new();
    place.on_model("finetune --max-steps 2 -o a -q").done();
    place.on_model("finetune --max-steps 3 --rank 4 -o b -q").done();
    let out = place.lowtide("report a b --json").done();
    let told: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(told, serde_json::json!({ "path": "compare.html", "runs": 2 }));
    let page = fs::read_to_string(place.path("compare.html")).unwrap();
    for part in ["2 runs compared", "lora, rank 8", "lora, rank 4", "series r0", "series r1"] {
        assert!(page.contains(part), "{part}");
    }
    place.lowtide("report a b --output other.html").done();
    assert_eq!(fs::read_to_string(place.path("other.html")).unwrap(), page);
}

#[test]
fn what_is_no_run_is_refused_by_name() {
    let place = Place::new();
    place.lowtide("report").failed(2);
    let error = place.lowtide("report model").failed(1);
    assert!(error.starts_with("error: model/config.toml: cannot read: "), "{error}");
    place.on_model("finetune --max-steps 1 -q").done();
    fs::write(place.path("adapter/metrics.jsonl"), "{\"step\": \"one\"}\n").unwrap();
    let page = fs::read(place.path("adapter/report.html")).unwrap();
    let error = place.lowtide("report adapter").failed(1);
    assert!(error.contains("adapter/metrics.jsonl: line 1: "), "{error}");
    assert!(fs::read(place.path("adapter/report.html")).unwrap() == page);
}
