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
fn ranks_survive_gguf_where_alphas_are_one() {
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
    finetune(&place, "--alpha-pattern v_proj=1 --output c");
    let error = place.lowtide("convert --adapter c --output c.gguf").failed(1);
    assert!(error.contains("alpha"), "{error}");
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
}
